// Package status turns what a pass wanted, saw and did into conditions people trust.
package status

import (
	"time"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// Pass is what one pass over a realm wanted, saw and decided.
type Pass struct {
	// Accepted is the realm as accepted. Its Generation is 0 when nothing of the realm was ever accepted: it is
	// under removal (Want.Removing), or its manifests were refused from the start.
	Accepted state.AcceptedRealm
	Want     plan.Want
	Have     state.Observed
	// Seen is false while the namespace was never observed; Have says nothing then.
	Seen bool
	Plan plan.Plan
	// Steps are the printed steps to the end, when somebody worked them out; else those of Plan are shown.
	Steps []string
	Busy  plan.Busy
	// Unavailable says why containerd cannot be reached; Have is out of date then.
	Unavailable string
	// Unaccepted says why the files do not equal what is accepted; empty when they do.
	Unaccepted string
	// Problems are those of the realm's manifests, errors and warnings, as file:line:column: field: message.
	Problems []string
	// Holds are the removals that wait for a person; those of other realms are passed over.
	Holds []state.Hold
	// ObserveOnly means that plans are made and not carried out.
	ObserveOnly bool
	// Now is the wall clock, for times that are shown, and the monotonic one, for ages.
	Now time.Time
}

// State is Kukeon's word for how a realm is.
type State string

// The realm states.
const (
	Pending  State = "Pending"  // accepted, and nothing could be begun yet
	Creating State = "Creating" // on its way to be Ready for the first time since it was accepted or changed
	Ready    State = "Ready"    // every accepted container runs or has completed, and nothing is in the way
	Degraded State = "Degraded" // not ready after it had been, or something that needs a person
	Deleting State = "Deleting" // its removal was accepted
	Failed   State = "Failed"   // nothing was ever accepted: its manifests are refused
	Unknown  State = "Unknown"  // containerd cannot be asked
)

// Realm is how one realm is. The JSON keys never change meaning.
type Realm struct {
	Name      state.RealmName `json:"name"`
	Namespace state.Namespace `json:"namespace"`
	State     State           `json:"state"`
	// InSync means that the files equal what is accepted, and nothing is to be done about it.
	InSync bool `json:"inSync"`
	// Ready means that every accepted container that is not suspended runs or has completed.
	Ready bool `json:"ready"`
	// Desired and Running count accepted containers, and those of them that run.
	Desired    int   `json:"desired"`
	Running    int   `json:"running"`
	Generation int64 `json:"generation"`
	// ObservedGeneration is the newest generation that a pass has held against the namespace; it never falls.
	ObservedGeneration int64       `json:"observedGeneration"`
	Revision           string      `json:"revision"`
	Conditions         []Condition `json:"conditions"`

	// Reason and Message are those of the condition that matters most now.
	Reason          string      `json:"reason"`
	Message         string      `json:"message"`
	NamespaceReason string      `json:"namespaceReason,omitempty"`
	Suspended       string      `json:"suspended,omitempty"` // why
	Frozen          string      `json:"frozen,omitempty"`    // why newer files are not accepted
	Problems        []string    `json:"problems,omitempty"`
	Paths           []string    `json:"paths,omitempty"` // manifests that contribute
	Containers      []Container `json:"containers"`
	Images          []Image     `json:"images,omitempty"`
	LeftAlone       []LeftAlone `json:"leftAlone,omitempty"`
	Plan            []string    `json:"plan,omitempty"`  // what is to be done, one step a line
	Waits           []string    `json:"waits,omitempty"` // what cannot be done yet
	Hints           []string    `json:"hints,omitempty"` // commands for a person to run next
}

// ConditionType names a condition.
type ConditionType string

// The conditions. Stalled means that it stays as it is until a person does something.
const (
	ConditionReady       ConditionType = "Ready"
	ConditionReconciling ConditionType = "Reconciling"
	ConditionStalled     ConditionType = "Stalled"
)

// The statuses of a condition.
const (
	True         = "True"
	False        = "False"
	Undetermined = "Unknown" // containerd cannot be asked
)

// Condition is one judgement on a realm.
type Condition struct {
	Type    ConditionType `json:"type"`
	Status  string        `json:"status"` // True, False or Unknown
	Reason  string        `json:"reason"`
	Message string        `json:"message"`
	// LastTransitionTime is when Status last changed; a new reason or message leaves it.
	LastTransitionTime time.Time `json:"lastTransitionTime"`
	ObservedGeneration int64     `json:"observedGeneration"`
}

// Image is one image that the realm needs, or that is in its namespace.
type Image struct {
	Realm    state.RealmName `json:"realm"`
	Ref      string          `json:"ref"`
	Digest   string          `json:"digest,omitempty"` // empty while it is not there
	Unpacked bool            `json:"unpacked"`
	// UsedBy are the containers that are declared or run with it, spec.images when that names it, and the archives that
	// brought it; empty when nobody needs it.
	UsedBy []string `json:"usedBy,omitempty"`
	// Owned means that we made the record, so that it goes with the realm.
	Owned   bool   `json:"owned"`
	Message string `json:"message,omitempty"` // what is in the way
}

// LeftAlone is something that was seen in the namespace and deliberately not touched.
type LeftAlone struct {
	Object  string `json:"object"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Find returns the container with the name or, else, with the containerd id.
func (r Realm) Find(name string) (Container, bool) {
	for _, c := range r.Containers {
		if c.Name == name || string(c.ContainerID) == name {
			return c, true
		}
	}
	return Container{}, false
}

// Condition returns the condition of the type; the zero value when it was never judged.
func (r Realm) Condition(t ConditionType) Condition {
	for _, c := range r.Conditions {
		if c.Type == t {
			return c
		}
	}
	return Condition{}
}
