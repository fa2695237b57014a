package controllers_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
)

// settleTime is far more than anything but a backoff or a grace takes on the fake.
const settleTime = 5 * time.Second

// play runs a scene on a house that has a realm main with the containers db and web up and running.
func play(t *testing.T, scene func(t *testing.T, h *house)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.files.write("main.yaml", realm("main", "db", "web"))
		h.files.write("edge.yaml", realm("edge", "one"))
		h.start()
		h.idle(settleTime)
		if got := len(h.pids("kukeon-main")); got != 2 {
			t.Fatalf("%d containers run in kukeon-main: %s", got, h.realm("main").Message)
		}
		scene(t, h)
		h.stop()
	})
}

func TestAManifestBecomesRunningContainers(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		r := h.realm("main")
		if !r.Ready || !r.InSync || r.State != status.Ready || r.Running != 2 {
			t.Errorf("%s: %s", r.State, r.Message)
		}
	})
}

func TestAMatchWritesNothingForAnHour(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		before := h.daemon.Writes()
		h.idle(time.Hour)
		if writes := h.daemon.Writes() - before; writes != 0 {
			t.Errorf("%d writes while nothing changed: %v", writes, h.daemon.Trace()[len(h.daemon.Trace())-writes:])
		}
	})
}

func TestARestartOfOursTouchesNothing(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		pids, before := h.pids("kukeon-main"), h.daemon.Writes()
		h.stop()
		h.start()
		h.idle(time.Minute)
		if diff := cmp.Diff(pids, h.pids("kukeon-main")); diff != "" || h.daemon.Writes() != before {
			t.Errorf("%d writes, pids %s", h.daemon.Writes()-before, diff)
		}
	})
}

func TestAKilledTaskIsBackAtOnceAndItsNeighbourKeepsItsPid(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		pids := h.pids("kukeon-main")
		if err := h.daemon.Exit("kukeon-main", "web", 137); err != nil {
			t.Fatal(err)
		}
		h.idle(100 * time.Millisecond)
		now := h.pids("kukeon-main")
		if now["web"] == 0 || now["web"] == pids["web"] || now["db"] != pids["db"] {
			t.Errorf("before %v, after %v", pids, now)
		}
	})
}

func TestWithEveryEventLostItConvergesWithinOneResync(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.daemon.HookEvents(func(fakectrd.Event) fakectrd.EventFault { return fakectrd.EventFault{Drop: true} })
		if err := h.daemon.Exit("kukeon-main", "web", 1); err != nil {
			t.Fatal(err)
		}
		h.idle(time.Minute + settleTime)
		if h.pids("kukeon-main")["web"] == 0 {
			t.Error("web is not running one resync later")
		}
	})
}

func TestOnlyTheChangedContainerIsMadeAnew(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		pids := h.pids("kukeon-main")
		h.files.write("main.yaml", realm("main", "db")+"  - {id: web, image: web:2}\n")
		h.idle(15 * time.Second)
		now := h.pids("kukeon-main")
		if now["web"] == 0 || now["web"] == pids["web"] || now["db"] != pids["db"] {
			t.Errorf("before %v, after %v: %s", pids, now, h.realm("main").Message)
		}
	})
}

func TestABrokenFileChangesAndRemovesNothing(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		before := h.daemon.Writes()
		h.files.write("main.yaml", "kind: Realm\nmetadata: {name: ma")
		h.files.remove("edge.yaml")
		h.idle(time.Minute)
		if h.daemon.Writes() != before || h.realm("edge").Running != 1 {
			t.Errorf("%d writes; %s", h.daemon.Writes()-before, h.realm("main").Message)
		}
	})
}

func TestAMissingDirectoryRemovesNothingAndIsStillRepaired(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.files.edit(func() { h.files.missing = true })
		h.idle(time.Minute)
		if err := h.daemon.Exit("kukeon-main", "web", 1); err != nil {
			t.Fatal(err)
		}
		h.idle(settleTime)
		if len(h.pids("kukeon-main")) != 2 {
			t.Errorf("%v", h.pids("kukeon-main"))
		}
	})
}

