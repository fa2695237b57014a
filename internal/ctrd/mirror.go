package ctrd

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// mirror is what one namespace was last seen to hold, and which parts of that may no longer be true.
type mirror struct {
	ns state.Namespace
	// turn is held by whoever refreshes the mirror; one refresh at a time is enough.
	turn chan struct{}

	mu    sync.Mutex
	dirty dirt
	// reading is what a refresh took to read: its answers are not in yet, so it is no better known than what is dirty.
	reading dirt
	// reads numbers the reads; the answer of an older one never overwrites that of a newer one.
	reads uint64

	exists      bool
	known       bool // labels have been read at least once
	labels      map[string]string
	entries     map[state.ContainerID]*entry
	images      []images.Image
	chain       map[string]string         // image digest -> chain ID
	snaps       map[string]snapshots.Info // of the snapshotter, by key
	snapshotter string
	leases      []string
	incomplete  map[string]bool         // image references that could not be unpacked for want of content
	imports     map[string]state.Import // by path
	lookedUp    map[string]time.Time    // image reference -> last answer of the registry

	busy     map[state.ContainerID]int                        // operations under way
	creating map[string]int                                   // snapshot keys of creates under way
	watchers map[state.ContainerID]map[chan struct{}]struct{} // who waits for a task's end
}

// dirt is what has to be read as a whole.
type dirt struct{ labels, records, tasks, store, leases bool }

func (d dirt) or(e dirt) dirt {
	return dirt{d.labels || e.labels, d.records || e.records, d.tasks || e.tasks, d.store || e.store, d.leases || e.leases}
}

var allDirty = dirt{labels: true, records: true, tasks: true, store: true, leases: true}

// part is one thing about an id that is read by a call of its own.
type part struct {
	dirty bool
	// slow means that it did not answer in time: it is read in the background. From then on it is shown as unknown, until
	// there is an answer: news about it makes it worth asking again, and what was known before no truer.
	slow    bool
	unknown bool
	problem string // why it could not be read
	reading int    // reads under way
	applied uint64 // number of the read that was applied last
}

// entry is one container id.
type entry struct {
	record   part
	task     part
	snapshot part

	recorded    bool
	container   containers.Container
	decoded     *state.Record
	problem     string // of the extension
	snapMissing bool

	seen taskSeen
	// alive is false when the task is known to be gone: containerd answers NotFound for a task whose container
	// record is gone, whether the task lives or not, and then only the list of tasks tells.
	alive     bool
	slowSince time.Time
}

// taskSeen is the last definite answer about a task.
type taskSeen struct {
	TaskInfo
	since time.Time
	// running is when this process saw the pid run first; zero when it never did.
	running time.Time
	// last is when the task was last seen in this status.
	last time.Time
	// exited is when the exit event of the pid arrived.
	exited    time.Time
	exitedPid uint32
}

func newMirror(ns state.Namespace) *mirror {
	return &mirror{
		ns: ns, turn: make(chan struct{}, 1), dirty: allDirty,
		entries: map[state.ContainerID]*entry{}, chain: map[string]string{}, snaps: map[string]snapshots.Info{},
		imports: map[string]state.Import{}, lookedUp: map[string]time.Time{}, incomplete: map[string]bool{}, busy: map[state.ContainerID]int{}, creating: map[string]int{},
		watchers: map[state.ContainerID]map[chan struct{}]struct{}{},
	}
}

// markAll makes everything dirty.
func (m *mirror) markAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirty = allDirty
	clear(m.incomplete)
}

// mark makes parts dirty.
func (m *mirror) mark(d dirt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirty = m.dirty.or(d)
}

// markContainer makes all about one id dirty.
func (m *mirror) markContainer(id state.ContainerID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entry(id)
	for _, p := range []*part{&e.record, &e.task, &e.snapshot} {
		p.touch()
	}
}

// take returns what is dirty as a whole, to be read now; what gets dirty from here on is read another time.
func (m *mirror) take() dirt {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reading, m.dirty = m.dirty, dirt{}
	return m.reading
}

// took ends what take began; what could not be read is dirty again.
func (m *mirror) took(unread dirt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reading, m.dirty = dirt{}, m.dirty.or(unread)
}

// stale is what may no longer be true as a whole. m.mu is held.
func (m *mirror) stale() dirt { return m.dirty.or(m.reading) }

