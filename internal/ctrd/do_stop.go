package ctrd

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/signal"
	"google.golang.org/protobuf/types/known/anypb"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

const (
	// killPatience is how long a process may take to die of SIGKILL before it counts as stuck.
	killPatience = 10 * time.Second
	// exitPoll is how often a task is asked about while its exit is awaited, in case that the event is lost.
	exitPoll = time.Second
)

// stop asks the process to end, and kills it at the end of the grace. It returns once the task is stopped.
func (h *Host) stop(ctx context.Context, at target, op plan.Stop) error {
	c, err := h.owned(ctx, at.ns, op.ID)
	if err != nil {
		return absent(err)
	}
	t, err := h.taskOf(ctx, at.ns, op.ID)
	if err != nil {
		return err
	}
	switch state.TaskStatus(t.Status) {
	case state.TaskNone, state.TaskStopped:
		return nil
	case state.TaskCreated:
		return h.kill(ctx, at.ns, op.ID) // it has nothing to end gracefully
	}
	if op.Grace > 0 {
		if err := h.signal(ctx, at.ns, op.ID, h.stopSignal(ctx, at.ns, c, op.Signal), false); err != nil {
			return err
		}
	}
	// Once the signal is sent, and not before: what ends by itself until then has ended by itself.
	if op.Unmark {
		if err := absent(h.setStart(ctx, at.ns, &c, nil, "")); err != nil {
			return err
		}
	}
	if op.Grace <= 0 {
		return h.kill(ctx, at.ns, op.ID)
	}
	if state.TaskStatus(t.Status) == state.TaskPaused {
		if err := h.thaw(ctx, at.ns, op.ID); err != nil {
			return err
		}
	}
	if ended, err := h.awaitExit(ctx, at.ns, op.ID, op.Grace); ended || err != nil {
		return err
	}
	return h.kill(ctx, at.ns, op.ID)
}

// stopSignal is the declared one, else the image's, else SIGTERM; also when the image cannot be read any more.
func (h *Host) stopSignal(ctx context.Context, ns state.Namespace, c containers.Container, declared string) syscall.Signal {
	name := declared
	if name == "" {
		if image, err := h.resolveRef(ctx, ns, c.Image); err == nil {
			name = image.config.StopSignal
		}
	}
	if s, err := signal.ParseSignal(name); err == nil {
		return s
	}
	return syscall.SIGTERM
}

// kill sends SIGKILL to everything in the container and waits for the end.
func (h *Host) kill(ctx context.Context, ns state.Namespace, id state.ContainerID) error {
	if err := h.signal(ctx, ns, id, syscall.SIGKILL, true); err != nil {
		return err
	}
	t, err := h.taskOf(ctx, ns, id)
	if err != nil {
		return err
	}
	if state.TaskStatus(t.Status) == state.TaskPaused { // a frozen process dies when it thaws
		if err := h.thaw(ctx, ns, id); err != nil {
			return err
		}
	}
	ended, err := h.awaitExit(ctx, ns, id, killPatience)
	if err != nil || ended {
		return err
	}
	return &outcome.Stalled{
		Why:    fmt.Sprintf("%s survives SIGKILL", id),
		Remedy: "look at its processes: they wait inside the kernel, often for a disk or a network file system",
	}
}

// thaw lets a paused task's processes go on. A refusal is fine: to signal all processes runc freezes and thaws them, and
// one that was paused then runs, although its shim goes on calling it paused and nobody can resume it.
func (h *Host) thaw(ctx context.Context, ns state.Namespace, id state.ContainerID) error {
	if err := h.resumeTask(ctx, ns, id); !definite(err) {
		return err
	}
	return nil
}

func (h *Host) signal(ctx context.Context, ns state.Namespace, id state.ContainerID, s syscall.Signal, all bool) error {
	return absent(h.slot(ctx, ns, SlotStop, "sending "+s.String(), func(ctx context.Context) error {
		return h.svc.KillTask(ctx, string(ns), string(id), uint32(s), all)
	}))
}

// awaitExit waits until the task is stopped or gone.
func (h *Host) awaitExit(ctx context.Context, ns state.Namespace, id state.ContainerID, limit time.Duration) (ended bool, err error) {
	changed, end := h.mirror(ns).watch(id)
	defer end()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	poll := time.NewTicker(exitPoll)
	defer poll.Stop()
	for {
		t, err := h.taskOf(ctx, ns, id)
		switch {
		case err == nil && (t.Status == string(state.TaskNone) || t.Status == string(state.TaskStopped)):
			return true, nil
		case ctx.Err() != nil:
			return false, ctx.Err()
		case outcome.IsUnavailable(err):
			return false, err
		}
		select {
		case <-changed:
		case <-poll.C:
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// clean ends a task that has no container record. containerd carries out nothing on such a task, so it is given a
// record for the time being; one that is left of an attempt that broke off is ours and empty, and used again.
func (h *Host) clean(ctx context.Context, at target, op plan.Clean) error {
	owner, err := h.Owner(ctx)
	if err != nil {
		return err
	}
	stand := containers.Container{
		ID: string(op.ID), Runtime: containers.RuntimeInfo{Name: runtimeName}, Spec: &anypb.Any{TypeUrl: specURL, Value: []byte("{}")},
		Labels: map[string]string{state.LabelOwner: string(owner), state.LabelRealm: string(at.realm)},
	}
	err = change(ctx, "lending a record to task "+stand.ID, func(ctx context.Context) error {
		return h.svc.CreateContainer(ctx, string(at.ns), stand)
	})
	if errdefs.IsAlreadyExists(err) {
		c, err := h.container(ctx, at.ns, op.ID)
		if err != nil {
			return absent(err)
		}
		if c.SnapshotKey != "" || ownerOf(c) != owner {
			return nil // it has a record again: the next pass sees what that means
		}
	} else if err != nil {
		return err
	}
	t, err := h.taskOf(ctx, at.ns, op.ID)
	if err != nil {
		return err
	}
	if s := state.TaskStatus(t.Status); s != state.TaskNone && s != state.TaskStopped {
		if err := h.kill(ctx, at.ns, op.ID); err != nil {
			return err
		}
	}
	if err := h.deleteTask(ctx, at.ns, op.ID); err != nil {
		return err
	}
	if err := h.removeFiles(at.ns, op.ID); err != nil {
		return err
	}
	return absent(change(ctx, "deleting the record of task "+stand.ID, func(ctx context.Context) error {
		return h.svc.DeleteContainer(ctx, string(at.ns), stand.ID)
	}))
}
