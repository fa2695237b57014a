package fakectrd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

// The statuses of a task, in state.TaskStatus's words.
const (
	created = "created"
	running = "running"
	paused  = "paused"
	stopped = "stopped"
	unknown = "unknown"
)

// untold is how often 2.x does not tell that a task was deleted: every eighth time. The shim tells it as it ends, and
// one in a dozen was lost when that was measured.
const untold = 8

// Process is how a container's process behaves. The zero value runs until a signal ends it.
type Process struct {
	// ExitAfter is how long it runs by itself; 0 means for ever, a negative value that it ends as it starts.
	ExitAfter time.Duration
	// ExitCode is the code of an exit by itself.
	ExitCode uint32
	// TermCode is the exit code after a signal other than SIGKILL; 0 means 128 + the signal.
	TermCode uint32
	// TermAfter is how long it takes to end after such a signal.
	TermAfter time.Duration
	// IgnoreTerm has it ignore every signal but SIGKILL.
	IgnoreTerm bool
	// Unkillable has it survive even SIGKILL, as a process in uninterruptible sleep does, until Daemon.Rouse.
	Unkillable bool
	// FailCreate has the creation of the task fail, as with a command that does not exist.
	FailCreate bool
	// FailStart has the start fail, as when the process dies between creation and start.
	FailStart bool
}

// task is a shim with its process.
type task struct {
	ctrd.TaskInfo
	process Process
	// hung is not nil while the shim hangs, and closed when that ends.
	hung chan struct{}
	// begun is true of a created task whose process runs: only its shim does not know.
	begun bool
	// thawed is true of a paused task whose processes run: only its shim thinks that they do not.
	thawed bool
	// pending holds the signals that the process has not seen: it is paused, or its shim hangs.
	pending []syscall.Signal
}

// Run tells about the processes that one container has had.
type Run struct {
	// Starts counts the processes that were started.
	Starts int
	// Live is how many of them live now; MaxLive the highest that it ever was.
	Live, MaxLive int
}

// task returns the task and its container; NotFound when either is missing, as containerd looks up both.
func (d *Daemon) task(ns, id string) (*task, error) {
	if _, ok := d.look(ns).containers[id]; !ok {
		return nil, notFound("container", id)
	}
	t, ok := d.tasks[key{ns, id}]
	if !ok {
		return nil, notFound("task", id)
	}
	return t, nil
}

// awaitShim waits for a task's hung shim, at most limit; 0 means as long as the context lasts. The error is a deadline
// when the shim still hangs.
func (d *Daemon) awaitShim(ctx context.Context, t *task, limit time.Duration) error {
	if t.hung == nil {
		return nil
	}
	hung := t.hung
	return d.unlocked(func() error {
		var timeout <-chan time.Time
		if limit > 0 {
			timer := time.NewTimer(limit)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-hung:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout:
			return fmt.Errorf("task %q: %w", t.ID, context.DeadlineExceeded)
		}
	})
}

// reach returns the task for a call that its shim has to answer.
func (d *Daemon) reach(ctx context.Context, ns, id string) (*task, error) {
	t, err := d.task(ns, id)
	if err != nil || t.hung == nil {
		return t, err
	}
	if err := d.awaitShim(ctx, t, 0); err != nil {
		return nil, err
	}
	return d.task(ns, id)
}

// Tasks implements ctrd.Services. Each hung shim costs ShimTimeout; 2.x then leaves its task out without a word, 1.6
// calls it unknown.
func (d *Daemon) Tasks(ctx context.Context, ns string) ([]ctrd.TaskInfo, error) {
	return read(ctx, d, "Tasks", ns, "", func() ([]ctrd.TaskInfo, error) {
		var out []ctrd.TaskInfo
		for _, k := range d.sortedTasks() {
			t, ok := d.tasks[k]
			if k.ns != ns || !ok {
				continue
			}
			late := d.awaitShim(ctx, t, ShimTimeout)
			switch {
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case errdefs.IsUnavailable(late):
				return nil, late
			case late == nil:
				out = append(out, t.TaskInfo)
			case d.hungIsUnknown:
				out = append(out, ctrd.TaskInfo{ID: k.id, Status: unknown})
			}
		}
		return out, nil
	})
}

