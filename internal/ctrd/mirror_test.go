package ctrd_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

func TestLookingAtAnUnchangedNamespaceCostsNoCall(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run(names(50)...)
		synctest.Wait()
		r.observe()
		reads, writes := r.Reads(), r.Writes()
		for range 1000 {
			if got := len(r.observe().Containers); got != 50 {
				t.Fatalf("%d containers", got)
			}
			if _, err := r.host.Summaries(t.Context(), ns); err != nil {
				t.Fatal(err)
			}
			if reads < r.Reads()-3 {
				t.Fatalf("%d calls", r.Reads()-reads)
			}
		}
		// The first Summaries lists the namespaces once.
		if got := r.Reads() - reads; got > 2 || r.Writes() != writes {
			t.Errorf("1000 looks made %d reads and %d writes", got, r.Writes()-writes)
		}
	})
}

func TestOneChangeCostsAsManyReadsAsItTouches(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run(names(20)...)
		synctest.Wait()
		r.observe()
		reads, wakes := r.Reads(), r.woken()
		must(t, r.Exit(string(ns), "c07", 3))
		c := r.see("c07")
		if c.Task.Status != state.TaskStopped || c.Task.ExitCode != 3 {
			t.Errorf("task is %+v", c.Task)
		}
		if got := r.Reads() - reads; got != 1 {
			t.Errorf("%d reads for one exit", got)
		}
		if got := r.woken() - wakes; got != 1 {
			t.Errorf("woken %d times by one exit", got)
		}
	})
}

func TestOwnOperationsWakeNobody(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web")
		synctest.Wait()
		wakes := r.woken()
		r.do(plan.Stop{ID: "web", Grace: time.Second})
		r.do(start("web"))
		synctest.Wait()
		r.observe()
		// Events that come in after the end of their operation may wake once each.
		if got := r.woken() - wakes; got > 4 {
			t.Errorf("woken %d times", got)
		}
	})
}

func TestAHungShimIsUnknownAndTheOthersAreSeenAtOnce(t *testing.T) {
	for _, version := range []string{"2.4", "1.6"} {
		inBubble(t, func(t *testing.T) {
			r := newRig(t, fakectrd.Options{Version: version})
			r.settle()
			r.run("good", "hung")
			synctest.Wait()
			r.observe()
			must(t, r.HangShim(string(ns), "hung"))
			r.host.Resync(ns)

			began := time.Now()
			o := r.observe()
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("%s: the first look took %s", version, took)
			}
			expect(t, o, "good", state.TaskRunning)
			expect(t, o, "hung", state.TaskUnknown)

			// From now on it holds nobody up, not even when everything is read again.
			must(t, r.Exit(string(ns), "good", 1))
			r.host.Resync(ns)
			began = time.Now()
			o = r.observe()
			if took := time.Since(began); took > 0 {
				t.Errorf("%s: a later look took %s", version, took)
			}
			expect(t, o, "good", state.TaskStopped)
			expect(t, o, "hung", state.TaskUnknown)

			time.Sleep(10 * time.Second)
			wakes := r.woken()
			must(t, r.UnhangShim(string(ns), "hung"))
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if r.woken() == wakes {
				t.Errorf("%s: nobody was woken when the shim answered again", version)
			}
			expect(t, r.observe(), "hung", state.TaskRunning)
		})
	}
}

func TestWhileTheDaemonIsAwayObserveSaysSo(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web")
		r.observe()
		r.Down()
		synctest.Wait()
		if _, err := r.host.Observe(t.Context(), ns); !outcome.IsUnavailable(err) {
			t.Errorf("Observe: %v", err)
		}
		if _, err := r.host.Summaries(t.Context()); !outcome.IsUnavailable(err) {
			t.Errorf("Summaries: %v", err)
		}
		err := r.host.Do(t.Context(), ns, realm, start("web"))
		if !outcome.IsUnavailable(err) {
			t.Errorf("Do: %v", err)
		}
		wakes := r.woken()
		r.Up()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if r.woken() == wakes {
			t.Error("nobody was woken within 2 s of the daemon's return")
		}
		expect(t, r.observe(), "web", state.TaskRunning)
	})
}

