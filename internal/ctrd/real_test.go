package ctrd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/source"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/testenv"
)

// realHost is a Host on a containerd of its own, with busybox in a namespace of its own.
type realHost struct {
	*testing.T
	*testenv.Daemon
	host  *ctrd.Host
	dir   string
	ns    state.Namespace
	calls atomic.Int64
	woken chan struct{} // a slot of one

	mu        sync.Mutex
	connected []time.Time
}

const busybox = "docker.io/library/busybox:1.36"

func newReal(t *testing.T, version string) *realHost {
	r := &realHost{
		T: t, Daemon: testenv.NewTB(t, version), ns: state.Namespace("kukeon-" + testenv.Suffix()), woken: make(chan struct{}, 1),
	}
	count := func(
		ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		r.calls.Add(1)
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	client, err := ctrd.Dial(r.Address, grpc.WithUnaryInterceptor(count))
	must(t, err)
	t.Cleanup(func() { must(t, client.Close()) })
	r.dir = t.TempDir()
	r.host = ctrd.New(ctrd.Config{
		Services: client, Boot: "boot-1", VolumesDir: filepath.Join(r.dir, "volumes"), FilesDir: filepath.Join(r.dir, "files"),
		Output: files(r.dir), OpenArchive: openArchive, RegistryConfigDir: filepath.Join(r.dir, "certs.d"), Log: logr.Discard(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	up := make(chan struct{}, 1)
	go func() {
		ended <- r.host.Run(ctx, func(state.Namespace) { tell(r.woken) }, func(err error) {
			if err == nil {
				r.mu.Lock()
				r.connected = append(r.connected, time.Now())
				r.mu.Unlock()
				tell(up)
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	<-up
	r.do(plan.EnsureNamespace{Namespace: r.ns, Labels: map[string]string{state.LabelOwner: string(r.owner())}})
	archive := filepath.Join(r.dir, "busybox.tar")
	must(t, testenv.SaveArchive(testenv.BusyboxImage(), busybox, archive))
	_, err = r.Ctr(t.Context(), string(r.ns), "images", "import", "--no-unpack", archive)
	must(t, err)
	r.do(plan.Unpack{Ref: busybox})
	t.Cleanup(r.empty)
	return r
}

func openArchive(path string) (ctrd.Archive, error) { return source.OpenArchive(path) }

func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (r *realHost) owner() state.Owner {
	r.Helper()
	o, err := r.host.Owner(r.Context())
	must(r, err)
	return o
}

// empty removes every container, as a realm's removal does, and proves that nothing of ours is left.
func (r *realHost) empty() {
	ctx := context.Background()
	o, err := r.host.Observe(ctx, r.ns)
	must(r, err)
	for _, c := range o.Containers {
		must(r, r.host.Do(ctx, r.ns, realm, plan.Stop{ID: c.ID}))
		must(r, r.host.Do(ctx, r.ns, realm, plan.Remove{ID: c.ID, SnapshotKey: c.SnapshotKey}))
	}
	o, err = r.host.Observe(ctx, r.ns)
	must(r, err)
	for _, s := range o.Snapshots { // of a record that somebody deleted
		must(r, r.host.Do(ctx, r.ns, realm, plan.RemoveSnapshot{Key: s.Key}))
	}
	r.host.Resync(r.ns)
	o, err = r.host.Observe(ctx, r.ns)
	must(r, err)
	if len(o.Containers)+len(o.Snapshots)+len(o.Leases) > 0 {
		r.Errorf("left over: %+v", o)
	}
}

func (r *realHost) do(op plan.Operation) {
	r.Helper()
	if err := r.host.Do(r.Context(), r.ns, realm, op); err != nil {
		r.Fatal(err)
	}
}

func (r *realHost) create(id string, s state.Spec) {
	r.Helper()
	s.Image = busybox
	r.do(plan.Create{
		ID: state.ContainerID(id), Realm: realm, Spec: s, SnapshotKey: state.SnapshotKey(state.ContainerID(id), s.Digest()),
		Labels: map[string]string{state.LabelOwner: string(r.owner()), "example.com/a.b": "c"},
	})
}

func (r *realHost) start(id string, s state.Spec) {
	r.Helper()
	s.Image = busybox
	r.do(plan.Start{ID: state.ContainerID(id), Spec: s, Digest: s.Digest()})
}

func (r *realHost) run(id string, s state.Spec) {
	r.Helper()
	r.create(id, s)
	r.start(id, s)
}

func (r *realHost) observe() state.Observed {
	r.Helper()
	o, err := r.host.Observe(r.Context(), r.ns)
	must(r, err)
	return o
}

// await looks whenever we are woken until the container is as wanted, and returns it.
func (r *realHost) await(id string, want func(state.ObservedContainer) bool) state.ObservedContainer {
	r.Helper()
	limit := time.After(10 * time.Second)
	for {
		c, _ := r.observe().Find(state.ContainerID(id))
		if want(c) {
			return c
		}
		select {
		case <-r.woken:
		case <-limit:
			r.Fatalf("%s stays %+v", id, c)
		}
	}
}

func (r *realHost) awaitStatus(id string, want state.TaskStatus) state.ObservedContainer {
	r.Helper()
	return r.await(id, func(c state.ObservedContainer) bool { return c.Task.Status == want })
}

// files has the shim write each container's output to a file.
type files string

func (f files) Prepare(
	_ state.RealmName, _ state.Namespace, id state.ContainerID, _ state.Spec, _ int,
) (ctrd.Streams, io.Closer, error) {
	path := "file://" + filepath.Join(string(f), string(id)+".log")
	return ctrd.Streams{Stdout: path, Stderr: path}, nil, nil
}

func (f files) Remove(state.Namespace, state.ContainerID) error { return nil }

func (r *realHost) output(id string) string {
	r.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, id+".log"))
	must(r, err)
	return string(data)
}

// shell is a container that runs a script.
func shell(script string) state.Spec { return state.Spec{Command: []string{"sh", "-c", script}} }

const forever = "trap 'exit 7' TERM; sleep 100000 & wait"

func versions(t *testing.T, f func(*testing.T, *realHost)) {
	for _, v := range []string{testenv.Current, testenv.Debian} {
		t.Run(v, func(t *testing.T) { f(t, newReal(t, v)) })
	}
}

func TestRealContainersLiveAsDeclared(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		s := shell("id; cat /etc/hostname; ping -c1 -W1 127.0.0.1 >/dev/null && echo loopback; echo x >/data/f; " + forever)
		s.Mounts = []state.Mount{{Kind: state.MountTmpfs, Target: "/data"}, {Kind: state.MountVolume, Source: "v", Target: "/v"}}
		r.run("web", s)
		first := r.awaitStatus("web", state.TaskRunning)
		if first.Record == nil || first.RecordProblem != "" || first.Labels["example.com/a.b"] != "c" {
			t.Errorf("recorded as %+v", first)
		}
		if _, ok := state.ParseStarted(first.Labels[state.LabelStarted]); !ok {
			t.Errorf("labels are %v", first.Labels)
		}
		for _, line := range []string{"uid=0(root)", "web\n", "loopback"} {
			r.eventually(func() bool { return strings.Contains(r.output("web"), line) })
		}

		r.do(plan.Stop{ID: "web", Grace: 10 * time.Second})
		stopped := r.awaitStatus("web", state.TaskStopped)
		if stopped.Task.ExitCode != 7 {
			t.Errorf("exit code %d", stopped.Task.ExitCode)
		}
		r.start("web", s)
		if again := r.awaitStatus("web", state.TaskRunning); again.Task.Pid == first.Task.Pid {
			t.Error("it was not restarted")
		}
		r.do(plan.Update{ID: "web", Set: map[string]string{"example.com/a.b": "d", "n/e.w": "1"}, Drop: []string{state.LabelStarted}})
		c := r.await("web", func(c state.ObservedContainer) bool { return c.Labels["n/e.w"] == "1" })
		if c.Labels["example.com/a.b"] != "d" || c.Labels[state.LabelStarted] != "" || c.Labels[state.LabelOwner] == "" {
			t.Errorf("labels are %v", c.Labels)
		}
		r.do(plan.Update{ID: "web", DropRecord: true})
		if c := r.await("web", func(c state.ObservedContainer) bool { return c.Record == nil }); c.RecordProblem != "" {
			t.Errorf("dropped record: %s", c.RecordProblem)
		}
	})
}

func TestARealUserIsLookedUpInTheImage(t *testing.T) {
	r := newReal(t, testenv.Current)
	s := shell("id; " + forever)
	s.User = "app"
	r.run("web", s)
	r.eventually(func() bool { return strings.Contains(r.output("web"), "uid=1000(app) gid=1000(app)") })
}

func TestARealContainerThatIgnoresTermIsKilledAfterItsGrace(t *testing.T) {
	r := newReal(t, testenv.Current)
	r.run("deaf", shell("trap '' TERM; echo ready; while :; do sleep 1; done"))
	r.eventually(func() bool { return strings.Contains(r.output("deaf"), "ready") })
	began := time.Now()
	r.do(plan.Stop{ID: "deaf", Grace: time.Second})
	if took := time.Since(began); took < time.Second || took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	if c := r.awaitStatus("deaf", state.TaskStopped); c.Task.ExitCode != 137 {
		t.Errorf("%+v", c.Task)
	}
}

func TestAPausedRealContainerCanBeStopped(t *testing.T) {
	r := newReal(t, testenv.Current)
	r.run("web", shell("echo ready; "+forever))
	r.eventually(func() bool { return strings.Contains(r.output("web"), "ready") })
	_, err := r.Ctr(t.Context(), string(r.ns), "tasks", "pause", "web")
	must(t, err)
	r.awaitStatus("web", state.TaskPaused)
	r.do(plan.Stop{ID: "web", Grace: 10 * time.Second})
	if c := r.awaitStatus("web", state.TaskStopped); c.Task.ExitCode != 7 {
		t.Errorf("%+v", c.Task)
	}
}

// shim is the process that holds a container's task.
func (r *realHost) shim(id string) int {
	r.Helper()
	c, _ := r.observe().Find(state.ContainerID(id))
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Task.Pid))
	must(r, err)
	var pid, parent int
	var status string
	_, rest, _ := strings.Cut(string(data), ") ")
	_, err = fmt.Sscan(rest, &status, &parent)
	must(r, err)
	if pid = parent; pid <= 1 {
		r.Fatalf("%s has no shim: %s", id, data)
	}
	return pid
}

func TestARealKilledShimIsNoTaskAndAStartSucceedsAtOnce(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		s := shell(forever)
		r.run("web", s)
		r.awaitStatus("web", state.TaskRunning)
		must(t, syscall.Kill(r.shim("web"), syscall.SIGKILL))
		r.host.Resync(r.ns)
		r.await("web", func(c state.ObservedContainer) bool {
			return c.Task.Status == state.TaskNone || c.Task.Status == state.TaskStopped
		})
		r.start("web", s)
		r.awaitStatus("web", state.TaskRunning)
	})
}