// Task implements ctrd.Services.
func (d *Daemon) Task(ctx context.Context, ns, id string) (ctrd.TaskInfo, error) {
	return read(ctx, d, "Task", ns, id, func() (ctrd.TaskInfo, error) {
		t, err := d.task(ns, id)
		if err != nil {
			return ctrd.TaskInfo{}, err
		}
		late := d.awaitShim(ctx, t, ShimTimeout)
		switch {
		case d.hungIsUnknown && errors.Is(late, context.DeadlineExceeded) && ctx.Err() == nil:
			return ctrd.TaskInfo{ID: id, Status: unknown}, nil
		case late != nil:
			return ctrd.TaskInfo{}, late
		}
		if t, err = d.task(ns, id); err != nil {
			return ctrd.TaskInfo{}, err
		}
		return t.TaskInfo, nil
	})
}

// CreateTask implements ctrd.Services. A request without a root is taken for one with the mounts of the record's
// snapshot, so that a test which plays somebody with ctr can do without them.
func (d *Daemon) CreateTask(ctx context.Context, ns string, r ctrd.TaskRequest) (uint32, error) {
	return writeResult(ctx, d, "CreateTask", ns, r.ID, func() (uint32, error) {
		n, k := d.look(ns), key{ns, r.ID}
		c, ok := n.containers[r.ID]
		if !ok {
			return 0, notFound("container", r.ID)
		}
		if _, ok := d.tasks[k]; ok || d.busy[k] {
			return 0, exists("task", r.ID)
		}
		_, snapshot := n.snapshots[snapshotID{c.Snapshotter, c.SnapshotKey}]
		if (r.Rootfs != nil && !n.mountable(r.Rootfs)) || (r.Rootfs == nil && c.SnapshotKey != "" && !snapshot) {
			return 0, fmt.Errorf("failed to mount rootfs component: no such file or directory: %w", errdefs.ErrUnknown)
		}
		process := d.processOf(n, k, c.Image)
		if process.FailCreate {
			return 0, fmt.Errorf("runc create failed: exec: no such file or directory: %w", errdefs.ErrUnknown)
		}
		d.lastPid++
		t := &task{TaskInfo: ctrd.TaskInfo{ID: r.ID, Pid: d.lastPid, Status: created}, process: process}
		d.tasks[k] = t
		d.publish(ns, "/tasks/create", &eventtypes.TaskCreate{
			ContainerID: r.ID, Pid: t.Pid, IO: &eventtypes.TaskIO{Stdout: r.Stdout, Stderr: r.Stderr},
		})
		return t.Pid, nil
	})
}

// processOf tells how the next process of a container behaves.
func (d *Daemon) processOf(n *namespace, k key, ref string) Process {
	if d.behave != nil {
		if p, ok := d.behave(k.ns, k.id, d.run(k).Starts+1); ok {
			return p
		}
	}
	if b, err := n.content(ref); err == nil {
		return b.Process
	}
	return Process{}
}

func (d *Daemon) run(k key) *Run {
	r, ok := d.processes[k]
	if !ok {
		r = &Run{}
		d.processes[k] = r
	}
	return r
}