func TestWhatHappenedWhileTheDaemonWasAwayIsSeen(t *testing.T) {
	for version, want := range map[string]state.TaskStatus{"2.4": state.TaskNone, "1.6": state.TaskStopped} {
		inBubble(t, func(t *testing.T) {
			r := newRig(t, fakectrd.Options{Version: version})
			r.settle()
			r.run("web")
			r.observe()
			r.Down()
			must(t, r.Exit(string(ns), "web", 4))
			time.Sleep(20 * time.Second)
			r.Up()
			time.Sleep(2 * time.Second)
			if got := r.see("web").Task.Status; got != want {
				t.Errorf("%s: task is %s", version, got)
			}
		})
	}
}

func TestALostEventIsMadeUpForByTheNextResync(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web")
		r.see("web")
		r.HookEvents(func(fakectrd.Event) fakectrd.EventFault { return fakectrd.EventFault{Drop: true} })
		must(t, r.Exit(string(ns), "web", 4))
		if got := r.see("web").Task.Status; got != state.TaskRunning {
			t.Fatalf("the event was not lost: %s", got)
		}
		time.Sleep(20 * time.Second)
		r.host.Resync(ns)
		c := r.see("web")
		if c.Task.Status != state.TaskStopped {
			t.Fatalf("task is %s", c.Task.Status)
		}
		// Seen 20 s late, it still counts from the exit.
		if age := time.Since(c.Task.Since); age < 19*time.Second || age > 21*time.Second {
			t.Errorf("it stopped %s ago", age)
		}
	})
}

func TestAJumpOfTheWallClockDoesNotShortenARun(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web")
		r.see("web")
		time.Sleep(90 * time.Second)
		must(t, r.Exit(string(ns), "web", 1))
		c := r.see("web")
		if c.Task.Ran.Round(time.Second) != 90*time.Second {
			t.Errorf("it ran %s", c.Task.Ran)
		}
		if age := time.Since(c.Task.Since); age != 0 {
			t.Errorf("it stopped %s ago", age)
		}
	})
	// The daemon's wall clock is a day ahead, or behind: the event's arrival counts, not the time in it.
	for _, jump := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		inBubble(t, func(t *testing.T) {
			r := newRig(t, fakectrd.Options{Now: func() time.Time { return time.Now().Add(jump) }})
			r.settle()
			r.run("web")
			r.see("web")
			time.Sleep(90 * time.Second)
			must(t, r.Exit(string(ns), "web", 1))
			c := r.see("web")
			if age := time.Since(c.Task.Since); age != 0 || c.Task.Ran.Round(time.Second) != 90*time.Second {
				t.Errorf("it stopped %s ago and ran %s", age, c.Task.Ran)
			}
		})
	}
}

func TestAfterARestartOfOursTheLabelTellsHowLongATaskRan(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web")
		time.Sleep(90 * time.Second)
		must(t, r.Exit(string(ns), "web", 1))
		time.Sleep(5 * time.Second)
		fresh := ctrd.New(config(t, r.Daemon))
		o, err := fresh.Observe(t.Context(), ns)
		must(t, err)
		c, _ := o.Find("web")
		if c.Task.Ran.Round(time.Second) != 90*time.Second || time.Since(c.Task.Since).Round(time.Second) != 5*time.Second {
			t.Errorf("it stopped %s ago and ran %s", time.Since(c.Task.Since), c.Task.Ran)
		}
	})
}

func TestARemovedSnapshotIsMissingOnlyWhenTheSnapshotterSaysSo(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web")
		key := r.see("web").SnapshotKey
		must(t, r.RemoveSnapshot(fakectrd.AsPerson(t.Context()), string(ns), "overlayfs", key))
		r.Hook(func(c fakectrd.Call) fakectrd.Fault {
			if c.Method == "Snapshot" {
				return fakectrd.Fault{Before: errdefs.ErrUnknown}
			}
			return fakectrd.Fault{}
		})
		if r.see("web").SnapshotMissing {
			t.Error("missing without an answer")
		}
		r.Hook(nil)
		time.Sleep(5 * time.Second)
		if !r.see("web").SnapshotMissing {
			t.Error("not missing")
		}
	})
}

