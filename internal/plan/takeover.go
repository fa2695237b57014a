package plan

import (
	"maps"
	"slices"
	"strings"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// Adopt plans that declared objects which are there and not ours become ours: the namespace, and the container with
// the id, or all when it is empty. What runs is recorded as what is declared, so that it keeps running until its
// declaration changes. It is planned only when a person asks for it.
func Adopt(want Want, have state.Observed, id state.ContainerID) []Operation {
	why := base{Reason{ReasonAdopted, "a person asked for it", want.Realm.Origin}}
	var ops []Operation
	if owner, _ := have.OwnedBy(); have.Exists && owner != have.Owner {
		ops = append(ops, EnsureNamespace{why, want.Realm.Namespace, NamespaceLabels(want, have.Owner), nil, true})
	}
	for _, c := range want.Realm.Containers {
		o, there := have.Find(c.ID)
		if !there || !o.Recorded || o.Owner() == have.Owner || id != "" && id != c.ID {
			continue
		}
		u := Update{base: why, ID: c.ID, Adopt: true, Set: ContainerLabels(want.Realm, c, have.Owner)}
		if s := o.Task.Status; s == state.TaskRunning || s == state.TaskPaused || s == state.TaskStopped {
			// It was started, though not by us: a one-shot that ends from here on is not run again.
			u.Set[state.LabelStarted] = state.Started{Digest: c.Spec.Digest().Short(), At: o.Task.Since, Boot: have.Boot}.String()
		}
		for _, k := range slices.Sorted(maps.Keys(o.Labels)) {
			if strings.HasPrefix(k, state.RestartMonitorPrefix) {
				u.Drop = append(u.Drop, k)
			}
		}
		u.Record = &state.Record{Version: state.SpecVersion, Owner: have.Owner, Realm: want.Realm.Name, Spec: c.Spec}
		ops = append(ops, u)
	}
	return ops
}

// Release plans that our keys come off every container and image of ours and off the namespace; nothing is stopped.
func Release(r state.Realm, have state.Observed) []Operation {
	why := base{Reason{ReasonRemoved, "a person asked for its release", r.Origin}}
	var ops []Operation
	for _, o := range have.Containers {
		if !o.Recorded || o.Owner() != have.Owner {
			continue
		}
		ops = append(ops, Update{base: why, ID: o.ID, Drop: ourKeys(o.Labels), DropRecord: true})
	}
	for _, i := range have.Images {
		if i.Owner == have.Owner {
			ops = append(ops, ReleaseImage{why, i.Ref})
		}
	}
	if owner, _ := have.OwnedBy(); have.Exists && owner == have.Owner {
		ops = append(ops, ReleaseNamespace{why, r.Namespace, append(ourKeys(have.Labels), manifestLabels(have.Labels)...)})
	}
	return ops
}

// ourKeys are the labels that begin with our prefix, sorted.
func ourKeys(labels map[string]string) []string {
	var keys []string
	for k := range labels {
		if strings.HasPrefix(k, state.Prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}