func TestARealProcessThatBeganWithoutItsShimsKnowingIsKilledAndStartedAnew(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		s := shell(forever)
		r.run("web", s) // so that the files are there that it mounts
		r.do(plan.Stop{ID: "web"})
		client, err := ctrd.Dial(r.Address)
		must(t, err)
		t.Cleanup(func() { must(t, client.Close()) })
		_, err = client.DeleteTask(t.Context(), string(r.ns), "web")
		must(t, err)
		c, err := client.Container(t.Context(), string(r.ns), "web")
		must(t, err)
		mounts, err := client.SnapshotMounts(t.Context(), string(r.ns), c.Snapshotter, c.SnapshotKey)
		must(t, err)
		first, err := client.CreateTask(t.Context(), string(r.ns), ctrd.TaskRequest{ID: "web", Rootfs: mounts})
		must(t, err)
		// As runc does whose caller is killed just then.
		out, err := exec.CommandContext(t.Context(), "runc", "--root", filepath.Join("/run/containerd/runc", string(r.ns)), "start", "web").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		r.eventually(func() bool { // its execve has come
			comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", first))
			return err == nil && !strings.HasPrefix(string(comm), "runc:[")
		})
		var waiting *outcome.Waiting
		if err := r.host.Do(t.Context(), r.ns, realm, plan.Start{ID: "web", Spec: s, Digest: s.Digest()}); !errors.As(err, &waiting) {
			t.Errorf("at first: %v", err)
		}
		r.start("web", s)
		if now := r.awaitStatus("web", state.TaskRunning).Task.Pid; now == first {
			t.Errorf("it is still process %d", now)
		}
	})
}

