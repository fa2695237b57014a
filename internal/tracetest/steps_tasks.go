package tracetest

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

const (
	sigkill = 9
	sigusr1 = 10
	sigusr2 = 12
	sigterm = 15
)

var taskKinds = []kind{
	{"Tasks", 4, false, func(d dice) (string, action) {
		ns := d.ns()
		return ns, func(ctx context.Context, s *Side) (string, error) { return joined(s.Tasks(ctx, s.in(ns)))(printTask) }
	}},
	{"Task", 5, false, func(d dice) (string, action) {
		ns, id := d.ns(), d.container()
		return ns + " " + id, func(ctx context.Context, s *Side) (string, error) {
			return shown(s.Task(ctx, s.in(ns), id))(printTask)
		}
	}},
	{"CreateTask", 22, false, func(d dice) (string, action) {
		id := d.container()
		return createTask(d.ns(), id, d.snapshotOf(id))
	}},
	{"StartTask", 20, false, func(d dice) (string, action) { return startTask(d.ns(), d.container()) }},
	{"KillTask", 18, false, func(d dice) (string, action) {
		ns, id, all := d.ns(), d.container(), d.one(2)
		signal := draw(d, odds[uint32]{{40, sigterm}, {40, sigkill}, {10, 0}, {5, 28}, {5, 99}})
		return fmt.Sprintf("%s %s signal %d all=%v", ns, id, signal, all), quiet(func(ctx context.Context, s *Side) error {
			return s.KillTask(ctx, s.in(ns), id, signal, all)
		})
	}},
	{"ResumeTask", 18, false, func(d dice) (string, action) {
		ns, id := d.ns(), d.container()
		return ns + " " + id, quiet(func(ctx context.Context, s *Side) error { return s.ResumeTask(ctx, s.in(ns), id) })
	}},
	{"DeleteTask", 16, false, func(d dice) (string, action) {
		ns, id := d.ns(), d.container()
		return ns + " " + id, func(ctx context.Context, s *Side) (string, error) {
			t, err := s.DeleteTask(ctx, s.in(ns), id)
			if err == nil {
				s.events.doubt(ns, id)
			}
			return shown(t, err)(printTask)
		}
	}},
}

func createTask(ns, id, key string) (string, action) {
	return fmt.Sprintf("%s %s on the mounts of %s", ns, id, key), func(ctx context.Context, s *Side) (string, error) {
		full := s.in(ns)
		var program Program
		if c, err := s.Container(ctx, full, id); err == nil {
			if len(c.Spec.GetValue()) == 0 {
				return "not tried without a spec", nil // over which containerd 1.7 crashes as a whole
			}
			program = programIn(c)
			s.World.Program(full, id, program)
		}
		mounts, ok := s.mounts[ns+"/"+key]
		if !ok {
			mounts = []mount.Mount{{Type: "bind", Source: "/nowhere", Options: []string{"rbind"}}}
		}
		output := s.World.Output(full, id)
		pid, err := s.CreateTask(ctx, full, ctrd.TaskRequest{ID: id, Rootfs: mounts, Stdout: output, Stderr: output})
		if err == nil {
			s.made[ns+"/"+id] = Process{NS: full, ID: id, Output: output, Program: program}
		}
		return fmt.Sprint(pid != 0), err
	}
}

func startTask(ns, id string) (string, action) {
	return ns + " " + id, quiet(func(ctx context.Context, s *Side) error {
		if err := s.StartTask(ctx, s.in(ns), id); err != nil {
			return err
		}
		p, err := s.process(ctx, ns, id)
		if err != nil || p.Pid == 0 {
			return err
		}
		return s.World.Ready(ctx, p)
	})
}

// process tells about a task's process; without a pid when none runs that signals reach.
func (s *Side) process(ctx context.Context, ns, id string) (Process, error) {
	p := s.made[ns+"/"+id] // of what the record says now, nothing may be running yet
	t, err := s.Task(ctx, s.in(ns), id)
	if err == nil && t.Status == "running" {
		p.Pid = t.Pid
	}
	return p, err
}

