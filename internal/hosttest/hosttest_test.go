package hosttest_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/hosttest"
	"kukeon.io/kukeon-reconciler/internal/testenv"
)

const busybox = "docker.io/library/busybox:1.36"

func TestTheFakePasses(t *testing.T) {
	for _, version := range []string{"2.4", "1.6"} {
		t.Run(version, func(t *testing.T) {
			hosttest.Run(t, func(*testing.T) hosttest.Subject { return fake(version) })
		})
	}
}

// fake is an in-memory containerd with what the suite needs.
func fake(version string) hosttest.Subject {
	d := fakectrd.New(fakectrd.Options{Version: version})
	image := fakectrd.Image{Layers: []string{"base", "web"}}
	d.Registry.Put("registry.example.com/web:1", image)
	d.Registry.Fail("127.0.0.1:1/none:1", syscall.ECONNREFUSED)
	var mu sync.Mutex
	programs := map[string]hosttest.Program{}
	d.Behave(func(ns, id string, _ int) (fakectrd.Process, bool) {
		mu.Lock()
		defer mu.Unlock()
		switch programs[ns+"/"+id] {
		case hosttest.Fails:
			return fakectrd.Process{ExitAfter: -1, ExitCode: 3}, true
		case hosttest.Gentle:
			return fakectrd.Process{TermCode: 7}, true
		}
		return fakectrd.Process{IgnoreTerm: true}, true
	})
	return hosttest.Subject{
		Services: d,
		Version:  version,
		Suffix:   "fake",
		Image: func(t *testing.T, ns string) string {
			check(t, d.Import(ns, busybox, image, true))
			return busybox
		},
		Remote: func(*testing.T) string { return "registry.example.com/web:1" },
		Archive: func(*testing.T) ([]byte, string) {
			return fakectrd.Archive(map[string]fakectrd.Image{busybox: image}), busybox
		},
		World: fakeWorld{d},
		Behave: func(ns, id string, p hosttest.Program) {
			mu.Lock()
			defer mu.Unlock()
			programs[ns+"/"+id] = p
		},
	}
}

// fakeWorld gives the fake's outages the names of the suite.
type fakeWorld struct{ *fakectrd.Daemon }

func (w fakeWorld) Kill() error  { w.Down(); return nil }
func (w fakeWorld) Start() error { w.Up(); return nil }

func TestRealDaemonsPass(t *testing.T) {
	for _, version := range []string{testenv.Current, testenv.Debian} {
		t.Run(version, func(t *testing.T) {
			s := realDaemon(t, version)
			hosttest.Run(t, func(*testing.T) hosttest.Subject { return s })
		})
	}
}

// realDaemon starts a containerd for all cases.
func realDaemon(t *testing.T, version string) hosttest.Subject {
	d := testenv.NewTB(t, version)
	client, err := ctrd.Dial(d.Address)
	check(t, err)
	t.Cleanup(func() { check(t, client.Close()) })
	registry, err := testenv.NewRegistry(context.Background())
	check(t, err)
	t.Cleanup(func() { check(t, registry.Close()) })
	archive := filepath.Join(t.TempDir(), "busybox.tar")
	check(t, testenv.SaveArchive(testenv.BusyboxImage(), busybox, archive))
	return hosttest.Subject{
		Services: client,
		Version:  version,
		Suffix:   testenv.Suffix(),
		Image: func(t *testing.T, ns string) string {
			_, err := d.Ctr(t.Context(), ns, "images", "import", archive)
			check(t, err)
			return busybox
		},
		Remote: func(t *testing.T) string {
			ref, err := registry.Push(t.Context(), "busybox:1.36", testenv.BusyboxImage())
			check(t, err)
			return ref
		},
		Archive: func(t *testing.T) ([]byte, string) {
			file, err := os.ReadFile(archive)
			check(t, err)
			return file, busybox
		},
		World: realWorld{d},
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// realWorld sends signals to the processes of a real daemon.
type realWorld struct{ daemon *testenv.Daemon }

func (w realWorld) Pause(ns, id string) error {
	_, err := w.daemon.Ctr(context.Background(), ns, "tasks", "pause", id)
	return err
}

// HangShim returns when every thread of the shim has stopped.
func (w realWorld) HangShim(ns, id string) error {
	shim, err := w.shim(ns, id)
	if err != nil {
		return err
	}
	if err := syscall.Kill(shim, syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		threads, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(shim), "task", "*", "stat"))
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(threads, func(file string) bool { return statFields(file)[0] != "T" }) {
			return nil
		}
	}
}

func (w realWorld) UnhangShim(ns, id string) error {
	shim, err := w.shim(ns, id)
	if err != nil {
		return err
	}
	return syscall.Kill(shim, syscall.SIGCONT)
}

func (w realWorld) KillShim(ns, id string) error {
	shim, err := w.shim(ns, id)
	if err != nil {
		return err
	}
	return syscall.Kill(shim, syscall.SIGKILL)
}

func (w realWorld) Kill() error  { return w.daemon.Kill(syscall.SIGKILL) }
func (w realWorld) Start() error { return w.daemon.Restart(context.Background()) }

// shim finds a task's shim by what containerd wrote for it: the daemon may be away, and a hung shim does not answer.
func (w realWorld) shim(ns, id string) (int, error) {
	init, err := os.ReadFile(filepath.Join(w.daemon.State, "io.containerd.runtime.v2.task", ns, id, "init.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(statFields(filepath.Join("/proc", string(init), "stat"))[1])
}

// statFields returns what stands behind the name in a stat file of /proc: state and parent first. For a process or
// thread that is gone they are empty.
func statFields(file string) []string {
	stat, err := os.ReadFile(file)
	if err != nil {
		return []string{"", ""}
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
}
