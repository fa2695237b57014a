package controllers

import (
	"errors"

	"kukeon.io/kukeon-reconciler/internal/apply"
	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/status"
)

// operationEnded hears of every operation that ended, and wakes its realm: the next pass decides anew.
func (m *Manager) operationEnded(r apply.Result) {
	m.tell(r)
	if m.cfg.Ended != nil {
		m.cfg.Ended(r)
	}
	m.mu.Lock()
	if op, ok := r.Operation.(plan.ReleaseNamespace); ok && r.Err == nil {
		m.released[op.Namespace] = status.Released{Realm: r.Realm, Namespace: op.Namespace, Why: op.Because().Text, At: m.cfg.Now()}
	}
	w := m.realms[r.Realm]
	m.mu.Unlock()
	if w != nil {
		w.wake()
	}
}

// tell writes an operation's end into the log and the events. Waiting is no news, and an object that keeps failing, or
// ends as soon as it is started, is not told of every time.
func (m *Manager) tell(r apply.Result) {
	now := m.cfg.Now()
	e := status.Event{
		Time: now, Realm: string(r.Realm), Object: r.Operation.Object().String(),
		Reason: string(r.Operation.Because().Code), Message: r.Operation.String() + ": " + r.Operation.Because().String(),
	}
	var waiting *outcome.Waiting
	switch {
	case r.Err == nil:
		if start, ok := r.Operation.(plan.Start); ok && !start.First && !m.quiet.speak("restarts of "+string(r.Realm)+"/"+string(start.ID), now) {
			return
		}
		m.log.Info("done", "realm", r.Realm, "operation", r.Operation.String(),
			"reason", r.Operation.Because().String(), "took", r.Took.Round(millisecond).String())
	case errors.As(r.Err, &waiting):
		m.log.V(1).Info("not yet", "realm", r.Realm, "operation", r.Operation.String(), "reason", r.Err.Error())
		return
	default:
		if !m.quiet.speak(string(r.Realm)+"/"+r.Operation.String(), now) {
			return
		}
		m.log.Error(r.Err, "operation failed", "realm", r.Realm, "operation", r.Operation.String(), "failures", r.Failures)
		e.Reason, e.Message = "Failed", r.Operation.String()+": "+r.Err.Error()
	}
	m.events.add(e)
}