func TestATaskWithoutARecordIsSeen(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web")
		r.see("web")
		must(t, r.DeleteContainer(fakectrd.AsPerson(t.Context()), string(ns), "web"))
		c := r.see("web")
		if c.Recorded || c.Task.Status != state.TaskRunning {
			t.Errorf("seen as %+v", c)
		}
		r.do(plan.Clean{ID: "web"})
		if _, ok := func() (state.ObservedContainer, bool) { synctest.Wait(); return r.observe().Find("web") }(); ok {
			t.Error("it is still there")
		}
		if r.Daemon.Run(string(ns), "web").Live != 0 {
			t.Error("its process lives")
		}
	})
}

func TestATaskWhoseRecordGoesWithoutAWordIsNotTakenForGone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web")
		r.see("web")
		r.HookEvents(func(fakectrd.Event) fakectrd.EventFault { return fakectrd.EventFault{Drop: true} })
		must(t, r.DeleteContainer(fakectrd.AsPerson(t.Context()), string(ns), "web"))
		r.host.Recheck(ns)
		if c := r.see("web"); c.Recorded || c.Task.Status != state.TaskRunning {
			t.Errorf("recorded %t, task %s", c.Recorded, c.Task.Status)
		}
	})
}

func TestRecordsThatCannotBeReadAreToldApart(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web", "db")
		r.see("web")
		r.Hook(func(c fakectrd.Call) fakectrd.Fault {
			if c.Method == "Container" && c.ID == "web" {
				return fakectrd.Fault{Before: errors.New("disk on fire")}
			}
			return fakectrd.Fault{}
		})
		must(t, r.SetContainerLabel("web", "x", "y"))
		must(t, r.SetContainerLabel("db", "x", "y"))
		if got := r.see("web"); got.Unreadable == "" {
			t.Errorf("web is readable: %+v", got)
		}
		if got := r.see("db"); got.Unreadable != "" || got.Labels["x"] != "y" {
			t.Errorf("db is %+v", got)
		}
		if got := r.observe().Snapshots; len(got) > 0 {
			t.Errorf("leftovers %v, though a record is unreadable", got)
		}
		r.Hook(nil)
		time.Sleep(5 * time.Second)
		if got := r.see("web"); got.Unreadable != "" || got.Labels["x"] != "y" {
			t.Errorf("web is %+v", got)
		}
	})
}

func TestImagesAreUnpackedWhenTheirChainIsThere(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{GCDelay: -1})
		r.settle()
		must(t, r.Import(string(ns), "docker.io/library/raw:1", fakectrd.Image{Layers: []string{"raw"}}, false))
		synctest.Wait()
		want := map[string]bool{ref: true, "docker.io/library/raw:1": false}
		if d := cmp.Diff(want, unpacked(r.observe())); d != "" {
			t.Error(d)
		}
		r.do(plan.Unpack{Ref: "docker.io/library/raw:1"})
		want["docker.io/library/raw:1"] = true
		if d := cmp.Diff(want, unpacked(r.observe())); d != "" {
			t.Error(d)
		}
		_, chain, err := r.ImageConfig(t.Context(), string(ns), ref)
		must(t, err)
		must(t, r.RemoveSnapshot(fakectrd.AsPerson(t.Context()), string(ns), "overlayfs", chain))
		synctest.Wait()
		want[ref] = false
		if d := cmp.Diff(want, unpacked(r.observe())); d != "" {
			t.Error(d)
		}
	})
}

