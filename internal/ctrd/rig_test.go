package ctrd_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"github.com/go-logr/logr"
	"google.golang.org/protobuf/types/known/anypb"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

const (
	ns    state.Namespace = "kukeon-main"
	realm state.RealmName = "main"
	ref                   = "docker.io/library/web:1"
)

// rig is a Host on a fake daemon, with its events followed.
type rig struct {
	*testing.T
	*fakectrd.Daemon
	host *ctrd.Host
	stop func()

	mu    sync.Mutex
	wakes int
}

// newRig starts a Host inside the caller's synctest bubble.
func newRig(t *testing.T, o fakectrd.Options) *rig {
	r := &rig{T: t, Daemon: fakectrd.New(o)}
	r.restart()
	t.Cleanup(func() { r.stop() })
	return r
}

// restart puts a new Host, which knows nothing yet, into the place of the one there is.
func (r *rig) restart() {
	if r.stop != nil {
		r.stop()
	}
	r.host = ctrd.New(config(r.T, r.Daemon))
	ctx, cancel := context.WithCancel(r.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- r.host.Run(ctx, func(state.Namespace) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.wakes++
		}, func(error) {})
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			r.Errorf("Run: %v", err)
		}
	})
	time.Sleep(time.Second) // past the second look that follows every connection
	synctest.Wait()
}

func config(t testing.TB, d ctrd.Services) ctrd.Config {
	return ctrd.Config{
		Services: d, Boot: "boot-1", VolumesDir: t.TempDir(), FilesDir: t.TempDir(), Machine: ctrd.NoMachine{}, Log: logr.Discard(),
	}
}

func (r *rig) woken() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wakes
}

// do carries an operation out and fails the test when that fails.
func (r *rig) do(op plan.Operation) {
	r.Helper()
	if err := r.host.Do(r.Context(), ns, realm, op); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) observe() state.Observed {
	r.Helper()
	o, err := r.host.Observe(r.Context(), ns)
	if err != nil {
		r.Fatal(err)
	}
	return o
}

// see returns a container as observed once every event has arrived.
func (r *rig) see(id string) state.ObservedContainer {
	r.Helper()
	synctest.Wait()
	c, ok := r.observe().Find(state.ContainerID(id))
	if !ok {
		return state.ObservedContainer{Task: state.Task{Status: state.TaskNone}}
	}
	return c
}

// settle makes the namespace with a usable image.
func (r *rig) settle() {
	r.Helper()
	r.do(plan.EnsureNamespace{Namespace: ns, Labels: map[string]string{
		state.LabelOwner: string(r.owner()), state.LabelRealm: string(realm),
	}})
	if err := r.Import(string(ns), ref, fakectrd.Image{}, true); err != nil {
		r.Fatal(err)
	}
	r.observe()
}

func (r *rig) owner() state.Owner {
	o, err := r.host.Owner(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	return o
}

func spec() state.Spec {
	return state.Spec{
		Image: ref, Command: []string{"serve"}, Restart: state.Restart{Policy: state.RestartAlways, BackoffSeconds: 1},
		Stop: state.StopSettings{GraceSeconds: 10},
	}
}

func create(owner state.Owner, id string) plan.Create {
	return plan.Create{
		ID: state.ContainerID(id), Realm: realm, Spec: spec(), SnapshotKey: state.SnapshotKey(state.ContainerID(id), spec().Digest()),
		Labels: map[string]string{
			state.LabelOwner: string(owner), state.LabelRealm: string(realm), state.LabelContainer: id, "tier": "front",
		},
	}
}

func start(id string) plan.Start {
	return plan.Start{ID: state.ContainerID(id), Spec: spec(), Digest: spec().Digest(), Labels: map[string]string{state.LabelRestarts: "1"}}
}

// run makes containers that run.
func (r *rig) run(ids ...string) {
	r.Helper()
	for _, id := range ids {
		r.do(create(r.owner(), id))
		r.do(start(id))
	}
}

func names(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("c%02d", i))
	}
	return out
}

// inBubble runs a test with fake time.
func inBubble(t *testing.T, f func(*testing.T)) { synctest.Test(t, f) }

// SetContainerLabel changes a label as a person at a shell does.
func (r *rig) SetContainerLabel(id, k, v string) error {
	return r.UpdateContainer(fakectrd.AsPerson(r.Context()), string(ns), containers.Container{ID: id, Labels: map[string]string{k: v}}, "labels."+k)
}

// SetExtension overwrites our extension.
func (r *rig) SetExtension(id string, value []byte) error {
	return r.UpdateContainer(fakectrd.AsPerson(r.Context()), string(ns), containers.Container{
		ID: id, Extensions: map[string]typeurl.Any{state.ExtensionSpec: &anypb.Any{TypeUrl: "x", Value: value}},
	}, "extensions."+state.ExtensionSpec)
}
