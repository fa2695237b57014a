package controllers_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"

	"kukeon.io/kukeon-reconciler/controllers"
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
