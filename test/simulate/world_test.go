package simulate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/go-logr/logr"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kukeon.io/kukeon-reconciler/controllers"
	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/apply"
	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// world is one host: containerd, the manifest directory, the state directory, and the process of ours that runs now.
// It lives inside one synctest bubble.
type world struct {
	d     *fakectrd.Daemon
	dir   *directory
	disk  *disk
	check *checker
	proc  *process
	boot  int
	files string // a directory for the containers' files; nothing of a history is left in it that another could mind

	began   time.Time
	version string // of containerd

	mu     sync.Mutex
	shift  time.Duration // of the wall clock
	faults []callFault
	events []eventFault
	habits map[string]fakectrd.Process // by namespace/id, how processes behave from now on
	// slowUntil is when the last slow call or reply has arrived.
	slowUntil time.Time
	counts    map[string]int // how often each kind of fault struck
	// taken are containers that a person made under the name of one of ours; true: to stay.
	taken map[string]bool
	// foreigners are the containers that are not ours, by namespace/id.
	foreigners map[string]bool
	// turn is whose turn it is to change or compare what is not ours.
	turn chan struct{}
	// marked are containers of ours, by namespace/id, that somebody put a label on, and when they were made.
	marked map[string]time.Time
	// usurper counts the operations until somebody takes the name of a container just as we begin to act on it; 0: nobody.
	usurper int
	healed  bool

	// stateLost means that nobody knows any more which namespaces without a manifest were ours to clean up.
	stateLost bool
	// guests counts the containers of others, baseline is what all of theirs looked like when it was last their doing.
	guests   int
	close    bool // some of them are, or were, in namespaces of ours
	baseline string
}

// callFault strikes calls of ours: it passes over the first few, and strikes the next n.
type callFault struct {
	kind    string
	skip, n int
	writes  bool   // strikes writes only
	reads   bool   // strikes reads only
	leased  bool   // strikes what is made under a lease only
	method  string // strikes this one only; empty: any
	delay   time.Duration
	err     error
}

// arrives notes that something slow arrives after a while. w.mu is held.
func (w *world) arrives(after time.Duration) {
	if until := time.Now().Add(after); until.After(w.slowUntil) {
		w.slowUntil = until
	}
}

// strikes reports whether a fault may strike a call.
func (f *callFault) strikes(c fakectrd.Call) bool {
	return f.n > 0 && (!f.writes || c.Write) && (!f.reads || !c.Write) && (!f.leased || c.Lease != "") &&
		(f.method == "" || f.method == c.Method) && c.Method != "Subscribe"
}

// eventFault strikes the next n events.
type eventFault struct {
	kind  string
	n     int
	fault fakectrd.EventFault
}

// person is who acts at a shell.
var person = fakectrd.AsPerson(context.Background())

func namespaceOf(realm string) string { return "kukeon-" + realm }

// namespaces are those of all realms.
func namespaces() (out []string) {
	for _, r := range realms {
		out = append(out, namespaceOf(r))
	}
	return out
}

func newWorld(version, files string) *world {
	w := &world{
		began: time.Now(), version: version, dir: newDirectory(), disk: newDisk(), files: files, boot: 1,
		habits: map[string]fakectrd.Process{}, counts: map[string]int{}, taken: map[string]bool{}, foreigners: map[string]bool{},
		marked: map[string]time.Time{}, turn: make(chan struct{}, 1),
	}
	w.d = fakectrd.New(fakectrd.Options{Version: version, Now: w.now})
	w.check = newChecker(w)
	for _, tag := range []string{"1", "2", "3"} {
		w.push(tag)
	}
	w.d.Hook(w.call)
	w.d.HookEvents(w.event)
	w.d.Behave(w.behave)
	w.d.Audit(w.check.wrote)
	return w
}

// push puts a tag into the registry.
func (w *world) push(tag string) { w.d.Registry.Put("docker.io/library/web:"+tag, w.image(tag)) }

func (w *world) image(tag string) fakectrd.Image {
	config := ocispec.Image{Config: ocispec.ImageConfig{Entrypoint: []string{"/serve"}, User: "0"}}
	return fakectrd.Image{Layers: []string{"base", tag}, Config: config}
}

// now is the wall clock that people can set, with the monotonic one behind it that they cannot.
func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	return withWall(now.Add(w.shift), now.Sub(w.began))
}

