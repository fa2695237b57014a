package controllers

import (
	"slices"
	"time"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// want puts together what a pass over the realm wants to be true: what is accepted, what is to be removed, what
// is remembered, what is suspended.
//
// It reports false when nothing is wanted of the realm: its worker is about to be stopped.
func (m *Manager) want(name state.RealmName) (plan.Want, state.AcceptedRealm, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	accepted, kept := m.accepted.Realms[name]
	want := plan.Want{
		Realm:               accepted.Realm,
		ManagedBy:           m.cfg.ManagedBy,
		Removals:            map[state.ContainerID]state.Removal{},
		Completions:         m.cfg.Store.Completions(name),
		Imports:             m.cfg.Store.Imports(name),
		SuspendedContainers: map[state.ContainerID]string{},
	}
	listed := false
	for _, r := range m.accepted.Removals {
		if r.Realm != name {
			continue
		}
		listed = true
		if r.Container != "" {
			want.Removals[r.Container] = r
		}
		if !kept {
			want.Realm.Name, want.Realm.Namespace, want.Realm.Deletion = name, r.Namespace, r.Deletion
		}
		if r.Container == "" && !kept {
			want.Removing, want.Why = true, r.Why
		}
	}
	want.Undeclared = !kept && !want.Removing
	if !m.intake.complete {
		want.RemovalsWait = "the first complete look at the manifests, for its removal was accepted"
	}
	switch {
	case want.Removing && !m.intake.complete:
		want.Suspended = "its removal was accepted and waits for the first complete look at the manifests"
	case accepted.Suspended:
		want.Suspended = "annotation kukeon.io/reconcile: disabled (" + accepted.Origin.String() + ")"
	case accepted.Withheld != "":
		want.Suspended = accepted.Withheld + " stands in place of its manifest"
	}
	for _, c := range accepted.Containers {
		switch {
		case c.Suspended:
			want.SuspendedContainers[c.ID] = "annotation kukeon.io/reconcile: disabled (" + c.Origin.String() + ")"
		case c.Withheld != "":
			want.SuspendedContainers[c.ID] = c.Withheld + " stands in place of its manifest"
		}
	}
	for _, s := range m.cfg.Store.Suspensions() {
		if s.Realm != name || !s.Active(now) {
			continue
		}
		if s.Container == "" {
			want.Suspended = suspensionText(s)
		} else {
			want.SuspendedContainers[s.Container] = suspensionText(s)
		}
	}
	return want, accepted, kept || listed
}

// suspensionText says who suspended, until when and why.
func suspensionText(s state.Suspension) string {
	text := "suspended"
	if s.By != "" {
		text += " by " + s.By
	}
	if !s.Until.IsZero() {
		text += " until " + s.Until.UTC().Format(time.RFC3339)
	}
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}

// suspensionEnd is when the next suspension of the realm ends by itself; zero when none does.
func (m *Manager) suspensionEnd(name state.RealmName) time.Time {
	var end time.Time
	for _, s := range m.cfg.Store.Suspensions() {
		if s.Realm == name && !s.Until.IsZero() && s.Active(m.cfg.Now()) {
			end = earliest(end, s.Until)
		}
	}
	return end
}

// pending says, under m.mu, why the realm's files do not count yet; freezes and holds are told elsewhere.
func (m *Manager) pending(name state.RealmName) string {
	if m.intake.saveError != "" {
		return "the accepted state cannot be saved: " + m.intake.saveError
	}
	held := func(h state.Hold) bool { return slices.Contains(h.Realms, name) }
	for _, a := range m.accepted.Absences {
		if a.Realm == name && !slices.ContainsFunc(m.accepted.Holds, held) {
			return "something of it is missing from the manifests; a second look decides"
		}
	}
	return ""
}

// save puts what is accepted on disk, before anything is done about it. A daemon that only observes writes nothing at
// all: what it accepts is forgotten with it.
func (m *Manager) save(a state.Accepted) error {
	if m.cfg.Observe {
		return nil
	}
	return m.cfg.Store.Save(a)
}
