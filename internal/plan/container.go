package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// container plans one declared container: what it is first, then its metadata, then its life.
func (d *differ) container(c state.Container) {
	obj := containerObject(c.ID)
	if why := d.want.SuspendedContainers[c.ID]; why != "" {
		d.leave(obj, ReasonSuspended, why)
		return
	}
	if d.waitIfRunning(obj) {
		return
	}
	o, seen := d.have.Find(c.ID)
	switch {
	case !seen:
		d.create(c)
	case o.Unreadable != "":
		d.leave(obj, ReasonUnknown, o.Unreadable)
	case !o.Recorded:
		d.do(Clean{base{Reason{ReasonDrift, "a task without a container stands in its place", c.Origin}}, c.ID})
	case o.Owner() != d.have.Owner:
		d.leave(obj, ReasonConflict, fmt.Sprintf("%s; `adopt %s/%s` takes it over", foreign(o), d.want.Realm.Name, c.Name))
	case o.Record == nil && o.RecordProblem == state.ErrNewerRecord.Error():
		d.leave(obj, ReasonNewer, o.RecordProblem)
	case o.Task.Status == state.TaskUnknown:
		d.leave(obj, ReasonUnknown, unknownTask)
	default:
		d.keep(c, o)
	}
}

// keep plans a container of ours that is there.
func (d *differ) keep(c state.Container, o state.ObservedContainer) {
	if why, replace := d.replaceReason(c, o); replace {
		d.replace(c, o, why)
		return
	}
	if !d.metadata(c, o) {
		d.life(c, o)
	}
}

// replaceReason says whether the container has to be made anew, and why.
func (d *differ) replaceReason(c state.Container, o state.ObservedContainer) (Reason, bool) {
	if o.Record == nil {
		return Reason{ReasonDrift, "what it was made of is not recorded: " + or(o.RecordProblem, "extension missing"), c.Origin}, true
	}
	var changed []string
	origin := c.Origin
	for _, ch := range o.Record.Spec.Changes(c.Spec) {
		if ch.Class != state.Recreate {
			continue
		}
		if len(changed) == 0 {
			origin = c.FieldOrigin(ch.Field)
		}
		changed = append(changed, ch.String())
	}
	if len(changed) > 0 {
		return Reason{ReasonChanged, strings.Join(changed, "; "), origin}, true
	}
	if o.SnapshotMissing && !(d.finished(c) && o.Task.Status == state.TaskNone) {
		return Reason{ReasonDrift, fmt.Sprintf("snapshot %s is gone", o.SnapshotKey), c.Origin}, true
	}
	return Reason{}, false
}

// create plans a container that is not there.
func (d *differ) create(c state.Container) {
	if d.finished(c) || !d.imageFor(c) {
		return
	}
	key := state.SnapshotKey(c.ID, c.Spec.Digest())
	if op, removing := d.busy.Running[Object{SnapshotObject, key}]; removing {
		d.wait(containerObject(c.ID), fmt.Sprintf("the end of %s, or it would lose its own", op), time.Time{})
		return
	}
	d.do(Create{
		base: base{Reason{ReasonMissing, "container missing", c.Origin}},
		ID:   c.ID, Realm: d.want.Realm.Name, Spec: c.Spec,
		SnapshotKey: key,
		Labels:      ContainerLabels(d.want.Realm, c, d.have.Owner),
	})
}

// replace plans the next step of making a container anew. The old one runs until the new image is there.
func (d *differ) replace(c state.Container, o state.ObservedContainer, why Reason) {
	if d.imageFor(c) {
		d.end(o, c.Spec.Stop, why)
	}
}

// remove plans the next step of removing a container whose removal was accepted.
func (d *differ) remove(o state.ObservedContainer, spec *state.Spec, why Reason) {
	stop := state.StopSettings{GraceSeconds: defaultGrace}
	switch {
	case spec != nil:
		stop = spec.Stop
	case o.Record != nil:
		stop = o.Record.Spec.Stop
	}
	if !o.Recorded {
		d.do(Clean{base{why}, o.ID})
		return
	}
	d.end(o, stop, why)
}

// defaultGrace is the stop grace, in seconds, of a container about which nothing is recorded.
const defaultGrace = 10

