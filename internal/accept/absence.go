package accept

import (
	"fmt"
	"slices"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

// keep decides about an accepted realm that no file declares as it could be accepted: it stays as it was, unless
// its absence counts.
func (d *decider) keep(name state.RealmName) {
	r := d.prev.Realms[name]
	why, frozen := d.desired.Frozen[name]
	r.Frozen, r.Withheld = why, ""
	missing := !frozen && d.removable(r.Realm)
	if !missing {
		r.MissingSince = time.Time{}
	} else if r.MissingSince.IsZero() {
		r.MissingSince = d.scan.At
	}
	switch {
	case frozen:
	case !missing:
		r.Withheld = d.setAside(r.Realm)
	case !d.scan.Complete:
		r.Frozen = "its manifest is gone, but nothing is removed while the directory cannot be read in full: " + d.incomplete()
	case d.held[name]:
	case d.released[name]:
		d.depart(name)
		return
	case d.gone(object{realm: name}):
		d.candidates = append(d.candidates, name)
	}
	d.next.Realms[name] = r
}

// removable reports whether absence can ever remove the realm, or something of it, as it was accepted last.
func (d *decider) removable(r state.Realm) bool {
	kept := len(r.Containers) > 0 && !slices.ContainsFunc(r.Containers, goesByAbsence)
	return r.Name != state.SystemRealm && !r.KeepAlways && !r.Suspended && !kept && d.setAside(r) == ""
}

func goesByAbsence(c state.Container) bool { return !c.KeepAlways && !c.Suspended }

// setAside names the renamed file beside a missing one that contributed to the realm.
func (d *decider) setAside(r state.Realm) string {
	for _, path := range r.Paths {
		if by := d.withheldBy(path); by != "" {
			return by
		}
	}
	return ""
}

// withheldBy names the renamed file beside a missing one.
func (d *decider) withheldBy(path string) string {
	for _, w := range d.scan.Withheld {
		if w.Path == path {
			return w.By
		}
	}
	return ""
}

// Resume returns what an ended process accepted as its successor may rely on. How long something had been missing is
// told by a clock that may have been set since: what was not seen twice by then has to be seen twice again.
func Resume(a state.Accepted) state.Accepted {
	a.Absences = slices.DeleteFunc(slices.Clone(a.Absences), func(x state.Absence) bool { return !x.Counted })
	return a
}

// gone reports whether an absence counts: two complete scans far enough apart saw it, and the directory did not
// change in between. Editors and git take a file away before they put the new one in its place.
func (d *decider) gone(o object) bool {
	if !d.scan.Complete {
		return false
	}
	seen := state.Absence{Realm: o.realm, Container: o.container, Since: d.scan.At, Fingerprint: d.scan.Fingerprint, Empty: d.empty(o.realm)}
	for _, a := range d.prev.Absences {
		same := a.Fingerprint == seen.Fingerprint && !a.Since.After(d.scan.At)
		if a.Realm == o.realm && a.Container == o.container && (same || a.Counted) {
			seen = a
		}
	}
	seen.Counted = seen.Counted || d.scan.At.After(seen.Since) && d.scan.At.Sub(seen.Since) >= d.settings.PruneSettle
	d.absences[o] = seen // until the object goes
	if seen.Counted {
		d.wasEmpty[o.realm] = seen.Empty
		return true
	}
	d.look(seen.Since.Add(d.settings.PruneSettle))
	return false
}

// incomplete says why the scan does not prove absence.
func (d *decider) incomplete() string {
	problems := slices.Clone(d.scan.Problems)
	for _, f := range d.scan.Files {
		if f.Opaque {
			problems = append(problems, f.Problems...)
		}
	}
	manifests.SortProblems(problems)
	for _, p := range problems {
		if p.Severity == manifests.Error {
			return p.String()
		}
	}
	if len(d.scan.Unsettled) > 0 {
		return d.scan.Unsettled[0] + ": still being written"
	}
	return "the scan was not complete"
}

// depart removes a realm by absence. Containers that are never pruned stay, and with them the realm.
func (d *decider) depart(name state.RealmName) {
	r := d.prev.Realms[name].Realm
	why := fmt.Sprintf("no manifest declares realm %s any more (it was %s)", name, r.Origin)
	d.left[name] = true
	delete(d.absences, object{realm: name})
	d.part(r, goesByAbsence, why)
}

// part removes the containers of a realm that go, and the realm with them unless one stays; it reports whether the
// realm went.
func (d *decider) part(r state.Realm, goes func(state.Container) bool, why string) bool {
	stay := slices.DeleteFunc(slices.Clone(r.Containers), goes)
	if len(stay) == 0 {
		d.leave(r, r.Containers, why)
		return true
	}
	for _, c := range r.Containers {
		if goes(c) {
			d.remove(r, c, why)
		}
	}
	r.Containers = stay
	d.put(r)
	return false
}