// withWall returns a time with a monotonic reading: simulated time has none of its own, and then setting the clock
// would not only change what is displayed. The layout is that of time.Time: above 30 bits of nanoseconds stand the
// seconds since 1885, and on top a bit that says that the second word is the monotonic reading. TestWithWall holds it
// against package time's own arithmetic.
func withWall(t time.Time, monotonic time.Duration) time.Time {
	const from1885 = 2682288000 // seconds, to 1970
	words := (*struct {
		wall uint64
		ext  int64
	})(unsafe.Pointer(&t))
	words.wall = 1<<63 | uint64(t.Unix()+from1885)<<30 | uint64(t.Nanosecond())
	words.ext = int64(monotonic) + 1
	return t
}

// fired counts a fault that struck.
func (w *world) fired(kind string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.healed {
		w.counts[kind]++
	}
}

// inject has a fault strike later calls.
func (w *world) inject(f callFault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, f)
}

// Errors of calls whose fate the caller cannot know, and of one that failed for certain.
var (
	errAway  = fmt.Errorf("error reading from server: EOF: %w", errdefs.ErrUnavailable)
	errLate  = fmt.Errorf("rpc error: %w", context.DeadlineExceeded)
	errOther = errors.New("database is locked")
)

// call says what goes wrong with a call of ours.
func (w *world) call(c fakectrd.Call) fakectrd.Fault {
	w.check.called(c)
	w.mu.Lock()
	var out fakectrd.Fault
	first := func() {} // before the call arrives
	proc := w.proc
	for i := range w.faults {
		f := &w.faults[i]
		if !f.strikes(c) {
			continue
		}
		if f.skip > 0 {
			f.skip--
			continue
		}
		f.n--
		w.counts[f.kind]++
		w.check.struck(f.kind, c)
		switch f.kind {
		case "request lost", "read lost":
			out = fakectrd.Fault{Before: f.err}
		case "reply lost":
			out = fakectrd.Fault{After: f.err}
		case "slow call":
			out = fakectrd.Fault{Delay: f.delay}
			w.arrives(f.delay)
		case "slow reply":
			out = fakectrd.Fault{Late: f.delay}
			w.arrives(f.delay)
		case "killed before a call":
			out, first = fakectrd.Fault{Before: errAway}, proc.kill
		case "killed after a call":
			out = fakectrd.Fault{After: errAway, Then: proc.kill}
		case "containerd killed before a call":
			out, first = fakectrd.Fault{Before: errAway}, w.d.Restart
			if c.Method == "StartTask" && w.counts[f.kind]%2 == 1 { // and with it runc, which had just let the process go
				first = func() {
					_ = w.d.CutStart(c.Namespace, c.ID) // its task may have gone meanwhile
					w.d.Restart()
				}
			}
		case "containerd killed after a call":
			out = fakectrd.Fault{After: errAway, Then: func() { go w.d.Restart() }}
		case "lease removed by ctr":
			first = func() { w.dropLease(c.Namespace, c.Lease) }
		}
		break
	}
	w.mu.Unlock()
	first()
	return out
}

// dropLease takes a lease away, and what it alone held.
func (w *world) dropLease(ns, id string) {
	if w.d.DeleteLease(person, ns, id) == nil {
		w.d.GC()
	}
}

// event says what goes wrong with an event.
func (w *world) event(fakectrd.Event) fakectrd.EventFault {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.events {
		if f := &w.events[i]; f.n > 0 {
			f.n--
			w.counts[f.kind]++
			return f.fault
		}
	}
	return fakectrd.EventFault{}
}

// behave tells how a process is going to behave: as the history says, and else one-shots end well after a second.
func (w *world) behave(ns, id string, _ int) (fakectrd.Process, bool) {
	w.mu.Lock()
	p, said := w.habits[ns+"/"+id]
	foreign := w.foreigners[ns+"/"+id]
	w.mu.Unlock()
	if foreign {
		return fakectrd.Process{}, true
	}
	if !said && !w.check.runsForEver(ns, id) {
		p = fakectrd.Process{ExitAfter: time.Second}
	}
	return p, true
}

// process is one run of our daemon.
type process struct {
	w       *world
	client  *fakectrd.Client
	manager *controllers.Manager
	host    *ctrd.Host
	cancel  context.CancelFunc
	ended   chan struct{}
	log     *logCounter

	mu sync.Mutex
	// step counts the looks and the ends of operations; looks and ends tell when a namespace was last looked at and
	// when the last operation on an object of it ended.
	step        int
	looks, ends map[string]int
}

// machine is a host whose processes are those of the fake daemon.
type machine struct {
	ctrd.NoMachine
	fake *fakectrd.Daemon
}

// Begun implements ctrd.Machine.
func (m machine) Begun(pid uint32) (bool, error) { return m.fake.Begun(pid) }

