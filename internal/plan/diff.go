package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// Diff decides what to do next in one namespace: every operation whose preconditions hold in what was observed,
// at most one per object, each with its reason. Order is a precondition on observed state and nothing else: what
// cannot be done yet is a Wait, and the end of an operation brings the next pass.
func Diff(want Want, have state.Observed, busy Busy, now time.Time) Plan {
	d := &differ{want: want, have: have, busy: busy, now: now, images: map[string]bool{}, renewed: map[string]bool{}}
	switch {
	case want.Suspended != "":
		d.leave(Object{NamespaceObject, string(want.Realm.Namespace)}, ReasonSuspended, want.Suspended)
	case want.Removing:
		d.removeRealm()
	default:
		d.keepRealm()
	}
	return d.plan
}

// differ collects one plan. It is used once.
type differ struct {
	want Want
	have state.Observed
	busy Busy
	now  time.Time
	plan Plan

	// importing is the archive that is being imported, or will be: what is missing may be in it.
	importing string
	// renewed are images that came with an earlier version of it.
	renewed map[string]bool
	// images remembers for which references something is planned already.
	images map[string]bool
}

func (d *differ) keepRealm() {
	if !d.namespace() {
		return
	}
	d.archives()
	for _, i := range d.want.Realm.Images {
		d.image(i.Ref, i.Policy, i.Origin, false)
	}
	for _, c := range d.want.Realm.Containers {
		d.container(c)
	}
	for _, o := range d.have.Containers {
		if _, wanted := d.want.Realm.Find(o.ID); !wanted {
			d.unwanted(o)
		}
	}
	for _, id := range sortedKeys(d.want.Removals) {
		if _, seen := d.have.Find(id); !seen && !d.running(containerObject(id)) {
			d.plan.GoneContainers = append(d.plan.GoneContainers, id)
		}
	}
	d.leftovers()
}

// namespace plans the namespace itself and reports whether the realm's objects may be looked at in this pass.
func (d *differ) namespace() bool {
	r := d.want.Realm
	obj := Object{NamespaceObject, string(r.Namespace)}
	if d.waitIfRunning(obj) {
		return false
	}
	owner, realm := d.have.OwnedBy()
	if d.have.Exists && owner != "" && owner != d.have.Owner {
		d.leave(obj, ReasonConflict, fmt.Sprintf("it belongs to the containerd %s; `adopt %s` takes it over", owner, r.Name))
		return false
	}
	if d.have.Exists && owner != "" && realm != "" && realm != r.Name {
		d.leave(obj, ReasonConflict, fmt.Sprintf("it belongs to realm %s", realm))
		return false
	}
	if d.want.Undeclared {
		return true // nobody asks for the namespace, or for its labels
	}
	missing := map[string]string{}
	for k, v := range NamespaceLabels(d.want, d.have.Owner) {
		if d.have.Labels[k] != v {
			missing[k] = v
		}
	}
	dropped := d.droppedLabels()
	if d.have.Exists && len(missing)+len(dropped) == 0 {
		return true
	}
	op := EnsureNamespace{Namespace: r.Namespace, Labels: missing, Drop: dropped, TakeOver: d.have.Exists && owner == ""}
	switch {
	case !d.have.Exists:
		op.Why = Reason{ReasonMissing, "namespace missing", r.Origin}
	case op.TakeOver:
		op.Why = Reason{ReasonMissing, "it exists and belongs to nobody; what is in it stays as it is", r.Origin}
	default:
		op.Why = Reason{ReasonDrift, "labels differ: " + strings.Join(append(sortedKeys(missing), dropped...), ", "), r.Origin}
	}
	d.do(op)
	return d.have.Exists && !op.TakeOver
}

// NamespaceLabels are the labels that a realm's namespace carries.
func NamespaceLabels(want Want, owner state.Owner) map[string]string {
	labels := map[string]string{}
	for k, v := range want.Realm.Labels {
		labels[k] = v
	}
	labels[state.LabelOwner] = string(owner)
	labels[state.LabelRealm] = string(want.Realm.Name)
	labels[state.LabelManagedBy] = want.ManagedBy
	if len(want.Realm.Labels) > 0 {
		labels[state.LabelLabels] = strings.Join(sortedKeys(want.Realm.Labels), ",")
	}
	return labels
}

// droppedLabels are the keys on the namespace that an earlier manifest of the realm asked for and this one does not.
func (d *differ) droppedLabels() []string {
	var out []string
	for _, k := range manifestLabels(d.have.Labels) {
		if _, wanted := d.want.Realm.Labels[k]; !wanted && d.have.Labels[k] != "" {
			out = append(out, k)
		}
	}
	if d.have.Labels[state.LabelLabels] != "" && len(d.want.Realm.Labels) == 0 {
		out = append(out, state.LabelLabels)
	}
	return out
}

// manifestLabels are the keys of the labels on a namespace that come from its realm's manifest.
func manifestLabels(labels map[string]string) []string {
	return strings.FieldsFunc(labels[state.LabelLabels], func(r rune) bool { return r == ',' })
}