// entry returns the id's entry; m.mu is held.
func (m *mirror) entry(id state.ContainerID) *entry {
	e, ok := m.entries[id]
	if !ok {
		e = &entry{}
		e.seen.Status = string(state.TaskNone)
		m.entries[id] = e
	}
	return e
}

// number begins a read; m.mu is held.
func (m *mirror) number() uint64 {
	m.reads++
	return m.reads
}

func (m *mirror) namespaceLabels() (labels map[string]string, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.labels, m.known && !m.stale().labels
}

// stale reports whether what is known of the part may not be true.
func (p *part) stale() bool { return p.dirty || p.slow || p.applied == 0 }

// answered notes the answer of a read, and reports whether it is the newest. m.mu is held.
func (p *part) answered(read uint64) bool {
	if read < p.applied {
		return false
	}
	p.applied, p.slow, p.unknown, p.problem = read, false, false, ""
	return true
}

// applyRecord notes a container's record; nil means that there is none. m.mu is held.
func (m *mirror) applyRecord(read uint64, id state.ContainerID, c *containers.Container) {
	e := m.entry(id)
	if !e.record.answered(read) {
		return
	}
	if c == nil {
		e.recorded, e.container, e.decoded, e.problem, e.snapMissing = false, containers.Container{}, nil, "", false
		e.snapshot.dirty, e.snapshot.slow, e.snapshot.unknown = false, false, false
		return
	}
	if !e.recorded || e.container.SnapshotKey != c.SnapshotKey || e.container.Snapshotter != c.Snapshotter {
		has := m.hasSnapshot(c)
		if has {
			e.snapshot.answered(read)
		}
		e.snapshot.dirty, e.snapMissing = !has, false
	}
	if !e.recorded || !bytes.Equal(recordOf(&e.container), recordOf(c)) {
		e.decode(c)
	}
	e.recorded, e.container = true, *c
}

// recordOf is the stored form of our extension. A removed one stays behind empty.
func recordOf(c *containers.Container) []byte {
	if ext := c.Extensions[state.ExtensionSpec]; ext != nil {
		return ext.GetValue()
	}
	return nil
}

// decode reads our extension, which costs much more than to see that it is as it was.
func (e *entry) decode(c *containers.Container) {
	e.decoded, e.problem = nil, ""
	stored := recordOf(c)
	if len(stored) == 0 {
		return
	}
	r, err := state.DecodeRecord(stored)
	if err != nil {
		e.problem = err.Error()
		return
	}
	e.decoded = &r
}

// hasSnapshot reports whether the container's snapshot was listed, or prepared by us, and not heard to go since. m.mu is
// held.
func (m *mirror) hasSnapshot(c *containers.Container) bool {
	_, ok := m.snaps[c.SnapshotKey]
	return ok && c.Snapshotter == m.snapshotter
}

// prepared notes a snapshot that we made.
func (m *mirror) prepared(snapshotter, key string, labels map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if snapshotter == m.snapshotter {
		m.snaps[key] = snapshots.Info{Name: key, Labels: labels}
	}
}

// removed notes a snapshot that we removed.
func (m *mirror) removed(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.snapshotRemoved(key)
}

// applyTask notes a definite answer about a task. m.mu is held.
func (m *mirror) applyTask(read uint64, id state.ContainerID, t TaskInfo, now time.Time) {
	e := m.entry(id)
	if !e.task.answered(read) {
		return
	}
	e.slowSince = time.Time{}
	e.alive = state.TaskStatus(t.Status) != state.TaskNone
	was := e.seen
	if was.Status == t.Status && was.Pid == t.Pid && !was.since.IsZero() {
		e.seen.last = now
		return
	}
	is := taskSeen{TaskInfo: t, since: now, last: now}
	if was.Pid == t.Pid {
		is.running = was.running
	}
	switch state.TaskStatus(t.Status) {
	case state.TaskRunning, state.TaskPaused:
		if is.running.IsZero() {
			is.running = now
		}
	case state.TaskStopped:
		is.since = exitSeen(was, t, now)
	}
	e.seen = is
}

