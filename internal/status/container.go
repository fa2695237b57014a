package status

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// Phase is where a container is in its life.
type Phase string

// The phases.
const (
	PhasePending   Phase = "Pending"   // something has to happen first; the message says what
	PhasePulling   Phase = "Pulling"   // its image is being fetched or unpacked
	PhaseCreating  Phase = "Creating"  // it is being made or started
	PhaseRunning   Phase = "Running"   // its process runs
	PhaseStopping  Phase = "Stopping"  // it is being stopped or removed
	PhaseBackoff   Phase = "Backoff"   // it, or what we did for it, failed, and is tried again at a known time
	PhaseCompleted Phase = "Completed" // it ended with exit code 0 and is not run again
	PhaseFailed    Phase = "Failed"    // it ended in another way and is not run again
	PhaseUnknown   Phase = "Unknown"   // it cannot be seen just now; nothing is done to it
	PhaseConflict  Phase = "Conflict"  // a container that is not ours stands under its name
	PhaseOrphaned  Phase = "Orphaned"  // ours, but neither declared nor accepted for removal
)

// Container is how one container is. The JSON keys never change meaning.
type Container struct {
	Realm       state.RealmName   `json:"realm"`
	Namespace   state.Namespace   `json:"namespace"`
	Name        string            `json:"name"`
	ContainerID state.ContainerID `json:"containerId"`
	Image       string            `json:"image"` // as declared
	Phase       Phase             `json:"phase"`
	Health      string            `json:"health"` // none: it has no probe
	// Restarts counts since the spec last changed.
	Restarts int    `json:"restarts"`
	Pid      uint32 `json:"pid"` // 0 when it does not run
	// InSync means that it is as declared and nothing is to be done about it.
	InSync  bool   `json:"inSync"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Source is the manifest's path; Line is where the container stands in it.
	Source   string `json:"source"`
	Revision string `json:"revision"`
	// Since is when it came into its phase; for a running one, when it was started.
	Since time.Time `json:"since"`

	Line int `json:"line,omitempty"`
	// RunningImage is what it was made of, when that is not the declared Image.
	RunningImage string `json:"runningImage,omitempty"`
	// Digest is that of the declared image's record, as the namespace has it now.
	Digest        string              `json:"digest,omitempty"`
	Owner         state.Owner         `json:"owner,omitempty"`
	RestartPolicy state.RestartPolicy `json:"restartPolicy,omitempty"`
	// ExitCode and FinishedAt are those of the last exit that was seen; absent when there was none.
	ExitCode   *int      `json:"exitCode,omitempty"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	Suspended  string    `json:"suspended,omitempty"` // why
}

// Ref is REALM/NAME, as commands take it.
func (c Container) Ref() string { return string(c.Realm) + "/" + c.Name }

// OrphanID names an orphaned container for `confirm ID`.
func OrphanID(ns state.Namespace, id state.ContainerID) string {
	sum := sha256.Sum256([]byte(string(ns) + "/" + string(id)))
	return "orphan-" + hex.EncodeToString(sum[:4])
}

// HealthNone is the health of a container without a probe.
const HealthNone = "none"

// Reasons of a container's phase that no plan.ReasonCode covers.
const (
	reasonRunning     = "Running"
	reasonUnavailable = "ContainerdUnavailable"
	reasonNotObserved = "NotObserved"
	reasonStuck       = "Stuck"
	reasonPaused      = "Paused"
	reasonFinished    = "Finished"
	reasonExitFailure = "ExitFailure"
	reasonCrashLoop   = "CrashLoop"
	reasonRetrying    = "Retrying"
	reasonWaiting     = "Waiting"
	reasonWorking     = "Working"
	reasonNotStarted  = "NotStarted"
)

// view is a pass, indexed by what it says about each object.
type view struct {
	Pass
	planned map[plan.Object]plan.Operation
	waits   map[plan.Object]plan.Wait
	left    map[plan.Object]plan.LeftAlone
}

func newView(p Pass) view {
	v := view{p, map[plan.Object]plan.Operation{}, map[plan.Object]plan.Wait{}, map[plan.Object]plan.LeftAlone{}}
	for _, o := range p.Plan.Operations {
		v.planned[o.Object()] = o
	}
	for _, w := range p.Plan.Waits {
		if _, known := v.waits[w.Object]; !known { // the first is the one that blocks
			v.waits[w.Object] = w
		}
	}
	for _, l := range p.Plan.LeftAlone {
		v.left[l.Object] = l
	}
	return v
}

func containerObject(id state.ContainerID) plan.Object {
	return plan.Object{Kind: plan.ContainerObject, Name: string(id)}
}

func imageObject(ref string) plan.Object { return plan.Object{Kind: plan.ImageObject, Name: ref} }

// retry returns why the last operation on the object failed, while the plan waits to try it again. A failure that the
// world has overtaken is no news.
func (v view) retry(o plan.Object) (plan.Retry, bool) {
	r, failed := v.Busy.RetryAt[o]
	w, waits := v.waits[o]
	return r, failed && waits && v.Busy.Running[o] == nil && r.Error != "" && w.Until.Equal(r.At)
}

