package state

import "time"

// Observed is what one namespace holds, as far as it was seen. What could not be read is marked unknown and
// never left out.
type Observed struct {
	Namespace Namespace
	// Exists is false only when containerd answered NotFound for the namespace.
	Exists bool
	Labels map[string]string // of the namespace
	// Owner is the daemon that answered: what our objects in it carry.
	Owner Owner
	// Boot identifies this boot of the host; a start recorded under another one ended with that boot.
	Boot string
	// Containers holds every container and every task without one, sorted by ID.
	Containers []ObservedContainer
	Images     []ObservedImage    // sorted by Ref
	Snapshots  []ObservedSnapshot // of ours that no container names, sorted by Key
	Leases     []ObservedLease    // of ours, sorted by ID
	// Imports are the archives that this process imported into the namespace, by path.
	Imports map[string]Import
}

// Find returns the container or task with the id.
func (o Observed) Find(id ContainerID) (ObservedContainer, bool) {
	for _, c := range o.Containers {
		if c.ID == id {
			return c, true
		}
	}
	return ObservedContainer{}, false
}

// FindImage returns the image record with the reference.
func (o Observed) FindImage(ref string) (ObservedImage, bool) {
	for _, i := range o.Images {
		if i.Ref == ref {
			return i, true
		}
	}
	return ObservedImage{}, false
}

// OwnedBy returns the owner and realm stamped on the namespace; empty when it is not stamped.
func (o Observed) OwnedBy() (Owner, RealmName) {
	return Owner(o.Labels[LabelOwner]), RealmName(o.Labels[LabelRealm])
}

// ObservedContainer is one container id of a namespace: the record, its snapshot and its task.
type ObservedContainer struct {
	ID ContainerID
	// Recorded is false for a task without a container: left when the record was deleted during a create.
	Recorded bool
	Labels   map[string]string
	Image    string
	// Record is our extension; nil when there is none. RecordProblem says why it could not be read.
	Record        *Record
	RecordProblem string
	SnapshotKey   string
	// SnapshotMissing is true only when the snapshotter answered NotFound for SnapshotKey.
	SnapshotMissing bool
	Task            Task
	// Unreadable says why the container's record itself could not be read just now; then everything else
	// about it is stale and nothing may be planned for it.
	Unreadable string
}

// Owner is who owns the container: its label, or our extension's copy when somebody removed the label.
func (c ObservedContainer) Owner() Owner {
	if o := c.Labels[LabelOwner]; o != "" {
		return Owner(o)
	}
	if c.Record != nil {
		return c.Record.Owner
	}
	return ""
}

// TaskStatus is three-valued at heart: running, not running, unknown.
type TaskStatus string

// The task statuses.
const (
	TaskNone    TaskStatus = "none" // Get answered NotFound
	TaskCreated TaskStatus = "created"
	TaskRunning TaskStatus = "running"
	TaskPaused  TaskStatus = "paused"
	TaskStopped TaskStatus = "stopped" // exited, not deleted yet
	TaskUnknown TaskStatus = "unknown" // a deadline, a hung shim: nothing may be concluded
)

// Task is the observed task of a container.
type Task struct {
	Status TaskStatus
	Pid    uint32
	// ExitCode and ExitedAt hold for TaskStopped.
	ExitCode int
	ExitedAt time.Time
	// Since is when this status was first seen, on the observer's monotonic clock. For a stopped task first seen
	// late it is moved back by the task's age as the wall clock tells it, never into the future.
	Since time.Time
	// Ran is how long the task ran before it stopped; zero when nobody saw it start.
	Ran time.Duration
}

// ObservedImage is one image record.
type ObservedImage struct {
	Ref    string
	Digest string // of the manifest or index
	Owner  Owner  // empty when somebody else made the record
	// Unpacked reports whether a snapshot of it can be prepared right now.
	Unpacked bool
	// Incomplete means that content of it is missing: it cannot be unpacked, only pulled or imported again.
	Incomplete bool
	// LookedUp is when this process last asked the registry about the tag; zero when never.
	LookedUp time.Time
}

// ObservedSnapshot is a snapshot of ours that no container record names.
type ObservedSnapshot struct {
	Key   string
	Owner Owner
}

// ObservedLease is one of our leases.
type ObservedLease struct {
	ID string
}

// NamespaceSummary is what acceptance has to know about one namespace of the host.
type NamespaceSummary struct {
	Name   Namespace
	Labels map[string]string
	// Containers and Ours count container records: all, and those that carry our owner.
	Containers int
	Ours       int
	// Incomplete is true when the namespace could not be read; then the counts say nothing.
	Incomplete bool
}
