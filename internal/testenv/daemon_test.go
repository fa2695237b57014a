package testenv

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

const busybox = "docker.io/library/busybox:1.36"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// versions are the daemons that every property here has to hold for.
func versions(t *testing.T, prove func(t *testing.T, d *Daemon)) {
	for _, version := range []string{Current, Debian} {
		t.Run(version, func(t *testing.T) { prove(t, NewTB(t, version)) })
	}
}

// namespaceWithTask imports busybox and runs one task called web in a new namespace.
func namespaceWithTask(t *testing.T, d *Daemon) string {
	t.Helper()
	namespace := "kr-test-" + Suffix()
	archive := filepath.Join(t.TempDir(), "busybox.tar")
	if err := SaveArchive(BusyboxImage(), busybox, archive); err != nil {
		t.Fatal(err)
	}
	ctr(t, d, namespace, "images", "import", archive)
	ctr(t, d, namespace, "run", "--detach", busybox, "web", "sleep", "1000")
	return namespace
}

func ctr(t *testing.T, d *Daemon, namespace string, args ...string) string {
	t.Helper()
	out, err := d.Ctr(t.Context(), namespace, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// pidOf returns the pid of a running task, or 0.
func pidOf(t *testing.T, d *Daemon, namespace, id string) int {
	t.Helper()
	for line := range strings.Lines(ctr(t, d, namespace, "tasks", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id && f[2] == "RUNNING" {
			pid, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	return 0
}

func TestTaskOutlivesTheDaemonAndStopLeavesNothing(t *testing.T) {
	versions(t, func(t *testing.T, d *Daemon) {
		namespace := namespaceWithTask(t, d)
		before := pidOf(t, d, namespace, "web")
		if before == 0 {
			t.Fatal("the task does not run")
		}
		if left := d.Leftovers(); len(left) < 5 {
			t.Errorf("Leftovers sees only %q of a running daemon: it would not notice leaks", left)
		}
		if err := d.Kill(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if d.Pid() != 0 {
			t.Errorf("Pid of a killed daemon is %d, want 0", d.Pid())
		}
		if err := d.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := pidOf(t, d, namespace, "web"); after != before {
			t.Errorf("after kill -9 and restart of containerd the task has pid %d, want %d", after, before)
		}
		// A shim that nobody can end politely, a paused task and a mount are the hard cases for Stop, which NewTB checks.
		ctr(t, d, namespace, "run", "--detach", busybox, "paused", "sleep", "1000")
		ctr(t, d, namespace, "tasks", "pause", "paused")
		stopShims(t, d)
	})
}

func TestNamespacesThatWereEmptiedLeaveNothing(t *testing.T) {
	versions(t, func(t *testing.T, d *Daemon) {
		namespace := namespaceWithTask(t, d)
		ctr(t, d, namespace, "tasks", "rm", "--force", "web")
		ctr(t, d, namespace, "containers", "rm", "web")
		if _, err := os.Stat(filepath.Join(runcRoot, namespace)); err != nil {
			t.Fatalf("runc cleans up by itself, so this proves nothing: %v", err)
		}
		// What Reboot sees has to be known to the Leftovers of NewTB.
		if err := Reboot(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	})
}

// stopShims sends SIGSTOP to all shims of the daemon.
func stopShims(t *testing.T, d *Daemon) {
	t.Helper()
	pids, err := findProcesses(d.Dir)
	if err != nil {
		t.Fatal(err)
	}
	stopped := 0
	for _, pid := range pids {
		name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if err != nil || !strings.HasPrefix(string(name), "containerd-shim") {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		stopped++
	}
	if stopped != 2 {
		t.Fatalf("found %d shims among %v, want 2", stopped, pids)
	}
}

func TestAfterARebootContainersAreThereAndTasksAreNot(t *testing.T) {
	versions(t, func(t *testing.T, d *Daemon) {
		namespace := namespaceWithTask(t, d)
		pid := pidOf(t, d, namespace, "web")
		if err := Reboot(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, 0); err == nil {
			if _, zombie := parentOf(pid); !zombie {
				t.Errorf("the workload %d outlived the reboot", pid)
			}
		}
		if got := ctr(t, d, namespace, "containers", "ls", "--quiet"); got != "web\n" {
			t.Errorf("containers after the reboot: %q, want web", got)
		}
		if got := ctr(t, d, namespace, "tasks", "ls", "--quiet"); got != "" {
			t.Errorf("tasks after the reboot: %q, want none", got)
		}
		ctr(t, d, namespace, "tasks", "start", "--detach", "web")
		if pidOf(t, d, namespace, "web") == 0 {
			t.Error("the container cannot be started again")
		}
	})
}

func TestADaemonWhoseOwnerDiedIsSweptByTheNextStart(t *testing.T) {
	dead, err := Start(t.Context(), Options{Version: Current})
	if err != nil {
		t.Fatal(err)
	}
	namespaceWithTask(t, dead)
	// The death of a process releases its locks and stops nothing.
	if err := dead.lock.Close(); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * lockGrace)
	if err := os.Chtimes(filepath.Join(dead.Dir, lockName), old, old); err != nil {
		t.Fatal(err)
	}
	NewTB(t, Current)
	if left := dead.Leftovers(); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	<-dead.exited
}

func TestAnUnknownVersionSaysWhichThereAre(t *testing.T) {
	_, err := Start(t.Context(), Options{Version: "9.9"})
	if err == nil || !strings.Contains(err.Error(), "2.4, 1.7, 1.6") {
		t.Errorf("got %v", err)
	}
}

func TestAnImageHasTheSameDigestByArchiveAndByRegistry(t *testing.T) {
	versions(t, func(t *testing.T, d *Daemon) {
		registry, err := NewRegistry(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := registry.Close(); err != nil {
				t.Error(err)
			}
		})
		client, err := containerd.New(d.Address, containerd.WithDefaultNamespace("kr-test-"+Suffix()))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for tag, img := range SmallImages() {
			want, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			ref, err := registry.Push(t.Context(), "small:"+tag, img)
			if err != nil {
				t.Fatal(err)
			}
			pulled := pull(t, client, ref)
			if diff := cmp.Diff(want.String(), pulled); diff != "" {
				t.Errorf("%s (-pushed +pulled):\n%s", tag, diff)
			}
			archive := filepath.Join(t.TempDir(), "image.tar")
			if err := SaveArchive(img, "docker.io/library/small:"+tag, archive); err != nil {
				t.Fatal(err)
			}
			namespace := "kr-test-" + Suffix()
			ctr(t, d, namespace, "images", "import", archive)
			listed := ctr(t, d, namespace, "images", "ls")
			if !strings.Contains(listed, "docker.io/library/small:"+tag) || !strings.Contains(listed, want.String()) {
				t.Errorf("imported %s, listed:\n%s", want, listed)
			}
		}
		if len(registry.Requests()) == 0 {
			t.Error("the registry saw no request")
		}
	})
}

// pull pulls an image and returns its digest.
func pull(t *testing.T, client *containerd.Client, ref string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	img, err := client.Pull(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	return img.Target().Digest.String()
}
