package fakectrd_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/fakectrd"
)

func TestAKilledClientReachesNothingAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := imported(t, fakectrd.Options{})
		client := &fakectrd.Client{}
		ctx := fakectrd.WithClient(t.Context(), client)
		check(t, d.SetNamespaceLabel(ctx, ns, "a", "1"))

		d.Hook(func(fakectrd.Call) fakectrd.Fault { return fakectrd.Fault{Delay: time.Second} })
		time.AfterFunc(time.Second/2, client.Kill)
		if err := d.SetNamespaceLabel(ctx, ns, "b", "1"); !errdefs.IsUnavailable(err) {
			t.Errorf("a call on its way: %v", err)
		}
		d.Hook(nil)
		if err := d.SetNamespaceLabel(ctx, ns, "c", "1"); !errdefs.IsUnavailable(err) {
			t.Errorf("a call afterwards: %v", err)
		}
		if labels, err := d.NamespaceLabels(t.Context(), ns); err != nil || len(labels) != 1 {
			t.Errorf("%v %v", labels, err)
		}
	})
}

func TestAKillAfterACallLetsThatCallBeCarriedOut(t *testing.T) {
	d := imported(t, fakectrd.Options{})
	client := &fakectrd.Client{}
	d.Hook(func(fakectrd.Call) fakectrd.Fault {
		return fakectrd.Fault{After: errdefs.ErrUnavailable, Then: client.Kill}
	})
	err := d.SetNamespaceLabel(fakectrd.WithClient(t.Context(), client), ns, "a", "1")
	d.Hook(nil)
	if labels, _ := d.NamespaceLabels(t.Context(), ns); !errdefs.IsUnavailable(err) || labels["a"] != "1" || !client.Killed() {
		t.Errorf("%v, labels %v", err, labels)
	}
}

func TestTheAuditHearsOfAWriteAndOfWhatItFinds(t *testing.T) {
	d := imported(t, fakectrd.Options{})
	start(t, d, "web")
	var heard []fakectrd.Before
	d.Audit(func(c fakectrd.Call, b fakectrd.Before) {
		if c.Method == "KillTask" || c.Method == "RemoveSnapshot" {
			heard = append(heard, b)
		}
	})
	check(t, d.KillTask(fakectrd.AsPerson(t.Context()), ns, "web", 0, false)) // not told
	check(t, d.KillTask(t.Context(), ns, "web", 9, true))
	check(t, d.RemoveSnapshot(t.Context(), ns, "overlayfs", "web"))
	if len(heard) != 2 || heard[0].Task != "running" || heard[0].Container.ID != "web" || heard[0].Run.Live != 1 ||
		len(heard[1].Users) != 1 || !heard[1].Exists {
		t.Errorf("%+v", heard)
	}
}
