package plan

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// Predict returns what will be observed once the operation has succeeded. It is pure: have is not changed.
func Predict(have state.Observed, op Operation, now time.Time) state.Observed {
	have.Containers = slices.Clone(have.Containers)
	have.Images = slices.Clone(have.Images)
	switch op := op.(type) {
	case EnsureNamespace:
		have.Exists = true
		have.Labels = merge(merge(have.Labels, nil, op.Drop), op.Labels, nil)
	case Pull:
		have.Images = putImage(have.Images, state.ObservedImage{Ref: op.Ref, Owner: have.Owner, Unpacked: true, LookedUp: now})
	case Import: // what is in it is not known
		have.Imports = maps.Clone(have.Imports)
		if have.Imports == nil {
			have.Imports = map[string]state.Import{}
		}
		have.Imports[op.Path] = state.Import{Path: op.Path, Version: op.Version, Seq: op.Seq}
	case Unpack:
		i, _ := have.FindImage(op.Ref)
		i.Ref, i.Unpacked = op.Ref, true
		have.Images = putImage(have.Images, i)
	case DeleteImage:
		have.Images = slices.DeleteFunc(have.Images, func(i state.ObservedImage) bool { return i.Ref == op.Ref })
	case ReleaseImage:
		i, _ := have.FindImage(op.Ref)
		i.Owner = ""
		have.Images = putImage(have.Images, i)
	case Create:
		have.Containers = put(have.Containers, created(op, have.Owner, now))
		have.Snapshots = without(have.Snapshots, op.SnapshotKey)
	case Remove:
		have.Containers = slices.DeleteFunc(have.Containers, func(c state.ObservedContainer) bool { return c.ID == op.ID })
	case Clean:
		have.Containers = slices.DeleteFunc(have.Containers, func(c state.ObservedContainer) bool { return c.ID == op.ID })
	case RemoveSnapshot:
		have.Snapshots = without(have.Snapshots, op.Key)
	case DeleteLease:
		have.Leases = slices.DeleteFunc(slices.Clone(have.Leases), func(l state.ObservedLease) bool { return l.ID == op.ID })
	case DeleteNamespace:
		have.Exists, have.Labels = false, nil
	case ReleaseNamespace:
		have.Labels = merge(have.Labels, nil, op.Drop)
	default:
		predictTask(&have, op, now)
	}
	return have
}

// predictTask carries out the operations that change one container in place.
func predictTask(have *state.Observed, op Operation, now time.Time) {
	i := slices.IndexFunc(have.Containers, func(c state.ObservedContainer) bool { return containerObject(c.ID) == op.Object() })
	if i < 0 {
		return
	}
	c := &have.Containers[i]
	switch op := op.(type) {
	case Start:
		started := state.Started{Digest: op.Digest.Short(), At: now, Boot: have.Boot}
		c.Labels = merge(merge(c.Labels, op.Labels, nil), map[string]string{state.LabelStarted: started.String()}, nil)
		c.Task = state.Task{Status: state.TaskRunning, Since: now}
	case Resume:
		c.Task.Status, c.Task.Since = state.TaskRunning, now
	case Stop:
		if op.Unmark {
			c.Labels = merge(c.Labels, nil, []string{state.LabelStarted})
		}
		c.Task = state.Task{Status: state.TaskStopped, ExitCode: 143, ExitedAt: now, Since: now}
	case Complete:
		c.Labels = merge(c.Labels, op.Labels, nil)
		c.Task = state.Task{Status: state.TaskNone, Since: now}
	case Update:
		c.Labels = merge(c.Labels, op.Set, op.Drop)
		if op.Record != nil {
			c.Record, c.RecordProblem = op.Record, ""
		}
		if op.DropRecord {
			c.Record = nil
		}
	}
}

func created(op Create, owner state.Owner, now time.Time) state.ObservedContainer {
	return state.ObservedContainer{
		ID: op.ID, Recorded: true, Labels: op.Labels, Image: op.Spec.Image, SnapshotKey: op.SnapshotKey,
		Record: &state.Record{Version: state.SpecVersion, Owner: owner, Realm: op.Realm, Spec: op.Spec},
		Task:   state.Task{Status: state.TaskNone, Since: now},
	}
}

func put(all []state.ObservedContainer, c state.ObservedContainer) []state.ObservedContainer {
	all = slices.DeleteFunc(all, func(o state.ObservedContainer) bool { return o.ID == c.ID })
	i, _ := slices.BinarySearchFunc(all, c, func(a, b state.ObservedContainer) int { return cmp.Compare(a.ID, b.ID) })
	return slices.Insert(all, i, c)
}

func putImage(all []state.ObservedImage, i state.ObservedImage) []state.ObservedImage {
	if old := slices.IndexFunc(all, func(o state.ObservedImage) bool { return o.Ref == i.Ref }); old >= 0 {
		i.Owner = all[old].Owner // somebody's record stays theirs
		all = slices.Delete(all, old, old+1)
	}
	at, _ := slices.BinarySearchFunc(all, i, func(a, b state.ObservedImage) int { return cmp.Compare(a.Ref, b.Ref) })
	return slices.Insert(all, at, i)
}

func without(all []state.ObservedSnapshot, key string) []state.ObservedSnapshot {
	return slices.DeleteFunc(slices.Clone(all), func(s state.ObservedSnapshot) bool { return s.Key == key })
}

func merge(labels, set map[string]string, drop []string) map[string]string {
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, set)
	for _, k := range drop {
		delete(out, k)
	}
	return out
}
