package state

import "time"

// Every limit of the product's decisions has its name and its reason here.
const (
	// BackoffCap is the longest wait before a crashed container is started again, unless its own
	// restartBackoffSeconds is longer: short enough that a host repairs itself over lunch.
	BackoffCap = 300 * time.Second
	// BackoffReset is how long a container has to run for its earlier exits to be forgotten: twice the cap.
	BackoffReset = 10 * time.Minute
	// MinRestartDelay applies from the second consecutive exit on even when no backoff is wanted, so that a
	// container that dies at once cannot keep the host busy.
	MinRestartDelay = time.Second
	// RetryBase and RetryCap bound the wait after a failed operation: 1 s, doubling to 60 s.
	RetryBase = time.Second
	RetryCap  = 60 * time.Second
	// ImageFresh is for how long a look-up of an `Always` tag serves the containers about to be created.
	ImageFresh = 60 * time.Second
	// StuckAfter is how long an object may be unknown, or survive SIGKILL, before its condition says Stuck.
	StuckAfter = 2 * time.Minute
	// RPCDeadline bounds every mutating call to containerd.
	RPCDeadline = 30 * time.Second
	// ObserveDeadline bounds reading one object, so that one hung shim stalls nobody.
	ObserveDeadline = 3 * time.Second
	// PassInterval is the least time between two passes over one realm.
	PassInterval = 20 * time.Millisecond
	// GuardWindow is the time over which removed realms are added up before a removal is held.
	GuardWindow = 10 * time.Minute
	// MaxContainerID and MaxNamespace are containerd's own limits.
	MaxContainerID = 76
	MaxNamespace   = 76
	// MaxLabel is containerd's limit on the bytes of a label's key and value together.
	MaxLabel = 4096
	// LeaseSlack is how long a lease outlives the deadline of the operation it protects.
	LeaseSlack = 10 * time.Minute
	// PullLease is how long a pull's content is protected: slow links take hours.
	PullLease = 24 * time.Hour
)
