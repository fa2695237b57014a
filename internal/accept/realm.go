package accept

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// accept takes a declared realm as it is now: additions and changes do not wait.
func (d *decider) accept(r state.Realm) {
	old, was := d.prev.Realms[r.Name]
	if r.Tombstone {
		d.bury(r)
		return
	}
	var omitted []state.Container
	if was {
		r, omitted = d.merge(old.Realm, r)
	}
	if d.moved(r.Name) && len(omitted) > 0 && !d.released[r.Name] {
		old.MissingSince = time.Time{}
		old.Frozen, old.Withheld = r.Origin.String()+": "+replaced+", and this realm would lose containers", ""
		d.next.Realms[r.Name] = old
		if !d.held[r.Name] {
			d.candidates = append(d.candidates, r.Name)
		}
		return
	}
	d.put(r)
	d.next.Removals = slices.DeleteFunc(d.next.Removals, func(e state.Removal) bool {
		_, declared := r.Find(e.Container)
		return e.Realm == r.Name && (e.Container == "" || declared)
	})
	for _, c := range omitted {
		d.remove(old.Realm, c, fmt.Sprintf("%s is no longer in the manifest (%s)", c.ID, r.Origin))
	}
}

// merge returns the realm with the accepted containers that the files no longer declare but that stay, and those
// that go.
func (d *decider) merge(old, r state.Realm) (merged state.Realm, omitted []state.Container) {
	r.Containers, r.Paths = slices.Clone(r.Containers), slices.Clone(r.Paths)
	for _, c := range old.Containers {
		if _, declared := r.Find(c.ID); declared {
			continue
		}
		if !d.stays(r, &c) {
			omitted = append(omitted, c)
			continue
		}
		r.Containers = append(r.Containers, c)
		if !slices.Contains(r.Paths, c.Origin.Path) {
			r.Paths = append(r.Paths, c.Origin.Path)
		}
	}
	slices.SortFunc(r.Containers, func(a, b state.Container) int { return cmp.Compare(a.ID, b.ID) })
	slices.Sort(r.Paths)
	return r, omitted
}

// stays decides about an accepted container that its realm's files no longer declare. A list that leaves it out is
// intent; that a document of its own is gone has to be seen twice.
func (d *decider) stays(r state.Realm, c *state.Container) bool {
	if r.KeepAlways || c.KeepAlways || c.Suspended {
		return true
	}
	if !c.Standalone {
		return false
	}
	if by := d.withheldBy(c.Origin.Path); by != "" {
		c.Withheld = by
		return true
	}
	return !d.gone(object{r.Name, c.ID})
}

// bury takes a realm away because its manifest says so: at once, and past the guard.
func (d *decider) bury(r state.Realm) {
	old, was := d.prev.Realms[r.Name]
	switch {
	case !was: // it went before, or its state was lost: then what is left of it is an orphan
	case r.Suspended:
		old.Suspended = true
		d.put(old.Realm)
	default:
		if r.Deletion != "" {
			old.Deletion = r.Deletion
		}
		if d.part(old.Realm, isReconciled, fmt.Sprintf("the manifest says state: Absent (%s)", r.Origin)) {
			d.left[r.Name] = false
		}
	}
}

// isReconciled reports whether a tombstone of its realm takes a container away: one whose last accepted declaration
// says not to touch it waits for another declaration.
func isReconciled(c state.Container) bool { return !c.Suspended }

// put makes r the accepted state of its realm. The generation counts changes of meaning only, and so do the
// revisions; where something stands is always told as of the newest scan.
func (d *decider) put(r state.Realm) {
	old, was := d.prev.Realms[r.Name]
	next := state.AcceptedRealm{Realm: r, Generation: old.Generation, AcceptedAt: old.AcceptedAt, Since: old.Since}
	if !was {
		next.Since = d.now
	}
	if !was || !sameRealm(old.Realm, r) {
		next.Generation, next.AcceptedAt = d.generation(old.Generation), d.now
	} else {
		next.Origin.Revision = old.Origin.Revision
	}
	next.Containers = slices.Clone(r.Containers)
	for i, c := range next.Containers {
		if before, ok := old.Find(c.ID); ok && sameContainer(before, c) {
			next.Containers[i].Origin.Revision = before.Origin.Revision
		}
	}
	next.Images = slices.Clone(r.Images)
	for i, image := range next.Images {
		for _, before := range old.Images {
			if sameImage(before, image) {
				next.Images[i].Origin.Revision = before.Origin.Revision
			}
		}
	}
	d.next.Realms[r.Name] = next
}