// exitSeen is when a task stopped on our clock: when its exit event arrived, else as long ago as the wall clock says,
// but never before it was last seen to run.
func exitSeen(was taskSeen, t TaskInfo, now time.Time) time.Time {
	if was.exitedPid == t.Pid && !was.exited.IsZero() {
		return was.exited
	}
	var age time.Duration
	if !t.ExitedAt.IsZero() {
		age = max(0, now.Round(0).Sub(t.ExitedAt))
	}
	if was.Pid == t.Pid && !was.last.IsZero() {
		age = min(age, now.Sub(was.last))
	}
	return now.Add(-age)
}

// ran is how long a stopped task ran: since it was seen to run, else since its label says that it was started.
func (e *entry) ran() time.Duration {
	if !e.seen.running.IsZero() {
		return max(0, e.seen.since.Sub(e.seen.running))
	}
	if started, ok := state.ParseStarted(e.container.Labels[state.LabelStarted]); ok && !e.seen.ExitedAt.IsZero() {
		return max(0, e.seen.ExitedAt.Sub(started.At))
	}
	return 0
}

// sweep forgets ids of which nothing is left. m.mu is held.
func (m *mirror) sweep() {
	maps.DeleteFunc(m.entries, func(id state.ContainerID, e *entry) bool {
		return !e.recorded && !e.alive && !e.record.stale() && !e.task.stale() &&
			e.record.reading+e.task.reading == 0 && m.busy[id] == 0
	})
}

// observed is the mirror as the planner sees it.
func (m *mirror) observed(owner state.Owner, boot string, leased func(id string) bool) state.Observed {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep()
	o := state.Observed{Namespace: m.ns, Exists: m.exists, Labels: m.labels, Owner: owner, Boot: boot, Imports: maps.Clone(m.imports)}
	if !m.exists {
		return o
	}
	named, certain := maps.Clone(m.creating), true
	for id, e := range m.entries {
		if !e.record.unknown && !e.recorded && !e.alive && !e.task.unknown {
			continue // nothing of it is left, but an operation has not ended yet
		}
		o.Containers = append(o.Containers, e.observed(id))
		if e.recorded {
			named[e.container.SnapshotKey]++
		}
		certain = certain && !e.record.stale()
	}
	slices.SortFunc(o.Containers, func(a, b state.ObservedContainer) int { return cmp.Compare(a.ID, b.ID) })
	for _, i := range m.images {
		digest := i.Target.Digest.String()
		chain, resolved := m.chain[digest]
		_, unpacked := m.snaps[chain]
		o.Images = append(o.Images, state.ObservedImage{
			Ref: i.Name, Digest: digest, Owner: state.Owner(i.Labels[state.LabelOwner]),
			Unpacked: resolved && (unpacked || chain == ""), Incomplete: !resolved || m.incomplete[i.Name],
			LookedUp: m.lookedUp[i.Name],
		})
	}
	// A snapshot that the record of an unreadable container may name is no leftover.
	for key, s := range m.snaps {
		if s.Labels[state.LabelOwner] == string(owner) && named[key] == 0 && certain {
			o.Snapshots = append(o.Snapshots, state.ObservedSnapshot{Key: key, Owner: owner})
		}
	}
	slices.SortFunc(o.Snapshots, func(a, b state.ObservedSnapshot) int { return cmp.Compare(a.Key, b.Key) })
	for _, id := range m.leases {
		if strings.HasPrefix(id, leasePrefix) && !leased(id) {
			o.Leases = append(o.Leases, state.ObservedLease{ID: id})
		}
	}
	return o
}

// observed is one entry as the planner sees it.
func (e *entry) observed(id state.ContainerID) state.ObservedContainer {
	c := state.ObservedContainer{
		ID: id, Recorded: e.recorded, Labels: e.container.Labels, Image: e.container.Image,
		Record: e.decoded, RecordProblem: e.problem,
		SnapshotKey: e.container.SnapshotKey, SnapshotMissing: e.snapMissing,
		Task: state.Task{
			Status: state.TaskStatus(e.seen.Status), Pid: e.seen.Pid, Since: e.seen.since,
		},
	}
	if e.record.unknown {
		c.Unreadable = cmp.Or(e.record.problem, "no answer yet")
	}
	switch {
	case e.task.unknown:
		c.Task = state.Task{Status: state.TaskUnknown, Pid: e.seen.Pid, Since: e.slowSince}
	case c.Task.Status == state.TaskStopped:
		c.Task.ExitCode, c.Task.ExitedAt, c.Task.Ran = int(e.seen.ExitCode), e.seen.ExitedAt, e.ran()
	}
	return c
}