// declared judges one accepted container.
func (v view) declared(c state.Container, prev Realm) Container {
	o, _ := v.Have.Find(c.ID)
	out := v.observed(o, c.ID, c.Name)
	out.Image, out.RestartPolicy = c.Spec.Image, c.Spec.Restart.Policy
	out.Source, out.Line, out.Revision = c.Origin.Path, c.Origin.Line, c.Origin.Revision
	if o.Record != nil && o.Record.Spec.Image != c.Spec.Image {
		out.RunningImage = o.Record.Spec.Image
	}
	if i, ok := v.Have.FindImage(c.Spec.Image); ok {
		out.Digest = i.Digest
	}
	out.Suspended = v.suspension(c.ID)
	done, finished := v.completion(c)
	if finished {
		out.exited(done.Code, done.Time)
	}
	j := v.judge(c, o)
	out.Phase, out.Reason, out.Message = j.phase, j.reason, j.message
	out.InSync = v.inSync(c, o, out.Phase)
	if out.Phase != PhaseRunning {
		out.Pid = 0
	}
	out.since(prev, v, o, done)
	return out
}

// extra judges a container of ours that no manifest declares: under removal, or an orphan.
func (v view) extra(o state.ObservedContainer, prev Realm) Container {
	name := o.Labels[state.LabelContainer]
	if name == "" {
		name = string(o.ID)
	}
	out := v.observed(o, o.ID, name)
	out.Image, out.Source, out.Revision = o.Image, o.Labels[state.LabelSource], o.Labels[state.LabelRevision]
	obj := containerObject(o.ID)
	switch left := v.left[obj]; {
	case v.Unavailable != "":
		out.Phase, out.Reason, out.Message = PhaseUnknown, reasonUnavailable, v.Unavailable
	case left.Reason.Code == plan.ReasonOrphaned:
		out.Phase, out.Reason = PhaseOrphaned, string(plan.ReasonOrphaned)
		out.Message = "ours, but no manifest declares it and no removal was accepted; it is left as it is"
	case left.Reason.Code == plan.ReasonUnknown:
		out.Phase, out.Reason, out.Message = PhaseUnknown, v.unknownReason(o), left.Reason.Text
	case v.suspension(o.ID) != "":
		out.Suspended = v.suspension(o.ID)
		out.Phase, out.Reason, out.Message = PhasePending, string(plan.ReasonSuspended), out.Suspended
		if o.Task.Status == state.TaskRunning {
			out.Phase = PhaseRunning
		}
	default:
		out.Phase, out.Reason = PhaseStopping, string(plan.ReasonRemoved)
		out.Message = v.progress(obj)
	}
	out.since(prev, v, o, state.Completion{})
	return out
}

// observed fills in what the world says, whatever was wanted.
func (v view) observed(o state.ObservedContainer, id state.ContainerID, name string) Container {
	out := Container{
		Realm: v.Accepted.Name, Namespace: v.Accepted.Namespace, Name: name, ContainerID: id, Health: HealthNone,
		Restarts: state.Count(o.Labels, state.LabelRestarts), Pid: o.Task.Pid, Owner: o.Owner(),
	}
	if exit, ok := state.ParseExit(o.Labels[state.LabelExit]); ok {
		out.exited(exit.Code, exit.At)
	}
	if o.Task.Status == state.TaskStopped {
		out.exited(o.Task.ExitCode, o.Task.ExitedAt)
	}
	return out
}

func (c *Container) exited(code int, at time.Time) { c.ExitCode, c.FinishedAt = &code, at }

// since dates the phase: what the world recorded goes before what we remember.
func (c *Container) since(prev Realm, v view, o state.ObservedContainer, done state.Completion) {
	c.Since = v.Now
	if was, ok := prev.Find(c.Name); ok && was.Phase == c.Phase && was.Pid == c.Pid {
		c.Since = was.Since
	}
	started, ok := state.ParseStarted(o.Labels[state.LabelStarted])
	switch {
	case c.Phase == PhaseRunning && ok && started.Boot == v.Have.Boot:
		c.Since = started.At
	case (c.Phase == PhaseCompleted || c.Phase == PhaseFailed) && !done.Time.IsZero():
		c.Since = done.Time
	}
	c.Since = c.Since.UTC().Truncate(time.Second)
}

// suspension says why nothing is written to the container; empty when it is not suspended.
func (v view) suspension(id state.ContainerID) string {
	if v.Want.Suspended != "" {
		return v.Want.Suspended
	}
	return v.Want.SuspendedContainers[id]
}

// completion returns the remembered end of the container, or the one about to be remembered.
func (v view) completion(c state.Container) (state.Completion, bool) {
	obj := containerObject(c.ID)
	for _, op := range []plan.Operation{v.Busy.Running[obj], v.planned[obj]} {
		if end, ok := op.(plan.Complete); ok {
			return end.Completion, true
		}
	}
	done, ok := v.Want.Completions[c.ID]
	return done, ok && c.Spec.Restart.Policy != state.RestartAlways && done.Digest == c.Spec.Digest()
}
