package ctrd_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// haunted is a machine on which a container's former processes live on.
type haunted struct {
	ctrd.NoMachine
	pids []int
}

// Processes implements ctrd.Machine.
func (h *haunted) Processes(state.Namespace, state.ContainerID) ([]int, error) { return h.pids, nil }

func TestFormerProcessesAreWaitedForAndThenAPersonIsAsked(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		d := fakectrd.New(fakectrd.Options{})
		must(t, d.Import(string(ns), ref, fakectrd.Image{}, true))
		machine := &haunted{pids: []int{4711}}
		h := ctrd.New(ctrd.Config{
			Services: d, Boot: "boot-1", VolumesDir: t.TempDir(), FilesDir: t.TempDir(), Machine: machine, Log: logr.Discard(),
		})
		owner, err := h.Owner(t.Context())
		must(t, err)
		must(t, h.Do(t.Context(), ns, realm, create(owner, "web")))

		err = h.Do(t.Context(), ns, realm, start("web"))
		var waiting *outcome.Waiting
		if !errors.As(err, &waiting) || !strings.Contains(err.Error(), "4711") {
			t.Errorf("at first: %v", err)
		}
		time.Sleep(state.StuckAfter)
		if err = h.Do(t.Context(), ns, realm, start("web")); !outcome.IsStalled(err) || !strings.Contains(err.Error(), "restart containerd") {
			t.Errorf("after a while: %v", err)
		}
		if d.Run(string(ns), "web").Starts != 0 {
			t.Error("it was started beside its former self")
		}
		machine.pids = nil
		must(t, h.Do(t.Context(), ns, realm, start("web")))
	})
}

// aware is a machine that knows the fake daemon's processes.
type aware struct {
	ctrd.NoMachine
	*fakectrd.Daemon
}

// Begun implements ctrd.Machine.
func (a aware) Begun(pid uint32) (bool, error) { return a.Daemon.Begun(pid) }

func TestAProcessThatBeganWithoutItsShimsKnowingIsKilledAndStartedAnew(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		d := fakectrd.New(fakectrd.Options{})
		must(t, d.Import(string(ns), ref, fakectrd.Image{}, true))
		c := config(t, d)
		c.Machine = aware{Daemon: d}
		h := ctrd.New(c)
		owner, err := h.Owner(t.Context())
		must(t, err)
		must(t, h.Do(t.Context(), ns, realm, create(owner, "web")))
		_, err = d.CreateTask(t.Context(), string(ns), ctrd.TaskRequest{ID: "web"})
		must(t, err)
		must(t, d.CutStart(string(ns), "web"))

		err = h.Do(t.Context(), ns, realm, start("web"))
		var waiting *outcome.Waiting
		if !errors.As(err, &waiting) {
			t.Errorf("at first: %v", err)
		}
		if run := d.Run(string(ns), "web"); run.Live != 0 {
			t.Errorf("it runs on: %+v", run)
		}
		must(t, h.Do(t.Context(), ns, realm, start("web")))
		if run := d.Run(string(ns), "web"); run.Starts != 2 || run.Live != 1 || run.MaxLive != 1 {
			t.Errorf("%+v", run)
		}
	})
}
