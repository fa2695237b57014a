package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
)

// Adopt takes over declared objects that are there and carry no owner or another one: the namespace itself, and
// containers of the realm. They keep running until their declaration changes.
func (m *Manager) Adopt(ctx context.Context, realm, container string) ([]string, error) {
	if err := m.mayChange(); err != nil {
		return nil, err
	}
	want, accepted, _ := m.want(state.RealmName(realm))
	if accepted.Name == "" {
		return nil, fmt.Errorf("%w; a realm has to be declared before it can adopt", unknownRealm(realm))
	}
	have, err := m.cfg.Host.Observe(ctx, want.Realm.Namespace)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", status.ErrNotNow, err)
	}
	if want.Suspended != "" {
		return nil, fmt.Errorf("%w: the realm is suspended: %s", status.ErrConflict, want.Suspended)
	}
	ops := plan.Adopt(want, have, state.ContainerID(container))
	if len(ops) == 0 {
		return nil, fmt.Errorf("%w: nothing to adopt: every declared object that is there is ours already", status.ErrNotFound)
	}
	return m.carryOut(ctx, want.Realm, ops)
}

// Release strips our keys off everything of a realm and leaves it running.
func (m *Manager) Release(ctx context.Context, realm string) ([]string, error) {
	if err := m.mayChange(); err != nil {
		return nil, err
	}
	name := state.RealmName(realm)
	r, err := m.letGo(name)
	if err != nil {
		return nil, err
	}
	have, err := m.cfg.Host.Observe(ctx, r.Namespace)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", status.ErrNotNow, err)
	}
	done, err := m.carryOut(ctx, r, plan.Release(r, have))
	m.scanSoon() // its worker has nothing left to do
	return done, err
}

// letGo takes a realm that no manifest names out of what is accepted and off the removal list.
func (m *Manager) letGo(name state.RealmName) (state.Realm, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.intake.declared == nil {
		return state.Realm{}, fmt.Errorf("%w: the manifests were not looked at yet", status.ErrNotNow)
	}
	if m.intake.declared[name] {
		return state.Realm{}, fmt.Errorf("%w: a manifest names realm %s (%s); remove it first, or it would be taken over again",
			status.ErrConflict, name, strings.Join(m.accepted.Realms[name].Paths, ", "))
	}
	accepted, kept := m.accepted.Realms[name]
	r := accepted.Realm
	next := m.accepted
	next.Realms = maps.Clone(next.Realms)
	delete(next.Realms, name)
	next.Removals = slices.DeleteFunc(slices.Clone(next.Removals), func(x state.Removal) bool {
		if x.Realm == name && !kept {
			r = state.Realm{Name: name, Namespace: x.Namespace}
			kept = true
		}
		return x.Realm == name
	})
	for _, n := range m.intake.namespaces { // neither accepted nor being removed, but stamped: an orphaned realm
		if !kept && state.RealmName(n.Labels[state.LabelRealm]) == name && state.Owner(n.Labels[state.LabelOwner]) == m.intake.owner {
			r, kept = state.Realm{Name: name, Namespace: n.Name}, true
		}
	}
	if !kept {
		return state.Realm{}, unknownRealm(string(name))
	}
	if err := m.save(next); err != nil {
		return state.Realm{}, fmt.Errorf("release: %w", err)
	}
	m.accepted = next
	return r, nil
}

// carryOut does what a person asked for, one operation after the other, and names the objects. An error stops
// nothing: every object is tried.
func (m *Manager) carryOut(ctx context.Context, r state.Realm, ops []plan.Operation) ([]string, error) {
	var done []string
	var errs []error
	for _, op := range ops {
		if err := m.exec.Do(ctx, r.Namespace, r.Name, op); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", op, err))
			continue
		}
		done = append(done, op.Object().String())
	}
	return done, errors.Join(errs...)
}
