package ctrd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// Observe returns what the namespace holds. It reads only what may have changed since the last time; without a
// running event stream that is everything. What does not answer within a second is marked unknown and read on in
// the background, which wakes the realm when the answer comes. Maps in the result are shared: nobody may change them.
// A daemon that is away is *outcome.Unavailable; then the result says nothing.
func (h *Host) Observe(ctx context.Context, ns state.Namespace) (state.Observed, error) {
	m := h.mirror(ns)
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return state.Observed{}, ctx.Err()
	}
	owner, err := h.Owner(ctx)
	if err != nil {
		return state.Observed{}, err
	}
	h.mu.Lock()
	streaming := h.streaming
	h.mu.Unlock()
	if !streaming {
		m.markAll()
	}
	if err := h.refresh(ctx, m); err != nil {
		return state.Observed{}, fmt.Errorf("observing namespace %s: %w", ns, err)
	}
	return m.observed(owner, h.cfg.Boot, func(id string) bool { return h.leases.inUse(ns, id) }), nil
}

// Recheck makes the next Observe ask about each task that is seen to run. It costs one small call a task: containerd may
// lose every event about a task that ends.
func (h *Host) Recheck(ns state.Namespace) {
	m := h.mirror(ns)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		if e.recorded && e.seen.Status == string(state.TaskRunning) && !e.task.slow {
			e.task.touch()
		}
	}
}

// Resync makes the next Observe of the namespace read everything, and the next Summaries list the namespaces.
func (h *Host) Resync(ns state.Namespace) {
	h.mirror(ns).markAll()
	h.forgetSpaces()
}

// refresh reads what is dirty.
func (h *Host) refresh(ctx context.Context, m *mirror) error {
	d := m.take()
	unread, err := h.readWhole(ctx, m, d)
	m.took(unread)
	if err != nil {
		return err
	}
	if err := h.readParts(ctx, m); err != nil {
		return err
	}
	// A container record that went while its task may live: only the list tells.
	if m.needTasks() {
		if err := h.readTasks(ctx, m); err != nil {
			m.mark(dirt{tasks: true})
			return err
		}
	}
	return h.readParts(ctx, m) // what the answers so far led to, such as a record that names another snapshot
}

func (m *mirror) needTasks() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	need := m.dirty.tasks && m.exists
	m.dirty.tasks = m.dirty.tasks && !m.exists
	return need
}

// readWhole reads what is dirty as a whole, and returns what of it is still to be read.
func (h *Host) readWhole(ctx context.Context, m *mirror, d dirt) (unread dirt, err error) {
	if d.labels {
		if err := h.readNamespace(ctx, m); err != nil {
			return d, err
		}
	}
	if !m.exists { // only refreshes change it, and this is the one that has its turn
		unread = d
		unread.labels = false
		return unread, nil
	}
	g, ctx := errgroup.WithContext(ctx)
	if d.records {
		g.Go(func() error { return h.readRecords(ctx, m) })
	}
	if d.tasks {
		g.Go(func() error { return h.readTasks(ctx, m) })
	}
	if d.store {
		g.Go(func() error { return h.readStore(ctx, m) })
	}
	if d.leases {
		g.Go(func() error { return h.readLeases(ctx, m) })
	}
	if err := g.Wait(); err != nil {
		return d, err
	}
	if d.store {
		m.settleSnapshots()
	}
	return dirt{}, nil
}

// settleSnapshots spares the containers whose snapshots were just listed a call of their own. Those that were not are
// asked about, because only a Get says NotFound.
func (m *mirror) settleSnapshots() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		if m.hasSnapshot(&e.container) {
			e.snapshot.answered(m.number())
			e.snapMissing, e.snapshot.dirty = false, false
		}
	}
}

// list makes one call that reads a list.
func list[T any](ctx context.Context, what string, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, listDeadline)
	defer cancel()
	v, err := call(ctx)
	if err != nil {
		err = readError("listing "+what, err)
	}
	return v, err
}

// readNamespace reads the labels, which tells whether there is a namespace at all.
func (h *Host) readNamespace(ctx context.Context, m *mirror) error {
	labels, err := list(ctx, "labels", func(ctx context.Context) (map[string]string, error) {
		return h.svc.NamespaceLabels(ctx, string(m.ns))
	})
	exists := err == nil
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if snapshotterOf(m.labels) != snapshotterOf(labels) {
		m.dirty.store = true
	}
	m.exists, m.known, m.labels = exists, true, labels
	if !exists {
		clear(m.entries)
		clear(m.lookedUp)
		m.images, m.leases, m.snaps = nil, nil, map[string]snapshots.Info{}
	}
	return nil
}

