package fakectrd_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/anypb"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
)

const ns, ref = "kukeon-main", "docker.io/library/web:1"

// create makes a container and its created task from an image that is unpacked.
func create(t testing.TB, d *fakectrd.Daemon, id string) {
	t.Helper()
	ctx := t.Context()
	_, chain, err := d.ImageConfig(ctx, ns, ref)
	check(t, err)
	check(t, ignore(d.CreateLease(ctx, ns, "l", time.Hour), errdefs.IsAlreadyExists))
	mounts, err := d.PrepareSnapshot(leases.WithLease(ctx, "l"), ns, "overlayfs", id, chain, nil)
	check(t, err)
	check(t, d.CreateContainer(ctx, ns, containers.Container{
		ID: id, Image: ref, Snapshotter: "overlayfs", SnapshotKey: id, Spec: &anypb.Any{TypeUrl: "spec"},
		Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"},
	}))
	_, err = d.CreateTask(ctx, ns, ctrd.TaskRequest{ID: id, Rootfs: mounts})
	check(t, err)
}

// start makes a container run.
func start(t testing.TB, d *fakectrd.Daemon, id string) {
	t.Helper()
	create(t, d, id)
	check(t, d.StartTask(t.Context(), ns, id))
}

func imported(t testing.TB, o fakectrd.Options) *fakectrd.Daemon {
	t.Helper()
	d := fakectrd.New(o)
	check(t, d.Import(ns, ref, fakectrd.Image{}, true))
	return d
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ignore(err error, is func(error) bool) error {
	if is(err) {
		return nil
	}
	return err
}

func status(t testing.TB, d *fakectrd.Daemon, id string) string {
	t.Helper()
	info, err := d.Task(t.Context(), ns, id)
	if errdefs.IsNotFound(err) {
		return "none"
	}
	check(t, err)
	return info.Status
}

func TestARestartOf2xForgetsStoppedTasksAnd16TellsTheirExitAgain(t *testing.T) {
	for version, want := range map[string]string{"2.4": "none", "1.6": "stopped"} {
		synctest.Test(t, func(t *testing.T) {
			d := imported(t, fakectrd.Options{Version: version})
			start(t, d, "stopped")
			start(t, d, "running")
			check(t, d.Exit(ns, "stopped", 3))
			d.Restart()
			if got := status(t, d, "stopped"); got != want {
				t.Errorf("%s: task is %s, want %s", version, got, want)
			}
			if got := status(t, d, "running"); got != "running" {
				t.Errorf("%s: the other task is %s, want running", version, got)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			events, ended := d.Subscribe(ctx)
			var topics []string
			for err := error(nil); err == nil; {
				select {
				case e := <-events:
					topics = append(topics, e.Topic)
				case err = <-ended:
				}
			}
			want := map[string][]string{"1.6": {"/tasks/exit"}}[version]
			if diff := cmp.Diff(want, topics); diff != "" {
				t.Errorf("%s: events after the restart (-want +got):\n%s", version, diff)
			}
		})
	}
}

func TestAHungShimIsLeftOutOrUnknownAndCostsTwoSeconds(t *testing.T) {
	for version, want := range map[string][]string{"2.4": {"b running"}, "1.6": {"a unknown", "b running"}} {
		synctest.Test(t, func(t *testing.T) {
			d := imported(t, fakectrd.Options{Version: version})
			start(t, d, "a")
			start(t, d, "b")
			check(t, d.HangShim(ns, "a"))
			before := time.Now()
			tasks, err := d.Tasks(t.Context(), ns)
			check(t, err)
			var got []string
			for _, i := range tasks {
				got = append(got, i.ID+" "+i.Status)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: (-want +got):\n%s", version, diff)
			}
			if took := time.Since(before); took != fakectrd.ShimTimeout {
				t.Errorf("%s: took %v", version, took)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := d.KillTask(ctx, ns, "a", 9, true); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: kill: %v, want a deadline", version, err)
			}
			check(t, d.UnhangShim(ns, "a"))
			if got := status(t, d, "a"); got != "stopped" {
				t.Errorf("%s: %s after the shim went on, want the late signal to have stopped it", version, got)
			}
		})
	}
}

func TestAKilledShimsIDIsBusyForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := imported(t, fakectrd.Options{})
		start(t, d, "a")
		check(t, d.KillShim(ns, "a"))
		if got := status(t, d, "a"); got != "none" {
			t.Errorf("task is %s, want none at once", got)
		}
		_, err := d.CreateTask(t.Context(), ns, ctrd.TaskRequest{ID: "a"})
		if !errdefs.IsAlreadyExists(err) {
			t.Errorf("create: %v, want AlreadyExists", err)
		}
		time.Sleep(fakectrd.ShimCleanup + 1)
		_, err = d.CreateTask(t.Context(), ns, ctrd.TaskRequest{ID: "a"})
		check(t, err)
		if r := d.Run(ns, "a"); r.Live != 0 || r.MaxLive != 1 {
			t.Errorf("processes: %+v", r)
		}
	})
}

