package controllers_test

import (
	"errors"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
)

func TestANamespaceThatHoldsForeignContainersIsNotTakenOverUnasked(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		if err := h.daemon.CreateNamespace(t.Context(), "tenant", nil); err != nil {
			t.Fatal(err)
		}
		if err := h.daemon.CreateContainer(t.Context(), "tenant", containers.Container{ID: "theirs", Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"}}); err != nil {
			t.Fatal(err)
		}
		h.files.write("claim.yaml", "apiVersion: v1beta1\nkind: Realm\nmetadata: {name: claim}\nspec: {namespace: tenant, containers: []}\n")
		h.idle(time.Minute)
		if labels, err := h.daemon.NamespaceLabels(t.Context(), "tenant"); err != nil || len(labels) != 0 {
			t.Errorf("taken over: %v %v", labels, err)
		}
	})
}

func TestARealmFirstSeenEmptyIsNotEmptyForEverWhileContainerdIsAway(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.files.write("new.yaml", realm("new", "one"))
		h.idle(500 * time.Millisecond) // its container is made; the last look at the files was before that
		if len(h.pids("kukeon-new")) != 1 {
			t.Fatal("not running")
		}
		h.daemon.Down()
		h.files.edit(func() { clear(h.files.files) })
		h.idle(time.Minute)
		h.daemon.Up()
		h.idle(time.Minute)
		if len(h.pids("kukeon-new")) != 1 {
			t.Errorf("a realm with a container was removed past the guard; holds %+v", h.Host().Holds)
		}
	})
}

func TestAnObservingDaemonWritesNothingThatAPersonAsksFor(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.stop()
		h.files.edit(func() { delete(h.files.files, "edge.yaml"); delete(h.files.files, "main.yaml") })
		c, err := h.daemon.Container(t.Context(), "kukeon-main", "web")
		if err != nil {
			t.Fatal(err)
		}
		c.Labels[state.LabelOwner] = "another"
		if err := h.daemon.UpdateContainer(t.Context(), "kukeon-main", c, "labels"); err != nil {
			t.Fatal(err)
		}
		h.observe = true
		h.start()
		h.idle(time.Minute)
		before := h.daemon.Writes()
		if _, err := h.Adopt(t.Context(), "main", "web"); !errors.Is(err, status.ErrConflict) {
			t.Errorf("adopt: %v", err)
		}
		if _, err := h.Release(t.Context(), "edge"); !errors.Is(err, status.ErrConflict) {
			t.Errorf("release: %v", err)
		}
		h.idle(time.Minute)
		if h.daemon.Writes() != before {
			t.Errorf("%d writes", h.daemon.Writes()-before)
		}
	})
}