func TestARemovedManifestTakesItsRealmWithItDownToTheNamespace(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.files.remove("edge.yaml")
		h.idle(30 * time.Second)
		names, err := h.daemon.Namespaces(t.Context())
		if err != nil || !cmp.Equal(names, []string{"kukeon-main"}) {
			t.Errorf("namespaces %v %v, realm %s", names, err, h.realm("edge").Message)
		}
		if len(h.store.accepted.Removals) != 0 {
			t.Errorf("still on the removal list: %+v", h.store.accepted.Removals)
		}
	})
}

func TestAnEmptiedDirectoryIsHeldUntilConfirmed(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.files.remove("edge.yaml")
		h.files.remove("main.yaml")
		h.idle(time.Minute)
		if len(h.pids("kukeon-main"))+len(h.pids("kukeon-edge")) != 3 {
			t.Fatal("an emptied directory removed containers")
		}
		holds := h.Host().Holds
		if len(holds) != 1 {
			t.Fatalf("holds: %+v", holds)
		}
		if _, err := h.Confirm(holds[0].ID); err != nil {
			t.Fatal(err)
		}
		h.idle(time.Minute)
		if names, _ := h.daemon.Namespaces(t.Context()); len(names) != 0 {
			t.Errorf("left: %v", names)
		}
	})
}

func TestACrashBetweenAcceptingARemovalAndCarryingItOutLosesNoRemoval(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		// Every stop fails from here on: the removal is accepted and cannot be carried out.
		h.daemon.Hook(func(c fakectrd.Call) fakectrd.Fault {
			if c.Method == "KillTask" {
				return fakectrd.Fault{Before: errors.New("not now")}
			}
			return fakectrd.Fault{}
		})
		h.files.remove("edge.yaml")
		h.idle(30 * time.Second)
		h.stop()
		if len(h.store.accepted.Removals) == 0 {
			t.Fatal("the removal is not on the list")
		}
		h.daemon.Hook(nil)
		h.start()
		h.idle(time.Minute)
		if names, _ := h.daemon.Namespaces(t.Context()); !cmp.Equal(names, []string{"kukeon-main"}) {
			t.Errorf("left: %v", names)
		}
	})
}

func TestALostStoreDeletesNothingAndNamesTheOrphans(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.loseEdge()
		pids := h.pids("kukeon-edge")
		h.start()
		h.idle(time.Minute)
		if diff := cmp.Diff(pids, h.pids("kukeon-edge")); diff != "" {
			t.Fatalf("a lost store touched the orphans: %s", diff)
		}
		h.confirmEdge(t)
	})
}

// loseEdge stops us, and loses the state and the manifest of edge.
func (h *house) loseEdge() {
	h.stop()
	h.store.accepted = state.Accepted{}
	h.files.remove("edge.yaml")
}

// confirmEdge is a person who has the one orphan of edge removed.
func (h *house) confirmEdge(t *testing.T) {
	t.Helper()
	orphans := h.Host().Orphans
	if len(orphans) != 1 || orphans[0].ContainerID != "one" || orphans[0].Realm != "edge" {
		t.Fatalf("orphans: %+v", orphans)
	}
	if _, err := h.Confirm(orphans[0].ID); err != nil {
		t.Fatal(err)
	}
	h.idle(time.Minute)
	if len(h.pids("kukeon-edge")) != 0 {
		t.Error("a confirmed orphan still runs")
	}
}

func TestAnOrphanKnowsItsRealmAlsoWhenItsNamespaceDoesNot(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.loseEdge()
		if err := h.daemon.SetNamespaceLabel(t.Context(), "kukeon-edge", state.LabelRealm, ""); err != nil {
			t.Fatal(err)
		}
		h.start()
		h.idle(time.Minute)
		h.confirmEdge(t)
	})
}

