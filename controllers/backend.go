package controllers

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/manifests"
)

// Host says how the daemon, containerd and the manifest directory are.
func (m *Manager) Host() status.Host {
	realms := m.Realms()
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.cfg.About
	if m.cfg.Observe {
		h.Daemon.Mode = status.ModeObserve
	}
	if m.intake.saveError != "" {
		h.Daemon.Problems = append(h.Daemon.Problems, "the accepted state cannot be saved: "+m.intake.saveError)
	}
	h.Containerd.Connected, h.Containerd.Since = m.link.err == nil, m.link.since
	if m.link.err != nil {
		h.Containerd.Error = m.link.err.Error()
	}
	scan := m.intake.scan
	h.Source = status.Source{
		Root: scan.Root, Exists: scan.Exists, Complete: scan.Complete, Files: len(scan.Files), Revision: scan.Revision,
		Problems: problemTexts(m.intake.problems, nil), ScannedAt: scan.At,
	}
	for _, hold := range m.accepted.Holds {
		h.Holds = append(h.Holds, status.NewHold(hold))
	}
	h.Orphans = m.orphans(realms)
	for _, ns := range slices.Sorted(maps.Keys(m.released)) {
		h.Released = append(h.Released, m.released[ns])
	}
	h.Realms = status.Count(realms)
	return h
}

