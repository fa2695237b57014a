package fakectrd

// quirks are what one supported daemon does and another does not; none is what 2.4 does. What is true of which was found
// by playing the same calls on all of them: see internal/hosttest and internal/tracetest.
type quirks struct {
	// keepsStopped: a restart keeps the tasks that have ended, and tells their exits again.
	keepsStopped bool
	// hungIsUnknown: the task of a hung shim is unknown, and not left out.
	hungIsUnknown bool
	// needsSpec: a container has a spec.
	needsSpec bool
	// collectsQuietly: nobody is told which snapshots the garbage collector takes.
	collectsQuietly bool
	// leaseLast: that a snapshot is there already is noticed before anything about the lease, which does not get hold of it.
	leaseLast bool
	// tellsDeletions: the deletion of a task is always told.
	tellsDeletions bool
	// ctrKeepsLabels: `ctr images import` over a record that exists leaves its labels.
	ctrKeepsLabels bool
}

var (
	quirks16 = quirks{
		keepsStopped: true, hungIsUnknown: true, needsSpec: true, collectsQuietly: true, leaseLast: true, tellsDeletions: true,
		ctrKeepsLabels: true,
	}
	quirks17 = quirks{ctrKeepsLabels: true}
)
