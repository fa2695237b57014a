package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/apply"
	"kukeon.io/kukeon-reconciler/internal/compile"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/manifests"
)

// Verb is what one shot did to an object.
type Verb string

// The verbs.
const (
	Created   Verb = "created"
	Updated   Verb = "updated"
	Unchanged Verb = "unchanged"
	Pruned    Verb = "pruned"
	Failed    Verb = "failed"
)

// Outcome is what one shot did to one container.
type Outcome struct {
	Realm     state.RealmName
	Container state.ContainerID
	Verb      Verb
	Error     string // of Failed
}

// ErrInvalidManifests means that the manifests have errors, and that nothing was written.
var ErrInvalidManifests = errors.New("the manifests have errors; nothing was written")

// OnceOptions say when one shot ends and what it may remove.
type OnceOptions struct {
	// Wait ends only when every realm is ready; else it ends when nothing is left to do but wait.
	Wait bool
	// Prune removes orphans inside the realms that the manifests name.
	Prune bool
}

// Once converges what the scan declares and ends. cfg's Source is not used, its Store has to start empty but for
// completions, and its Ended hears of the progress. Problems are returned with ErrInvalidManifests. When ctx ends first, what is not as declared
// counts as failed.
func Once(ctx context.Context, cfg Config, scan manifests.Scan, opts OnceOptions) ([]Outcome, []manifests.Problem, error) {
	desired, err := declared(ctx, cfg, scan)
	if err != nil {
		return nil, nil, err
	}
	if manifests.HasErrors(desired.Problems) || len(desired.Frozen) > 0 || !scan.Complete {
		return nil, desired.Problems, ErrInvalidManifests
	}
	// A tombstone is intent enough: what it names is on the removal list from the start.
	if err := cfg.Store.Save(tombstones(desired.Realms, cfg.Now())); err != nil {
		return nil, desired.Problems, err
	}
	if err := forgetUndeclared(cfg.Store, desired.Realms); err != nil {
		return nil, desired.Problems, err
	}
	tally := newTally()
	progress := cfg.Ended
	cfg.Source = fixedScan{scan}
	cfg.Ended = func(r apply.Result) {
		tally.ended(r)
		if progress != nil {
			progress(r)
		}
	}
	m := New(cfg)

	runCtx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	var runErr error
	running.Go(func() { runErr = m.Run(runCtx) })
	m.settle(ctx, desired.Realms, opts)
	stop()
	running.Wait()
	return tally.outcomes(m, desired.Realms), desired.Problems, runErr
}

// forgetUndeclared drops the remembered ends of containers that the manifests no longer declare.
func forgetUndeclared(store Store, realms []state.Realm) error {
	for _, r := range realms {
		var gone []state.ContainerID
		for id := range store.Completions(r.Name) {
			if _, declared := r.Find(id); !declared {
				gone = append(gone, id)
			}
		}
		if len(gone) == 0 {
			continue
		}
		if err := store.Forget(r.Name, gone...); err != nil {
			return err
		}
	}
	return nil
}

// tombstones has the realms that the manifests want gone on the removal list, and nothing else.
func tombstones(realms []state.Realm, now time.Time) (a state.Accepted) {
	for _, r := range realms {
		if r.Tombstone {
			a = accept.Listed(a, state.Removal{
				Realm: r.Name, Namespace: r.Namespace, Deletion: r.Deletion, At: now,
				Why: "spec.state: Absent (" + r.Origin.String() + ")",
			})
		}
	}
	return a
}

// declared compiles the scan against the host, and refuses realms that the daemon manages.
func declared(ctx context.Context, cfg Config, scan manifests.Scan) (compile.Desired, error) {
	owner, err := cfg.Host.Owner(ctx)
	if err != nil {
		return compile.Desired{}, err
	}
	namespaces, err := cfg.Host.Summaries(ctx, compile.Claimed(scan)...)
	if err != nil {
		return compile.Desired{}, err
	}
	desired := compile.Compile(scan, compile.Options{Template: cfg.Template}, namespaces, owner, state.Accepted{})
	for _, n := range namespaces {
		for _, r := range desired.Realms {
			if r.Namespace == n.Name && state.Owner(n.Labels[state.LabelOwner]) == owner &&
				n.Labels[state.LabelManagedBy] == state.ManagedByDaemon && cfg.ManagedBy != state.ManagedByDaemon {
				return compile.Desired{}, fmt.Errorf("realm %s: the daemon manages namespace %s; put %s into its manifest directory instead",
					r.Name, n.Name, r.Origin.Path)
			}
		}
	}
	return desired, nil
}