func TestEveryCallCanLoseItsRequestOrItsReply(t *testing.T) {
	d := fakectrd.New(fakectrd.Options{})
	lost := errors.New("lost")
	d.Hook(func(c fakectrd.Call) fakectrd.Fault {
		switch c.N {
		case 1:
			return fakectrd.Fault{Before: lost}
		case 2:
			return fakectrd.Fault{After: lost}
		}
		return fakectrd.Fault{}
	})
	for range 3 {
		err := d.CreateNamespace(t.Context(), ns, nil)
		if !errors.Is(err, lost) && !errdefs.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	check(t, d.SetNamespaceLabel(fakectrd.AsPerson(t.Context()), ns, "k", "v"))
	want := []fakectrd.Done{
		{Method: "CreateNamespace", Namespace: ns, Lost: true, Err: "lost"},
		{Method: "CreateNamespace", Namespace: ns},
		{Method: "CreateNamespace", Namespace: ns, Err: `namespace "kukeon-main": already exists`},
	}
	if diff := cmp.Diff(want, d.Trace()); diff != "" {
		t.Errorf("trace (-want +got):\n%s", diff)
	}
}

func TestEventsCanBeDroppedDoubledAndOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fakectrd.New(fakectrd.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		events, ended := d.Subscribe(ctx)
		d.HookEvents(func(e fakectrd.Event) fakectrd.EventFault {
			return map[int]fakectrd.EventFault{1: {Drop: true}, 2: {Delay: time.Second}, 3: {Twice: true}}[e.N]
		})
		for _, ns := range []string{"a", "b", "c"} {
			check(t, d.CreateNamespace(ctx, ns, nil))
		}
		var got []string
		for err := error(nil); err == nil; {
			select {
			case e := <-events:
				got = append(got, e.Namespace)
			case err = <-ended:
			}
		}
		if diff := cmp.Diff([]string{"c", "c", "b"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestADaemonThatGoesDownEndsStreamsAndCallsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := imported(t, fakectrd.Options{})
		start(t, d, "a")
		check(t, d.HangShim(ns, "a"))
		_, ended := d.Subscribe(t.Context())
		answer := make(chan error)
		go func() { answer <- d.StartTask(t.Context(), ns, "a") }()
		synctest.Wait()
		d.Restart()
		for _, err := range []error{<-ended, <-answer} {
			if !errdefs.IsUnavailable(err) {
				t.Errorf("%v, want Unavailable", err)
			}
		}
		d.Down()
		if _, err := d.Namespaces(t.Context()); !errdefs.IsUnavailable(err) {
			t.Errorf("%v, want Unavailable", err)
		}
	})
}

func TestARebootKeepsTheRecordsAndNoProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := imported(t, fakectrd.Options{})
		start(t, d, "a")
		d.Reboot()
		if got := status(t, d, "a"); got != "none" {
			t.Errorf("task is %s", got)
		}
		if _, err := d.Container(t.Context(), ns, "a"); err != nil {
			t.Error(err)
		}
		if r := d.Run(ns, "a"); r.Live != 0 {
			t.Errorf("processes: %+v", r)
		}
	})
}

func TestTwoHistoriesThatEndAlikeDumpAlike(t *testing.T) {
	dump := func(detour bool) string {
		d := imported(t, fakectrd.Options{GCDelay: -1})
		if detour {
			start(t, d, "x")
			check(t, d.Exit(ns, "x", 1))
			_, err := d.DeleteTask(t.Context(), ns, "x")
			check(t, err)
			check(t, d.DeleteContainer(t.Context(), ns, "x"))
			check(t, d.DeleteLease(t.Context(), ns, "l"))
			d.GC()
		}
		start(t, d, "a")
		return d.Dump()
	}
	if diff := cmp.Diff(dump(false), dump(true)); diff != "" {
		t.Errorf("(-straight +detour):\n%s", diff)
	}
}

func BenchmarkCreateAndStart(b *testing.B) {
	d := imported(b, fakectrd.Options{GCDelay: -1})
	for b.Loop() {
		start(b, d, "a")
		_ = d.Exit(ns, "a", 0)
		_, _ = d.DeleteTask(b.Context(), ns, "a")
		_ = d.DeleteContainer(b.Context(), ns, "a")
		_ = d.RemoveSnapshot(b.Context(), ns, "overlayfs", "a")
	}
}
