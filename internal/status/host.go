package status

import (
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// Host is how the daemon and what it stands on are.
type Host struct {
	Daemon     Daemon     `json:"daemon"`
	Containerd Containerd `json:"containerd"`
	Source     Source     `json:"source"`
	Holds      []Hold     `json:"holds,omitempty"`
	Orphans    []Orphan   `json:"orphans,omitempty"`
	Released   []Released `json:"released,omitempty"`
	Logs       Logs       `json:"logs"`
	Realms     Counts     `json:"realms"`
}

// Daemon is the running reconciler.
type Daemon struct {
	Version string    `json:"version"`
	Pid     int       `json:"pid"`
	Started time.Time `json:"started"`
	// Mode is run or observe.
	Mode string `json:"mode"`
	// Problems are those of the daemon itself, such as a state directory that cannot be written.
	Problems []string `json:"problems,omitempty"`
}

// The modes of the daemon.
const (
	ModeRun     = "run"
	ModeObserve = "observe" // without a single write
)

// Containerd is the daemon's connection to containerd.
type Containerd struct {
	Address   string `json:"address"`
	Version   string `json:"version,omitempty"`
	Connected bool   `json:"connected"`
	// Since is when Connected last changed.
	Since time.Time `json:"since,omitzero"`
	Error string    `json:"error,omitempty"`
}

// Source is the manifest directory as last read.
type Source struct {
	Root   string `json:"root"`
	Exists bool   `json:"exists"`
	// Complete means that every file was read, settled and parsed: only then does absence remove anything.
	Complete  bool      `json:"complete"`
	Files     int       `json:"files"`
	Revision  string    `json:"revision,omitempty"`
	Problems  []string  `json:"problems,omitempty"`
	ScannedAt time.Time `json:"scannedAt,omitzero"`
}

// Hold is a removal that waits for a person.
type Hold struct {
	state.Hold
	// Hint is the command that releases it.
	Hint string `json:"hint"`
}

// NewHold adds the hint to a hold.
func NewHold(h state.Hold) Hold { return Hold{h, "kukeon-reconciler confirm " + h.ID} }

// Orphan is a container that is ours, but neither declared nor accepted for removal.
type Orphan struct {
	ID          string            `json:"id"` // for confirm
	Realm       state.RealmName   `json:"realm,omitempty"`
	Namespace   state.Namespace   `json:"namespace"`
	ContainerID state.ContainerID `json:"containerId"`
	Hint        string            `json:"hint"`
}

// NewOrphan names an orphan and adds the hint.
func NewOrphan(realm state.RealmName, ns state.Namespace, id state.ContainerID) Orphan {
	orphan := OrphanID(ns, id)
	return Orphan{orphan, realm, ns, id, "kukeon-reconciler confirm " + orphan}
}

// Released is a namespace that stays although its realm was removed: it holds what is not ours, or its policy says so.
// It is told of until the daemon ends, or a realm lives there again.
type Released struct {
	Realm     state.RealmName `json:"realm"`
	Namespace state.Namespace `json:"namespace"`
	Why       string          `json:"why"`
	At        time.Time       `json:"at"`
}

// Logs is who drains the containers' output.
type Logs struct {
	// Pump is logd, run (the fallback) or none.
	Pump    string `json:"pump"`
	Message string `json:"message,omitempty"`
}

// Counts are how many realms are in each state.
type Counts struct {
	Total   int           `json:"total"`
	Ready   int           `json:"ready"`
	InSync  int           `json:"inSync"`
	ByState map[State]int `json:"byState,omitempty"`
}

// Count counts realms.
func Count(realms []Realm) Counts {
	c := Counts{Total: len(realms), ByState: map[State]int{}}
	for _, r := range realms {
		c.ByState[r.State]++
		if r.Ready {
			c.Ready++
		}
		if r.InSync {
			c.InSync++
		}
	}
	return c
}

// Event is something that happened, for people.
type Event struct {
	Time  time.Time `json:"time"`
	Realm string    `json:"realm,omitempty"`
	// Object is as plan.Object prints it; empty when the realm or the host as a whole is meant.
	Object  string `json:"object,omitempty"`
	Reason  string `json:"reason"` // a plan.ReasonCode, or a word of its kind
	Message string `json:"message"`
}