// settle waits until nothing is left to do, and removes orphans when asked to.
func (m *Manager) settle(ctx context.Context, realms []state.Realm, opts OnceOptions) {
	changed, end := m.Subscribe()
	defer end()
	for {
		if m.settled(realms, opts) && !(opts.Prune && m.pruneOrphans(realms)) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// settled reports whether every realm has nothing left to do; with Wait, whether it is ready as well.
func (m *Manager) settled(realms []state.Realm, opts OnceOptions) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.intake.complete {
		return false
	}
	for _, r := range realms {
		if slices.ContainsFunc(m.accepted.Removals, func(x state.Removal) bool { return x.Realm == r.Name }) {
			return false
		}
		if m.realms[r.Name] == nil {
			if r.Tombstone {
				continue // its removal has ended
			}
			return false // accepted in a moment
		}
		s := m.statuses[r.Name]
		if !m.resting[r.Name] || s.ObservedGeneration < m.accepted.Realms[r.Name].Generation || opts.Wait && !s.Ready {
			return false
		}
	}
	return true
}

// pruneOrphans confirms the removal of every orphan in the realms, and reports whether there was one.
func (m *Manager) pruneOrphans(realms []state.Realm) bool {
	all := m.Realms()
	m.mu.Lock()
	orphans := m.orphans(all)
	m.mu.Unlock()
	any := false
	for _, o := range orphans {
		if !slices.ContainsFunc(realms, func(r state.Realm) bool { return r.Name == o.Realm }) {
			continue
		}
		if _, err := m.Confirm(o.ID); err != nil {
			m.log.Error(err, "an orphan cannot be removed", "realm", o.Realm, "container", o.ContainerID)
			continue
		}
		any = true
	}
	return any
}

// tally counts what was done to each container.
type tally struct {
	mu    sync.Mutex
	did   map[objectKey]Verb
	error map[objectKey]string
}

type objectKey struct {
	realm state.RealmName
	id    state.ContainerID
}

func newTally() *tally {
	return &tally{did: map[objectKey]Verb{}, error: map[objectKey]string{}}
}

// ended hears of each operation. A created container stays created whatever follows; a removed one that is made
// again was updated.
func (t *tally) ended(r apply.Result) {
	if r.Operation.Object().Kind != plan.ContainerObject {
		return
	}
	key := objectKey{r.Realm, state.ContainerID(r.Operation.Object().Name)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.Err != nil {
		t.error[key] = r.Err.Error()
		return
	}
	delete(t.error, key)
	switch r.Operation.(type) {
	case plan.Create:
		if t.did[key] == "" {
			t.did[key] = Created
		} else {
			t.did[key] = Updated
		}
	case plan.Remove:
		t.did[key] = Pruned
	case plan.Complete: // it only remembers what happened
	default:
		if t.did[key] == "" {
			t.did[key] = Updated
		}
	}
}

// outcomes lists what was done, by realm and container; declared containers that are not as declared failed.
func (t *tally) outcomes(m *Manager, realms []state.Realm) []Outcome {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Outcome
	for _, r := range realms {
		s := m.status(r.Name)
		for _, c := range r.Containers {
			key := objectKey{r.Name, c.ID}
			o := Outcome{Realm: r.Name, Container: c.ID, Verb: orUnchanged(t.did[key])}
			seen, _ := s.Find(string(c.ID))
			if !seen.InSync && !r.Tombstone {
				o.Verb, o.Error = Failed, seen.Message
			}
			if t.error[key] != "" {
				o.Verb, o.Error = Failed, t.error[key]
			}
			out = append(out, o)
			delete(t.did, key)
		}
	}
	for key, verb := range t.did { // not declared
		out = append(out, Outcome{Realm: key.realm, Container: key.id, Verb: verb})
	}
	slices.SortFunc(out, func(a, b Outcome) int {
		return cmp.Or(cmp.Compare(a.Realm, b.Realm), cmp.Compare(a.Container, b.Container))
	})
	return out
}

func (m *Manager) status(name state.RealmName) status.Realm {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.statuses[name]
}

func orUnchanged(v Verb) Verb {
	if v == "" {
		return Unchanged
	}
	return v
}

// fixedScan is a Source that never changes.
type fixedScan struct{ scan manifests.Scan }

// Read implements Source.
func (f fixedScan) Read(context.Context) manifests.Scan { return f.scan }

// Changed implements Source.
func (f fixedScan) Changed() <-chan struct{} { return nil }