// unwanted decides about a container or task that no manifest declares.
func (d *differ) unwanted(o state.ObservedContainer) {
	obj := containerObject(o.ID)
	if d.waitIfRunning(obj) {
		return
	}
	removal, listed := d.want.Removals[o.ID]
	switch {
	case o.Unreadable != "": // whose it is may have changed, too
		d.leave(obj, ReasonUnknown, o.Unreadable)
	case o.Recorded && o.Owner() != d.have.Owner:
		if listed { // ours is gone; what stands in its place is somebody else's
			d.plan.GoneContainers = append(d.plan.GoneContainers, o.ID)
		}
		d.leave(obj, ReasonNotOurs, foreign(o))
	case d.want.SuspendedContainers[o.ID] != "":
		d.leave(obj, ReasonSuspended, d.want.SuspendedContainers[o.ID])
	case listed && d.want.RemovalsWait != "":
		d.wait(obj, d.want.RemovalsWait, time.Time{})
	case listed:
		d.remove(o, removal.Spec, Reason{Code: ReasonRemoved, Text: removal.Why})
	case !o.Recorded:
		d.leave(obj, ReasonNotOurs, "a task without a container that no manifest declares")
	case o.Labels[state.LabelKeep] != "":
		d.leave(obj, ReasonKept, "ours, and no manifest declares it; its last declaration said kukeon.io/prune: disabled")
	default:
		d.leave(obj, ReasonOrphaned, "ours, but no manifest declares it and no removal was accepted; "+
			"`confirm` removes it, a manifest takes it up")
	}
}

// foreign says whose a container is that is not ours.
func foreign(o state.ObservedContainer) string {
	switch {
	case o.Labels[state.KukeondSpecHash] != "":
		return "not ours: kukeond's"
	case o.Owner() != "":
		return "not ours: belongs to the containerd " + string(o.Owner())
	}
	return "not ours"
}

// leftovers plans the end of what operations left behind that did not end themselves.
func (d *differ) leftovers() {
	if d.preparing() {
		return // a create, pull or unpack that is planned or under way may still need them
	}
	for _, s := range d.have.Snapshots {
		if s.Owner == d.have.Owner && !d.removing(s.Key) {
			d.do(RemoveSnapshot{base{Reason{Code: ReasonLeftover, Text: "no container uses it"}}, s.Key})
		}
	}
	for _, l := range d.have.Leases {
		d.do(DeleteLease{base{Reason{Code: ReasonLeftover, Text: "no operation uses it"}}, l.ID})
	}
}

// preparing reports whether an operation that works under a lease is planned, waited for or under way.
func (d *differ) preparing() bool {
	leased := func(o Operation) bool {
		switch o.(type) {
		case Create, Pull, Import, Unpack:
			return true
		}
		return false
	}
	for _, o := range d.busy.Running {
		if leased(o) {
			return true
		}
	}
	waiting := func(w Wait) bool { return w.Object.Kind == ImageObject }
	return slices.ContainsFunc(d.plan.Operations, leased) || slices.ContainsFunc(d.plan.Waits, waiting)
}

// removing reports whether a running Remove takes the snapshot with it.
func (d *differ) removing(key string) bool {
	for _, o := range d.busy.Running {
		if r, ok := o.(Remove); ok && r.SnapshotKey == key {
			return true
		}
	}
	return false
}

// do plans the operation, unless its object is held back by an earlier failure, and reports whether it did.
func (d *differ) do(op Operation) bool {
	obj := op.Object()
	if d.waitIfRunning(obj) {
		return false
	}
	if r, ok := d.busy.RetryAt[obj]; ok && r.Operation == op.String() && d.now.Before(r.At) {
		d.wait(obj, fmt.Sprintf("another try to %s: %s", op, r.Error), r.At)
		return false
	}
	d.plan.Operations = append(d.plan.Operations, op)
	return true
}

func (d *differ) running(obj Object) bool {
	_, ok := d.busy.Running[obj]
	return ok
}

func (d *differ) waitIfRunning(obj Object) bool {
	op, ok := d.busy.Running[obj]
	if ok {
		d.wait(obj, fmt.Sprintf("the end of %s", op), time.Time{})
	}
	return ok
}

// wait records something that cannot be done yet; each object waits once.
func (d *differ) wait(obj Object, what string, until time.Time) {
	w := Wait{obj, what, until}
	if slices.Contains(d.plan.Waits, w) {
		return
	}
	d.plan.Waits = append(d.plan.Waits, w)
	if !until.IsZero() && (d.plan.NextWake.IsZero() || until.Before(d.plan.NextWake)) {
		d.plan.NextWake = until
	}
}

func (d *differ) leave(obj Object, code ReasonCode, text string) {
	d.plan.LeftAlone = append(d.plan.LeftAlone, LeftAlone{obj, Reason{Code: code, Text: text}})
}

func containerObject(id state.ContainerID) Object { return Object{ContainerObject, string(id)} }

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
