package fakectrd

import (
	"context"
	"fmt"
	"syscall"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
)

// lastSignal is the highest signal there is.
const lastSignal = 64

// KillTask implements ctrd.Services. One that has exited is NotFound, but fine when all its processes are meant: there is
// none left to be missed. A signal sent to a hung shim arrives when that goes on, however the call ended.
func (d *Daemon) KillTask(ctx context.Context, ns, id string, signal uint32, all bool) error {
	return write(ctx, d, "KillTask", ns, id, func() error {
		t, err := d.task(ns, id)
		if err != nil {
			return err
		}
		if t.hung != nil {
			t.pending = append(t.pending, syscall.Signal(signal))
			_, err := d.reach(ctx, ns, id)
			return err
		}
		if t.Status == stopped && !all {
			return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
		}
		if signal > lastSignal && !all {
			return fmt.Errorf("runc kill failed: invalid argument: %w", errdefs.ErrUnknown)
		}
		if t.Status == paused && all {
			t.thawed = true // to reach all processes runc freezes them, and then lets them go
			d.deliver(key{ns, id}, t)
		}
		d.signal(key{ns, id}, t, syscall.Signal(signal))
		return nil
	})
}

// signal has a process react to a signal. A paused one does so when it is resumed, except that SIGKILL ends it at once.
func (d *Daemon) signal(k key, t *task, s syscall.Signal) {
	p := t.process
	switch {
	case t.Status == stopped:
	case t.Status == paused && !t.thawed && s != syscall.SIGKILL:
		t.pending = append(t.pending, s)
	case s == 0, s == syscall.SIGCHLD, s == syscall.SIGCONT, s == syscall.SIGWINCH, s == syscall.SIGURG:
	case s > lastSignal: // runc sends it, and the kernel knows it not
	case t.Status == created && !t.begun && s != syscall.SIGKILL: // runc itself: as the first of its container it ends with 2
		d.exited(k, t, 2)
	case p.Unkillable:
		t.pending = append(t.pending, s)
	case s == syscall.SIGKILL:
		d.exited(k, t, 128+uint32(syscall.SIGKILL))
	case p.IgnoreTerm:
	default:
		code := p.TermCode
		if code == 0 {
			code = 128 + uint32(s)
		}
		d.exitLater(k, t, p.TermAfter, code)
	}
}

// deliver has a process see the signals that were kept from it.
func (d *Daemon) deliver(k key, t *task) {
	pending := t.pending
	t.pending = nil
	for _, s := range pending {
		d.signal(k, t, s)
	}
}

// ResumeTask implements ctrd.Services.
func (d *Daemon) ResumeTask(ctx context.Context, ns, id string) error {
	return write(ctx, d, "ResumeTask", ns, id, func() error {
		t, err := d.reach(ctx, ns, id)
		if err != nil {
			return err
		}
		if t.Status != paused {
			return fmt.Errorf("cannot resume a %s process: %w", t.Status, errdefs.ErrUnknown)
		}
		if t.thawed { // and so it stays paused for its shim until it ends
			return fmt.Errorf("runc resume failed: container not paused: %w", errdefs.ErrUnknown)
		}
		t.Status = running
		d.publish(ns, "/tasks/resumed", &eventtypes.TaskResumed{ContainerID: id})
		d.deliver(key{ns, id}, t)
		return nil
	})
}
