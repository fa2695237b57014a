package tracetest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/identifiers"

	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/tracetest"
)

// fakeWorld gives the fake what the traces need.
type fakeWorld struct {
	daemon *fakectrd.Daemon
	images map[string]fakectrd.Image

	mu       sync.Mutex
	programs map[string]tracetest.Program
}

// newFake returns a fake of the version whose registry serves what the real one's does. It collects garbage only when
// it is told to.
func newFake(ctx context.Context, version string, like *realDaemon) (*tracetest.Side, error) {
	w := &fakeWorld{
		daemon:   fakectrd.New(fakectrd.Options{Version: version, GCDelay: -1}),
		images:   map[string]fakectrd.Image{},
		programs: map[string]tracetest.Program{},
	}
	for name, config := range like.configs {
		w.images[name] = fakectrd.Image{Layers: like.layers[name], Config: config}
	}
	w.daemon.Behave(w.behave)
	s := &tracetest.Side{Services: w.daemon, World: w, Refs: like.side.Refs}
	s.Archive = fakectrd.Archive(map[string]fakectrd.Image{s.Refs["imported"]: w.images["B"]})
	w.daemon.Registry.Put(s.Refs["A"], w.images["A"])
	w.daemon.Registry.Put(s.Refs["B"], w.images["B"])
	w.daemon.Registry.Fail(s.Refs["unreachable"], syscall.ECONNREFUSED)
	var err error
	s.Names, err = s.Learn(ctx, "learn")
	return s, err
}

func (w *fakeWorld) Program(ns, id string, p tracetest.Program) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.programs[ns+"/"+id] = p
}

func (w *fakeWorld) behave(ns, id string, _ int) (fakectrd.Process, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.programs[ns+"/"+id] {
	case tracetest.Fails:
		return fakectrd.Process{ExitAfter: -1, ExitCode: 3}, true
	case tracetest.Steerable:
		return fakectrd.Process{TermCode: 7}, true
	case tracetest.Absent:
		return fakectrd.Process{FailCreate: true}, true
	}
	return fakectrd.Process{IgnoreTerm: true}, true
}

// Import fails without a kind, as ctr does.
func (w *fakeWorld) Import(_ context.Context, ns, ref string, unpack bool) error {
	if err := w.daemon.Import(ns, ref, w.images["B"], unpack); err != nil {
		return fmt.Errorf("ctr: %v", err) //nolint:errorlint // a process's exit has no kind
	}
	return nil
}

func (w *fakeWorld) Retag(_ context.Context, ref, image string) error {
	w.daemon.Registry.Put(ref, w.images[image])
	return nil
}

func (w *fakeWorld) Pause(_ context.Context, ns, id string) error {
	if err := identifiers.Validate(ns); err != nil {
		return err
	}
	return w.daemon.Pause(ns, id)
}

func (w *fakeWorld) Signal(_ context.Context, p tracetest.Process, signal int) error {
	switch {
	case signal == int(syscall.SIGKILL):
		return w.daemon.Exit(p.NS, p.ID, 137)
	case p.Program != tracetest.Steerable:
		return nil
	case signal == int(syscall.SIGUSR1):
		return w.daemon.Exit(p.NS, p.ID, 3)
	case signal == int(syscall.SIGUSR2):
		return w.daemon.Exit(p.NS, p.ID, 0)
	}
	return errors.New("what it does is not known")
}

func (w *fakeWorld) KillShim(_ context.Context, p tracetest.Process) error {
	return w.daemon.KillShim(p.NS, p.ID)
}

func (w *fakeWorld) Ready(context.Context, tracetest.Process) error { return nil }
func (w *fakeWorld) Output(string, string) string                   { return "" }
func (w *fakeWorld) Collect(context.Context) error                  { w.daemon.GC(); return nil }
func (w *fakeWorld) Down(bool) error                                { w.daemon.Down(); return nil }
func (w *fakeWorld) Up(context.Context) error                       { w.daemon.Up(); return nil }
