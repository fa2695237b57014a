package ctrd

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// Do carries out one operation. Each can be done again after any failure and ends right. Errors are the kinds of
// package outcome, or plain ones that are worth a retry. When ctx ends, waits and pulls end; a mutating call that has
// begun does not. What the operation may have changed is read again by the next Observe.
func (h *Host) Do(ctx context.Context, ns state.Namespace, realm state.RealmName, op plan.Operation) error {
	err := h.do(ctx, target{ns, realm}, op)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// target is where an operation works.
type target struct {
	ns    state.Namespace
	realm state.RealmName
}

func (h *Host) do(ctx context.Context, at target, op plan.Operation) (err error) {
	end := h.mirror(at.ns).begin(op)
	defer func() { end(err) }()
	switch op := op.(type) {
	case plan.EnsureNamespace:
		return h.ensureNamespace(ctx, op)
	case plan.DeleteNamespace:
		return h.deleteNamespace(ctx, op)
	case plan.ReleaseNamespace:
		return h.releaseNamespace(ctx, op)
	case plan.Pull:
		return h.pull(ctx, at, op)
	case plan.Import:
		return h.importArchive(ctx, at, op)
	case plan.Unpack:
		return h.unpack(ctx, at, op)
	case plan.DeleteImage:
		return h.deleteImage(ctx, at, op)
	case plan.ReleaseImage:
		return h.releaseImage(ctx, at, op)
	case plan.Create:
		return h.create(ctx, at, op)
	case plan.Start:
		return h.start(ctx, at, op)
	case plan.Update:
		return h.update(ctx, at, op)
	case plan.Stop:
		return h.stop(ctx, at, op)
	case plan.Resume:
		return h.resume(ctx, at, op)
	case plan.Complete:
		return h.complete(ctx, at, op)
	case plan.Remove:
		return h.remove(ctx, at, op)
	case plan.Clean:
		return h.clean(ctx, at, op)
	case plan.RemoveSnapshot:
		return h.removeSnapshot(ctx, at, op)
	case plan.DeleteLease:
		return h.leases.sweep(ctx, at.ns, op.ID)
	}
	return fmt.Errorf("ctrd cannot carry out %T", op)
}

// begin notes that an operation is under way. The function it returns notes its end, and what that may have changed.
func (m *mirror) begin(op plan.Operation) (end func(error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := op.Object()
	id := state.ContainerID(o.Name)
	create, creates := op.(plan.Create)
	if o.Kind == plan.ContainerObject {
		m.busy[id]++
	}
	if creates {
		m.creating[create.SnapshotKey]++
	}
	return func(err error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if o.Kind == plan.ContainerObject {
			decrement(m.busy, id)
			m.touchRecord(string(id))
			m.touchTask(string(id), m.entry(id).alive && !(err == nil && endsTask(op)))
		}
		if creates {
			decrement(m.creating, create.SnapshotKey)
		}
		switch o.Kind {
		case plan.NamespaceObject:
			m.dirty.labels = true
		case plan.ImageObject, plan.ArchiveObject, plan.SnapshotObject:
			m.dirty.store = true
		case plan.LeaseObject:
			m.dirty.leases = true
		}
		if err != nil { // a snapshot or a lease may have been left behind
			m.dirty.store, m.dirty.leases = true, true
		}
	}
}

// endsTask reports whether an operation that succeeded leaves no task. The event of that may be lost, and while a shim of
// the namespace hangs no list can tell either.
func endsTask(op plan.Operation) bool {
	switch op.(type) {
	case plan.Clean, plan.Remove:
		return true
	}
	return false
}

func decrement[K comparable](counts map[K]int, k K) {
	if counts[k]--; counts[k] <= 0 {
		delete(counts, k)
	}
}

// owned reads a container afresh and refuses one that is not ours. NotFound keeps its kind.
func (h *Host) owned(ctx context.Context, ns state.Namespace, id state.ContainerID) (containers.Container, error) {
	c, err := h.container(ctx, ns, id)
	if err != nil {
		return c, err
	}
	return c, h.ours(ctx, "container "+string(id), ownerOf(c))
}

func (h *Host) container(ctx context.Context, ns state.Namespace, id state.ContainerID) (containers.Container, error) {
	return look(ctx, "reading container "+string(id), func(ctx context.Context) (containers.Container, error) {
		return h.svc.Container(ctx, string(ns), string(id))
	})
}

func (h *Host) taskOf(ctx context.Context, ns state.Namespace, id state.ContainerID) (TaskInfo, error) {
	t, err := look(ctx, "reading task "+string(id), func(ctx context.Context) (TaskInfo, error) {
		return h.svc.Task(ctx, string(ns), string(id))
	})
	switch {
	case errdefs.IsNotFound(err):
		return TaskInfo{ID: string(id), Status: string(state.TaskNone)}, nil
	case err == nil && t.Status == string(state.TaskUnknown):
		return t, &outcome.Unknown{Err: fmt.Errorf("the shim of %s does not answer", id)}
	}
	return t, err
}

// ours refuses an object of another owner.
func (h *Host) ours(ctx context.Context, object string, owner state.Owner) error {
	own, err := h.Owner(ctx)
	if err != nil {
		return err
	}
	if owner != own {
		return &outcome.Conflict{Object: object, Owner: string(owner)}
	}
	return nil
}

// slot runs one call inside a slot.
func (h *Host) slot(ctx context.Context, ns state.Namespace, kind SlotKind, what string, call func(context.Context) error) error {
	release, err := h.acquire(ctx, ns, kind)
	if err != nil {
		return err
	}
	defer release()
	return change(ctx, what, call)
}

// acquire waits for a slot of the kind, and returns how to give it back.
func (h *Host) acquire(ctx context.Context, ns state.Namespace, kind SlotKind) (release func(), err error) {
	slots := h.cfg.Slots[kind]
	if slots == nil {
		return func() {}, nil
	}
	return slots.Acquire(ctx, ns)
}

// refusedPrefixes begin the labels on which other programs act, some of them as root; nothing but our own code may
// write them.
var refusedPrefixes = []string{
	"kukeon.io/", "containerd.io/", "io.containerd.", "io.cri-containerd", "io.kubernetes.", "nerdctl/", "com.docker.",
}

// refuseLabels is the last door that a label from a manifest goes through.
func refuseLabels(labels map[string]string) error {
	for k := range labels {
		for _, p := range refusedPrefixes {
			if strings.HasPrefix(k, p) {
				return &outcome.Stalled{Why: fmt.Sprintf("label %s is reserved", k), Remedy: "remove it from the manifest"}
			}
		}
	}
	return nil
}

// setLabels changes labels of a container and leaves all others alone; the empty value removes one. It writes nothing
// when all is so already.
func (h *Host) setLabels(ctx context.Context, ns state.Namespace, c containers.Container, labels map[string]string) error {
	if err := refuseLabels(withoutEmpty(labels)); err != nil {
		return err
	}
	update := containers.Container{ID: c.ID, Labels: map[string]string{}}
	var paths []string
	for k, v := range labels {
		if c.Labels[k] != v {
			update.Labels[k] = v
			paths = append(paths, "labels."+k)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	return h.updateContainer(ctx, ns, update, paths)
}

func (h *Host) updateContainer(ctx context.Context, ns state.Namespace, c containers.Container, paths []string) error {
	return change(ctx, "updating container "+c.ID, func(ctx context.Context) error {
		return h.svc.UpdateContainer(ctx, string(ns), c, paths...)
	})
}

func withoutEmpty(labels map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range labels {
		if v != "" {
			out[k] = v
		}
	}
	return out
}

// absent reports success when what was to go is gone already.
func absent(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
