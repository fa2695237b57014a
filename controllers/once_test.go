package controllers_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/controllers"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

func TestOneShotOfATombstoneForARealmThatIsNowhereEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.start()
		h.stop()
		grave := "apiVersion: v1beta1\nkind: Realm\nmetadata: {name: gone}\nspec: {state: Absent}\n"
		scan := manifests.Scan{Exists: true, Complete: true, At: time.Now(), Files: []manifests.File{manifests.Decode("gone.yaml", []byte(grave))}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _, err := controllers.Once(ctx, controllers.Config{
			Host: h.host, Store: &memory{done: map[state.RealmName]map[state.ContainerID]state.Completion{}}, Template: "kukeon-{realm}",
			ManagedBy: state.ManagedByApply, Rescan: time.Second, Resync: time.Minute, Log: logr.Discard(), Now: time.Now,
		}, scan, controllers.OnceOptions{})
		if err != nil || ctx.Err() != nil {
			t.Errorf("%v, %v", err, ctx.Err())
		}
		if names, _ := h.daemon.Namespaces(t.Context()); len(names) != 0 {
			t.Errorf("namespaces %v", names)
		}
	})
}

// slowLook is a host that takes a second to look: what was under way when the look began has ended when it is done.
type slowLook struct{ controllers.Host }

func (s slowLook) Observe(ctx context.Context, ns state.Namespace) (state.Observed, error) {
	time.Sleep(time.Second) // fake time: how long the look takes is what is tested
	return s.Host.Observe(ctx, ns)
}

func TestOneShotWaitsForAPlanThatHasNothingLeftToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.start()
		h.stop()
		h.daemon.Hook(func(c fakectrd.Call) fakectrd.Fault {
			if c.Method == "StartTask" && c.ID == "db" {
				time.Sleep(500 * time.Millisecond) // its end begins the look during which the other one ends
			} else if c.Method == "StartTask" {
				time.Sleep(1200 * time.Millisecond) // fake time, as above
			}
			return fakectrd.Fault{}
		})
		realm := "apiVersion: v1beta1\nkind: Realm\nmetadata: {name: main}\nspec:\n  containers:\n" +
			"    - {id: web, image: web:1}\n    - {id: db, image: web:1}\n"
		scan := manifests.Scan{Exists: true, Complete: true, At: time.Now(), Files: []manifests.File{manifests.Decode("main.yaml", []byte(realm))}}
		for _, wait := range []bool{true, false} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			outcomes, problems, err := controllers.Once(ctx, controllers.Config{
				Host: slowLook{h.host}, Store: &memory{done: map[state.RealmName]map[state.ContainerID]state.Completion{}}, Template: "kukeon-{realm}",
				ManagedBy: state.ManagedByApply, Rescan: time.Second, Resync: time.Minute, Log: logr.Discard(), Now: time.Now,
			}, scan, controllers.OnceOptions{Wait: wait})
			cancel()
			want := []controllers.Outcome{{Realm: "main", Container: "db", Verb: controllers.Created}, {Realm: "main", Container: "web", Verb: controllers.Created}}
			if !wait {
				want[0].Verb, want[1].Verb = controllers.Unchanged, controllers.Unchanged
			}
			if diff := cmp.Diff(want, outcomes); diff != "" || err != nil {
				t.Errorf("wait %v: %v %v %s", wait, err, problems, diff)
			}
		}
	})
}