func TestAnImageWhoseContentIsMissingIsIncomplete(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{GCDelay: -1})
		r.settle()
		const raw = "docker.io/library/raw:1"
		must(t, r.Import(string(ns), raw, fakectrd.Image{Layers: []string{"raw"}}, false))
		synctest.Wait()
		r.observe()
		must(t, r.LoseContent(string(ns), raw))
		if err := r.host.Do(t.Context(), ns, realm, plan.Unpack{Ref: raw}); !errdefs.IsNotFound(err) {
			t.Errorf("%v", err)
		}
		if i, _ := r.observe().FindImage(raw); !i.Incomplete || i.Unpacked {
			t.Errorf("%+v", i)
		}
		must(t, r.Import(string(ns), raw, fakectrd.Image{Layers: []string{"raw"}}, false))
		synctest.Wait()
		if i, _ := r.observe().FindImage(raw); i.Incomplete {
			t.Errorf("%+v", i)
		}
		if i, _ := r.observe().FindImage(ref); i.Incomplete || !i.Unpacked {
			t.Errorf("%+v", i)
		}
	})
}

func TestANamespaceComesAndGoes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		exists := func(want bool) {
			t.Helper()
			synctest.Wait()
			if o := r.observe(); o.Exists != want || len(o.Containers)+len(o.Images) > 0 {
				t.Errorf("%+v", o)
			}
			reads := r.Reads()
			r.observe()
			if r.Reads() != reads {
				t.Error("looked again without a reason")
			}
		}
		exists(false)
		person := fakectrd.AsPerson(t.Context())
		wakes := r.woken()
		must(t, r.CreateNamespace(person, string(ns), map[string]string{"a": "b"}))
		exists(true)
		must(t, r.SetNamespaceLabel(person, string(ns), "a", "c"))
		synctest.Wait()
		if got := r.observe().Labels["a"]; got != "c" {
			t.Errorf("label is %q", got)
		}
		must(t, r.DeleteNamespace(person, string(ns)))
		exists(false)
		if got := r.woken() - wakes; got != 3 {
			t.Errorf("woken %d times", got)
		}
	})
}

func TestSummariesCountOursAndSeeNamespacesThatAppearWithoutAWord(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web")
		must(t, r.SetContainerLabel("web", state.LabelContainer, ""))
		summaries := func() map[state.Namespace][2]int {
			t.Helper()
			synctest.Wait()
			all, err := r.host.Summaries(t.Context())
			must(t, err)
			out := map[state.Namespace][2]int{}
			for _, s := range all {
				out[s.Name] = [2]int{s.Containers, s.Ours}
			}
			return out
		}
		if d := cmp.Diff(map[state.Namespace][2]int{ns: {1, 1}}, summaries()); d != "" {
			t.Error(d)
		}
		must(t, r.Import("moby", ref, fakectrd.Image{}, false))
		if d := cmp.Diff(map[state.Namespace][2]int{ns: {1, 1}, "moby": {}}, summaries()); d != "" {
			t.Error(d)
		}
		want := "it is in namespace moby: `kukeon-reconciler images copy --from moby --to main " + ref + "`"
		if got := r.host.Remedy(t.Context(), realm, ns, ref); got != want {
			t.Errorf("remedy: %s", got)
		}
		if got := r.host.Remedy(t.Context(), realm, ns, "docker.io/library/nowhere:1"); got != "" {
			t.Errorf("remedy for an image that nobody has: %s", got)
		}
	})
}

// The removal of a realm without containers needs no confirmation: what was not read yet must not look like none.
func TestContainersThatAreJustBeingListedAreNotCountedAsNone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		for _, id := range []string{"web", "api"} { // no tasks: their list would tell of these
			r.do(create(r.owner(), id))
		}
		r.restart()
		var listed atomic.Bool
		r.Hook(func(c fakectrd.Call) fakectrd.Fault {
			if c.Method == "Containers" && listed.CompareAndSwap(false, true) {
				return fakectrd.Fault{Delay: 5 * time.Second}
			}
			return fakectrd.Fault{}
		})
		looked := make(chan state.Observed)
		go func() { looked <- r.observe() }()
		time.Sleep(time.Second)
		all, err := r.host.Summaries(t.Context(), ns)
		must(t, err)
		if len(all) != 1 || all[0].Ours != 2 || all[0].Incomplete {
			t.Errorf("while the containers are listed: %+v", all)
		}
		if o := <-looked; len(o.Containers) != 2 {
			t.Errorf("observed %d containers", len(o.Containers))
		}
	})
}