// call reports whether the kind is a call of ctrd.Services.
func (k kind) call() bool {
	for _, o := range outsideKinds {
		if o.method == k.method {
			return false
		}
	}
	return true
}

// outsideKinds are what happens without ctrd.
var outsideKinds = []kind{
	{"Import", 5, true, func(d dice) (string, action) {
		ns, unpacked := d.ns(), d.one(2)
		return fmt.Sprintf("%s imported unpack=%v", ns, unpacked), quiet(func(ctx context.Context, s *Side) error {
			return s.World.Import(ctx, s.in(ns), s.Refs["imported"], unpacked)
		})
	}},
	{"Retag", 4, false, func(d dice) (string, action) {
		image := draw(d, odds[string]{{1, "A"}, {1, "B"}})
		return "moving to " + image, quiet(func(ctx context.Context, s *Side) error {
			return s.World.Retag(ctx, s.Refs["moving"], image)
		})
	}},
	{"Pause", 15, false, func(d dice) (string, action) {
		ns, id := d.ns(), d.container()
		return ns + " " + id, quiet(func(ctx context.Context, s *Side) error { return s.World.Pause(ctx, s.in(ns), id) })
	}},
	{"Signal", 12, false, func(d dice) (string, action) {
		ns, id := d.ns(), d.container()
		signal := draw(d, odds[int]{{50, sigkill}, {30, sigusr1}, {20, sigusr2}})
		return fmt.Sprintf("%s %s signal %d", ns, id, signal), quiet(func(ctx context.Context, s *Side) error {
			p, err := s.process(ctx, ns, id)
			if err != nil || p.Pid == 0 {
				return err
			}
			return s.World.Signal(ctx, p, signal)
		})
	}},
	{"KillShim", 2, false, func(d dice) (string, action) {
		ns, id := d.ns(), d.container()
		return ns + " " + id, quiet(func(ctx context.Context, s *Side) error { return s.killShim(ctx, ns, id) })
	}},
	{"Collect", 4, true, func(dice) (string, action) {
		return "", quiet(func(ctx context.Context, s *Side) error { return s.World.Collect(ctx) })
	}},
}

// killShim kills the shim of a task that runs and waits until containerd has cleaned up, before which it answers one
// thing or another.
func (s *Side) killShim(ctx context.Context, ns, id string) error {
	p, err := s.process(ctx, ns, id)
	if err != nil || p.Pid == 0 {
		return err
	}
	before := s.events.deleted(ns, id)
	if err := s.World.KillShim(ctx, p); err != nil {
		return err
	}
	return await(ctx, func() (bool, error) { return s.events.deleted(ns, id) > before, nil })
}

// restart draws a restart of the daemon with a call that comes meanwhile.
func restart(d dice, meanwhile Step) Step {
	graceful := d.one(2)
	how := "SIGKILL"
	if graceful {
		how = "SIGTERM"
	}
	return Step{
		Method: "Restart", Text: "Restart by " + how + "; meanwhile: " + meanwhile.Text, frees: true,
		do: func(ctx context.Context, s *Side) (string, error) {
			ended, err := s.ended(ctx)
			if err != nil {
				return "", err
			}
			if err := s.World.Down(graceful); err != nil {
				return "", err
			}
			s.events.stop()
			_, err = meanwhile.do(ctx, s)
			missed := Kind(err)
			if err := s.World.Up(context.WithoutCancel(ctx)); err != nil {
				return "", err
			}
			if err := s.connected(ctx); err != nil {
				return "", err
			}
			s.events, err = s.record(ctx, ended)
			return missed, err
		},
	}
}

// connected waits until the daemon answers again.
func (s *Side) connected(ctx context.Context) error {
	return await(ctx, func() (bool, error) {
		_, err := s.ServerID(ctx)
		if errdefs.IsUnavailable(err) {
			return false, nil
		}
		return true, err
	})
}
