package controllers_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kukeon.io/kukeon-reconciler/controllers"
	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/apply"
	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/manifests"
)

// house is a whole host in memory: a directory of manifests, a store, a fake containerd, and the manager between
// them. It lives inside a synctest bubble, where time is fake and idle() is exact.
type house struct {
	t      *testing.T
	daemon *fakectrd.Daemon
	files  *directory
	store  *memory
	*controllers.Manager
	host *ctrd.Host
	boot string
	log  logr.Logger
	stop func()
	// observe starts the manager so that it writes nothing; over, when set, stands between it and ctrd.
	observe bool
	over    func(controllers.Host) controllers.Host
}

const web = "docker.io/library/web:1"

func newHouse(t *testing.T) *house {
	h := &house{
		t: t, daemon: fakectrd.New(fakectrd.Options{}), files: newDirectory(), boot: "boot-1", log: logr.Discard(),
		store: &memory{done: map[state.RealmName]map[state.ContainerID]state.Completion{}},
	}
	for _, ref := range []string{web, "docker.io/library/web:2"} {
		config := ocispec.Image{Config: ocispec.ImageConfig{Entrypoint: []string{"/serve"}}}
		h.daemon.Registry.Put(ref, fakectrd.Image{Layers: []string{"base", ref}, Config: config})
	}
	return h
}

// start runs a new manager, as a new process would: nothing but store, directory and containerd is carried over.
func (h *house) start() {
	slots := map[ctrd.SlotKind]ctrd.Slots{ctrd.SlotStart: apply.NewSlots(4), ctrd.SlotStop: apply.NewSlots(4), ctrd.SlotPull: apply.NewSlots(2)}
	h.host = ctrd.New(ctrd.Config{
		Services: h.daemon, Boot: h.boot, VolumesDir: h.t.TempDir(), FilesDir: h.t.TempDir(),
		Machine: ctrd.NoMachine{}, Slots: slots, Log: logr.Discard(),
	})
	host := controllers.Host(h.host)
	if h.over != nil {
		host = h.over(host)
	}
	h.Manager = controllers.New(controllers.Config{
		Host: host, Observe: h.observe, Source: h.files, Store: h.store, Template: "kukeon-{realm}", ManagedBy: state.ManagedByDaemon,
		Accept: accept.Settings{PruneSettle: 2 * time.Second}, Rescan: 10 * time.Second, Resync: time.Minute,
		Log: h.log, Now: time.Now,
	})
	ctx, cancel := context.WithCancel(h.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Manager.Run(ctx) }()
	h.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Error(err)
		}
	}
}

// idle lets the time pass and everything that is due happen.
func (h *house) idle(d time.Duration) {
	time.Sleep(d) // fake time: returns when every goroutine has done what was due by then
	synctest.Wait()
}

func (h *house) realm(name string) status.Realm {
	for _, r := range h.Realms() {
		if string(r.Name) == name {
			return r
		}
	}
	return status.Realm{}
}

// pids are the processes that run in a namespace.
func (h *house) pids(ns string) map[string]uint32 {
	out := map[string]uint32{}
	tasks, err := h.daemon.Tasks(h.t.Context(), ns)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, task := range tasks {
		if task.Status == string(state.TaskRunning) {
			out[task.ID] = task.Pid
		}
	}
	return out
}

// realm is a manifest with containers of image web:1, one a name.
func realm(name string, containers ...string) string {
	s := fmt.Sprintf("apiVersion: v1beta1\nkind: Realm\nmetadata: {name: %s}\nspec:\n  containers: ", name)
	if len(containers) == 0 {
		return s + "[]\n"
	}
	for _, c := range containers {
		s += fmt.Sprintf("\n  - {id: %s, image: web:1}", c)
	}
	return s + "\n"
}

// directory is a manifest directory in memory.
type directory struct {
	mu      sync.Mutex
	files   map[string]string
	missing bool
	changed chan struct{}
}

func newDirectory() *directory {
	return &directory{files: map[string]string{}, changed: make(chan struct{}, 1)}
}

func (d *directory) write(path, content string) {
	d.edit(func() { d.files[path] = content })
}

func (d *directory) remove(path string) { d.edit(func() { delete(d.files, path) }) }

func (d *directory) edit(change func()) {
	d.mu.Lock()
	change()
	d.mu.Unlock()
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

func (d *directory) Changed() <-chan struct{} { return d.changed }

func (d *directory) Read(context.Context) manifests.Scan {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := manifests.Scan{Root: "/realms.d", Exists: !d.missing, Complete: !d.missing, At: time.Now()}
	if d.missing {
		return s
	}
	s.Identity = manifests.ScanIdentity{Device: 1, Inode: 1}
	sum := fnv.New64a()
	for _, path := range slices.Sorted(maps.Keys(d.files)) {
		fmt.Fprintln(sum, path, d.files[path])
		f := manifests.Decode(path, []byte(d.files[path]))
		s.Files = append(s.Files, f)
		s.Complete = s.Complete && !f.Opaque
	}
	s.Fingerprint = fmt.Sprint(sum.Sum64())
	return s
}

// memory is a store that forgets nothing while its house stands.
type memory struct {
	mu        sync.Mutex
	accepted  state.Accepted
	done      map[state.RealmName]map[state.ContainerID]state.Completion
	imports   map[state.RealmName][]state.Import
	suspended []state.Suspension
	full      error // what saving says
	// forgetFails is what forgetting says.
	forgetFails error
}

func (m *memory) Load() (state.Accepted, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.accepted, nil
}

func (m *memory) Save(a state.Accepted) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full != nil {
		return m.full
	}
	m.accepted = a
	return nil
}

func (m *memory) Completions(realm state.RealmName) map[state.ContainerID]state.Completion {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.done[realm])
}

func (m *memory) Complete(realm state.RealmName, id state.ContainerID, c state.Completion) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.done[realm] == nil {
		m.done[realm] = map[state.ContainerID]state.Completion{}
	}
	m.done[realm][id] = c
	return nil
}

func (m *memory) Imports(realm state.RealmName) []state.Import {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.imports[realm]
}

func (m *memory) SetImports(realm state.RealmName, imports []state.Import) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.imports == nil {
		m.imports = map[state.RealmName][]state.Import{}
	}
	m.imports[realm] = imports
	return nil
}

func (m *memory) Forget(realm state.RealmName, ids ...state.ContainerID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.forgetFails != nil {
		return m.forgetFails
	}
	if len(ids) == 0 {
		delete(m.done, realm)
		delete(m.imports, realm)
	}
	for _, id := range ids {
		delete(m.done[realm], id)
	}
	return nil
}

func (m *memory) Suspensions() []state.Suspension {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.suspended)
}

func (m *memory) Suspend(s state.Suspension) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.suspended = append(m.suspended, s)
	return nil
}

func (m *memory) Resume(realm state.RealmName, id state.ContainerID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.suspended = slices.DeleteFunc(m.suspended, func(s state.Suspension) bool { return s.Realm == realm && s.Container == id })
	return nil
}