// end plans Stop, then Remove.
func (d *differ) end(o state.ObservedContainer, stop state.StopSettings, why Reason) {
	switch o.Task.Status {
	case state.TaskUnknown:
		d.leave(containerObject(o.ID), ReasonUnknown, unknownTask)
	case state.TaskRunning, state.TaskPaused, state.TaskCreated:
		ends := o.Record != nil && o.Record.Spec.Restart.Policy != state.RestartAlways
		d.do(Stop{base{why}, o.ID, stop.Signal, time.Duration(stop.GraceSeconds) * time.Second, ends})
	default:
		d.do(Remove{base{why}, o.ID, o.SnapshotKey})
	}
}

const unknownTask = "its task cannot be seen just now (the shim does not answer); nothing is done to it"

// ContainerLabels are the labels a container is created with: ours and the manifest's.
func ContainerLabels(realm state.Realm, c state.Container, owner state.Owner) map[string]string {
	labels := map[string]string{}
	for k, v := range c.Spec.Labels {
		labels[k] = v
	}
	labels[state.LabelOwner] = string(owner)
	labels[state.LabelRealm] = string(realm.Name)
	labels[state.LabelContainer] = c.Name
	labels[state.LabelSource] = c.Origin.Path
	if c.Origin.Revision != "" {
		labels[state.LabelRevision] = c.Origin.Revision
	}
	if realm.KeepAlways || c.KeepAlways {
		labels[state.LabelKeep] = "true"
	}
	return labels
}

// metadata plans an update of labels and of live fields, and reports whether there is one to make.
func (d *differ) metadata(c state.Container, o state.ObservedContainer) bool {
	u := Update{ID: c.ID, Set: map[string]string{}}
	var drifted []string
	declared := ContainerLabels(d.want.Realm, c, d.have.Owner)
	for k, v := range declared {
		if o.Labels[k] != v {
			u.Set[k] = v
			drifted = append(drifted, k)
		}
	}
	for k := range o.Record.Spec.Labels {
		if _, kept := c.Spec.Labels[k]; !kept {
			if _, there := o.Labels[k]; there {
				u.Drop = append(u.Drop, k)
			}
		}
	}
	if o.Labels[state.LabelKeep] != "" && declared[state.LabelKeep] == "" {
		u.Drop = append(u.Drop, state.LabelKeep)
	}
	slices.Sort(u.Drop)
	changes := o.Record.Spec.Changes(c.Spec)
	switch {
	case len(changes) > 0:
		texts := make([]string, len(changes))
		for i, ch := range changes {
			texts[i] = ch.String()
		}
		u.Record = &state.Record{Version: state.SpecVersion, Owner: d.have.Owner, Realm: d.want.Realm.Name, Spec: c.Spec}
		u.Why = Reason{ReasonChanged, strings.Join(texts, "; "), c.FieldOrigin(changes[0].Field)}
	case len(u.Set) > 0 || len(u.Drop) > 0:
		slices.Sort(drifted)
		u.Why = Reason{ReasonDrift, "labels differ: " + strings.Join(append(drifted, u.Drop...), ", "), c.Origin}
	default:
		return false
	}
	d.do(u)
	return true
}

// finished reports whether the container is a one-shot whose end is remembered.
func (d *differ) finished(c state.Container) bool {
	done, ok := d.want.Completions[c.ID]
	return ok && done.Holds(c.Spec)
}

// life plans the task of a container that is as declared.
func (d *differ) life(c state.Container, o state.ObservedContainer) {
	started, ran := state.ParseStarted(o.Labels[state.LabelStarted])
	switch o.Task.Status {
	case state.TaskRunning:
	case state.TaskPaused:
		d.do(Resume{base{Reason{ReasonDrift, "somebody paused it", c.Origin}}, c.ID})
	case state.TaskCreated:
		if d.finished(c) { // made while it was declared to run for ever, by a start that was cut off
			d.do(Stop{base: base{Reason{ReasonExited, "created and not started; it has finished before", c.Origin}}, ID: c.ID})
			return
		}
		d.start(c, Reason{ReasonMissing, "created and not started", c.Origin}, nil, true)
	case state.TaskNone:
		if d.finished(c) {
			return
		}
		if !ran || started.Digest != c.Spec.Digest().Short() {
			d.start(c, Reason{ReasonMissing, "not running", c.Origin}, nil, true)
			return
		}
		d.ended(c, o, started, lastExit(c, o, started))
	case state.TaskStopped:
		if !ran && !d.finished(c) { // we stopped it, and it was brought back; or its next start was cut off
			d.start(c, Reason{ReasonMissing, "not running", c.Origin}, nil, true)
			return
		}
		d.ended(c, o, started, state.Exit{Code: o.Task.ExitCode, At: o.Task.ExitedAt})
	}
}