func TestARealHungShimIsUnknownUntilItAnswers(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		r.run("good", shell(forever))
		r.run("hung", shell(forever))
		r.awaitStatus("hung", state.TaskRunning)
		shim := r.shim("hung")
		must(t, syscall.Kill(shim, syscall.SIGSTOP))
		t.Cleanup(func() { _ = syscall.Kill(shim, syscall.SIGCONT) }) // it may have ended
		r.eventually(func() bool {
			r.host.Resync(r.ns)
			c, _ := r.observe().Find("hung")
			return c.Task.Status == state.TaskUnknown
		})
		began := time.Now()
		r.host.Resync(r.ns)
		r.awaitStatus("good", state.TaskRunning)
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("the others were seen after %s", took)
		}
		must(t, syscall.Kill(shim, syscall.SIGCONT))
		r.awaitStatus("hung", state.TaskRunning)
	})
}

func TestARealSnapshotThatIsRemovedIsMissing(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		r.create("web", shell(forever))
		key := r.await("web", func(c state.ObservedContainer) bool { return c.Recorded }).SnapshotKey
		_, err := r.Ctr(t.Context(), string(r.ns), "snapshots", "rm", key)
		must(t, err)
		r.host.Resync(r.ns) // older daemons tell nothing of snapshots
		r.await("web", func(c state.ObservedContainer) bool { return c.SnapshotMissing })
	})
}

