// Package plan decides what to do next, without doing it: one operation per object, each with its reason.
package plan

import (
	"fmt"
	"strings"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// ReasonCode is a reason for metrics and conditions; nothing branches on it.
type ReasonCode string

// The reasons.
const (
	ReasonMissing     ReasonCode = "Missing"     // declared and not there
	ReasonChanged     ReasonCode = "Changed"     // the manifest changed
	ReasonDrift       ReasonCode = "Drift"       // somebody changed the world
	ReasonExited      ReasonCode = "Exited"      // the process ended
	ReasonRemoved     ReasonCode = "Removed"     // accepted for removal
	ReasonLeftover    ReasonCode = "Leftover"    // of an operation that did not end
	ReasonAdopted     ReasonCode = "Adopted"     // a person asked for it
	ReasonRefresh     ReasonCode = "Refresh"     // a tag is looked up again
	ReasonNotOurs     ReasonCode = "NotOurs"     // left alone
	ReasonConflict    ReasonCode = "Conflict"    // left alone: under our name, not ours
	ReasonOrphaned    ReasonCode = "Orphaned"    // left alone: ours, but neither accepted nor removed
	ReasonKept        ReasonCode = "Kept"        // left alone: ours, and never removed by absence
	ReasonSuspended   ReasonCode = "Suspended"   // left alone: a person or an annotation said so
	ReasonUnknown     ReasonCode = "Unknown"     // left alone: it cannot be seen just now
	ReasonNewer       ReasonCode = "NewerRecord" // left alone: a newer release of ours wrote it
	ReasonNotYours    ReasonCode = "OtherManager"
	ReasonForeignKeep ReasonCode = "ForeignContent" // a removed realm's namespace stays
)

// Reason is why an operation is needed or an object is left alone.
type Reason struct {
	Code ReasonCode
	Text string
	// Origin is where in the manifests it comes from; zero when the world and no manifest is the reason.
	Origin state.Origin
}

// String prints the text and, in parentheses, where it comes from.
func (r Reason) String() string {
	if r.Origin.Path == "" {
		return r.Text
	}
	return fmt.Sprintf("%s (%s)", r.Text, r.Origin)
}

// Want is everything that one realm's pass wants to be true of one namespace.
type Want struct {
	Realm state.Realm
	// Removing means that the whole realm is on the removal list; Realm then holds only its names and policy.
	Removing bool
	Why      string // of the removal
	// Undeclared means that no manifest of the realm is accepted: all that is wanted are the Removals. Realm then holds only
	// its names and policy.
	Undeclared bool
	// Removals are the containers on the removal list.
	Removals map[state.ContainerID]state.Removal
	// RemovalsWait says what has to come before any of them is carried out; empty when nothing has.
	RemovalsWait string
	// Imports are the remembered imports of archives.
	Imports []state.Import
	// Completions are the remembered ends of containers.
	Completions map[state.ContainerID]state.Completion
	// Suspended says why the realm, or the container, is suspended.
	Suspended           string
	SuspendedContainers map[state.ContainerID]string
	// ManagedBy is stamped on the namespace: daemon or apply.
	ManagedBy string
}

// Busy is what is already being done, and what has to wait after a failure.
type Busy struct {
	Running map[Object]Operation
	// RetryAt holds back operations that failed.
	RetryAt map[Object]Retry
}

// Retry is when a failed operation may be tried again, and what went wrong. It holds back that operation only:
// when the world has changed so that another one is due, that one is not delayed.
type Retry struct {
	At        time.Time
	Operation string // its printed form
	Error     string
}

// Wait is something that cannot be done yet.
type Wait struct {
	Object Object
	For    string // "image caddy:2", "backoff 8s after exit 1"
	// Until is when it ends by itself; zero when an event ends it.
	Until time.Time
}

// LeftAlone is something that was seen and deliberately not touched.
type LeftAlone struct {
	Object Object
	Reason Reason
}

// Plan is what to do next in one namespace.
type Plan struct {
	Operations []Operation
	Waits      []Wait
	LeftAlone  []LeftAlone
	// NextWake is the earliest time at which the plan may change by itself; zero when only an event can.
	NextWake time.Time
	// Gone is true when nothing is left of a realm that is being removed: the removal has ended.
	Gone bool
	// GoneContainers are removals that have ended.
	GoneContainers []state.ContainerID
}

// Empty reports whether there is nothing to do and nothing to wait for.
func (p Plan) Empty() bool { return len(p.Operations) == 0 && len(p.Waits) == 0 }

// String prints one line per operation, wait and object left alone, in the order of the plan.
func (p Plan) String() string {
	var b strings.Builder
	for _, o := range p.Operations {
		fmt.Fprintf(&b, "%s: %s\n", o, o.Because())
	}
	for _, w := range p.Waits {
		fmt.Fprintf(&b, "%s waits for %s\n", w.Object, w.For)
	}
	for _, l := range p.LeftAlone {
		fmt.Fprintf(&b, "left alone %s: %s\n", l.Object, l.Reason)
	}
	return b.String()
}
