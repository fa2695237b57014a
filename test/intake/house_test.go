package intake

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kukeon.io/kukeon-reconciler/controllers"
	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/apply"
	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/source"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/internal/store"
	"kukeon.io/kukeon-reconciler/manifests"
)

// house is the whole controller on a real directory, a real store and a containerd in memory, in fake time.
type house struct {
	*controllers.Manager
	daemon *fakectrd.Daemon
	host   *ctrd.Host
	root   string // the manifest directory
	files  *watched
	stop   func()
}

// watched is the real directory; changes are told by the test, for inotify would not wait for fake time.
type watched struct {
	reader  *source.Reader
	changed chan struct{}
}

func (w *watched) Read(ctx context.Context) manifests.Scan { return w.reader.Read(ctx) }
func (w *watched) Changed() <-chan struct{}                { return w.changed }

// newHouse begins with what lies in the directory dir/realms.d; the store and the containers' files are beside it.
func newHouse(t *testing.T, dir string) *house {
	t.Helper()
	h := &house{daemon: fakectrd.New(fakectrd.Options{}), root: filepath.Join(dir, "realms.d")}
	for _, ref := range []string{"docker.io/library/web:1", "docker.io/library/web:2"} {
		config := ocispec.Image{Config: ocispec.ImageConfig{Entrypoint: []string{"/serve"}}}
		h.daemon.Registry.Put(ref, fakectrd.Image{Layers: []string{"base", ref}, Config: config})
	}
	kept, err := store.Open(filepath.Join(dir, "state"))
	must(t, err)
	h.files = &watched{source.NewReader(h.root), make(chan struct{}, 1)}
	h.host = ctrd.New(ctrd.Config{
		Services: h.daemon, Boot: "boot-1", VolumesDir: filepath.Join(dir, "state", "volumes"), FilesDir: filepath.Join(dir, "run", "files"),
		Machine: ctrd.NoMachine{}, Log: logr.Discard(),
		Slots: map[ctrd.SlotKind]ctrd.Slots{ctrd.SlotStart: apply.NewSlots(4), ctrd.SlotStop: apply.NewSlots(4), ctrd.SlotPull: apply.NewSlots(2)},
	})
	h.Manager = controllers.New(controllers.Config{
		Host: h.host, Source: h.files, Store: kept, Template: "kukeon-{realm}", ManagedBy: state.ManagedByDaemon,
		Accept: accept.Settings{PruneSettle: 2 * time.Second}, Rescan: 10 * time.Second, Resync: time.Minute, Log: logr.Discard(), Now: time.Now,
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	h.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		must(t, kept.Close())
	}
	return h
}

// idle lets fake time pass and everything that is due happen.
func (h *house) idle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// look tells of a change, and waits until it was looked at three times: an absence counts at the second.
func (h *house) look() {
	select {
	case h.files.changed <- struct{}{}:
	default:
	}
	h.idle(21 * time.Second)
}

// pids are the processes that run, by namespace and id.
func (h *house) pids(t *testing.T) map[string]uint32 {
	out := map[string]uint32{}
	for _, ns := range []string{"kukeon-main", "kukeon-edge"} {
		tasks, err := h.daemon.Tasks(t.Context(), ns)
		must(t, err)
		for _, task := range tasks {
			out[ns+"/"+task.ID] = task.Pid
		}
	}
	return out
}

func (h *house) realm(name state.RealmName) status.Realm {
	all := h.Realms()
	if at := slices.IndexFunc(all, func(r status.Realm) bool { return r.Name == name }); at >= 0 {
		return all[at]
	}
	return status.Realm{}
}

// feedHouse takes the bad files through the controller, on as many houses as there are cores.
func feedHouse(t *testing.T, g *generator, refused []int) {
	began, fed := time.Now(), 0
	var mu sync.Mutex
	const houses = 2
	t.Run("houses", func(t *testing.T) {
		for i := range houses {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				dir := scratch(t)
				lay(t, filepath.Join(dir, "realms.d"))
				own := *g
				synctest.Test(t, func(t *testing.T) {
					h := newHouse(t, dir)
					defer h.stop()
					h.idle(5 * time.Second)
					if got := len(h.pids(t)); got != 4 {
						t.Fatalf("%d containers run: %s", got, h.realm("main").Message)
					}
					for at := i; at < len(refused); at += houses {
						s := own.specimen(refused[at])
						why := h.feed(t, s)
						mu.Lock()
						fed++
						if why != "" {
							figures.fail(t, s, "the controller: "+why)
						}
						mu.Unlock()
					}
				})
			})
		}
	})
	figures.note(t, fmt.Sprintf("%d through the whole controller on a containerd in memory, 20 s of its time each, in %s", fed, time.Since(began).Round(time.Second)))
}

// feed puts one bad file in place for a while, and says what it changed.
func (h *house) feed(t *testing.T, s specimen) string {
	pids, dump, writes := h.pids(t), h.daemon.Dump(), h.daemon.Writes()
	main, edge := h.realm("main"), h.realm("edge")
	put(t, h.root, s.path, s.data)
	h.look()
	defer func() {
		restore(t, h.root, s.path)
		h.look()
	}()
	if diff := cmp.Diff(pids, h.pids(t)); diff != "" {
		return "processes: " + diff
	}
	if n := h.daemon.Writes() - writes; n != 0 || h.daemon.Dump() != dump {
		return fmt.Sprintf("%d writes to containerd: %v", n, h.daemon.Trace()[len(h.daemon.Trace())-n:])
	}
	now := h.realm("main")
	switch {
	case now.Generation != main.Generation || h.realm("edge").Generation != edge.Generation:
		return "another generation was accepted"
	case !now.Ready || now.Running != 3 || !h.realm("edge").Ready:
		return "not ready any more: " + now.Message
	case s.path == "main.yaml" && now.Frozen == "":
		return "main is not frozen"
	case s.path == "main.yaml" && now.InSync:
		return "main is in sync with a broken file"
	case len(h.Host().Source.Problems) == 0:
		return "the status tells of no problem"
	case len(h.Host().Holds) > 0:
		return fmt.Sprintf("a removal is held: %v", h.Host().Holds)
	}
	return h.stray()
}

// stray names a realm that nobody accepted and that containerd knows all the same.
func (h *house) stray() string {
	for _, r := range h.Realms() {
		if r.Name != "main" && r.Name != "edge" && (r.Generation != 0 || r.Running != 0) {
			return fmt.Sprintf("realm %s has generation %d", r.Name, r.Generation)
		}
	}
	return ""
}
