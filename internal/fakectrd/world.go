package fakectrd

import (
	"fmt"
	"maps"
	"syscall"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
)

// Behave has f tell how the processes of containers behave, run counting from 1; where it says false, the image
// decides.
func (d *Daemon) Behave(f func(ns, id string, run int) (Process, bool)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.behave = f
}

// Run tells about the processes that a container has had so far.
func (d *Daemon) Run(ns, id string) Run {
	d.mu.Lock()
	defer d.mu.Unlock()
	return *d.run(key{ns, id})
}

// Runs calls f for every container that ever had a process.
func (d *Daemon) Runs(f func(ns, id string, r Run)) {
	d.mu.Lock()
	all := map[key]Run{}
	for k, r := range d.processes {
		all[k] = *r
	}
	d.mu.Unlock()
	for k, r := range all {
		f(k.ns, k.id, r)
	}
}

// Exit has the process of a task end by itself.
func (d *Daemon) Exit(ns, id string, code uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.live(key{ns, id})
	if err != nil {
		return err
	}
	d.exited(key{ns, id}, t, code)
	return nil
}

// Rouse has the process of a task react to signals again that ignored even SIGKILL; those it got meanwhile end it.
func (d *Daemon) Rouse(ns, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.live(key{ns, id})
	if err != nil {
		return err
	}
	if t.process.Unkillable {
		t.process.Unkillable = false
		d.deliver(key{ns, id}, t)
	}
	return nil
}

// OOM has the kernel kill the process of a task for its memory.
func (d *Daemon) OOM(ns, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.live(key{ns, id})
	if err != nil {
		return err
	}
	d.publish(ns, "/tasks/oom", &eventtypes.TaskOOM{ContainerID: id})
	d.exited(key{ns, id}, t, 128+uint32(syscall.SIGKILL))
	return nil
}

// CutStart has the process of a created task begin without its shim's knowing, as when containerd is killed while runc
// starts it: the task stays created, and can be neither started nor deleted until its process is killed.
func (d *Daemon) CutStart(ns, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := key{ns, id}
	t, ok := d.tasks[k]
	if !ok || t.Status != created || t.begun || t.hung != nil || t.process.FailStart {
		return fmt.Errorf("%s/%s: %w", ns, id, errNoProcess)
	}
	t.begun = true
	d.begin(k, t)
	return nil
}

// Unaware reports whether a task's process runs and its shim does not know.
func (d *Daemon) Unaware(ns, id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.tasks[key{ns, id}]
	return ok && t.begun && t.Status == created
}

// Begun is what ctrd.Machine tells of a task's process.
func (d *Daemon) Begun(pid uint32) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.tasks {
		if t.Pid == pid {
			return t.begun || t.Status == running || t.Status == paused, nil
		}
	}
	return false, nil
}

// Pause freezes a task's process, as `ctr tasks pause` does.
func (d *Daemon) Pause(ns, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.task(ns, id)
	if err != nil {
		return err
	}
	if t.Status != running {
		return fmt.Errorf("cannot pause a %s process: %w", t.Status, errdefs.ErrUnknown)
	}
	t.Status = paused
	d.publish(ns, "/tasks/paused", &eventtypes.TaskPaused{ContainerID: id})
	return nil
}

// KillShim kills a task's shim. The task is NotFound at once, its process ends, and the id cannot be created again
// until the cleanup is done, which is also when exit and deletion are told. While the daemon is down nobody cleans
// up: the process runs on until the daemon is back.
func (d *Daemon) KillShim(ns, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := key{ns, id}
	t, ok := d.tasks[k]
	if !ok {
		return notFound("task", id)
	}
	delete(d.tasks, k)
	t.unhang()
	d.busy[k] = true
	if !d.down {
		d.cleanUpShim(k, t)
		return nil
	}
	d.tasks[k] = t // Up finds the dead shim's bundle and cleans up after it
	return nil
}