func TestARealTaskWithoutARecordIsSeenAndCleaned(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		r.run("web", shell(forever))
		pid := r.awaitStatus("web", state.TaskRunning).Task.Pid
		client, err := ctrd.Dial(r.Address)
		must(t, err)
		t.Cleanup(func() { must(t, client.Close()) })
		must(t, client.DeleteContainer(t.Context(), string(r.ns), "web"))
		r.await("web", func(c state.ObservedContainer) bool { return !c.Recorded && c.Task.Status == state.TaskRunning })
		r.do(plan.Clean{ID: "web"})
		r.eventually(func() bool { // events that are still on their way make a look at it inconclusive
			_, there := r.observe().Find("web")
			return !there
		})
		if err := syscall.Kill(int(pid), 0); err == nil {
			r.eventually(func() bool { return syscall.Kill(int(pid), 0) != nil })
		}
	})
}

func TestARealDaemonThatComesBackIsFollowedWithinTwoSeconds(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		r.run("web", shell(forever))
		pid := r.awaitStatus("web", state.TaskRunning).Task.Pid
		must(t, r.Kill(syscall.SIGKILL))
		r.eventually(func() bool { _, err := r.host.Observe(t.Context(), r.ns); return err != nil })
		must(t, r.Restart(t.Context()))
		back := time.Now()
		r.eventually(func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.connected) > 1
		})
		if took := time.Since(back); took > 2*time.Second {
			t.Errorf("reconnected after %s", took)
		}
		if c := r.awaitStatus("web", state.TaskRunning); c.Task.Pid != pid {
			t.Errorf("pid %d became %d", pid, c.Task.Pid)
		}
		r.do(plan.Stop{ID: "web", Grace: time.Second})
		r.awaitStatus("web", state.TaskStopped)
	})
}

func TestLookingAtFiftyRealContainersCostsNoCall(t *testing.T) {
	r := newReal(t, testenv.Current)
	errs, slots := make(chan error), make(chan struct{}, 4)
	ids := names(50)
	for _, id := range ids {
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			s := shell(forever)
			s.Image = busybox
			err := r.host.Do(t.Context(), r.ns, realm, plan.Create{
				ID: state.ContainerID(id), Spec: s, SnapshotKey: id, Labels: map[string]string{state.LabelOwner: string(r.owner())},
			})
			if err == nil {
				err = r.host.Do(t.Context(), r.ns, realm, plan.Start{ID: state.ContainerID(id), Spec: s, Digest: s.Digest()})
			}
			errs <- err
		}()
	}
	began := time.Now()
	for range ids {
		must(t, <-errs)
	}
	t.Logf("50 containers created and started in %s with %d calls", time.Since(began), r.calls.Load())
	for _, id := range ids {
		r.awaitStatus(id, state.TaskRunning)
	}
	calls, began := r.calls.Load(), time.Now()
	const looks = 200
	for range looks {
		if got := len(r.observe().Containers); got != 50 {
			t.Fatalf("%d containers", got)
		}
	}
	t.Logf("one look takes %s", time.Since(began)/looks)
	if got := r.calls.Load() - calls; got > 0 {
		t.Errorf("%d looks made %d calls", looks, got)
	}
}

func (r *realHost) eventually(ok func() bool) {
	r.Helper()
	limit := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			r.Fatal("it does not happen")
		}
	}
}
