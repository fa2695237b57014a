package status

import (
	"fmt"
	"maps"
	"slices"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// Summarize says how a realm is after a pass. prev is what was said after the pass before; its transition times
// stay while a status is unchanged, and its generations never fall.
func Summarize(prev Realm, p Pass) Realm {
	if p.Accepted.Name == "" { // under removal, only the removal list knows the names
		p.Accepted.Realm = p.Want.Realm
	}
	v := newView(p)
	r := Realm{
		Name: p.Accepted.Name, Namespace: p.Accepted.Namespace, NamespaceReason: p.Accepted.NamespaceReason,
		Generation: max(prev.Generation, p.Accepted.Generation), ObservedGeneration: prev.ObservedGeneration,
		Revision: p.Accepted.Origin.Revision, Paths: p.Accepted.Paths,
		Suspended: p.Want.Suspended, Frozen: p.Accepted.Frozen, Problems: p.Problems,
		Images: v.images(), Plan: v.steps(), Containers: v.containers(prev),
	}
	if v.known() {
		r.ObservedGeneration = max(prev.ObservedGeneration, p.Accepted.Generation)
	}
	if !p.Want.Removing {
		r.Desired = len(p.Accepted.Containers)
	}
	for _, c := range r.Containers {
		_, declared := p.Accepted.Find(c.ContainerID)
		if declared && c.Phase == PhaseRunning {
			r.Running++
		}
	}
	for _, w := range p.Plan.Waits {
		r.Waits = append(r.Waits, fmt.Sprintf("%s waits for %s", w.Object, w.For))
	}
	for _, l := range p.Plan.LeftAlone {
		r.LeftAlone = append(r.LeftAlone, LeftAlone{l.Object.String(), string(l.Reason.Code), l.Reason.Text})
	}
	r.Ready, r.InSync = v.ready(r), v.realmInSync(r)
	r.State = v.state(prev, r)
	r.Conditions = v.conditions(prev, r)
	top := headline(r)
	r.Reason, r.Message = top.Reason, top.Message
	r.Hints = v.hints(r)
	return r
}

// known reports whether what was observed may be believed.
func (v view) known() bool { return v.Seen && v.Unavailable == "" }

// containers lists the accepted containers, then what else is ours in the namespace.
func (v view) containers(prev Realm) []Container {
	out := []Container{}
	if !v.Want.Removing {
		for _, c := range v.Accepted.Containers {
			out = append(out, v.declared(c, prev))
		}
	}
	for _, o := range v.Have.Containers {
		_, declared := v.Accepted.Find(o.ID)
		if o.Recorded && o.Owner() == v.Have.Owner && o.Owner() != "" && (v.Want.Removing || !declared) {
			out = append(out, v.extra(o, prev))
		}
	}
	return out
}

// images lists what the realm and its containers need, and what else is in the namespace.
func (v view) images() []Image {
	users := map[string][]string{}
	use := func(ref, by string) {
		if !slices.Contains(users[ref], by) {
			users[ref] = append(users[ref], by)
		}
	}
	for _, c := range v.Accepted.Containers {
		use(c.Spec.Image, c.Name)
	}
	for _, o := range v.Have.Containers {
		if o.Recorded && o.Image != "" {
			use(o.Image, string(o.ID))
		}
	}
	for _, i := range v.Accepted.Images {
		use(i.Ref, "spec.images")
	}
	for _, a := range v.Accepted.Archives {
		last, _ := plan.Imported(v.Want, v.Have, a.Path)
		for _, ref := range last.Refs {
			use(ref, a.Path)
		}
	}
	for _, i := range v.Have.Images {
		users[i.Ref] = slices.Clip(users[i.Ref]) // also what nobody uses
	}
	var out []Image
	for _, ref := range slices.Sorted(maps.Keys(users)) {
		have, _ := v.Have.FindImage(ref)
		out = append(out, Image{
			Realm: v.Accepted.Name, Ref: ref, Digest: have.Digest, Unpacked: have.Unpacked, Message: v.progress(imageObject(ref)),
			Owned: have.Owner != "" && have.Owner == v.Have.Owner, UsedBy: users[ref],
		})
	}
	return out
}

// steps prints what is to be done.
func (v view) steps() []string {
	if v.Steps != nil {
		return v.Steps
	}
	var out []string
	for _, o := range v.Plan.Operations {
		out = append(out, fmt.Sprintf("%s: %s", o, o.Because()))
	}
	return out
}

// counted are the accepted containers that are not suspended.
func (v view) counted(r Realm) []Container {
	return slices.DeleteFunc(slices.Clone(r.Containers), func(c Container) bool {
		_, declared := v.Accepted.Find(c.ContainerID)
		return !declared || c.Suspended != ""
	})
}

// ready reports whether every accepted container that counts runs or has completed. Of a realm without any, the
// namespace has to be there.
func (v view) ready(r Realm) bool {
	if v.Want.Removing || v.Accepted.Generation == 0 || !v.known() || !v.Have.Exists {
		return false
	}
	return !slices.ContainsFunc(v.counted(r), func(c Container) bool {
		return c.Phase != PhaseRunning && c.Phase != PhaseCompleted
	})
}

// realmInSync reports whether the files equal what is accepted, and nothing is to be done about it.
func (v view) realmInSync(r Realm) bool {
	accepted := v.Accepted.Generation > 0 && !v.Want.Removing && v.Accepted.Frozen == "" && v.Accepted.Withheld == "" &&
		v.Unaccepted == "" && len(v.held()) == 0
	if !accepted || !v.known() || !v.Plan.Empty() || v.namespaceBlocked() {
		return false
	}
	return !slices.ContainsFunc(v.counted(r), func(c Container) bool { return !c.InSync })
}

// namespaceBlocked reports whether the namespace as a whole is left alone, and not because a person said so.
func (v view) namespaceBlocked() bool {
	l, left := v.left[v.namespaceObject()]
	return left && l.Reason.Code != plan.ReasonSuspended
}

// held are the holds that wait to remove this realm.
func (v view) held() []state.Hold {
	return slices.DeleteFunc(slices.Clone(v.Holds), func(h state.Hold) bool {
		return !slices.Contains(h.Realms, v.Accepted.Name)
	})
}

// state puts it into Kukeon's one word.
func (v view) state(prev, r Realm) State {
	settled := prev.Generation == r.Generation && (prev.State == Ready || prev.State == Degraded)
	switch {
	case v.Want.Removing:
		return Deleting
	case v.Accepted.Generation == 0:
		return Failed
	case !v.known():
		return Unknown
	case v.Accepted.Frozen != "" || len(v.held()) > 0 || v.namespaceBlocked():
		return Degraded
	case r.Ready:
		return Ready
	case settled || slices.ContainsFunc(v.counted(r), troubled):
		return Degraded
	case !v.ObserveOnly && len(v.Plan.Operations)+len(v.Busy.Running) > 0:
		return Creating
	}
	return Pending
}

// troubled reports whether waiting alone will not make the container run.
func troubled(c Container) bool {
	switch c.Phase {
	case PhaseBackoff, PhaseFailed, PhaseUnknown, PhaseConflict:
		return true
	}
	return false
}

// hints are the commands that a person may want next.
func (v view) hints(r Realm) []string {
	var out []string
	add := func(command string, args ...any) {
		out = append(out, "kukeon-reconciler "+fmt.Sprintf(command, args...))
	}
	for _, h := range v.held() {
		add("confirm %s", h.ID)
	}
	if v.Want.Suspended != "" && !v.Accepted.Suspended && v.Accepted.Withheld == "" && !v.Want.Removing {
		add("resume %s", r.Name)
	}
	if owner, _ := v.Have.OwnedBy(); v.namespaceBlocked() && owner != "" && owner != v.Have.Owner {
		add("adopt %s", r.Name)
	}
	for _, c := range r.Containers {
		declared, _ := v.Accepted.Find(c.ContainerID)
		if v.Want.SuspendedContainers[c.ContainerID] != "" && !declared.Suspended && declared.Withheld == "" {
			add("resume %s", c.Ref())
		}
		switch c.Phase {
		case PhaseConflict:
			add("adopt %s", c.Ref())
		case PhaseOrphaned:
			add("confirm %s", OrphanID(c.Namespace, c.ContainerID))
		case PhaseFailed:
			add("logs %s", c.Ref())
		case PhaseBackoff:
			if c.Reason == reasonCrashLoop {
				add("logs %s --previous", c.Ref())
			}
		}
	}
	return out
}