// StartTask implements ctrd.Services.
func (d *Daemon) StartTask(ctx context.Context, ns, id string) error {
	return write(ctx, d, "StartTask", ns, id, func() error {
		t, err := d.reach(ctx, ns, id)
		if err != nil {
			return err
		}
		if t.Status != created {
			return fmt.Errorf("cannot start a %s process: %w", t.Status, errdefs.ErrUnknown)
		}
		if t.begun {
			return fmt.Errorf("cannot start an already running container: %w", errdefs.ErrUnknown)
		}
		if t.process.FailStart {
			d.exited(key{ns, id}, t, 255)
			return fmt.Errorf("failed to create task: exec: no such file or directory: %w", errdefs.ErrUnknown)
		}
		t.Status = running
		d.publish(ns, "/tasks/start", &eventtypes.TaskStart{ContainerID: id, Pid: t.Pid})
		d.begin(key{ns, id}, t)
		return nil
	})
}

// begin has the process of a task run its program.
func (d *Daemon) begin(k key, t *task) {
	r := d.run(k)
	r.Starts++
	r.Live++
	r.MaxLive = max(r.MaxLive, r.Live)
	if t.process.ExitAfter != 0 {
		d.exitLater(k, t, t.process.ExitAfter, t.process.ExitCode)
	}
}

// exitLater ends the process of a task after a while, unless it has ended before.
func (d *Daemon) exitLater(k key, t *task, after time.Duration, code uint32) {
	if after <= 0 {
		d.exited(k, t, code)
		return
	}
	time.AfterFunc(after, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.tasks[k] == t {
			d.exited(k, t, code)
		}
	})
}

// exited ends a task's process and tells so.
func (d *Daemon) exited(k key, t *task, code uint32) {
	if t.Status == stopped {
		return
	}
	if t.Status != created || t.begun {
		d.run(k).Live--
	}
	t.Status, t.ExitCode, t.ExitedAt = stopped, code, d.now().UTC()
	d.publish(k.ns, "/tasks/exit", t.exitEvent())
}

func (t *task) exitEvent() *eventtypes.TaskExit {
	return &eventtypes.TaskExit{
		ContainerID: t.ID, ID: t.ID, Pid: t.Pid, ExitStatus: t.ExitCode, ExitedAt: timestamppb.New(t.ExitedAt),
	}
}

func (t *task) deleteEvent() *eventtypes.TaskDelete {
	return &eventtypes.TaskDelete{
		ContainerID: t.ID, Pid: t.Pid, ExitStatus: t.ExitCode, ExitedAt: timestamppb.New(t.ExitedAt),
	}
}

// DeleteTask implements ctrd.Services. A running process is in the way; one that was never started is not.
func (d *Daemon) DeleteTask(ctx context.Context, ns, id string) (ctrd.TaskInfo, error) {
	return writeResult(ctx, d, "DeleteTask", ns, id, func() (ctrd.TaskInfo, error) {
		t, err := d.reach(ctx, ns, id)
		if err != nil {
			return ctrd.TaskInfo{}, err
		}
		if t.Status == running || t.Status == paused || t.begun && t.Status == created {
			return ctrd.TaskInfo{}, fmt.Errorf("cannot delete a %s process: %w", t.Status, errdefs.ErrUnknown)
		}
		if t.Status == created { // it is killed, and nobody waits for how it ends
			d.exited(key{ns, id}, t, 128+uint32(syscall.SIGKILL))
			t.ExitCode, t.ExitedAt = 0, time.Time{}
		}
		delete(d.tasks, key{ns, id})
		if d.deletions++; d.tellsDeletions || d.deletions%untold != 0 {
			d.publish(ns, "/tasks/delete", t.deleteEvent())
		}
		return t.TaskInfo, nil
	})
}

var errNoProcess = errors.New("no such process runs")

// live returns the task whose process lives.
func (d *Daemon) live(k key) (*task, error) {
	t, ok := d.tasks[k]
	if !ok || t.Status == stopped {
		return nil, fmt.Errorf("%s/%s: %w", k.ns, k.id, errNoProcess)
	}
	return t, nil
}

// sortedTasks returns the keys of all tasks in order.
func (d *Daemon) sortedTasks() []key {
	return slices.SortedFunc(maps.Keys(d.tasks), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.ns, b.ns), cmp.Compare(a.id, b.id))
	})
}
