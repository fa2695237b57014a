package ctrd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

const (
	// corpsePatience is how long a start waits for the remains of a killed shim: containerd clears them away within
	// a third of a second, and the workload dies within 35 ms.
	corpsePatience = 1500 * time.Millisecond
	corpsePause    = 25 * time.Millisecond
	// corpseUsual is after which time remains are not those of a killed shim.
	corpseUsual = 500 * time.Millisecond
)

// start writes the labels, clears a stopped task away, makes the new one and starts it.
func (h *Host) start(ctx context.Context, at target, op plan.Start) error {
	c, err := h.owned(ctx, at.ns, op.ID)
	if err != nil {
		return err
	}
	t, err := h.taskOf(ctx, at.ns, op.ID)
	if err != nil {
		return err
	}
	switch state.TaskStatus(t.Status) {
	case state.TaskRunning, state.TaskPaused:
		return nil // somebody was faster, or our reply was lost
	case state.TaskCreated:
		if err := h.endBegun(ctx, at.ns, op, c, t.Pid); err != nil {
			return err
		}
	}
	if err := h.prepareSources(at.realm, op.Spec); err != nil {
		return err
	}
	// The counts are written before the stopped task goes, so that its exit is not forgotten; and without the mark
	// of a start, so that a try which fails before the process runs is neither an exit nor a finished one-shot.
	if err := h.setStart(ctx, at.ns, &c, op.Labels, ""); err != nil {
		return err
	}
	if state.TaskStatus(t.Status) == state.TaskStopped {
		if err := h.deleteTask(ctx, at.ns, op.ID); err != nil {
			return err
		}
	}
	now, pid := h.cfg.Now(), t.Pid
	if state.TaskStatus(t.Status) != state.TaskCreated {
		if pid, err = h.createTask(ctx, at, op, c, int(now.UnixMilli())); err != nil {
			return err
		}
	}
	// Before the process runs, so that a one-shot which did run is never run again.
	started := state.Started{Digest: op.Digest.Short(), At: now, Boot: h.cfg.Boot}
	if err := h.setStart(ctx, at.ns, &c, nil, started.String()); err != nil || pid == 0 {
		return err
	}
	return h.startTask(ctx, at.ns, op, pid, c)
}

// endBegun kills the process of a created task if it has begun all the same: containerd was killed while runc started it,
// and took runc along before that could tell the shim. Such a task is neither started nor deleted, and a start of it may
// wait for ever, with everything else that its shim is asked. The next pass sees the exit, and decides what follows.
func (h *Host) endBegun(ctx context.Context, ns state.Namespace, op plan.Start, c containers.Container, pid uint32) error {
	begun, err := h.cfg.Machine.Begun(pid)
	if err != nil || !begun {
		return err
	}
	if err := h.kill(ctx, ns, op.ID); err != nil {
		return err
	}
	// What runs for ever is started again as if it had never begun. A one-shot did begin, and may not be run again.
	if op.Spec.Restart.Policy == state.RestartAlways {
		if err := h.setStart(ctx, ns, &c, nil, ""); err != nil {
			return err
		}
	}
	return &outcome.Waiting{For: fmt.Sprintf("another start: the process of %s had begun without its shim's knowing, and was killed", op.ID)}
}

// setStart sets labels of a container and the mark of its last start, and notes them in c.
func (h *Host) setStart(ctx context.Context, ns state.Namespace, c *containers.Container, labels map[string]string, started string) error {
	all := maps.Clone(labels)
	if all == nil {
		all = map[string]string{}
	}
	all[state.LabelStarted] = started
	if err := h.setLabels(ctx, ns, *c, all); err != nil {
		return err
	}
	c.Labels = maps.Clone(c.Labels)
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	maps.Copy(c.Labels, all)
	return nil
}