// lastExit is the exit of a container without a task. Complete wrote it on the container before it deleted the task, so
// that it is known even when the store is lost; else nobody saw it.
func lastExit(c state.Container, o state.ObservedContainer, started state.Started) state.Exit {
	exit, told := state.ParseExit(o.Labels[state.LabelExit])
	last := c.Spec.Restart.Policy == state.RestartNever || exit.Code == 0
	if told && last && !exit.At.Before(started.At) {
		return exit
	}
	return state.Exit{Code: state.ExitUnknown, At: o.Task.Since}
}

// Remembered is the end that a finished one-shot carries on itself; the store holds it as well, unless it was lost.
func Remembered(c state.Container, o state.ObservedContainer) (state.Completion, bool) {
	started, ran := state.ParseStarted(o.Labels[state.LabelStarted])
	if c.Spec.Restart.Policy == state.RestartAlways || o.Task.Status != state.TaskNone || !ran ||
		started.Digest != c.Spec.Digest().Short() {
		return state.Completion{}, false
	}
	exit := lastExit(c, o, started)
	return state.Completion{Digest: c.Spec.Digest(), Code: exit.Code, Time: exit.At}, exit.Code != state.ExitUnknown
}

// ended plans what follows an exit.
func (d *differ) ended(c state.Container, o state.ObservedContainer, started state.Started, exit state.Exit) {
	restarts := state.Count(o.Labels, state.LabelRestarts)
	if d.final(c, exit, restarts) {
		d.complete(c, exit)
		return
	}
	rebooted := started.Boot != "" && started.Boot != d.have.Boot
	k := state.Count(o.Labels, state.LabelFailures) + 1
	if o.Task.Ran >= state.BackoffReset {
		k = 1
	}
	if rebooted { // the host went down, not the container: no exit, no backoff
		k = 0
	} else {
		restarts++
	}
	due := o.Task.Since.Add(state.RestartDelay(c.ID, k, c.Spec.Restart.BackoffSeconds))
	if d.now.Before(due) {
		d.wait(containerObject(c.ID), fmt.Sprintf("backoff after %s, %d in a row", exitText(exit), k), due)
		return
	}
	labels := map[string]string{
		state.LabelRestarts: strconv.Itoa(restarts),
		state.LabelFailures: strconv.Itoa(k),
		state.LabelExit:     exit.String(),
	}
	why := Reason{ReasonExited, exitText(exit), c.Origin}
	if rebooted {
		delete(labels, state.LabelExit)
		why.Text = "the host was rebooted"
	}
	d.start(c, why, labels, false)
}

// final reports whether an exit is the container's last.
func (d *differ) final(c state.Container, exit state.Exit, restarts int) bool {
	switch c.Spec.Restart.Policy {
	case state.RestartNever:
		return true
	case state.RestartOnFailure:
		most := c.Spec.Restart.MaxRetries
		return exit.Code == 0 || d.finished(c) || most != nil && restarts >= *most
	}
	return false
}

// complete plans that the end is remembered, and the task deleted after that.
func (d *differ) complete(c state.Container, exit state.Exit) {
	done := state.Completion{
		Digest: c.Spec.Digest(), Code: exit.Code, Time: exit.At,
		Policy: c.Spec.Restart.Policy, MaxRetries: c.Spec.Restart.MaxRetries,
	}
	if d.finished(c) {
		done = d.want.Completions[c.ID] // remembered, but the task is still there
		exit = state.Exit{Code: done.Code, At: done.Time}
	}
	d.do(Complete{
		base: base{Reason{ReasonExited, exitText(exit), c.Origin}},
		ID:   c.ID, Completion: done,
		Labels: map[string]string{state.LabelExit: state.Exit{Code: done.Code, At: done.Time}.String()},
	})
}

func (d *differ) start(c state.Container, why Reason, labels map[string]string, first bool) {
	d.do(Start{base: base{why}, ID: c.ID, Spec: c.Spec, Labels: labels, Digest: c.Spec.Digest(), First: first})
}

// exitText names an exit as people know it.
func exitText(e state.Exit) string {
	switch {
	case e.Code == state.ExitUnknown:
		return "its task is gone (exit code unknown)"
	case e.Code > 128 && e.Code < 128+65:
		return fmt.Sprintf("exit %d (signal %d)", e.Code, e.Code-128)
	}
	return fmt.Sprintf("exit %d", e.Code)
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