func TestANamespaceWhoseEventIsLostIsSeenWhenAskedForAndAtTheLatestByAResync(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		seen := func(extra ...state.Namespace) []state.Namespace {
			t.Helper()
			synctest.Wait()
			all, err := r.host.Summaries(t.Context(), extra...)
			must(t, err)
			var out []state.Namespace
			for _, s := range all {
				if s.Name != ns {
					out = append(out, s.Name)
				}
			}
			return out
		}
		seen() // the list is known from here on
		r.HookEvents(func(fakectrd.Event) fakectrd.EventFault { return fakectrd.EventFault{Drop: true} })
		must(t, r.CreateNamespace(t.Context(), "tenant", nil))
		if got := seen("tenant", "nowhere"); !slices.Equal(got, []state.Namespace{"tenant"}) {
			t.Errorf("asked for: %v", got)
		}
		seen()
		must(t, r.CreateNamespace(t.Context(), "another", nil))
		r.host.Resync(ns)
		if got := seen(); !slices.Equal(got, []state.Namespace{"another", "tenant"}) {
			t.Errorf("after a resync: %v", got)
		}
	})
}

func TestADamagedOrNewerRecordIsNamed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web")
		for value, want := range map[string]string{
			`{"version":99,"owner":"x"}`: state.ErrNewerRecord.Error(),
			`{`:                          "recorded spec is damaged: unexpected end of JSON input",
		} {
			must(t, r.SetExtension("web", []byte(value)))
			c := r.see("web")
			if c.Record != nil || c.RecordProblem != want {
				t.Errorf("%s: %+v, %q", value, c.Record, c.RecordProblem)
			}
		}
		r.do(plan.Update{ID: "web", DropRecord: true})
		if c := r.see("web"); c.Record != nil || c.RecordProblem != "" {
			t.Errorf("dropped: %+v, %q", c.Record, c.RecordProblem)
		}
	})
}

func TestRunEndsWithItsContextAndLeavesNoGoroutine(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web")
		must(t, r.HangShim(string(ns), "web"))
		r.host.Resync(ns)
		r.observe()
		r.stop() // the bubble fails the test if a goroutine stays
	})
}

func unpacked(o state.Observed) map[string]bool {
	out := map[string]bool{}
	for _, i := range o.Images {
		out[i.Ref] = i.Unpacked
	}
	return out
}

func expect(t *testing.T, o state.Observed, id state.ContainerID, want state.TaskStatus) {
	t.Helper()
	c, ok := o.Find(id)
	if !ok {
		t.Errorf("%s is not there", id)
	} else if c.Task.Status != want {
		t.Errorf("%s is %s, not %s", id, c.Task.Status, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// An event that comes late tells what was read already. It wakes nobody, and must not keep the next one from doing so.
func TestALateEventDoesNotHideTheNextOne(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.HookEvents(func(e fakectrd.Event) fakectrd.EventFault {
			if e.Topic == "/tasks/start" {
				return fakectrd.EventFault{Delay: time.Second}
			}
			return fakectrd.EventFault{}
		})
		r.run("web")
		synctest.Wait()
		r.observe()
		wakes := r.woken()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if r.woken() != wakes { // a worker looks when it is woken, and only then
			r.observe()
		}

		r.HookEvents(nil)
		wakes = r.woken()
		must(t, r.Exit(string(ns), "web", 1))
		synctest.Wait()
		if r.woken() == wakes {
			t.Error("the task ended and nobody was woken")
		}
		if got := r.see("web").Task.Status; got != state.TaskStopped {
			t.Errorf("seen as %s", got)
		}
	})
}
