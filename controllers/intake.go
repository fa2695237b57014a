package controllers

import (
	"context"
	"maps"
	"slices"
	"time"

	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/compile"
	"kukeon.io/kukeon-reconciler/internal/source"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/manifests"
)

// intakeLoop looks at the manifests whenever something may have changed, and at least every Rescan.
func (m *Manager) intakeLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-m.cfg.Source.Changed():
		case <-m.scanNow:
		}
		next := m.look(ctx)
		timer.Reset(next)
	}
}

// look reads the directory once, accepts what may be accepted, and returns when to look again at the latest.
func (m *Manager) look(ctx context.Context) time.Duration {
	scan := m.cfg.Source.Read(ctx)
	namespaces, owner, seen, fresh := m.hostFacts(ctx, scan)
	if ctx.Err() != nil || !seen {
		return m.cfg.Rescan // nothing can be decided before containerd was seen; connected() asks for a look
	}
	now := m.cfg.Now()

	m.mu.Lock()
	prev, confirmed := m.accepted, m.intake.confirmed
	desired := compile.Compile(scan, compile.Options{Template: m.cfg.Template}, namespaces, owner, prev)
	desired.Observed = desired.Observed && fresh // no realm counts as empty by an old list
	d := accept.Decide(prev, scan, desired, namespaces, accept.Confirmations(confirmed), now, m.cfg.Accept)
	saveError := ""
	if err := m.save(d.Accepted); err != nil {
		// Nothing may be carried out that is not safely on disk: stay with what was accepted.
		if m.quiet.speak("save", now) {
			m.log.Error(err, "the accepted state cannot be saved; newer manifests wait")
		}
		saveError, d.Accepted = err.Error(), prev
	} else {
		// A confirmation counts for the hold it was given for. One that is kept longer could release the same set
		// of realms much later.
		m.intake.confirmed = slices.DeleteFunc(m.intake.confirmed, func(id string) bool {
			return !slices.ContainsFunc(d.Holds, func(h state.Hold) bool { return h.ID == id })
		})
	}
	m.accepted = d.Accepted
	m.intake.scan, m.intake.problems, m.intake.saveError = scan, d.Problems, saveError
	m.intake.complete = m.intake.complete || scan.Complete && scan.Exists && saveError == ""
	m.intake.frozen, m.intake.declared = desired.Frozen, map[state.RealmName]bool{}
	for _, r := range desired.Realms {
		m.intake.declared[r.Name] = true
	}
	for name := range desired.Frozen {
		m.intake.declared[name] = true
	}
	m.refuse()
	changed := m.changedRealms(prev, d.Accepted)
	m.mu.Unlock()

	orphans := m.strays(ctx, namespaces, owner, d.Accepted)
	m.mu.Lock()
	m.intake.orphans = orphans
	m.mu.Unlock()
	m.forgetOmitted(prev, d.Accepted)
	m.syncWorkers(ctx)
	for _, name := range changed {
		m.exec.Retry(name)
	}
	m.wakeAll(d.Changed)
	m.report(prev, d)
	m.watch.signal()

	next := m.cfg.Rescan
	if len(scan.Unsettled) > 0 {
		next = min(next, source.SettleRetry)
	}
	if !scan.LookAgain.IsZero() {
		next = min(next, max(scan.LookAgain.Sub(now), time.Millisecond))
	}
	if !d.NextLook.IsZero() {
		next = min(next, max(d.NextLook.Sub(now), time.Millisecond))
	}
	return next
}

// refuse keeps, under m.mu, the status of realms whose manifests were refused from the start.
func (m *Manager) refuse() {
	refused := map[state.RealmName]status.Realm{}
	for name, why := range m.intake.frozen {
		if _, accepted := m.accepted.Realms[name]; !accepted {
			refused[name] = status.Summarize(m.intake.refused[name], status.Pass{
				Accepted: state.AcceptedRealm{Realm: state.Realm{Name: name}, Frozen: why},
				Problems: problemTexts(m.intake.problems, nil), Now: m.cfg.Now(),
			})
		}
	}
	m.intake.refused = refused
}

