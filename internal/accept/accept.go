// Package accept decides which desired state holds now: absence, guards, freezes, stickiness, generations.
package accept

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"time"

	"kukeon.io/kukeon-reconciler/internal/compile"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

// Settings are what the operator of the host decides.
type Settings struct {
	// PruneSettle is how far apart two scans have to be that agree on an absence.
	PruneSettle time.Duration
	// RemovalHold lets a held removal pass after this time; zero holds it until somebody confirms.
	RemovalHold time.Duration
	// AllowEmpty lets every removal pass the guard, that of the last realm included.
	AllowEmpty bool
}

// Confirmations are the ids of holds that a person released since the last decision.
type Confirmations []string

// Decision is what holds from now on, once it is stored.
type Decision struct {
	Accepted state.Accepted
	// Holds are the removals that wait for a person: Accepted.Holds.
	Holds []state.Hold
	// Problems are everything wrong with the files, in place order.
	Problems []manifests.Problem
	// Confirmed are the confirmations that released a hold; the others named none of exactly that set, or came
	// while the directory could not be read in full.
	Confirmed []string
	// Changed reports whether Accepted differs from what was given.
	Changed bool
	// NextLook is when another scan may turn an absence into a removal or a hold may end by itself; zero when time
	// alone changes nothing.
	NextLook time.Time
}

// Decide says what holds after a scan. It never changes its arguments. Additions and changes hold at once; what
// is gone from the files has to pass the rules on absence and the guard. An error of a file, a directory that
// cannot be read and a scan that is not complete remove nothing.
//
// The namespaces are those last observed. Decide may be called again with the same scan, with new confirmations or
// at a later time: the same scan never counts as a second look.
func Decide(prev state.Accepted, scan manifests.Scan, desired compile.Desired, namespaces []state.NamespaceSummary,
	confirmations Confirmations, now time.Time, settings Settings,
) Decision {
	if !scan.Exists {
		return Decision{Accepted: prev, Holds: prev.Holds, Problems: desired.Problems}
	}
	d := newDecider(prev, scan, desired, namespaces, now, settings)
	d.reviewHolds(confirmations)
	for _, r := range desired.Realms {
		d.accept(r)
	}
	for _, name := range slices.Sorted(maps.Keys(prev.Realms)) {
		if _, declared := d.declared[name]; !declared {
			d.keep(name)
		}
	}
	d.guard()
	d.finish()
	return Decision{
		Accepted: d.next, Holds: d.next.Holds, Problems: desired.Problems, Confirmed: d.confirmed,
		Changed: differ(prev, d.next), NextLook: d.nextLook,
	}
}

// decider is the state of one Decide.
type decider struct {
	prev, next state.Accepted
	scan       manifests.Scan
	desired    compile.Desired
	namespaces map[state.Namespace]state.NamespaceSummary
	now        time.Time
	settings   Settings
	declared   map[state.RealmName]state.Realm
	// held are the members of holds that stay, released those of holds that end.
	held, released map[state.RealmName]bool
	// candidates are realms whose removal counts from this scan on, if the guard lets it pass.
	candidates []state.RealmName
	// wasEmpty are candidates that held no container of ours when they were first seen missing.
	wasEmpty map[state.RealmName]bool
	// left are the realms removed now; true are those that the guard counts.
	left      map[state.RealmName]bool
	absences  map[object]state.Absence
	confirmed []string
	nextLook  time.Time
}

// object names a container, or with an empty id the whole realm.
type object struct {
	realm     state.RealmName
	container state.ContainerID
}

func newDecider(prev state.Accepted, scan manifests.Scan, desired compile.Desired, namespaces []state.NamespaceSummary, now time.Time, settings Settings) *decider {
	d := &decider{
		prev: prev, next: prev, scan: scan, desired: desired, now: now, settings: settings,
		namespaces: map[state.Namespace]state.NamespaceSummary{},
		declared:   map[state.RealmName]state.Realm{},
		held:       map[state.RealmName]bool{},
		released:   map[state.RealmName]bool{},
		left:       map[state.RealmName]bool{},
		wasEmpty:   map[state.RealmName]bool{},
		absences:   map[object]state.Absence{},
	}
	for _, n := range namespaces {
		d.namespaces[n.Name] = n
	}
	for _, r := range desired.Realms {
		d.declared[r.Name] = r
	}
	if d.next.Realms = maps.Clone(prev.Realms); d.next.Realms == nil {
		d.next.Realms = map[state.RealmName]state.AcceptedRealm{}
	}
	d.next.Removals = slices.Clone(prev.Removals)
	d.next.Guard = d.window()
	d.next.Holds = nil
	return d
}

// moved reports whether the directory in which the realm was declared last was replaced behind our back: unmounted,
// mounted over, made anew. When the text of a symlink on its path changed as well, somebody pointed us elsewhere on
// purpose.
func (d *decider) moved(name state.RealmName) bool {
	was, is := d.prev.Realms[name].Root, d.scan.Identity
	known := was.Inode != 0 && is.Inode != 0
	return known && (was.Device != is.Device || was.Inode != is.Inode) && slices.Equal(was.Links, is.Links)
}

// finish writes down what the next scan is compared with.
func (d *decider) finish() {
	d.next.Absences = nil
	for _, o := range slices.SortedFunc(maps.Keys(d.absences), compareObjects) {
		d.next.Absences = append(d.next.Absences, d.absences[o])
	}
	d.countRemovals()
	d.root()
	d.next.Scanned = d.next.Scanned || d.scan.Complete
}

// root notes the directory in which realms are declared. One that misses something stays tied to where it had it.
func (d *decider) root() {
	is := state.RootIdentity{Device: d.scan.Identity.Device, Inode: d.scan.Identity.Inode, Links: d.scan.Identity.Links}
	waits := map[state.RealmName]bool{}
	for o := range d.absences {
		waits[o.realm] = true
	}
	for _, h := range d.next.Holds {
		for _, name := range h.Realms {
			waits[name] = true
		}
	}
	for name, r := range d.next.Realms {
		r.Root = d.prev.Realms[name].Root
		_, declared := d.declared[name]
		if declared && (r.Root.Inode == 0 || d.scan.Complete && !waits[name]) {
			r.Root = is
		}
		d.next.Realms[name] = r
	}
}

// look asks for another scan at the time.
func (d *decider) look(at time.Time) {
	if d.nextLook.IsZero() || at.Before(d.nextLook) {
		d.nextLook = at
	}
}

// differ compares what would be stored. What is equal anyway is stored alike.
func differ(a, b state.Accepted) bool {
	if reflect.DeepEqual(a, b) {
		return false
	}
	was, err1 := json.Marshal(a)
	is, err2 := json.Marshal(b)
	return err1 != nil || err2 != nil || string(was) != string(is)
}
