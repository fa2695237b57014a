package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// removeRealm plans the next steps of a removal that was accepted: containers of ours, then what operations left, then
// images of ours, then the namespace. The removal has ended when our stamp is off the namespace or the
// namespace is gone.
func (d *differ) removeRealm() {
	ns := Object{NamespaceObject, string(d.want.Realm.Namespace)}
	owner, realm := d.have.OwnedBy()
	unstamped := d.have.Exists && owner == ""
	if unstamped && (d.holdsOurs() || d.holdsLeftovers()) {
		why := Reason{Code: ReasonDrift, Text: "somebody took our labels off it while something of ours is still in it"}
		d.do(EnsureNamespace{Namespace: d.want.Realm.Namespace, Labels: NamespaceLabels(d.want, d.have.Owner), base: base{why}})
		return
	}
	if unstamped && d.unreadable() {
		d.wait(ns, "the answer whose its containers are", time.Time{})
		return
	}
	// Without a realm's name it is one whose release was cut off: the owner is taken off last.
	if !d.have.Exists || owner != d.have.Owner || realm != "" && realm != d.want.Realm.Name {
		d.plan.Gone = !d.running(ns)
		return
	}
	if d.waitIfRunning(ns) {
		return
	}
	foreignContent := d.removeContainers()
	if d.ours() || d.unreadable() {
		d.wait(ns, "the end of its containers", time.Time{})
		return
	}
	// Images go last: their deletion is what makes containerd collect the content, and it may collect nothing after
	// a lease or snapshot that goes later.
	d.leftovers()
	d.waitForAll() // such as a pull that was cancelled: what it still asks for would make the namespace again
	if len(d.plan.Operations)+len(d.plan.Waits) > 0 {
		return
	}
	foreignContent = append(foreignContent, d.removeImages()...)
	if len(d.plan.Operations)+len(d.plan.Waits) > 0 {
		return
	}
	slices.Sort(foreignContent)
	if len(foreignContent) == 0 && d.want.Realm.Deletion != state.RetainPolicy {
		d.do(DeleteNamespace{base{Reason{Code: ReasonRemoved, Text: d.want.Why}}, d.want.Realm.Namespace})
		return
	}
	why := Reason{Code: ReasonRemoved, Text: d.want.Why + "; deletionPolicy Retain: images and namespace stay"}
	if d.want.Realm.Deletion != state.RetainPolicy {
		why = Reason{Code: ReasonForeignKeep, Text: fmt.Sprintf("%s; the namespace stays, for it holds what is not ours: %s and %d more",
			d.want.Why, foreignContent[0], len(foreignContent)-1)}
		if len(foreignContent) == 1 {
			why.Text = fmt.Sprintf("%s; the namespace stays, for it holds what is not ours: %s", d.want.Why, foreignContent[0])
		}
	}
	d.do(ReleaseNamespace{base{why}, d.want.Realm.Namespace, d.stamps()})
}

// removeContainers plans the end of every container of ours, and returns what is not ours.
func (d *differ) removeContainers() (foreignContent []string) {
	for _, o := range d.have.Containers {
		obj := containerObject(o.ID)
		_, listed := d.want.Removals[o.ID]
		switch {
		case d.waitIfRunning(obj):
		case o.Unreadable != "":
			d.leave(obj, ReasonUnknown, o.Unreadable)
		case o.Recorded && o.Owner() != d.have.Owner, !o.Recorded && !listed:
			d.leave(obj, ReasonNotOurs, foreign(o))
			foreignContent = append(foreignContent, "container "+string(o.ID))
		case d.want.SuspendedContainers[o.ID] != "":
			d.leave(obj, ReasonSuspended, d.want.SuspendedContainers[o.ID])
		default:
			d.remove(o, nil, Reason{Code: ReasonRemoved, Text: d.want.Why})
		}
	}
	return foreignContent
}

// ours reports whether a container of ours is still there, or being worked on.
func (d *differ) ours() bool {
	for obj := range d.busy.Running {
		if obj.Kind == ContainerObject {
			return true
		}
	}
	return d.holdsOurs()
}

// waitForAll has the plan wait for everything that is under way.
func (d *differ) waitForAll() {
	byName := func(a, b Operation) int { return cmp.Compare(a.String(), b.String()) }
	for _, op := range slices.SortedFunc(maps.Values(d.busy.Running), byName) {
		d.waitIfRunning(op.Object())
	}
}

// holdsOurs reports whether a container of ours is still there.
func (d *differ) holdsOurs() bool {
	return slices.ContainsFunc(d.have.Containers, func(o state.ObservedContainer) bool {
		return o.Recorded && o.Owner() == d.have.Owner
	})
}

// unreadable reports whether something is there that may be a container of ours.
func (d *differ) unreadable() bool {
	return slices.ContainsFunc(d.have.Containers, func(o state.ObservedContainer) bool { return o.Unreadable != "" })
}

// holdsLeftovers reports whether something else is still there that goes with the realm.
func (d *differ) holdsLeftovers() bool {
	snapshot := func(s state.ObservedSnapshot) bool { return s.Owner == d.have.Owner }
	image := func(i state.ObservedImage) bool { return i.Owner == d.have.Owner }
	return len(d.have.Leases) > 0 || slices.ContainsFunc(d.have.Snapshots, snapshot) ||
		d.want.Realm.Deletion != state.RetainPolicy && slices.ContainsFunc(d.have.Images, image)
}

// removeImages plans the deletion of image records of ours, and returns those that are not.
func (d *differ) removeImages() (foreignContent []string) {
	if d.want.Realm.Deletion == state.RetainPolicy {
		return nil
	}
	for _, i := range d.have.Images {
		obj := Object{ImageObject, i.Ref}
		if i.Owner != d.have.Owner {
			d.leave(obj, ReasonNotOurs, "not ours")
			foreignContent = append(foreignContent, "image "+i.Ref)
			continue
		}
		d.do(DeleteImage{base{Reason{Code: ReasonRemoved, Text: d.want.Why}}, i.Ref})
	}
	return foreignContent
}

// stamps are the label keys that make the namespace ours, and those of the realm's own labels.
func (d *differ) stamps() []string {
	keys := append(ourKeys(d.have.Labels), manifestLabels(d.have.Labels)...)
	return slices.DeleteFunc(keys, func(k string) bool { return d.have.Labels[k] == "" })
}