// hostFacts lists the host's namespaces; when containerd does not answer, the last list serves and is not fresh.
func (m *Manager) hostFacts(ctx context.Context, scan manifests.Scan) (namespaces []state.NamespaceSummary, owner state.Owner, seen, fresh bool) {
	owner, err := m.cfg.Host.Owner(ctx)
	if err == nil {
		namespaces, err = m.cfg.Host.Summaries(ctx, m.counted(scan)...)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil && m.quiet.speak("summaries", m.cfg.Now()) {
			m.log.Error(err, "cannot list the host's namespaces")
		}
	} else {
		m.intake.namespaces, m.intake.owner, m.intake.seen = namespaces, owner, true
	}
	return m.intake.namespaces, m.intake.owner, m.intake.seen, err == nil
}

// counted are the namespaces whose containers have to be counted whoever they belong to: those that manifests claim by
// name, and those of accepted realms, off which somebody may have taken our stamp.
func (m *Manager) counted(scan manifests.Scan) []state.Namespace {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := compile.Claimed(scan)
	for _, r := range m.accepted.Realms {
		out = append(out, r.Namespace)
	}
	return out
}

// changedRealms lists realms whose accepted state or removal differs: what failed for them before is tried again.
func (m *Manager) changedRealms(prev, next state.Accepted) []state.RealmName {
	var out []state.RealmName
	for name, r := range next.Realms {
		if p, ok := prev.Realms[name]; !ok || p.Generation != r.Generation || p.Frozen != r.Frozen || p.Withheld != r.Withheld {
			out = append(out, name)
		}
	}
	listed := map[state.RealmName]int{}
	for _, r := range prev.Removals {
		listed[r.Realm]++
	}
	for _, r := range next.Removals {
		listed[r.Realm]--
	}
	for name, n := range listed {
		if _, there := next.Realms[name]; n != 0 && !there {
			out = append(out, name)
		}
	}
	return out
}

// forgetOmitted drops the completions of containers that are no longer accepted.
func (m *Manager) forgetOmitted(prev, next state.Accepted) {
	if m.cfg.Observe {
		return
	}
	for name, was := range prev.Realms {
		is, kept := next.Realms[name]
		var gone []state.ContainerID
		for _, c := range was.Containers {
			if _, still := is.Find(c.ID); !still {
				gone = append(gone, c.ID)
			}
		}
		if kept && len(gone) == 0 {
			continue
		}
		if !kept {
			gone = nil // the whole realm
		}
		if err := m.cfg.Store.Forget(name, gone...); err != nil && m.quiet.speak("forget "+string(name), m.cfg.Now()) {
			m.log.Error(err, "a finished one-shot's record cannot be dropped", "realm", name)
		}
	}
}

// wakeAll wakes every worker after a change of what is accepted, held or frozen: a pass that finds nothing to do costs
// no call. Workers with a removal are woken once it may be carried out.
func (m *Manager) wakeAll(changed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.realms {
		if changed {
			w.wake()
		}
	}
	for _, r := range m.accepted.Removals {
		if w := m.realms[r.Realm]; w != nil && m.intake.complete && !w.removalsSeen.Swap(true) {
			w.wake()
		}
	}
}

// report tells the log and the events what a look changed.
func (m *Manager) report(prev state.Accepted, d accept.Decision) {
	now := m.cfg.Now()
	for name, r := range d.Accepted.Realms {
		p, was := prev.Realms[name]
		switch {
		case !was || p.Generation != r.Generation:
			m.log.Info("accepted", "realm", name, "generation", r.Generation, "source", r.Origin.String())
			m.events.add(status.Event{Time: now, Realm: string(name), Reason: "Accepted", Message: r.Origin.String()})
		case p.Frozen != r.Frozen && r.Frozen != "":
			m.log.Info("frozen at the accepted state", "realm", name, "reason", r.Frozen)
			m.events.add(status.Event{Time: now, Realm: string(name), Reason: "Frozen", Message: r.Frozen})
		}
	}
	for name := range maps.Keys(prev.Realms) {
		if _, still := d.Accepted.Realms[name]; !still {
			m.log.Info("removal accepted", "realm", name)
			m.events.add(status.Event{Time: now, Realm: string(name), Reason: "Removed", Message: "its removal was accepted"})
		}
	}
	for _, p := range d.Problems {
		if m.quiet.speak("problem "+p.String(), now) {
			m.log.Info("problem", "problem", p.String())
		}
	}
	for _, h := range d.Accepted.Holds {
		if m.quiet.speak("hold "+h.ID, now) {
			m.log.Info("removal held", "id", h.ID, "realms", h.Realms, "why", h.Why)
		}
	}
}