// Realms are all realms that are accepted, being removed, or refused, sorted by name.
func (m *Manager) Realms() []status.Realm {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []status.Realm
	for _, r := range m.statuses {
		out = append(out, r)
	}
	for name, r := range m.intake.refused {
		if _, known := m.realms[name]; !known {
			out = append(out, r)
		}
	}
	for name, a := range m.accepted.Realms { // no pass yet
		if _, seen := m.statuses[name]; !seen {
			out = append(out, status.Summarize(status.Realm{}, status.Pass{Accepted: a, Want: plan.Want{Realm: a.Realm}, Now: m.cfg.Now()}))
		}
	}
	slices.SortFunc(out, func(a, b status.Realm) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Subscribe returns a slot of one that is filled whenever something may have changed, and its end.
func (m *Manager) Subscribe() (<-chan struct{}, func()) { return m.watch.subscribe() }

// Events are recent ones, oldest first; realm "" means all.
func (m *Manager) Events(realm string, since time.Time) []status.Event {
	return m.events.since(realm, since)
}

// Reconcile asks for a pass now; "" means the files and every realm.
func (m *Manager) Reconcile(realm string) error {
	m.mu.Lock()
	var workers []*worker
	for name, w := range m.realms {
		if realm == "" || string(name) == realm {
			workers = append(workers, w)
		}
	}
	m.mu.Unlock()
	if realm != "" && len(workers) == 0 {
		return unknownRealm(realm)
	}
	m.scanSoon()
	for _, w := range workers {
		m.exec.Retry(w.realm)
		m.cfg.Host.Resync(w.namespace)
		w.wake()
	}
	return nil
}

// Suspend keeps every write from a realm or container.
func (m *Manager) Suspend(s state.Suspension) error {
	if err := m.mayChange(); err != nil {
		return err
	}
	if err := m.known(s.Realm, s.Container); err != nil {
		return err
	}
	if err := m.cfg.Store.Suspend(s); err != nil {
		return fmt.Errorf("suspend: %w", err)
	}
	return m.Reconcile(string(s.Realm))
}

// Resume ends a suspension.
func (m *Manager) Resume(realm, container string) error {
	if err := m.mayChange(); err != nil {
		return err
	}
	name, id := state.RealmName(realm), state.ContainerID(container)
	suspended := slices.ContainsFunc(m.cfg.Store.Suspensions(), func(s state.Suspension) bool { return s.Realm == name && s.Container == id })
	// What no manifest declares any more can be resumed all the same: its removal may wait for just that.
	if err := m.known(name, id); err != nil && !suspended {
		return err
	}
	if err := m.cfg.Store.Resume(name, id); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	if err := m.Reconcile(realm); err != nil && !suspended { // a realm that is gone has nothing to reconcile
		return err
	}
	return nil
}

// Confirm releases a held removal, or removes an orphan.
func (m *Manager) Confirm(id string) (string, error) {
	if err := m.mayChange(); err != nil {
		return "", err
	}
	realms := m.Realms()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.accepted.Holds {
		if h.ID == id {
			m.intake.confirmed = append(m.intake.confirmed, id)
			m.scanSoon()
			return fmt.Sprintf("the removal of %v is released", h.Realms), nil
		}
	}
	for _, o := range m.orphans(realms) {
		if o.ID != id {
			continue
		}
		if o.Realm == "" {
			return "", fmt.Errorf("%w: nothing tells whose %s is: put the label %s=REALM back on namespace %s (`ctr namespaces label`), or remove it with ctr",
				status.ErrConflict, o.ContainerID, state.LabelRealm, o.Namespace)
		}
		removal := state.Removal{
			Realm: o.Realm, Namespace: o.Namespace, Container: o.ContainerID, Deletion: state.DeletePolicy,
			At: m.cfg.Now(), Why: "an orphan whose removal was confirmed",
		}
		if m.lastStray(o) { // nobody accounts for the realm: what else is ours in its namespace goes as well
			removal.Container = ""
		}
		next := accept.Listed(m.accepted, removal)
		if err := m.save(next); err != nil {
			return "", fmt.Errorf("confirm: %w", err)
		}
		m.accepted = next
		if w := m.realms[o.Realm]; w != nil {
			w.wake()
		}
		m.scanSoon() // starts a worker when the realm has none
		return fmt.Sprintf("orphan %s in namespace %s is removed", o.ContainerID, o.Namespace), nil
	}
	return "", fmt.Errorf("%w: nothing waits under the id %s; `kukeon-reconciler status` lists what does", status.ErrNotFound, id)
}

// orphans lists, under m.mu, what is ours and neither declared nor accepted for removal.
func (m *Manager) orphans(realms []status.Realm) []status.Orphan {
	var out []status.Orphan
	for _, r := range realms {
		for _, l := range r.LeftAlone {
			if l.Reason == string(plan.ReasonOrphaned) && !m.listed(r.Namespace, state.ContainerID(l.Object)) {
				out = append(out, status.NewOrphan(r.Name, r.Namespace, state.ContainerID(l.Object)))
			}
		}
	}
	for _, o := range m.intake.orphans {
		if _, known := m.realms[o.Realm]; !known {
			out = append(out, o)
		}
	}
	return out
}

// lastStray reports, under m.mu, whether an orphan is the last one of a realm that is not accepted.
func (m *Manager) lastStray(o status.Orphan) bool {
	_, accepted := m.accepted.Realms[o.Realm]
	others := slices.ContainsFunc(m.intake.orphans, func(x status.Orphan) bool { return x.Namespace == o.Namespace && x.ID != o.ID })
	return !accepted && !others
}

// listed reports, under m.mu, whether the removal of a container was accepted already.
func (m *Manager) listed(ns state.Namespace, id state.ContainerID) bool {
	return slices.ContainsFunc(m.accepted.Removals, func(r state.Removal) bool { return r.Namespace == ns && r.Container == id })
}

// strays finds containers of ours in namespaces that no accepted realm and no removal accounts for.
func (m *Manager) strays(ctx context.Context, namespaces []state.NamespaceSummary, owner state.Owner, accepted state.Accepted) []status.Orphan {
	known := map[state.Namespace]bool{}
	for _, r := range accepted.Realms {
		known[r.Namespace] = true
	}
	for _, r := range accepted.Removals {
		known[r.Namespace] = true
	}
	var out []status.Orphan
	for _, n := range namespaces {
		if known[n.Name] || state.Owner(n.Labels[state.LabelOwner]) != owner || n.Labels[state.LabelManagedBy] == state.ManagedByApply {
			continue
		}
		have, err := m.cfg.Host.Observe(ctx, n.Name)
		if err != nil {
			continue // told of by whoever lists the namespaces
		}
		for _, c := range have.Containers {
			if c.Recorded && c.Owner() == owner {
				// Somebody may have taken the realm's name off the namespace.
				realm := cmp.Or(n.Labels[state.LabelRealm], c.Labels[state.LabelRealm])
				out = append(out, status.NewOrphan(state.RealmName(realm), n.Name, c.ID))
			}
		}
	}
	return out
}

// mayChange refuses what would write when this daemon only observes.
func (m *Manager) mayChange() error {
	if m.cfg.Observe {
		return fmt.Errorf("%w: this daemon only observes; ask the one that runs without --observe", status.ErrConflict)
	}
	return nil
}

func (m *Manager) known(realm state.RealmName, container state.ContainerID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.realms[realm] == nil {
		return unknownRealm(string(realm))
	}
	if container == "" {
		return nil
	}
	if _, ok := m.accepted.Realms[realm].Find(container); !ok {
		return fmt.Errorf("%w: realm %s has no container %s", status.ErrNotFound, realm, container)
	}
	return nil
}

func unknownRealm(realm string) error {
	return fmt.Errorf("%w: no realm %s; `kukeon-reconciler get realms` lists them", status.ErrNotFound, realm)
}

// problemTexts prints the problems of the paths; nil means all.
func problemTexts(problems []manifests.Problem, paths []string) []string {
	var out []string
	for _, p := range problems {
		if paths == nil || slices.Contains(paths, p.File) {
			out = append(out, p.String())
		}
	}
	return out
}
