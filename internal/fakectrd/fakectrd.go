// Package fakectrd is an in-memory containerd behind the narrow service interface that ctrd consumes, with the
// quirks of the supported daemons and faults at any call: so ctrd itself is under test too.
//
// It does no IO and starts no goroutine until somebody subscribes, so it also works inside a testing/synctest
// bubble. What it must do, the conformance suite in internal/hosttest says, on it and on real daemons alike.
package fakectrd

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

// How long the world takes, as measured on real daemons.
const (
	// DefaultGCDelay is the time from a deletion to the garbage collection that it causes.
	DefaultGCDelay = 400 * time.Millisecond
	// ShimCleanup is for how long a killed shim's id cannot be created again.
	ShimCleanup = 250 * time.Millisecond
	// ShimTimeout is how long containerd waits for a hung shim when it lists tasks, for each of them.
	ShimTimeout = 2 * time.Second
)

// Options says which daemon to be.
type Options struct {
	// Version is "2.4", "1.7" or "1.6"; empty means "2.4".
	Version string
	// Owner is the server UUID; empty means a fixed one.
	Owner string
	// Now gives the wall clock of everything that is shown with a time; nil means time.Now.
	Now func() time.Time
	// GCDelay is the time from a deletion to the garbage collection it causes; 0 means DefaultGCDelay, a negative
	// value that only Daemon.GC collects.
	GCDelay time.Duration
}

// Call is one call as it arrives at the daemon.
type Call struct {
	// Method is the name of the method of ctrd.Services.
	Method string
	// Namespace is empty for calls on the whole daemon.
	Namespace string
	// ID is the object's id, reference or key; empty for lists.
	ID string
	// Write reports whether the call changes anything.
	Write bool
	// Bounded reports whether the call ends by itself: its context has a deadline.
	Bounded bool
	// Lease is the id of the lease that the call is made under; empty when there is none.
	Lease string
	// N counts the writes, or the reads, that arrived so far, this one included.
	N int
}

// Fault is what goes wrong with one call. The zero value is nothing.
type Fault struct {
	// Delay is the time on the way to the daemon. When the caller's context ends meanwhile, the request is lost.
	Delay time.Duration
	// Before is the answer of a call whose request was lost: nothing was carried out.
	Before error
	// After is the answer of a call that was carried out but whose reply was lost.
	After error
	// Late is the time on the way back: what the caller reads is that old. When its context ends meanwhile, the reply is
	// lost.
	Late time.Duration
	// Then is called once the call was carried out, with the daemon locked: it must not call the daemon.
	Then func()
}

// Done is a write call in the trace.
type Done struct {
	Method, Namespace, ID string
	// Lost is true when the call was not carried out because of a fault or because the daemon was down.
	Lost bool
	// Err is what the daemon answered, empty when it succeeded; the caller may have seen a fault instead.
	Err string
}

// String prints the call as method namespace/id.
func (d Done) String() string {
	s := d.Method + " " + d.Namespace + "/" + d.ID
	switch {
	case d.Lost:
		return s + " (lost)"
	case d.Err != "":
		return s + ": " + d.Err
	}
	return s
}

// Daemon is an in-memory containerd. Its methods may be called concurrently; hooks are called without any lock
// held, so they may call the daemon.
type Daemon struct {
	// Registry is where Pull looks.
	Registry *Registry

	owner   string
	version string
	quirks
	now     func() time.Time
	gcDelay time.Duration

	mu            sync.Mutex
	down          bool
	downs         int // how often it went down
	namespaces    map[string]*namespace
	tasks         map[key]*task
	processes     map[key]*Run
	busy          map[key]bool // a killed shim is being cleaned up
	subscribers   []*subscriber
	resend        []queued // exits that 1.6 tells again after a restart
	gcTimer       *time.Timer
	lastPid       uint32
	behave        func(ns, id string, run int) (Process, bool)
	hook          func(Call) Fault
	eventHook     func(Event) EventFault
	audit         func(Call, Before)
	reads, writes int
	events        int
	deletions     int // of tasks
	dirs          int // of snapshots, made so far
	trace         []Done
}

var _ ctrd.Services = (*Daemon)(nil)

// key names an object of one namespace.
type key struct{ ns, id string }

// New returns a daemon that runs and holds nothing.
func New(o Options) *Daemon {
	d := &Daemon{
		Registry:   &Registry{images: map[string]Image{}},
		owner:      o.Owner,
		version:    "2.4.2",
		now:        o.Now,
		gcDelay:    o.GCDelay,
		namespaces: map[string]*namespace{},
		tasks:      map[key]*task{},
		processes:  map[key]*Run{},
		busy:       map[key]bool{},
		lastPid:    1000,
	}
	switch o.Version {
	case "1.7":
		d.version, d.quirks = "1.7.27", quirks17
	case "1.6":
		d.version, d.quirks = "1.6.20", quirks16
	}
	if d.owner == "" {
		d.owner = "5f0c1b1e-0000-4000-8000-000000000000"
	}
	if d.now == nil {
		d.now = time.Now
	}
	if d.gcDelay == 0 {
		d.gcDelay = DefaultGCDelay
	}
	return d
}

// Hook has every call ask f what goes wrong with it; nil ends that.
func (d *Daemon) Hook(f func(Call) Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = f
}

// Trace returns every write call so far, in the order in which they were carried out.
func (d *Daemon) Trace() []Done {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.trace)
}