func TestAnOrphanOfNobodyIsNotRemoved(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.loseEdge()
		one := containers.Container{ID: "one", Labels: map[string]string{state.LabelRealm: ""}}
		err := errors.Join(
			h.daemon.SetNamespaceLabel(t.Context(), "kukeon-edge", state.LabelRealm, ""),
			h.daemon.UpdateContainer(t.Context(), "kukeon-edge", one, "labels."+state.LabelRealm),
		)
		if err != nil {
			t.Fatal(err)
		}
		pids := h.pids("kukeon-edge")
		h.start()
		h.idle(time.Minute)
		orphans := h.Host().Orphans
		if len(orphans) != 1 {
			t.Fatalf("orphans: %+v", orphans)
		}
		if _, err := h.Confirm(orphans[0].ID); !errors.Is(err, status.ErrConflict) {
			t.Errorf("confirmed: %v", err)
		}
		h.idle(time.Minute)
		if diff := cmp.Diff(pids, h.pids("kukeon-edge")); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAFullDiskAcceptsNothingNewAndRemovesNothing(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.store.mu.Lock()
		h.store.full = errors.New("no space left on device")
		h.store.mu.Unlock()
		before := h.daemon.Writes()
		h.files.remove("edge.yaml")
		h.idle(time.Minute)
		if h.daemon.Writes() != before {
			t.Errorf("%d writes although nothing could be saved", h.daemon.Writes()-before)
		}
		h.store.mu.Lock()
		h.store.full = nil
		h.store.mu.Unlock()
		h.idle(time.Minute)
		if len(h.pids("kukeon-edge")) != 0 {
			t.Error("the removal did not go on when there was space again")
		}
	})
}

func TestSuspendedMeansNoWriteAtAll(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		if err := h.Suspend(state.Suspension{Realm: "main", Until: time.Now().Add(time.Hour), Reason: "surgery"}); err != nil {
			t.Fatal(err)
		}
		h.idle(settleTime)
		before := h.daemon.Writes()
		if err := h.daemon.Exit("kukeon-main", "web", 1); err != nil {
			t.Fatal(err)
		}
		h.idle(30 * time.Minute)
		if h.daemon.Writes() != before {
			t.Fatalf("%d writes in a suspended realm", h.daemon.Writes()-before)
		}
		h.idle(31 * time.Minute) // it ends by itself
		if len(h.pids("kukeon-main")) != 2 {
			t.Error("web is not back after the suspension")
		}
	})
}

func TestContainerdsRestartIsNoticedAndChangesNoPid(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		pids := h.pids("kukeon-main")
		h.daemon.Down()
		h.idle(10 * time.Second)
		if h.Host().Containerd.Connected {
			t.Error("status says connected while containerd is away")
		}
		h.daemon.Up()
		h.idle(3 * time.Second)
		if !h.Host().Containerd.Connected {
			t.Error("not connected 3 s after containerd is back")
		}
		if diff := cmp.Diff(pids, h.pids("kukeon-main")); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAfterARebootEverythingAcceptedRunsEvenWithoutTheDirectory(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.stop()
		h.daemon.Reboot()
		h.boot = "boot-2"
		h.files.edit(func() { h.files.missing = true })
		h.start()
		h.idle(settleTime)
		if len(h.pids("kukeon-main")) != 2 || len(h.pids("kukeon-edge")) != 1 {
			t.Errorf("main %v, edge %v", h.pids("kukeon-main"), h.pids("kukeon-edge"))
		}
	})
}

func TestAOneShotRunsOnceOverEveryRestart(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.daemon.Behave(func(_, id string, _ int) (fakectrd.Process, bool) {
			return fakectrd.Process{ExitAfter: time.Second}, id == "job"
		})
		h.files.write("jobs.yaml", realm("jobs")[:len(realm("jobs"))-len("[]\n")]+"[{id: job, image: web:1, restartPolicy: never}]\n")
		h.idle(15 * time.Second)
		h.stop()
		h.daemon.Down()
		h.daemon.Up()
		h.start()
		h.idle(time.Minute)
		h.stop()
		h.daemon.Reboot()
		h.boot = "boot-2"
		h.start()
		h.idle(time.Minute)
		if starts := h.daemon.Run("kukeon-jobs", "job").Starts; starts != 1 {
			t.Errorf("the one-shot was started %d times; %s", starts, h.realm("jobs").Message)
		}
	})
}

