package hosttest_test

import (
	"context"
	"path/filepath"
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
			hosttest.Run(t, func(t *testing.T) hosttest.Subject { return fake(t, version) })
		})
	}
}

// fake is an in-memory containerd with what the suite needs.
func fake(t *testing.T, version string) hosttest.Subject {
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
		Pause:  func(t *testing.T, ns, id string) { check(t, d.Pause(ns, id)) },
		Behave: func(ns, id string, p hosttest.Program) {
			mu.Lock()
			defer mu.Unlock()
			programs[ns+"/"+id] = p
		},
	}
}

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
		Pause: func(t *testing.T, ns, id string) {
			_, err := d.Ctr(t.Context(), ns, "tasks", "pause", id)
			check(t, err)
		},
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
