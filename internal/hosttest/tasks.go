package hosttest

import (
	"time"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

const (
	sigterm = 15
	sigkill = 9
)

var taskCases = []testCase{
	{"it is created, runs, is killed, stops and is deleted", func(h *host) {
		r := h.container("c", Forever)
		_, err := h.Task(h.ctx, h.ns, "c")
		h.is("NotFound", err)
		pid, err := h.CreateTask(h.ctx, h.ns, r)
		h.ok(err)
		i := h.await(h.ns, "c", "created")
		if pid == 0 || i.Pid != pid || i.ID != "c" {
			h.Errorf("%+v, want pid %d", i, pid)
		}
		h.ok(h.StartTask(h.ctx, h.ns, "c"))
		if i = h.await(h.ns, "c", "running"); i.Pid != pid {
			h.Errorf("pid %d, want %d", i.Pid, pid)
		}
		list, err := h.Tasks(h.ctx, h.ns)
		h.ok(err)
		if len(list) != 1 || list[0] != i {
			h.Errorf("list %v, want %v", list, i)
		}
		h.ok(h.KillTask(h.ctx, h.ns, "c", sigkill, true))
		i = h.await(h.ns, "c", "stopped")
		if age := time.Since(i.ExitedAt); i.ExitCode != 137 || age < -limit || age > limit {
			h.Errorf("%+v, want code 137 and a time", i)
		}
		end, err := h.DeleteTask(h.ctx, h.ns, "c")
		h.ok(err)
		if end.ExitCode != 137 || end.Status != "stopped" {
			h.Errorf("%+v, want code 137", end)
		}
		_, err = h.Task(h.ctx, h.ns, "c")
		h.is("NotFound", err)
		_, err = h.DeleteTask(h.ctx, h.ns, "c")
		h.is("NotFound", err)
	}},
	{"it is made anew from the same snapshot after it was deleted", func(h *host) {
		r := h.run("c", Forever)
		h.stop(h.ns, "c")
		_, err := h.CreateTask(h.ctx, h.ns, r)
		h.ok(err)
		h.ok(h.StartTask(h.ctx, h.ns, "c"))
		h.await(h.ns, "c", "running")
	}},
	{"its exit code is kept until it is deleted", func(h *host) {
		h.run("c", Fails)
		i := h.await(h.ns, "c", "stopped")
		list, err := h.Tasks(h.ctx, h.ns)
		h.ok(err)
		if i.ExitCode != 3 || len(list) != 1 || list[0] != i {
			h.Errorf("%+v, list %+v, want code 3", i, list)
		}
	}},
	{"a process that handles SIGTERM chooses its code", func(h *host) {
		h.run("c", Gentle)
		h.eventually("it stops", func() bool { // the trap is not there at once
			err := h.KillTask(h.ctx, h.ns, "c", sigterm, false)
			i, taskErr := h.Task(h.ctx, h.ns, "c")
			h.ok(taskErr)
			return i.Status == "stopped" && kind(err) == "NotFound"
		})
		if i := h.await(h.ns, "c", "stopped"); i.ExitCode != 7 {
			h.Errorf("code %d, want 7", i.ExitCode)
		}
	}},
	{"a process that does not handle SIGTERM runs on", func(h *host) {
		h.run("c", Forever)
		h.is("ok", h.KillTask(h.ctx, h.ns, "c", sigterm, true))
		h.is("ok", h.KillTask(h.ctx, h.ns, "c", 0, false))
		h.await(h.ns, "c", "running")
	}},
	{"without a container it is NotFound", func(h *host) {
		h.ok(h.CreateNamespace(h.ctx, h.ns, nil))
		_, err := h.CreateTask(h.ctx, h.ns, ctrd.TaskRequest{ID: "c"})
		h.is("NotFound", err)
		h.absent("c")
	}},
	{"one that was not made is NotFound", func(h *host) {
		h.container("c", Forever)
		h.absent("c")
	}},
	{"it is made once, and again only after it was deleted", func(h *host) {
		r := h.task("c", Fails)
		_, err := h.CreateTask(h.ctx, h.ns, r)
		h.is("AlreadyExists", err)
		h.ok(h.StartTask(h.ctx, h.ns, "c"))
		h.await(h.ns, "c", "stopped")
		_, err = h.CreateTask(h.ctx, h.ns, r)
		h.is("AlreadyExists", err)
	}},
	{"a running one is neither started again nor resumed nor deleted", func(h *host) {
		h.run("c", Forever)
		h.is("plain", h.StartTask(h.ctx, h.ns, "c"))
		h.is("plain", h.ResumeTask(h.ctx, h.ns, "c"))
		_, err := h.DeleteTask(h.ctx, h.ns, "c")
		h.is("plain", err)
		h.await(h.ns, "c", "running")
	}},
	{"a stopped one is neither started nor resumed, and NotFound to a signal unless all its processes are meant", func(h *host) {
		h.run("c", Fails)
		h.await(h.ns, "c", "stopped")
		h.is("plain", h.StartTask(h.ctx, h.ns, "c"))
		h.is("NotFound", h.KillTask(h.ctx, h.ns, "c", sigkill, false))
		h.is("ok", h.KillTask(h.ctx, h.ns, "c", sigkill, true))
		h.is("plain", h.ResumeTask(h.ctx, h.ns, "c"))
		h.await(h.ns, "c", "stopped")
	}},
	{"a created one is deleted without a start", func(h *host) {
		h.task("c", Forever)
		_, err := h.DeleteTask(h.ctx, h.ns, "c")
		h.is("ok", err)
		h.absent("c")
	}},
	{"a created one is killed", func(h *host) {
		h.task("c", Forever)
		h.ok(h.KillTask(h.ctx, h.ns, "c", sigkill, true))
		h.await(h.ns, "c", "stopped")
	}},
	{"a paused one runs on when it is resumed", func(h *host) {
		h.run("c", Forever)
		h.ok(h.subject.World.Pause(h.ns, "c"))
		h.await(h.ns, "c", "paused")
		_, err := h.DeleteTask(h.ctx, h.ns, "c")
		h.is("plain", err)
		h.ok(h.ResumeTask(h.ctx, h.ns, "c"))
		h.await(h.ns, "c", "running")
	}},
	{"a paused one sees SIGTERM when it is resumed", func(h *host) {
		h.run("c", Gentle)
		h.ok(h.subject.World.Pause(h.ns, "c"))
		h.ok(h.KillTask(h.ctx, h.ns, "c", sigterm, false))
		h.await(h.ns, "c", "paused")
		h.ok(h.ResumeTask(h.ctx, h.ns, "c"))
	}},
	{"a paused one is killed", func(h *host) {
		h.run("c", Forever)
		h.ok(h.subject.World.Pause(h.ns, "c"))
		h.ok(h.KillTask(h.ctx, h.ns, "c", sigkill, true))
		h.await(h.ns, "c", "stopped")
	}},
	{"without its snapshot it cannot be made", func(h *host) {
		r := h.container("c", Forever)
		h.ok(h.RemoveSnapshot(h.ctx, h.ns, Snapshotter, "c-1"))
		_, err := h.SnapshotMounts(h.ctx, h.ns, Snapshotter, "c-1")
		h.is("NotFound", err)
		h.collected("the snapshot's files are collected", func() bool {
			_, err := h.CreateTask(h.ctx, h.ns, r)
			if err == nil {
				h.stop(h.ns, "c")
			}
			return kind(err) == "plain"
		})
		h.absent("c")
	}},
}

// absent checks that there is no task.
func (h *host) absent(id string) {
	h.Helper()
	_, err := h.Task(h.ctx, h.ns, id)
	h.is("NotFound", err)
	h.is("NotFound", h.StartTask(h.ctx, h.ns, id))
	h.is("NotFound", h.KillTask(h.ctx, h.ns, id, sigkill, true))
	h.is("NotFound", h.ResumeTask(h.ctx, h.ns, id))
	_, err = h.DeleteTask(h.ctx, h.ns, id)
	h.is("NotFound", err)
}
