package controllers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/apply"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/manifests"
)

// Config is what a Manager is made of.
type Config struct {
	Host   Host
	Source Source
	Store  Store
	// Template makes a realm's namespace: kukeon-{realm}.
	Template string
	Accept   accept.Settings
	// Rescan is how often the directory is read when no event comes, Resync how often a namespace is.
	Rescan, Resync time.Duration
	// ManagedBy is stamped on namespaces: daemon or apply.
	ManagedBy string
	// Observe means that nothing is ever written to containerd: plans are made and shown.
	Observe bool
	// Ended hears of every operation that ended; nil is allowed.
	Ended func(apply.Result)
	// About is what status tells of this process: version, pid, start, addresses.
	About status.Host
	Log   logr.Logger
	Now   func() time.Time
}

// Manager runs the whole loop: it reads the manifests, decides what is accepted, and keeps one worker per realm.
type Manager struct {
	cfg  Config
	exec *apply.Executor
	log  logr.Logger

	scanNow chan struct{} // slot of one
	events  eventRing
	quiet   quieter
	watch   broadcast

	workers sync.WaitGroup

	mu       sync.Mutex
	accepted state.Accepted
	intake   intakeState
	realms   map[state.RealmName]*worker
	statuses map[state.RealmName]status.Realm
	resting  map[state.RealmName]bool // nothing under way and nothing to do but wait
	released map[state.Namespace]status.Released
	link     linkState
}

// intakeState is what the last look at the manifests gave, beside what was accepted.
type intakeState struct {
	scan       manifests.Scan
	problems   []manifests.Problem
	namespaces []state.NamespaceSummary
	owner      state.Owner
	seen       bool // the namespaces were listed at least once
	complete   bool // a complete scan was accepted in this process: removals may be carried out
	saveError  string
	confirmed  []string
	// declared are the realms that the last scan's files name; frozen tells why those among them that may not be
	// accepted are not.
	declared map[state.RealmName]bool
	frozen   map[state.RealmName]string
	refused  map[state.RealmName]status.Realm // of which nothing was ever accepted
	orphans  []status.Orphan                  // in namespaces that no realm accounts for
}

// linkState is the connection to containerd.
type linkState struct {
	err   error
	since time.Time
}

// New returns a Manager; Run starts it.
func New(cfg Config) *Manager {
	m := &Manager{
		cfg: cfg, log: cfg.Log, scanNow: make(chan struct{}, 1),
		realms: map[state.RealmName]*worker{}, statuses: map[state.RealmName]status.Realm{},
		resting: map[state.RealmName]bool{}, released: map[state.Namespace]status.Released{},
		link: linkState{err: fmt.Errorf("not connected yet"), since: cfg.Now()},
	}
	m.exec = apply.New(cfg.Host.Do, cfg.Store.Complete, m.operationEnded, cfg.Now)
	return m
}

// drainLimit is how long operations under way may take to notice that we stop; with everything else it stays
// below the five seconds in which SIGTERM ends us. What is still under way then is looked at by the next run.
const drainLimit = 4 * time.Second

// Run reconciles until ctx ends; every workload is left as it is. It fails only when the store cannot be read.
func (m *Manager) Run(ctx context.Context) error {
	accepted, err := m.cfg.Store.Load()
	if err != nil {
		return fmt.Errorf("load the accepted state: %w", err)
	}
	m.mu.Lock()
	m.accepted = accept.Resume(accepted)
	m.mu.Unlock()
	m.syncWorkers(ctx) // repair starts from the store at once, also while the directory is missing

	var loops sync.WaitGroup
	var hostErr error
	loops.Go(func() { hostErr = m.cfg.Host.Run(ctx, m.wakeNamespace, m.connected) })
	loops.Go(func() { m.intakeLoop(ctx) })
	loops.Wait()
	m.workers.Wait()
	m.drain()
	if ctx.Err() == nil {
		return hostErr
	}
	return nil
}

// drain waits for operations under way, within bounds: their context has ended, so that only calls already sent
// are still waited for.
func (m *Manager) drain() {
	done := make(chan struct{})
	go func() {
		m.exec.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(drainLimit):
		m.log.Info("operations are still under way; the next run looks at what they did")
	}
}

// connected hears of the connection to containerd.
func (m *Manager) connected(err error) {
	m.mu.Lock()
	changed := (err == nil) != (m.link.err == nil)
	if changed {
		m.link.since = m.cfg.Now()
	}
	m.link.err = err
	workers := make([]*worker, 0, len(m.realms))
	for _, w := range m.realms {
		workers = append(workers, w)
	}
	m.mu.Unlock()
	if changed && err == nil {
		m.log.Info("connected to containerd")
	} else if changed {
		m.log.Error(err, "lost containerd; reconnecting")
	}
	if err == nil {
		for _, w := range workers {
			m.exec.Retry(w.realm) // what failed for want of containerd need not wait any longer
			w.wake()
		}
		m.scanSoon()
	}
	m.watch.signal()
}

// wakeNamespace wakes the realms that live in a namespace.
func (m *Manager) wakeNamespace(ns state.Namespace) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.realms {
		if w.namespace == ns {
			w.wake()
		}
	}
}

// scanSoon asks for a look at the manifests now.
func (m *Manager) scanSoon() {
	select {
	case m.scanNow <- struct{}{}:
	default:
	}
}

// syncWorkers starts a worker for every realm that is accepted or being removed, and stops the others.
func (m *Manager) syncWorkers(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	want := map[state.RealmName]state.Namespace{}
	for _, r := range m.accepted.Removals {
		want[r.Realm] = r.Namespace
	}
	for name, r := range m.accepted.Realms {
		want[name] = r.Namespace
	}
	for name, w := range m.realms {
		if ns, ok := want[name]; !ok || ns != w.namespace {
			w.stop()
			delete(m.realms, name)
			delete(m.statuses, name)
			delete(m.resting, name)
			m.exec.Forget(name)
		}
	}
	for name, ns := range want {
		if _, kept := m.accepted.Realms[name]; kept {
			delete(m.released, ns)
		}
		if m.realms[name] != nil {
			continue
		}
		w := newWorker(m, name, ns)
		workerCtx, stop := context.WithCancel(ctx)
		w.stop = stop
		m.realms[name] = w
		m.workers.Go(func() { w.run(workerCtx, ctx) })
		w.wake()
	}
}
