package ctrd_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// cutDeletion breaks off the first deletion of a task where a real containerd, whose caller dies, breaks it off: the
// task is gone, its shim is not, and no other task can be made until the deletion is asked for again.
type cutDeletion struct {
	*fakectrd.Daemon
	cut, shim bool
}

func (d *cutDeletion) DeleteTask(ctx context.Context, ns, id string) (ctrd.TaskInfo, error) {
	info, err := d.Daemon.DeleteTask(ctx, ns, id)
	if d.shim = err == nil && !d.cut; d.shim {
		d.cut = true
		return info, fmt.Errorf("failed to delete task: %w", context.Canceled)
	}
	return info, err
}

func (d *cutDeletion) CreateTask(ctx context.Context, ns string, r ctrd.TaskRequest) (uint32, error) {
	if d.shim {
		return 0, fmt.Errorf("task %s: %w", r.ID, errdefs.ErrAlreadyExists)
	}
	return d.Daemon.CreateTask(ctx, ns, r)
}

func TestTheShimOfADeletionThatWasCutOffGoesWith(t *testing.T) {
	for name, op := range map[string]plan.Operation{
		"another start": start("web"),
		"the removal":   plan.Remove{ID: "web", SnapshotKey: state.SnapshotKey("web", spec().Digest())},
		"the end":       plan.Complete{ID: "web"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				r := newRig(t, fakectrd.Options{})
				r.settle()
				r.run("web")
				must(t, r.Exit(string(ns), "web", 1))
				d := &cutDeletion{Daemon: r.Daemon}
				h := ctrd.New(config(t, d))
				if err := h.Do(t.Context(), ns, realm, op); err == nil || !d.shim {
					t.Fatalf("the deletion was not cut off: %v", err)
				}
				must(t, h.Do(t.Context(), ns, realm, op))
				if d.shim {
					t.Error("the shim is left")
				}
			})
		})
	}
}
