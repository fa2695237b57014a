package controllers_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kukeon.io/kukeon-reconciler/controllers"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
)

// lateView answers a look at a namespace as it was before an operation that was then under way ended.
type lateView struct {
	controllers.Host
	ns    state.Namespace
	after atomic.Pointer[func()] // called once, between the look and its answer
}

func (v *lateView) Observe(ctx context.Context, ns state.Namespace) (state.Observed, error) {
	have, err := v.Host.Observe(ctx, ns)
	if ns == v.ns {
		if after := v.after.Swap(nil); after != nil {
			(*after)()
		}
	}
	return have, err
}

func TestARemovalThatOvertakesACreateUnderWayIsNotTakenForEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		view := &lateView{ns: "kukeon-main"}
		h.over = func(host controllers.Host) controllers.Host { view.Host = host; return view }
		h.files.write("edge.yaml", realm("edge", "one"))
		h.files.write("main.yaml", realm("main", "db"))
		h.start()
		h.idle(settleTime)

		slow, created := make(chan struct{}), make(chan struct{})
		h.daemon.Hook(func(c fakectrd.Call) fakectrd.Fault {
			if c.Method == "CreateContainer" {
				<-slow
			}
			return fakectrd.Fault{}
		})
		h.files.write("main.yaml", realm("main", "db", "web"))
		h.idle(settleTime) // web is being created
		end := func() {
			close(slow)
			time.Sleep(time.Second) // the create ends, and no longer counts as under way
			close(created)
		}
		view.after.Store(&end)
		h.files.write("main.yaml", realm("main", "db"))
		<-created
		h.idle(time.Minute)
		all, err := h.daemon.Containers(t.Context(), "kukeon-main")
		if err != nil || len(all) != 1 {
			t.Errorf("%d containers, %v; orphans %+v; removals %+v", len(all), err, h.Host().Orphans, h.store.accepted.Removals)
		}
		h.stop()
	})
}

func TestTheEndOfAOneShotIsForgottenAlsoWhenTheFirstTryFails(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.daemon.Behave(func(_, id string, _ int) (fakectrd.Process, bool) {
			return fakectrd.Process{ExitAfter: time.Second}, id == "job"
		})
		with := realm("main", "db", "web") + "  - {id: job, image: web:1, restartPolicy: never}\n"
		h.files.write("main.yaml", with)
		h.idle(15 * time.Second)
		h.store.mu.Lock()
		h.store.forgetFails = errors.New("no space left on device")
		h.store.mu.Unlock()
		h.files.write("main.yaml", realm("main", "db", "web"))
		h.idle(time.Second)
		h.store.mu.Lock()
		h.store.forgetFails = nil
		h.store.mu.Unlock()
		h.idle(time.Minute)
		starts := h.daemon.Run("kukeon-main", "job").Starts
		h.files.write("main.yaml", with)
		h.idle(15 * time.Second)
		if h.daemon.Run("kukeon-main", "job").Starts != starts+1 {
			t.Errorf("declared anew, it was not run again: %s", h.realm("main").Message)
		}
	})
}

func TestTheRemovalOfASuspendedContainerWaitsUntilItIsResumed(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		if err := h.Suspend(state.Suspension{Realm: "main", Container: "web"}); err != nil {
			t.Fatal(err)
		}
		h.files.write("main.yaml", realm("main", "db"))
		h.idle(time.Minute)
		web, _ := h.realm("main").Find("web")
		if h.pids("kukeon-main")["web"] == 0 || web.Phase != status.PhaseRunning || web.Suspended == "" {
			t.Errorf("%s, suspended %q: %s", web.Phase, web.Suspended, web.Message)
		}
		if hints := h.realm("main").Hints; !slices.Contains(hints, "kukeon-reconciler resume main/web") {
			t.Errorf("hints %v", hints)
		}
		if err := h.Resume("main", "web"); err != nil {
			t.Fatal(err)
		}
		h.idle(time.Minute)
		if h.pids("kukeon-main")["web"] != 0 || len(h.store.accepted.Removals) != 0 {
			t.Errorf("resumed, its removal has not ended: %+v", h.store.accepted.Removals)
		}
	})
}

func TestARemovalThatWaitsForACompleteLookIsNeitherAnOrphanNorInSync(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.daemon.Hook(func(c fakectrd.Call) fakectrd.Fault {
			if c.Method == "KillTask" {
				return fakectrd.Fault{Before: errors.New("not now")}
			}
			return fakectrd.Fault{}
		})
		h.files.write("main.yaml", realm("main", "db"))
		h.idle(5 * time.Second)
		h.stop()
		h.daemon.Hook(nil)
		h.files.write("edge.yaml", "kind: [")
		h.start()
		h.idle(time.Minute)
		main := h.realm("main")
		web, _ := main.Find("web")
		if web.Phase != status.PhaseStopping || main.InSync || len(h.Host().Orphans) > 0 {
			t.Errorf("%s, in sync %v: %s; orphans %+v", web.Phase, main.InSync, web.Message, h.Host().Orphans)
		}
		if !main.Ready || h.pids("kukeon-main")["web"] == 0 {
			t.Errorf("ready %v, pids %v", main.Ready, h.pids("kukeon-main"))
		}
		h.files.write("edge.yaml", realm("edge", "one"))
		h.idle(time.Minute)
		if main := h.realm("main"); h.pids("kukeon-main")["web"] != 0 || !main.InSync || len(h.store.accepted.Removals) != 0 {
			t.Errorf("its removal has not ended: in sync %v, %+v", main.InSync, h.store.accepted.Removals)
		}
	})
}

func TestWhatIsBroughtBackWhileItIsBeingStoppedStartsAgainWhateverItsPolicy(t *testing.T) {
	for _, policy := range []string{"always", "on-failure", "never"} {
		t.Run(policy, func(t *testing.T) {
			play(t, func(t *testing.T, h *house) {
				h.daemon.Behave(func(_, id string, _ int) (fakectrd.Process, bool) {
					return fakectrd.Process{TermAfter: 5 * time.Second}, id == "job"
				})
				job := func(env string) string {
					return realm("main", "db", "web") + "  - {id: job, image: web:1, restartPolicy: " + policy + ", env: [A=" + env + "]}\n"
				}
				h.files.write("main.yaml", job("b"))
				h.idle(15 * time.Second)
				h.files.write("main.yaml", job("c"))
				h.idle(2 * time.Second)
				h.files.write("main.yaml", job("b"))
				h.idle(time.Minute)
				if main := h.realm("main"); h.pids("kukeon-main")["job"] == 0 || h.daemon.Run("kukeon-main", "job").Starts != 2 {
					k, _ := main.Find("job")
					t.Errorf("%d starts; %s: %s", h.daemon.Run("kukeon-main", "job").Starts, k.Phase, k.Message)
				}
			})
		})
	}
}
