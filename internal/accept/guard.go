package accept

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// replaced says why a change of the root's identity holds removals.
const replaced = "the manifest directory was replaced by another (unmounted, mounted over or made anew)"

// reviewHolds keeps the holds whose realms are still missing and ends those that are released. A realm whose file
// came back leaves its hold; the others in it stay held, for somebody may be just restoring them.
func (d *decider) reviewHolds(confirmations Confirmations) {
	for _, h := range d.prev.Holds {
		h.Realms = slices.DeleteFunc(slices.Clone(h.Realms), func(name state.RealmName) bool { return !d.missing(name) })
		if len(h.Realms) == 0 {
			continue
		}
		h.ID = holdID(h.Realms)
		if h.Since.After(d.now) { // the clock was set back
			h.Since = d.now
		}
		into := d.held
		if d.releases(h, confirmations) {
			into = d.released
		} else {
			d.next.Holds = append(d.next.Holds, h)
		}
		for _, name := range h.Realms {
			into[name] = true
		}
	}
}

// missing reports whether a held realm still is what it was held for.
func (d *decider) missing(name state.RealmName) bool {
	old, accepted := d.prev.Realms[name]
	_, frozen := d.desired.Frozen[name]
	if !accepted || frozen {
		return false
	}
	r, declared := d.declared[name]
	if !declared {
		return d.removable(old.Realm)
	}
	if r.Tombstone || !d.moved(name) {
		return false
	}
	_, omitted := d.merge(old.Realm, r)
	return len(omitted) > 0
}

// releases decides whether a hold ends now. While the directory cannot be read in full none does.
func (d *decider) releases(h state.Hold, confirmations Confirmations) bool {
	switch end := h.Since.Add(d.settings.RemovalHold); {
	case !d.scan.Complete:
		return false
	case slices.Contains(confirmations, h.ID):
		d.confirmed = append(d.confirmed, h.ID)
		return true
	case h.RootChanged:
		return false
	case d.settings.AllowEmpty:
		return true
	case d.settings.RemovalHold <= 0:
		return false
	case d.now.Before(end):
		d.look(end)
		return false
	}
	return true
}

// guard lets the removals of this scan pass, or holds them as one set.
func (d *decider) guard() {
	var counted, empty []state.RealmName
	for _, name := range d.candidates {
		if d.wasEmpty[name] && d.empty(name) && !d.moved(name) {
			empty = append(empty, name)
		} else {
			counted = append(counted, name)
		}
	}
	if why, held := d.holds(counted, empty); held {
		d.hold(counted, why)
	} else {
		for _, name := range counted {
			d.depart(name)
		}
	}
	for _, name := range empty {
		d.depart(name)
		d.left[name] = false
	}
}

// holds decides whether a set of removals has to wait for a person, and says why. The empty realms go in any case.
func (d *decider) holds(counted, empty []state.RealmName) (why string, held bool) {
	if len(counted) == 0 {
		return "", false
	}
	if slices.ContainsFunc(counted, d.moved) {
		return replaced, true
	}
	if d.settings.AllowEmpty {
		return "", false
	}
	first := d.now
	for _, name := range counted {
		if at := d.next.Realms[name].MissingSince; at.Before(first) {
			first = at
		}
	}
	before, removed := len(d.acceptedBefore(d.prev, first)), map[state.RealmName]bool{}
	for _, e := range d.next.Guard {
		before = max(before, e.Before)
		for _, name := range e.Removed {
			removed[name] = true
		}
	}
	for _, name := range counted {
		removed[name] = true
	}
	for name, counts := range d.left {
		if counts {
			removed[name] = true
		}
	}
	if limit := max(1, before/2); len(removed) > limit {
		return fmt.Sprintf("this would make %d of %d realms removed within %s; more than %d have to be confirmed", len(removed), before, state.GuardWindow, limit), true
	}
	for _, name := range d.acceptedBefore(d.next, first) {
		if !d.held[name] && !slices.Contains(counted, name) && !slices.Contains(empty, name) {
			return "", false
		}
	}
	return "none of the realms accepted before would remain", true
}

// empty reports whether a realm is known to hold no container of ours: then its removal is no loss. It has to be so
// at both looks, for a container that is just being recreated is not there for a moment.
func (d *decider) empty(name state.RealmName) bool {
	n, exists := d.namespaces[d.prev.Realms[name].Namespace]
	return d.desired.Observed && (!exists || !n.Incomplete && n.Ours == 0)
}

func (d *decider) hold(realms []state.RealmName, why string) {
	realms = slices.Sorted(slices.Values(realms))
	for _, name := range realms {
		delete(d.absences, object{realm: name}) // it counted: the hold remembers it from now on
	}
	moved := slices.ContainsFunc(realms, d.moved)
	d.next.Holds = append(d.next.Holds, state.Hold{ID: holdID(realms), Realms: realms, Since: d.now, Why: why, RootChanged: moved})
	if d.settings.RemovalHold > 0 && !moved {
		d.look(d.now.Add(d.settings.RemovalHold))
	}
}

// holdID names exactly this set of realms. Eight digits are enough to tell the few holds of a host apart.
func holdID(realms []state.RealmName) string {
	h := sha256.New()
	for _, name := range realms {
		h.Write([]byte(name + "\n")) // never fails
	}
	return hex.EncodeToString(h.Sum(nil))[:8]
}

// window returns the guard's history without what is too old. What lies in the future was written before the
// clock was set back, and counts as of now.
func (d *decider) window() []state.GuardEntry {
	var out []state.GuardEntry
	for _, e := range d.prev.Guard {
		if e.At.After(d.now) {
			e.At = d.now
		}
		if d.now.Sub(e.At) < state.GuardWindow {
			out = append(out, e)
		}
	}
	return out
}

// countRemovals adds this scan to the guard's history when it took realms away.
func (d *decider) countRemovals() {
	if len(d.left) == 0 {
		return
	}
	e := state.GuardEntry{At: d.now, Before: len(d.acceptedBefore(d.prev, d.now))}
	for _, name := range slices.Sorted(maps.Keys(d.left)) {
		if d.left[name] {
			e.Removed = append(e.Removed, name)
		}
	}
	d.next.Guard = append(d.next.Guard, e)
}

// acceptedBefore lists the realms that the guard looks at, all but the system's, as far as they were accepted before
// a time: what came in the same change as something else went does not make up for it.
func (d *decider) acceptedBefore(a state.Accepted, at time.Time) []state.RealmName {
	var out []state.RealmName
	for name, r := range a.Realms {
		if name != state.SystemRealm && (r.Since.Before(at) || r.Since.After(d.now)) { // the latter: the clock was set back
			out = append(out, name)
		}
	}
	return out
}
