package controllers

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
)

// worker reconciles one realm in one namespace. Wake-ups carry nothing: it looks at the world itself.
type worker struct {
	m         *Manager
	realm     state.RealmName
	namespace state.Namespace
	woken     chan struct{} // slot of one
	stop      context.CancelFunc
	remedies  remedies
	// removalsSeen is set when it was woken because removals may be carried out.
	removalsSeen atomic.Bool
}

func newWorker(m *Manager, realm state.RealmName, ns state.Namespace) *worker {
	return &worker{m: m, realm: realm, namespace: ns, woken: make(chan struct{}, 1)}
}

// wake asks for a pass. It never blocks; wake-ups before the pass begins are one.
func (w *worker) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// run makes a pass at every wake-up, when the plan changes by itself, and every Resync, until ctx ends.
// Operations outlive the worker: they run under opsCtx.
func (w *worker) run(ctx, opsCtx context.Context) {
	resync := time.NewTicker(w.m.cfg.Resync)
	defer resync.Stop()
	recheck := time.NewTicker(recheckInterval)
	defer recheck.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for tick := 1; ; {
		select {
		case <-ctx.Done():
			return
		case <-recheck.C:
			if tick++; tick%w.m.recheckTicks(w.realm) != 0 {
				continue
			}
			w.m.cfg.Host.Recheck(w.namespace)
		case <-w.woken:
		case <-timer.C:
		case <-resync.C:
			w.resync()
		}
		began := w.m.cfg.Now()
		next := w.reconcile(ctx, opsCtx)
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(max(next.Sub(w.m.cfg.Now()), time.Millisecond))
		}
		// At most one pass per interval: what happens meanwhile is seen by the next one.
		select {
		case <-ctx.Done():
			return
		case <-time.After(state.PassInterval - min(w.m.cfg.Now().Sub(began), state.PassInterval)):
		}
	}
}

// resync has everything read anew, and takes over what changed in the host's own files.
func (w *worker) resync() {
	w.m.cfg.Host.Resync(w.namespace)
	if w.m.cfg.Observe {
		return
	}
	if err := w.m.cfg.Host.RefreshFiles(w.namespace); err != nil && w.m.quiet.speak("files "+string(w.realm), w.m.cfg.Now()) {
		w.m.log.Error(err, "the containers' copies of the host's files cannot be refreshed", "realm", w.realm)
	}
}

// Tasks that run are asked about every recheckInterval, in a realm with many containers less often: containerd 2.4 tells
// nothing at all of a task that is killed and deleted at once, as `ctr tasks rm -f` does, in one case out of ten.
const (
	recheckInterval = 10 * time.Second
	recheckShare    = 50 // containers for which one more interval passes; an answer takes containerd half a millisecond
)

// recheckTicks is after how many intervals the realm's tasks are asked about.
func (m *Manager) recheckTicks(realm state.RealmName) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return 1 + len(m.accepted.Realms[realm].Containers)/recheckShare
}

// saveRetry is how soon the end of a removal is looked at again that could not be saved.
const saveRetry = 5 * time.Second

// unavailableRetry is how soon a realm is looked at again when containerd did not answer and says nothing.
const unavailableRetry = 2 * time.Second

// reconcile is one pass. It returns when the next one is due by itself; zero when only an event can bring it.
func (w *worker) reconcile(ctx, opsCtx context.Context) time.Time {
	want, accepted, wanted := w.m.want(w.realm)
	if !wanted {
		return time.Time{}
	}
	// Asked before the look: what ends in between still counts as under way, and its end brings another pass. The other
	// way round, what it made would be missing from the look and nobody would be known to be making it.
	busy := w.m.exec.Busy(w.realm)
	have, err := w.m.cfg.Host.Observe(ctx, w.namespace)
	if err != nil {
		return w.unseen(ctx, want, accepted, err)
	}
	p := plan.Diff(want, have, busy, w.m.cfg.Now())
	if !w.m.cfg.Observe {
		w.m.exec.CancelFetches(w.realm, wants(want))
		w.m.exec.Apply(opsCtx, w.namespace, w.realm, p)
		if err := errors.Join(w.ended(opsCtx, p), w.imported(want, have)); err != nil {
			p.NextWake = earliest(p.NextWake, w.m.cfg.Now().Add(saveRetry))
		}
	}
	// What ends while we look is still waited for in this plan: only a plan made with nothing under way says that all is done.
	rests := len(p.Operations) == 0 && len(busy.Running) == 0
	w.report(ctx, status.Pass{Accepted: accepted, Want: want, Have: have, Seen: true, Plan: p}, rests)
	return earliest(p.NextWake, w.m.suspensionEnd(w.realm))
}

// unseen reports a pass that could not see its namespace.
func (w *worker) unseen(ctx context.Context, want plan.Want, accepted state.AcceptedRealm, err error) time.Time {
	if ctx.Err() != nil {
		return time.Time{}
	}
	if !outcome.IsUnavailable(err) && w.m.quiet.speak("observe "+string(w.realm), w.m.cfg.Now()) {
		w.m.log.Error(err, "cannot observe the namespace", "realm", w.realm, "namespace", w.namespace)
	}
	w.report(ctx, status.Pass{Accepted: accepted, Want: want, Unavailable: err.Error()}, false)
	return w.m.cfg.Now().Add(unavailableRetry)
}

