package ctrd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// job reads the parts of one id. It returns an error only when the daemon is away or the job was cancelled; what else
// goes wrong is noted in the mirror.
type job func(context.Context) error

// reader makes one call about an id. It returns how to note the definite answer, with m.mu held, or the reason why
// nothing definite is known.
type reader func(ctx context.Context, m *mirror, id state.ContainerID, read uint64) (apply func(), err error)

// readParts reads the dirty parts of ids concurrently and waits for the answers as long as patience goes.
func (h *Host) readParts(ctx context.Context, m *mirror) error {
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	patient := true
	for _, j := range h.jobs(m, false) {
		wg.Add(1)
		run := func(ctx context.Context) {
			defer wg.Done()
			if err := j(ctx); err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
		}
		if h.spawn(run) {
			patient = false
		} else {
			go run(ctx) // nobody reads on in the background: wait for it, its calls have deadlines
		}
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	if patient {
		<-done
	} else if err := h.await(ctx, m, done); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	return failed
}

// await waits for the reads that a pass began; what has not answered when patience ends is left to the background.
func (h *Host) await(ctx context.Context, m *mirror, done <-chan struct{}) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		m.giveUp(h.cfg.Now())
		h.kickSlow()
	}
	return nil
}

// giveUp calls everything slow that is being read.
func (m *mirror) giveUp(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		for _, p := range []*part{&e.record, &e.task, &e.snapshot} {
			if p.reading > 0 {
				e.setSlow(p, fmt.Sprintf("no answer within %s", patience), now)
			}
		}
	}
}

func (e *entry) setSlow(p *part, problem string, now time.Time) {
	p.slow, p.unknown, p.problem = true, true, problem
	if p == &e.task && e.slowSince.IsZero() {
		e.slowSince = now
	}
}

// jobs returns the reads that are due: the dirty parts or, for the background, the slow ones.
func (h *Host) jobs(m *mirror, slow bool) []job {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.exists {
		return nil
	}
	due := func(p *part) bool {
		if slow {
			return p.slow && p.reading == 0
		}
		return !p.slow && (p.dirty || p.applied == 0 && p.reading == 0)
	}
	var out []job
	for id, e := range m.entries {
		// The record comes before the task, because a task is NotFound also when only its record is gone.
		var steps []job
		if due(&e.record) {
			steps = append(steps, h.begin(m, id, e, &e.record, h.readRecord))
		}
		if due(&e.task) {
			steps = append(steps, h.begin(m, id, e, &e.task, h.readTask))
		}
		if len(steps) > 0 {
			out = append(out, inTurn(steps))
		}
		if e.recorded && due(&e.snapshot) {
			out = append(out, h.begin(m, id, e, &e.snapshot, h.readSnapshot))
		}
	}
	return out
}

func inTurn(steps []job) job {
	return func(ctx context.Context) error {
		var errs []error
		for _, s := range steps {
			errs = append(errs, s(ctx))
		}
		return errors.Join(errs...)
	}
}

// begin calls a part clean and returns the job of reading it. m.mu is held.
func (h *Host) begin(m *mirror, id state.ContainerID, e *entry, p *part, read reader) job {
	n := m.number()
	p.dirty = false
	p.reading++
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, state.ObserveDeadline)
		defer cancel()
		apply, err := read(ctx, m, id, n)

		m.mu.Lock()
		p.reading--
		was := p.unknown
		switch {
		case err == nil:
			apply()
		case outcome.IsUnavailable(err), errors.Is(err, context.Canceled):
			p.dirty = true
		default:
			p.dirty = true
			e.setSlow(p, err.Error(), h.cfg.Now())
			err = nil
		}
		is := p.slow
		m.mu.Unlock()
		if is {
			h.kickSlow()
		} else if was && err == nil {
			h.wakeUp(m.ns) // what was shown as unknown is known now
		}
		return err
	}
}

func (h *Host) readRecord(ctx context.Context, m *mirror, id state.ContainerID, read uint64) (func(), error) {
	c, err := look(ctx, "reading the container", func(ctx context.Context) (containers.Container, error) {
		return h.svc.Container(ctx, string(m.ns), string(id))
	})
	switch {
	case err == nil:
		return func() { m.applyRecord(read, id, &c) }, nil
	case errdefs.IsNotFound(err):
		return func() { m.applyRecord(read, id, nil) }, nil
	}
	return nil, err
}

func (h *Host) readTask(ctx context.Context, m *mirror, id state.ContainerID, read uint64) (func(), error) {
	t, err := look(ctx, "reading the task", func(ctx context.Context) (TaskInfo, error) {
		return h.svc.Task(ctx, string(m.ns), string(id))
	})
	switch {
	case err == nil && t.Status == string(state.TaskUnknown):
		return nil, errors.New("reading the task: its shim does not answer")
	case err == nil:
		return func() { m.applyTask(read, id, t, h.cfg.Now()) }, nil
	case !errdefs.IsNotFound(err):
		return nil, err
	}
	// NotFound says that there is no task only while there is a record, and that may have gone without a word.
	record, err := h.readRecord(ctx, m, id, read)
	if err != nil {
		return nil, err
	}
	return func() {
		record()
		if e := m.entry(id); !e.recorded && e.alive {
			m.dirty.tasks = true
			return
		}
		m.applyTask(read, id, TaskInfo{Status: string(state.TaskNone)}, h.cfg.Now())
	}, nil
}

func (h *Host) readSnapshot(ctx context.Context, m *mirror, id state.ContainerID, read uint64) (func(), error) {
	m.mu.Lock()
	e := m.entry(id)
	key, snapshotter := e.container.SnapshotKey, e.container.Snapshotter
	m.mu.Unlock()
	missing := false
	if key != "" {
		_, err := look(ctx, "reading the snapshot", func(ctx context.Context) (snapshots.Info, error) {
			return h.svc.Snapshot(ctx, string(m.ns), snapshotter, key)
		})
		if err != nil && !errdefs.IsNotFound(err) {
			return nil, err
		}
		missing = err != nil
	}
	return func() {
		if e.container.SnapshotKey == key && e.snapshot.answered(read) {
			e.snapMissing = missing
		}
	}, nil
}