// createTask makes the task; pid 0 without an error means that one runs already.
func (h *Host) createTask(ctx context.Context, at target, op plan.Start, c containers.Container, run int) (pid uint32, err error) {
	if err := h.awaitCorpse(ctx, at.ns, op.ID); err != nil {
		return 0, err
	}
	if err := h.refreshFiles(at.ns, op.ID, op.Spec); err != nil {
		return 0, err
	}
	streams, closer, err := h.prepareOutput(at, op, run)
	if err != nil {
		return 0, fmt.Errorf("preparing output: %w", err)
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	mounts, err := look(ctx, "reading the mounts of snapshot "+c.SnapshotKey, func(ctx context.Context) ([]mount.Mount, error) {
		return h.svc.SnapshotMounts(ctx, string(at.ns), c.Snapshotter, c.SnapshotKey)
	})
	if err != nil {
		h.mirror(at.ns).markContainer(op.ID) // it may be gone: then only a new container helps
		return 0, err
	}
	request := TaskRequest{ID: string(op.ID), Rootfs: mounts, Stdout: streams.Stdout, Stderr: streams.Stderr}
	for began := time.Now(); ; {
		err := h.slot(ctx, at.ns, SlotStart, "creating the task", func(ctx context.Context) error {
			var err error
			pid, err = h.svc.CreateTask(ctx, string(at.ns), request)
			return err
		})
		if !errdefs.IsAlreadyExists(err) {
			return pid, err
		}
		t, err := h.taskOf(ctx, at.ns, op.ID)
		if err != nil {
			return 0, err
		}
		switch state.TaskStatus(t.Status) {
		case state.TaskCreated:
			return t.Pid, nil
		case state.TaskRunning, state.TaskPaused:
			return 0, nil
		case state.TaskNone:
			if time.Since(began) < corpseUsual {
				break
			}
			fallthrough // the rest of a deletion that was cut off
		case state.TaskStopped:
			if err := h.deleteTask(ctx, at.ns, op.ID); err != nil {
				return 0, err
			}
		}
		if time.Since(began) > corpsePatience {
			return 0, &outcome.Waiting{For: "what is left of the former task of " + string(op.ID)}
		}
		if err := pause(ctx, corpsePause); err != nil {
			return 0, err
		}
	}
}

// awaitCorpse waits until the container's cgroup is empty: whatever still runs in it would run twice. Nothing in there
// is ever killed, because another containerd with the same names shares the cgroup.
func (h *Host) awaitCorpse(ctx context.Context, ns state.Namespace, id state.ContainerID) error {
	for deadline := time.Now().Add(corpsePatience); ; {
		pids, err := h.cfg.Machine.Processes(ns, id)
		if err != nil {
			return fmt.Errorf("looking for former processes of %s: %w", id, err)
		}
		if len(pids) == 0 {
			h.corpses.Delete(corpse{ns, id})
			return nil
		}
		if time.Now().After(deadline) {
			return h.inTheWay(ns, id, pids)
		}
		if err := pause(ctx, corpsePause); err != nil {
			return err
		}
	}
}

// corpse names a container whose former processes do not end.
type corpse struct {
	ns state.Namespace
	id state.ContainerID
}

// inTheWay says what a start waits for. Processes that do not end by themselves are a person's to judge: containerd may
// have forgotten them, when a create was cut off at an unlucky moment, or another daemon may run them.
func (h *Host) inTheWay(ns state.Namespace, id state.ContainerID, pids []int) error {
	now := h.cfg.Now()
	since, _ := h.corpses.LoadOrStore(corpse{ns, id}, now)
	if now.Sub(since.(time.Time)) < state.StuckAfter {
		return &outcome.Waiting{For: fmt.Sprintf("former processes of %s to end: %v", id, pids)}
	}
	return &outcome.Stalled{
		Why:    fmt.Sprintf("former processes of %s do not end: %v", id, pids),
		Remedy: "if no other containerd runs them, end them, or restart containerd, which clears away what it forgot",
	}
}

func (h *Host) prepareOutput(at target, op plan.Start, run int) (Streams, io.Closer, error) {
	if h.cfg.Output == nil {
		return Streams{}, io.NopCloser(nil), nil
	}
	streams, closer, err := h.cfg.Output.Prepare(at.realm, at.ns, op.ID, op.Spec, run)
	if closer == nil {
		closer = io.NopCloser(nil)
	}
	return streams, closer, err
}

// startTask starts a created task. When that fails for certain the task and the mark of the start are taken back, so
// that the next try makes a new one.
func (h *Host) startTask(ctx context.Context, ns state.Namespace, op plan.Start, pid uint32, c containers.Container) error {
	err := error(nil)
	if !op.Spec.HostNetwork {
		err = h.cfg.Machine.Loopback(pid)
	}
	if err == nil {
		err = h.slot(ctx, ns, SlotStart, "starting the task", func(ctx context.Context) error {
			return h.svc.StartTask(ctx, string(ns), string(op.ID))
		})
	}
	if definite(err) {
		ctx := context.WithoutCancel(ctx)
		// A process that runs after all keeps its task, and its mark.
		if deleteErr := h.deleteTask(ctx, ns, op.ID); deleteErr != nil {
			return errors.Join(err, deleteErr)
		}
		return errors.Join(err, h.setStart(ctx, ns, &c, nil, ""))
	}
	return err
}

// deleteTask deletes a task that is not there any more as well: a deletion that is cut off, by our death or a deadline,
// leaves its shim behind without a task, and containerd keeps that for another try.
func (h *Host) deleteTask(ctx context.Context, ns state.Namespace, id state.ContainerID) error {
	return absent(h.slot(ctx, ns, SlotStart, "deleting the task", func(ctx context.Context) error {
		_, err := h.svc.DeleteTask(ctx, string(ns), string(id))
		return err
	}))
}

func (h *Host) resume(ctx context.Context, at target, op plan.Resume) error {
	if _, err := h.owned(ctx, at.ns, op.ID); err != nil {
		return absent(err)
	}
	t, err := h.taskOf(ctx, at.ns, op.ID)
	if err != nil || state.TaskStatus(t.Status) != state.TaskPaused {
		return err
	}
	return h.resumeTask(ctx, at.ns, op.ID)
}

func (h *Host) resumeTask(ctx context.Context, ns state.Namespace, id state.ContainerID) error {
	return absent(h.slot(ctx, ns, SlotStart, "resuming the task", func(ctx context.Context) error {
		return h.svc.ResumeTask(ctx, string(ns), string(id))
	}))
}

// pause waits unless the context ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