// cleanUpShim ends what a dead shim left behind.
func (d *Daemon) cleanUpShim(k key, t *task) {
	if t.Status == running || t.Status == paused || t.Status == created && t.begun {
		d.run(k).Live--
	}
	if t.Status != stopped {
		t.Status, t.ExitCode, t.ExitedAt = stopped, 128+uint32(syscall.SIGKILL), d.now().UTC()
	}
	time.AfterFunc(ShimCleanup, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.busy, k)
		d.publish(k.ns, "/tasks/exit", t.exitEvent())
		d.publish(k.ns, "/tasks/delete", t.deleteEvent())
	})
}

// HangShim stops a task's shim, as SIGSTOP does; its process runs on.
func (d *Daemon) HangShim(ns, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.tasks[key{ns, id}]
	if !ok {
		return notFound("task", id)
	}
	if t.hung == nil {
		t.hung = make(chan struct{})
	}
	return nil
}

// UnhangShim lets a hung shim go on, with everything that it was asked meanwhile.
func (d *Daemon) UnhangShim(ns, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.tasks[key{ns, id}]
	if !ok {
		return notFound("task", id)
	}
	t.unhang()
	d.deliver(key{ns, id}, t)
	return nil
}

// unhang wakes all who wait for the shim.
func (t *task) unhang() {
	if t.hung != nil {
		close(t.hung)
		t.hung = nil
	}
}

// Down kills the daemon: every call fails with Unavailable and the event streams end. Processes run on.
func (d *Daemon) Down() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = true
	d.downs++
	d.disconnect()
	for _, t := range d.tasks {
		if t.hung != nil { // nobody waits for it any more
			close(t.hung)
			t.hung = make(chan struct{})
		}
	}
}

// Up starts the daemon again. 2.x forgets stopped tasks without a word; 1.6 keeps them and tells their exits again, to
// the first who subscribes.
func (d *Daemon) Up() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.down {
		return
	}
	d.down = false
	for _, k := range d.sortedTasks() {
		t := d.tasks[k]
		switch {
		case d.busy[k]:
			delete(d.tasks, k)
			d.cleanUpShim(k, t)
		case t.Status != stopped:
		case d.keepsStopped:
			d.resend = append(d.resend, d.envelope(k.ns, "/tasks/exit", t.exitEvent()))
		default:
			delete(d.tasks, k)
		}
	}
	d.scheduleGC()
}

// Restart is Down and Up at once.
func (d *Daemon) Restart() {
	d.Down()
	d.Up()
}

// Reboot restarts the host: every process and every task is gone, and nobody heard of it.
func (d *Daemon) Reboot() {
	d.Down()
	d.mu.Lock()
	for _, r := range d.processes {
		r.Live = 0
	}
	clear(d.tasks)
	clear(d.busy)
	d.mu.Unlock()
	d.Up()
}

// Import puts an image into a namespace, as `ctr images import` does.
func (d *Daemon) Import(ns, ref string, i Image, unpacked bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.open(ns)
	if err != nil {
		return err
	}
	i = i.complete()
	d.addContent(n, nil, i)
	if unpacked {
		d.unpack(ns, n, nil, n.blobs[i.descriptor().Digest.String()], "overlayfs")
	}
	if old, ok := n.images[ref]; ok { // ctr mostly replaces a record as a whole
		if !d.quirks.ctrKeepsLabels {
			old.Labels = map[string]string{}
		}
		old.Target, old.UpdatedAt = i.descriptor(), d.now().UTC()
		d.publish(ns, "/images/update", &eventtypes.ImageUpdate{Name: ref, Labels: maps.Clone(old.Labels)})
		d.scheduleGC()
		return nil
	}
	_, err = d.putImage(ns, n, ref, i, nil)
	return err
}

// RestoreContent brings an image's content back.
func (d *Daemon) RestoreContent(ns string, i Image) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addContent(d.look(ns), nil, i.complete())
}

// LoseContent takes an image's content away and leaves its record, as a damaged content store does.
func (d *Daemon) LoseContent(ns, ref string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.look(ns)
	if _, err := n.content(ref); err != nil {
		return err
	}
	delete(n.blobs, n.images[ref].Target.Digest.String())
	return nil
}