func (h *Host) readRecords(ctx context.Context, m *mirror) error {
	m.mu.Lock()
	n := m.number()
	for _, e := range m.entries {
		e.record.dirty = false // events from here on count
	}
	m.mu.Unlock()
	all, err := list(ctx, "containers", func(ctx context.Context) ([]containers.Container, error) {
		return h.svc.Containers(ctx, string(m.ns))
	})
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, e := range m.entries {
			e.record.dirty = true
		}
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	there := map[state.ContainerID]bool{}
	for _, c := range all {
		id := state.ContainerID(c.ID)
		there[id] = true
		m.applyRecord(n, id, &c)
		m.entry(id).snapshot.dirty = true
	}
	for id := range m.entries {
		if !there[id] {
			m.applyRecord(n, id, nil)
		}
	}
	return nil
}

// readTasks lists the tasks. The list asks every shim in turn and leaves those out that do not answer, so it is not
// waited for long, and not asked at all while one is known to hang; then, and for whatever is not in it, each
// container is asked about.
func (h *Host) readTasks(ctx context.Context, m *mirror) error {
	m.mu.Lock()
	n := m.number()
	hung := false
	for _, e := range m.entries {
		hung = hung || e.task.slow
		e.task.dirty = false // events from here on count
	}
	m.mu.Unlock()
	if hung {
		m.markTasks(nil)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all, err := h.svc.Tasks(ctx, string(m.ns))
	switch {
	case errdefs.IsUnavailable(err):
		m.markTasks(nil)
		return readError("listing tasks", err)
	case err != nil:
		m.markTasks(nil)
		// It may have been one hung shim: nothing is known, everything is asked about.
		h.cfg.Log.V(1).Info("tasks could not be listed", "namespace", m.ns, "error", err.Error())
		return nil
	}
	m.applyTasks(n, all, h.cfg.Now())
	return nil
}

// applyTasks notes a list of tasks.
func (m *mirror) applyTasks(read uint64, all []TaskInfo, now time.Time) {
	listed := map[state.ContainerID]bool{}
	m.mu.Lock()
	for _, t := range all {
		id := state.ContainerID(t.ID)
		m.entry(id).alive = true
		if t.Status == string(state.TaskUnknown) {
			continue // its own answer decides
		}
		listed[id] = true
		m.applyTask(read, id, t, now)
	}
	for id, e := range m.entries {
		// Get says NotFound for every task without a record: for those, the list is all there is.
		if !listed[id] && !e.recorded && !e.record.stale() && e.record.reading == 0 {
			listed[id] = true
			m.applyTask(read, id, TaskInfo{Status: string(state.TaskNone)}, now)
		}
	}
	m.mu.Unlock()
	m.markTasks(listed)
}

// markTasks makes every task dirty but the known ones.
func (m *mirror) markTasks(known map[state.ContainerID]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, e := range m.entries {
		e.task.dirty = e.task.dirty || !known[id]
	}
}

// readStore lists images and snapshots, and looks up the chains of images seen for the first time.
func (h *Host) readStore(ctx context.Context, m *mirror) error {
	all, err := list(ctx, "images", func(ctx context.Context) ([]images.Image, error) {
		return h.svc.Images(ctx, string(m.ns))
	})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b images.Image) int { return strings.Compare(a.Name, b.Name) })
	snapshotter, err := h.snapshotter(ctx, m.ns)
	if err != nil {
		return err
	}
	snaps, err := list(ctx, "snapshots", func(ctx context.Context) ([]snapshots.Info, error) {
		return h.svc.Snapshots(ctx, string(m.ns), snapshotter)
	})
	if err != nil {
		return err
	}
	chain, err := h.readChains(ctx, m.ns, all)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.images, m.chain = all, chain
	m.snaps = make(map[string]snapshots.Info, len(snaps))
	for _, s := range snaps {
		m.snaps[s.Name] = s
	}
	m.snapshotter = snapshotter
	return nil
}

// imageReads bounds the images whose content is read at a time.
const imageReads = 8

// readChains maps the digests of images to the chain IDs of their layers. What cannot be resolved is left out: content
// is missing, or there is none for this platform.
func (h *Host) readChains(ctx context.Context, ns state.Namespace, all []images.Image) (map[string]string, error) {
	var mu sync.Mutex
	out := map[string]string{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(imageReads)
	for _, i := range all {
		g.Go(func() error {
			r, err := h.resolve(ctx, ns, i)
			switch {
			case err != nil && !definite(err):
				return err
			case err != nil:
				h.cfg.Log.V(1).Info("image cannot be used", "namespace", ns, "image", i.Name, "error", err.Error())
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			out[i.Target.Digest.String()] = r.chain
			return nil
		})
	}
	return out, g.Wait()
}

func (h *Host) readLeases(ctx context.Context, m *mirror) error {
	all, err := list(ctx, "leases", func(ctx context.Context) ([]leases.Lease, error) {
		return h.svc.Leases(ctx, string(m.ns))
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leases = nil
	for _, l := range all {
		m.leases = append(m.leases, l.ID)
	}
	slices.Sort(m.leases)
	return nil
}
