package hosttest

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

// back is how soon after a restart a client has to be connected again.
const back = 2 * time.Second

var outageCases = []testCase{
	{"a hung shim's task is no known task, costs two seconds, and hinders no other namespace", func(h *host) {
		h.run("hung", Forever)
		h.run("well", Forever)
		h.hang("hung")
		before := time.Now()
		list, err := h.Tasks(h.ctx, h.ns)
		h.ok(err)
		if took := time.Since(before); took < time.Second || took > 4*time.Second {
			h.Errorf("the list took %v", took)
		}
		status := map[string]string{}
		for _, i := range list {
			status[i.ID] = i.Status
		}
		if want := map[string]string{"1.6": "unknown"}[h.subject.Version]; status["hung"] != want || status["well"] != "running" {
			h.Errorf("%v, want hung to be %q", status, want)
		}
		i, err := h.Task(h.ctx, h.ns, "hung")
		h.isV("Deadline", "ok", err)
		if i.Status == "running" {
			h.Error("it runs, for all the daemon knows")
		}
		before = time.Now()
		_, err = h.Tasks(h.ctx, h.otherNS())
		h.ok(err)
		if took := time.Since(before); took > time.Second {
			h.Errorf("another namespace's list took %v", took)
		}
		h.ok(h.subject.World.UnhangShim(h.ns, "hung"))
		h.await(h.ns, "hung", "running")
	}},
	{"a look at a hung shim ends with its context", func(h *host) {
		h.run("c", Forever)
		h.hang("c")
		ctx, cancel := context.WithTimeout(h.ctx, 300*time.Millisecond)
		defer cancel()
		i, err := h.Task(ctx, h.ns, "c")
		if err != nil || h.subject.Version != "1.6" || i.Status != "unknown" { // 1.6 may be quicker than the deadline
			h.is("Deadline", err)
		}
	}},
	{"a signal to a hung shim arrives when it goes on, although the call has ended", func(h *host) {
		h.run("c", Forever)
		h.hang("c")
		ctx, cancel := context.WithTimeout(h.ctx, 300*time.Millisecond)
		defer cancel()
		h.is("Deadline", h.KillTask(ctx, h.ns, "c", sigkill, true))
		h.ok(h.subject.World.UnhangShim(h.ns, "c"))
		h.await(h.ns, "c", "stopped")
	}},
	{"a killed shim's task is gone, and its id is free after a while", func(h *host) {
		r := h.run("c", Forever)
		w := h.watch()
		h.ok(h.subject.World.KillShim(h.ns, "c"))
		h.eventually("the task is gone", func() bool {
			_, err := h.Task(h.ctx, h.ns, "c")
			return errdefs.IsNotFound(err)
		})
		h.eventually("the id is free", func() bool {
			_, err := h.CreateTask(h.ctx, h.ns, r)
			if err != nil && !errdefs.IsAlreadyExists(err) {
				h.Logf("create: %v", err)
			}
			return err == nil
		})
		w.until("/tasks/delete c")
		w.saw("/tasks/exit c 137", "/tasks/delete c")
	}},
	{"while the daemon is away calls are Unavailable, and processes run on", func(h *host) {
		h.run("c", Forever)
		i := h.await(h.ns, "c", "running")
		w := h.watch()
		h.ok(h.subject.World.Kill())
		h.is("Unavailable", w.end())
		_, err := h.Task(h.ctx, h.ns, "c")
		h.is("Unavailable", err)
		h.is("Unavailable", h.DeleteContainer(h.ctx, h.ns, "c"))
		_, ended := h.Subscribe(h.ctx)
		h.is("Unavailable", <-ended)
		h.start()
		if again := h.await(h.ns, "c", "running"); again != i {
			h.Errorf("%+v, want %+v", again, i)
		}
		h.watch()
	}},
	{"a stopped task is forgotten when the daemon starts anew", func(h *host) {
		h.run("before", Fails)
		h.await(h.ns, "before", "stopped")
		h.ok(h.subject.World.Kill())
		h.start()
		i, err := h.Task(h.ctx, h.ns, "before")
		h.isV("NotFound", "ok", err)
		if h.subject.Version == "1.6" && i.ExitCode != 3 {
			h.Errorf("%+v, want code 3", i)
		}
		_, err = h.Container(h.ctx, h.ns, "before")
		h.is("ok", err)
	}},
	{"what is killed with the daemon is gone when it is back", func(h *host) {
		r := h.run("c", Forever)
		h.ok(h.subject.World.Kill())
		h.ok(h.subject.World.KillShim(h.ns, "c"))
		h.start()
		h.eventually("it is gone", func() bool { // containerd answers before it has looked for all shims
			_, err := h.Task(h.ctx, h.ns, "c")
			return kind(err) == "NotFound"
		})
		h.eventually("it is made anew", func() bool {
			_, err := h.CreateTask(h.ctx, h.ns, ctrd.TaskRequest{ID: "c", Rootfs: r.Rootfs})
			return err == nil
		})
	}},
}

// hang stops a task's shim until the end of the case.
func (h *host) hang(id string) {
	h.Helper()
	h.ok(h.subject.World.HangShim(h.ns, id))
	h.Cleanup(func() { _ = h.subject.World.UnhangShim(h.ns, id) }) // the case may have done it
}

// start starts the daemon and checks that the connection is back in time.
func (h *host) start() {
	h.Helper()
	h.ok(h.subject.World.Start())
	before := time.Now()
	h.eventually("the connection is back", func() bool {
		_, err := h.ServerID(h.ctx)
		return err == nil
	})
	if took := time.Since(before); took > back {
		h.Errorf("back after %v", took)
	}
}