// Writes returns how many write calls have arrived so far, those lost on the way included.
func (d *Daemon) Writes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes
}

// Reads returns how many read calls have arrived so far.
func (d *Daemon) Reads() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reads
}

type personKey struct{}

// AsPerson marks the calls made with the context as those of somebody at a shell: they are neither traced nor
// counted, and no fault hits them.
func AsPerson(ctx context.Context) context.Context { return context.WithValue(ctx, personKey{}, true) }

// errUnavailable is how a call fails while the daemon is down.
var errUnavailable = fmt.Errorf("connection error: dial unix: connect: connection refused: %w", errdefs.ErrUnavailable)

// read carries out a call that changes nothing.
func read[T any](ctx context.Context, d *Daemon, method, ns, id string, act func() (T, error)) (T, error) {
	return carryOut(ctx, d, Call{Method: method, Namespace: ns, ID: id}, act)
}

// write carries out a call that changes something.
func write(ctx context.Context, d *Daemon, method, ns, id string, act func() error) error {
	_, err := writeResult(ctx, d, method, ns, id, func() (struct{}, error) { return struct{}{}, act() })
	return err
}

// writeResult is write for a call that also answers something.
func writeResult[T any](ctx context.Context, d *Daemon, method, ns, id string, act func() (T, error)) (T, error) {
	return carryOut(ctx, d, Call{Method: method, Namespace: ns, ID: id, Write: true}, act)
}

// carryOut takes a call through its faults.
func carryOut[T any](ctx context.Context, d *Daemon, c Call, act func() (T, error)) (T, error) {
	var zero T
	f := d.arrive(ctx, &c)
	if err := sleep(ctx, f.Delay); err != nil {
		d.record(c, true, err)
		return zero, err
	}
	if f.Before != nil {
		d.record(c, true, f.Before)
		return zero, f.Before
	}
	v, err := answer(ctx, d, c, f, act)
	if f.Late > 0 {
		if late := sleep(ctx, f.Late); late != nil {
			return zero, late
		}
	}
	return v, err
}

// answer runs act with the lock held.
func answer[T any](ctx context.Context, d *Daemon, c Call, f Fault, act func() (T, error)) (T, error) {
	var zero T
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down || killed(ctx) {
		d.recordLocked(c, true, errUnavailable)
		return zero, errUnavailable
	}
	if d.audit != nil && c.Write && c.N > 0 {
		d.audit(c, d.before(c))
	}
	if err := validNamespace(c); err != nil {
		d.recordLocked(c, false, err)
		return zero, err
	}
	_, there := d.namespaces[c.Namespace]
	v, err := act()
	if n := d.namespaces[c.Namespace]; err != nil && !there && n.empty() {
		delete(d.namespaces, c.Namespace) // what made it was undone as a whole
	}
	d.recordLocked(c, false, err)
	if f.Then != nil {
		f.Then()
	}
	if f.After != nil {
		return zero, f.After
	}
	if err != nil {
		return zero, err
	}
	return v, nil
}

// validNamespace refuses a call in a namespace that there cannot be. The calls on the namespace itself only say NotFound.
func validNamespace(c Call) error {
	if c.Namespace == "" || c.Method == "NamespaceLabels" || c.Method == "DeleteNamespace" {
		return nil
	}
	return identifiers.Validate(c.Namespace)
}

// unlocked waits for something with the lock released, in the middle of a call. A daemon that goes down meanwhile takes
// the connection with it.
func (d *Daemon) unlocked(wait func() error) error {
	downs := d.downs
	d.mu.Unlock()
	err := wait()
	d.mu.Lock()
	if d.downs != downs {
		return errUnavailable
	}
	return err
}

// arrive counts the call and asks the hook about it.
func (d *Daemon) arrive(ctx context.Context, c *Call) Fault {
	switch {
	case ctx.Value(personKey{}) != nil:
		return Fault{}
	case killed(ctx):
		return Fault{Before: errUnavailable}
	}
	_, c.Bounded = ctx.Deadline()
	c.Lease, _ = leases.FromContext(ctx)
	d.mu.Lock()
	if c.Write {
		d.writes++
		c.N = d.writes
	} else {
		d.reads++
		c.N = d.reads
	}
	hook := d.hook
	d.mu.Unlock()
	if hook == nil {
		return Fault{}
	}
	return hook(*c)
}

func (d *Daemon) record(c Call, lost bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recordLocked(c, lost, err)
}

func (d *Daemon) recordLocked(c Call, lost bool, err error) {
	if !c.Write || c.N == 0 {
		return // a read, or a person's
	}
	e := Done{Method: c.Method, Namespace: c.Namespace, ID: c.ID, Lost: lost}
	if err != nil {
		e.Err = err.Error()
	}
	d.trace = append(d.trace, e)
}

// sleep waits on the way to the daemon; it answers as gRPC does when the context ends first.
func sleep(ctx context.Context, delay time.Duration) error {
	if delay > 0 {
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
	return ctx.Err()
}

// ServerID implements ctrd.Services.
func (d *Daemon) ServerID(ctx context.Context) (string, error) {
	return read(ctx, d, "ServerID", "", "", func() (string, error) { return d.owner, nil })
}

// Version implements ctrd.Services.
func (d *Daemon) Version(ctx context.Context) (string, error) {
	return read(ctx, d, "Version", "", "", func() (string, error) { return d.version, nil })
}
