package controllers

import (
	"context"
	"maps"
	"slices"
	"time"

	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/compile"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/manifests"
)

// Foreseen is what would be done for one realm, and how it is now.
type Foreseen struct {
	Realm  state.RealmName
	Course plan.Course
	Status status.Realm
}

// Imports tells which archives were imported into a realm.
type Imports func(state.RealmName) []state.Import

// Preview says what would be done if the scan's manifests were accepted as they are, without writing anything.
// The problems are everything wrong with the manifests; realms with an error in them are not previewed.
func Preview(ctx context.Context, host Host, scan manifests.Scan, imports Imports, template string, now time.Time) ([]Foreseen, []manifests.Problem, error) {
	owner, err := host.Owner(ctx)
	if err != nil {
		return nil, nil, err
	}
	namespaces, err := host.Summaries(ctx, compile.Claimed(scan)...)
	if err != nil {
		return nil, nil, err
	}
	desired := compile.Compile(scan, compile.Options{Template: template}, namespaces, owner, state.Accepted{})
	d := accept.Decide(state.Accepted{}, scan, desired, namespaces, nil, now, accept.Settings{})
	var out []Foreseen
	for _, r := range desired.Realms {
		accepted, ok := d.Accepted.Realms[r.Name]
		want := plan.Want{Realm: r, ManagedBy: managedBy(namespaces, r.Namespace), Imports: imports(r.Name)}
		if !ok { // a tombstone
			want.Removing, want.Why = true, "spec.state: Absent ("+r.Origin.String()+")"
		}
		have, err := host.Observe(ctx, r.Namespace)
		if err != nil {
			return nil, nil, err
		}
		want.Completions, have = recall(r, have)
		if r.Suspended {
			want.Suspended = "annotation kukeon.io/reconcile: disabled (" + r.Origin.String() + ")"
		}
		course := plan.Foresee(want, have, now)
		next := plan.Diff(want, have, plan.Busy{}, now)
		next.Waits = course.Waits // what is still waited for at the end of the course
		p := status.Pass{
			Accepted: accepted, Want: want, Have: have, Seen: true, ObserveOnly: true, Now: now,
			Plan: next, Problems: problemTexts(d.Problems, r.Paths),
		}
		for _, s := range course.Steps {
			p.Steps = append(p.Steps, s.String())
		}
		out = append(out, Foreseen{r.Name, course, status.Summarize(status.Realm{}, p)})
	}
	return out, d.Problems, nil
}

// recall returns the ends that one-shots carry on themselves, in place of the store's; and what was observed with the
// containers' source told as the manifests at hand are: where they lie is no change.
func recall(r state.Realm, have state.Observed) (map[state.ContainerID]state.Completion, state.Observed) {
	done := map[state.ContainerID]state.Completion{}
	have.Containers = slices.Clone(have.Containers)
	for i, o := range have.Containers {
		c, declared := r.Find(o.ID)
		if !declared || o.Owner() != have.Owner {
			continue
		}
		if end, ok := plan.Remembered(c, o); ok {
			done[c.ID] = end
		}
		have.Containers[i].Labels = maps.Clone(o.Labels)
		have.Containers[i].Labels[state.LabelSource] = c.Origin.Path
	}
	return done, have
}

// managedBy is who answers for a namespace now; nobody yet means the daemon.
func managedBy(namespaces []state.NamespaceSummary, ns state.Namespace) string {
	for _, n := range namespaces {
		if n.Name == ns && n.Labels[state.LabelManagedBy] != "" {
			return n.Labels[state.LabelManagedBy]
		}
	}
	return state.ManagedByDaemon
}