// start runs our daemon, as a new process would: nothing but the disk and containerd is carried over.
func (w *world) start() {
	p := &process{w: w, client: &fakectrd.Client{}, ended: make(chan struct{}), log: newLogCounter(w), looks: map[string]int{}, ends: map[string]int{}}
	slots := map[ctrd.SlotKind]ctrd.Slots{ctrd.SlotStart: apply.NewSlots(4), ctrd.SlotStop: apply.NewSlots(4), ctrd.SlotPull: apply.NewSlots(2)}
	log := logr.New(p.log)
	p.host = ctrd.New(ctrd.Config{
		Services: w.d, Boot: fmt.Sprintf("boot-%d", w.boot), VolumesDir: w.files + "/volumes", FilesDir: w.files + "/files",
		OpenArchive: w.dir.open, Machine: machine{fake: w.d}, Slots: slots, Log: log, Now: w.now,
	})
	p.manager = controllers.New(controllers.Config{
		Host: spy{p.host, p}, Source: source{w.dir, p}, Store: store{w.disk, p}, Template: "kukeon-{realm}",
		ManagedBy: state.ManagedByDaemon, Accept: accept.Settings{PruneSettle: 2 * time.Second},
		Rescan: 10 * time.Second, Resync: time.Minute, Log: log, Now: w.now,
	})
	ctx, cancel := context.WithCancel(fakectrd.WithClient(context.Background(), p.client))
	p.cancel = cancel
	w.mu.Lock()
	w.proc = p
	w.mu.Unlock()
	w.check.started()
	go func() {
		defer close(p.ended)
		if err := p.manager.Run(ctx); err != nil {
			w.check.fail("P8", "the daemon ended by itself: %v", err)
		}
	}()
}

// kill ends the process as SIGKILL does. Its goroutines wind down in the background, and reach nothing any more.
func (p *process) kill() {
	p.client.Kill()
	p.cancel()
}

func (p *process) alive() bool { return !p.client.Killed() }

// stop ends the process as SIGTERM does, and tells how long that took.
func (w *world) stop() time.Duration {
	began := time.Now()
	w.proc.cancel()
	<-w.proc.ended
	w.proc.client.Kill() // what it left under way ends with its process
	return time.Since(began)
}

// idle lets the time pass and everything that is due happen.
func (w *world) idle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// spy is the host as the manager sees it; it tells the checker of every operation.
type spy struct {
	*ctrd.Host
	proc *process
}

// Observe implements controllers.Host.
func (s spy) Observe(ctx context.Context, ns state.Namespace) (state.Observed, error) {
	p := s.proc
	p.mu.Lock()
	p.step++
	began := p.step
	p.mu.Unlock()
	have, err := s.Host.Observe(ctx, ns)
	p.mu.Lock()
	p.looks[string(ns)] = max(p.looks[string(ns)], began)
	p.mu.Unlock()
	return have, err
}

// Do implements controllers.Host. An operation has to follow a look that was begun after the one before it had ended.
func (s spy) Do(ctx context.Context, ns state.Namespace, realm state.RealmName, op plan.Operation) (err error) {
	p, object := s.proc, string(ns)+" "+op.Object().String()
	if p.alive() {
		p.mu.Lock()
		stale := p.ends[object] > p.looks[string(ns)]
		p.mu.Unlock()
		if stale {
			p.w.check.fail("P9", "%s in %s follows a look from before the end of the operation before it", op, ns)
		}
		p.w.usurp(string(ns), op)
		var end func(error)
		p.w.alone(func() { end = p.w.check.began(string(ns), string(realm), op) }) // not while somebody takes its name
		defer func() { end(err) }()
	}
	err = s.Host.Do(ctx, ns, realm, op)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step++
	p.ends[object] = p.step
	return err
}

// logCounter counts what is logged again and again.
type logCounter struct {
	w     *world
	mu    sync.Mutex
	lines map[string]*lines
	total int
}

type lines struct {
	n     int
	since time.Time
}

func newLogCounter(w *world) *logCounter { return &logCounter{w: w, lines: map[string]*lines{}} }

// Init, Enabled, WithValues and WithName implement logr.LogSink.
func (l *logCounter) Init(logr.RuntimeInfo)          {}
func (l *logCounter) Enabled(level int) bool         { return level == 0 }
func (l *logCounter) WithValues(...any) logr.LogSink { return l }
func (l *logCounter) WithName(string) logr.LogSink   { return l }

// Info implements logr.LogSink.
func (l *logCounter) Info(_ int, msg string, kv ...any) { l.count(msg, kv, l.w.check.happened()) }

// Error implements logr.LogSink.
func (l *logCounter) Error(_ error, msg string, kv ...any) {
	events := 0
	if len(kv) == 0 { // about no object: containerd was lost
		events = l.w.check.happened()
	}
	l.count(msg, kv, events)
}