// ended takes removals off the list that containerd no longer knows of.
func (w *worker) ended(runCtx context.Context, p plan.Plan) error {
	if !p.Gone && len(p.GoneContainers) == 0 {
		return nil
	}
	ids := p.GoneContainers
	if p.Gone {
		ids = []state.ContainerID{""}
	}
	w.m.mu.Lock()
	next := w.m.accepted
	for _, id := range ids {
		next = accept.Ended(next, w.realm, id)
	}
	err := w.forget(ids)
	if err == nil {
		err = w.m.save(next)
	}
	if err == nil {
		w.m.accepted = next
	}
	w.m.mu.Unlock()
	if err != nil {
		if w.m.quiet.speak("ended "+string(w.realm), w.m.cfg.Now()) {
			w.m.log.Error(err, "the end of a removal cannot be saved; it is looked at again", "realm", w.realm)
		}
		return err
	}
	if p.Gone {
		w.m.log.Info("removed", "realm", w.realm, "namespace", w.namespace)
		w.m.events.add(status.Event{Time: w.m.cfg.Now(), Realm: string(w.realm), Reason: "Gone", Message: "its removal has ended"})
		w.m.syncWorkers(runCtx)
		w.m.scanSoon() // another realm may have waited for the namespace
	}
	return nil
}

// maxImports bounds what is remembered of archives of a realm that nobody wants any more.
const maxImports = 1000

// imported remembers what this process brought in of the archives that are wanted. What others brought is forgotten with
// their images only: a drop directory may be away for a moment, such as one that is mounted late.
func (w *worker) imported(want plan.Want, have state.Observed) error {
	var next []state.Import
	listed := map[string]bool{}
	for _, a := range want.Realm.Archives {
		listed[a.Path] = true
		if i, ok := plan.Imported(want, have, a.Path); ok {
			next = append(next, i)
		}
	}
	for _, i := range want.Imports {
		there := func(ref string) bool { _, ok := have.FindImage(ref); return ok }
		if i, _ = plan.Imported(want, have, i.Path); !listed[i.Path] && len(next) < maxImports && slices.ContainsFunc(i.Refs, there) {
			next = append(next, i)
		}
	}
	if len(next)+len(want.Imports) == 0 || want.Suspended != "" {
		return nil
	}
	err := w.m.cfg.Store.SetImports(w.realm, next)
	if err != nil && w.m.quiet.speak("imports "+string(w.realm), w.m.cfg.Now()) {
		w.m.log.Error(err, "what was imported cannot be remembered; it is imported again after a restart", "realm", w.realm)
	}
	return err
}

// forget drops, under m.mu, what is remembered of objects whose removal has ended and that no manifest declares again.
// The look that accepted the removal did so already, unless it failed, we crashed, or a one-shot was just ending then.
func (w *worker) forget(ids []state.ContainerID) error {
	accepted, kept := w.m.accepted.Realms[w.realm]
	for _, id := range ids {
		_, declared := accepted.Find(id)
		switch {
		case declared, id == "" && kept:
			continue
		case id == "":
			return w.m.cfg.Store.Forget(w.realm)
		}
		if err := w.m.cfg.Store.Forget(w.realm, id); err != nil {
			return err
		}
	}
	return nil
}

// report publishes what the pass found, and whether nothing is left to do but wait.
func (w *worker) report(ctx context.Context, p status.Pass, rests bool) {
	w.remedies.add(ctx, w, p.Plan.Waits)
	m := w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.realms[w.realm] != w {
		return // stopped meanwhile: its status is gone
	}
	p.Busy = m.exec.Busy(w.realm)
	p.Holds, p.Now, p.ObserveOnly = m.accepted.Holds, m.cfg.Now(), m.cfg.Observe
	p.Unaccepted = m.pending(w.realm)
	p.Problems = problemTexts(m.intake.problems, p.Accepted.Paths)
	if p.Seen && m.cfg.Observe {
		for _, step := range plan.Foresee(p.Want, p.Have, p.Now).Steps {
			p.Steps = append(p.Steps, step.String())
		}
	}
	m.statuses[w.realm] = status.Summarize(m.statuses[w.realm], p)
	m.resting[w.realm] = rests
	m.watch.signal()
}

// wants reports whether what an operation fetches is still wanted.
func wants(want plan.Want) func(plan.Object) bool {
	objects := map[plan.Object]bool{}
	for _, i := range want.Realm.Images {
		objects[plan.Object{Kind: plan.ImageObject, Name: i.Ref}] = true
	}
	for _, a := range want.Realm.Archives {
		objects[plan.Object{Kind: plan.ArchiveObject, Name: a.Path}] = true
	}
	for _, c := range want.Realm.Containers {
		objects[plan.Object{Kind: plan.ImageObject, Name: c.Spec.Image}] = true
	}
	return func(o plan.Object) bool { return objects[o] }
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
