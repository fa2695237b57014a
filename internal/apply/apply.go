// Package apply carries operations out concurrently within bounds and records what happened; it decides nothing.
package apply

import (
	"context"
	"errors"
	"sync"
	"time"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// Do carries one operation out. Its errors are outcome's kinds; any other error is retried.
type Do func(ctx context.Context, ns state.Namespace, realm state.RealmName, op plan.Operation) error

// Remember keeps the end of a one-shot safe before its task is deleted.
type Remember func(realm state.RealmName, id state.ContainerID, c state.Completion) error

// Result is one operation that ended.
type Result struct {
	Realm     state.RealmName
	Operation plan.Operation
	Err       error // nil: it succeeded
	Took      time.Duration
	Failures  int // in a row, this one included
}

// Executor runs operations, each on its own goroutine, at most one per object.
type Executor struct {
	do       Do
	remember Remember
	ended    func(Result)
	now      func() time.Time

	mu     sync.Mutex
	realms map[state.RealmName]*lane
	all    sync.WaitGroup
}

// lane is what is under way, and what failed, in one realm.
type lane struct {
	running  map[plan.Object]*flight
	failures map[plan.Object]failure
}

type flight struct {
	op     plan.Operation
	cancel context.CancelFunc
}

type failure struct {
	op    string
	count int
	at    time.Time // of the next try
	err   string
}

// New returns an executor. ended is called after each operation, from its goroutine, when it no longer counts as
// running.
func New(do Do, remember Remember, ended func(Result), now func() time.Time) *Executor {
	return &Executor{do: do, remember: remember, ended: ended, now: now, realms: map[state.RealmName]*lane{}}
}

// Busy returns what is under way in the realm and what is held back after a failure.
func (e *Executor) Busy(realm state.RealmName) plan.Busy {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.lane(realm)
	b := plan.Busy{Running: map[plan.Object]plan.Operation{}, RetryAt: map[plan.Object]plan.Retry{}}
	for obj, f := range l.running {
		b.Running[obj] = f.op
	}
	for obj, f := range l.failures {
		b.RetryAt[obj] = plan.Retry{At: f.at, Error: f.err, Operation: f.op}
	}
	return b
}

// Apply starts every operation of the plan. An object that already has one under way is passed over: the plan was
// made from an older look, and the end of the running operation brings a newer one.
func (e *Executor) Apply(ctx context.Context, ns state.Namespace, realm state.RealmName, p plan.Plan) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.lane(realm)
	for _, op := range p.Operations {
		if _, busy := l.running[op.Object()]; busy || ctx.Err() != nil {
			continue
		}
		opCtx, cancel := context.WithCancel(ctx)
		l.running[op.Object()] = &flight{op, cancel}
		e.all.Go(func() {
			defer cancel()
			_ = e.run(opCtx, ns, realm, op) // ended was told
		})
	}
}

// Do carries out one operation that a person asked for, and waits for it. An object that already has one under way
// is not touched: outcome.Waiting says so.
func (e *Executor) Do(ctx context.Context, ns state.Namespace, realm state.RealmName, op plan.Operation) error {
	e.mu.Lock()
	l := e.lane(realm)
	if f := l.running[op.Object()]; f != nil {
		e.mu.Unlock()
		return &outcome.Waiting{For: "the end of " + f.op.String()}
	}
	opCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.running[op.Object()] = &flight{op, cancel}
	e.mu.Unlock()
	e.all.Add(1)
	defer e.all.Done()
	return e.run(opCtx, ns, realm, op)
}

// CancelFetches ends pulls and imports of what nobody wants any more. No other operation is ever cancelled.
func (e *Executor) CancelFetches(realm state.RealmName, wanted func(plan.Object) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.lane(realm).running {
		switch f.op.(type) {
		case plan.Pull, plan.Import:
			if !wanted(f.op.Object()) {
				f.cancel()
			}
		}
	}
}

// Retry forgets the failures of a realm, so that everything is tried again at once: a new generation came, or a
// person asked for a pass.
func (e *Executor) Retry(realm state.RealmName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.lane(realm).failures)
}

// Forget drops a realm that is gone. Operations still under way end by themselves.
func (e *Executor) Forget(realm state.RealmName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l := e.realms[realm]; l != nil && len(l.running) == 0 {
		delete(e.realms, realm)
	}
}

// Wait returns when no operation is under way.
func (e *Executor) Wait() { e.all.Wait() }

func (e *Executor) lane(realm state.RealmName) *lane {
	l := e.realms[realm]
	if l == nil {
		l = &lane{running: map[plan.Object]*flight{}, failures: map[plan.Object]failure{}}
		e.realms[realm] = l
	}
	return l
}

func (e *Executor) run(ctx context.Context, ns state.Namespace, realm state.RealmName, op plan.Operation) error {
	began := e.now()
	err := e.carryOut(ctx, ns, realm, op)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = &outcome.Waiting{For: "nothing: it was cancelled"}
	}
	res := Result{Realm: realm, Operation: op, Err: err, Took: e.now().Sub(began)}

	e.mu.Lock()
	l := e.lane(realm)
	delete(l.running, op.Object())
	res.Failures = l.note(op, err, e.now())
	e.mu.Unlock()
	e.ended(res)
	return err
}

// carryOut does the operation; the end of a one-shot is remembered first.
func (e *Executor) carryOut(ctx context.Context, ns state.Namespace, realm state.RealmName, op plan.Operation) error {
	if c, ok := op.(plan.Complete); ok {
		if err := e.remember(realm, c.ID, c.Completion); err != nil {
			return err
		}
	}
	return e.do(ctx, ns, realm, op)
}

// waitingRetry is how soon an operation that found its precondition gone is looked at again when no event comes.
const waitingRetry = 500 * time.Millisecond

// note remembers a failure, or forgets it after a success, and returns the failures in a row.
func (l *lane) note(op plan.Operation, err error, now time.Time) int {
	obj := op.Object()
	if err == nil {
		delete(l.failures, obj)
		return 0
	}
	f := l.failures[obj]
	if f.op != op.String() {
		f = failure{op: op.String()}
	}
	f.err = err.Error()
	var waiting *outcome.Waiting
	switch {
	case errors.As(err, &waiting):
		f.at = now.Add(waitingRetry)
	case outcome.IsStalled(err):
		f.count++
		f.at = now.Add(state.RetryCap)
	default:
		f.count++
		f.at = now.Add(state.RetryDelay(obj.String(), f.count))
	}
	l.failures[obj] = f
	return f.count
}