// generation follows the realm's last one. A realm that is new here starts at Unix seconds, so that generations do
// not fall when the store is lost, and above all that were ever given, so that they do not when the clock is.
func (d *decider) generation(last int64) int64 {
	if last == 0 {
		last = max(d.now.Unix()-1, d.next.LastGeneration)
	}
	d.next.LastGeneration = max(d.next.LastGeneration, last+1)
	return last + 1
}

// remove puts a container on the removal list.
func (d *decider) remove(r state.Realm, c state.Container, why string) {
	spec := c.Spec
	delete(d.absences, object{r.Name, c.ID})
	d.list(state.Removal{Realm: r.Name, Namespace: r.Namespace, Container: c.ID, Deletion: r.Deletion, At: d.now, Why: why, Spec: &spec})
}

// leave puts a realm and its containers on the removal list. Each container stands there on its own account too, so
// that those which a later manifest of the realm does not declare still go.
func (d *decider) leave(r state.Realm, containers []state.Container, why string) {
	delete(d.next.Realms, r.Name)
	d.list(state.Removal{Realm: r.Name, Namespace: r.Namespace, Deletion: r.Deletion, At: d.now, Why: why})
	for _, c := range containers {
		d.remove(r, c, why)
	}
}

// list adds an entry to the removal list, or renews it.
func (d *decider) list(e state.Removal) { d.next = Listed(d.next, e) }

// Listed returns the accepted state with an entry on its removal list, which is sorted and names nothing twice. The
// argument is not changed.
func Listed(a state.Accepted, e state.Removal) state.Accepted {
	a.Removals = slices.DeleteFunc(slices.Clone(a.Removals), func(r state.Removal) bool {
		return r.Realm == e.Realm && r.Container == e.Container
	})
	a.Removals = append(a.Removals, e)
	slices.SortFunc(a.Removals, func(a, b state.Removal) int {
		return compareObjects(object{a.Realm, a.Container}, object{b.Realm, b.Container})
	})
	return a
}

// Ended returns the accepted state without the entry of the removal list for a container, or with an empty id for
// the whole realm: containerd answered that it is gone. The argument is not changed.
func Ended(a state.Accepted, realm state.RealmName, container state.ContainerID) state.Accepted {
	a.Removals = slices.DeleteFunc(slices.Clone(a.Removals), func(e state.Removal) bool {
		return e.Realm == realm && (container == "" || e.Container == container)
	})
	if len(a.Removals) == 0 {
		a.Removals = nil
	}
	return a
}

// sameRealm compares what two declarations mean, not where they stand.
func sameRealm(a, b state.Realm) bool {
	return a.Namespace == b.Namespace && a.Deletion == b.Deletion && a.Suspended == b.Suspended &&
		a.KeepAlways == b.KeepAlways && maps.Equal(a.Labels, b.Labels) &&
		slices.Equal(a.Credentials, b.Credentials) && slices.EqualFunc(a.Images, b.Images, sameImage) &&
		slices.EqualFunc(a.Archives, b.Archives, sameArchive) && slices.EqualFunc(a.Containers, b.Containers, sameContainer)
}

func sameContainer(a, b state.Container) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Suspended == b.Suspended && a.KeepAlways == b.KeepAlways &&
		a.Withheld == b.Withheld && len(a.Spec.Changes(b.Spec)) == 0
}

func sameImage(a, b state.Image) bool { return a.Ref == b.Ref && a.Policy == b.Policy }

func sameArchive(a, b state.Archive) bool {
	return a.Path == b.Path && a.Version == b.Version && a.Problem == b.Problem
}

func compareObjects(a, b object) int {
	return cmp.Or(cmp.Compare(a.realm, b.realm), cmp.Compare(a.container, b.container))
}