func TestReleaseStripsOurKeysAndLeavesEverythingRunning(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		if _, err := h.Release(t.Context(), "edge"); !errors.Is(err, status.ErrConflict) {
			t.Fatalf("released although a manifest names it: %v", err)
		}
		h.files.remove("edge.yaml")
		h.files.remove("main.yaml") // held: the last realms
		h.idle(30 * time.Second)
		pids := h.pids("kukeon-edge")
		if _, err := h.Release(t.Context(), "edge"); err != nil {
			t.Fatal(err)
		}
		h.idle(time.Minute)
		if diff := cmp.Diff(pids, h.pids("kukeon-edge")); diff != "" {
			t.Error(diff)
		}
		if labels, err := h.daemon.NamespaceLabels(t.Context(), "kukeon-edge"); err != nil || len(labels) != 0 {
			t.Errorf("labels left: %v %v", labels, err)
		}
		images, err := h.daemon.Images(t.Context(), "kukeon-edge")
		if err != nil || len(images) != 1 || len(images[0].Labels) != 0 {
			t.Errorf("images left with labels: %v %v", images, err)
		}
	})
}

func TestAConfirmationThatFoundNoHoldReleasesNothingLater(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.files.edit(func() { delete(h.files.files, "edge.yaml"); delete(h.files.files, "main.yaml") })
		h.idle(time.Minute)
		h.files.edit(func() { h.files.missing = true }) // nothing can be released now
		h.idle(settleTime)
		if _, err := h.Confirm(h.Host().Holds[0].ID); err != nil {
			t.Fatal(err)
		}
		h.idle(settleTime)
		h.files.edit(func() {
			h.files.missing = false
			h.files.files["main.yaml"], h.files.files["edge.yaml"] = realm("main", "db", "web"), realm("edge", "one")
		})
		h.idle(time.Minute)
		h.files.edit(func() { delete(h.files.files, "edge.yaml"); delete(h.files.files, "main.yaml") })
		h.idle(time.Minute)
		if len(h.pids("kukeon-main"))+len(h.pids("kukeon-edge")) != 3 {
			t.Error("an old confirmation released a new removal")
		}
	})
}

func TestANamespaceThatStaysSaysWhy(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		if err := h.daemon.Import("kukeon-edge", "docker.io/library/theirs:1", fakectrd.Image{}, true); err != nil {
			t.Fatal(err)
		}
		h.files.remove("edge.yaml")
		h.idle(30 * time.Second)
		released := h.Host().Released
		if len(released) != 1 || released[0].Namespace != "kukeon-edge" || !strings.Contains(released[0].Why, "image docker.io/library/theirs:1") {
			t.Fatalf("%+v", released)
		}
		h.files.write("edge.yaml", realm("edge", "one"))
		h.idle(30 * time.Second)
		if released := h.Host().Released; len(released) != 0 || !h.realm("edge").Ready {
			t.Errorf("a realm lives there again: %+v", released)
		}
	})
}

func TestATaskThatEndsWithoutAnyEventIsBackWithinTheNextCheck(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.daemon.HookEvents(func(fakectrd.Event) fakectrd.EventFault { return fakectrd.EventFault{Drop: true} })
		if err := h.daemon.Exit("kukeon-main", "web", 137); err != nil {
			t.Fatal(err)
		}
		if _, err := h.daemon.DeleteTask(t.Context(), "kukeon-main", "web"); err != nil {
			t.Fatal(err)
		}
		h.idle(11 * time.Second)
		if h.pids("kukeon-main")["web"] == 0 {
			t.Error("web is still down")
		}
	})
}
