package simulate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"google.golang.org/protobuf/types/known/anypb"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// What people do with ctr, and with our own commands.

// hurried is a person's patience with one command.
func hurried() (context.Context, context.CancelFunc) {
	return context.WithTimeout(person, 100*time.Millisecond)
}

// ctr is a person who does something to a container of ours.
func (w *world) ctr(a action) {
	ns, id, how := namespaceOf(a.arg(0)), a.arg(1), a.arg(2)
	ctx, cancel := hurried()
	defer cancel()
	c, err := w.d.Container(ctx, ns, id)
	if err != nil || ownerOf(&c) != owner {
		return
	}
	did := func(err error, kind string) {
		if err == nil {
			w.fired(kind)
		}
	}
	switch how {
	case "kill":
		did(w.d.KillTask(ctx, ns, id, 9, true), "task killed by ctr")
	case "term":
		did(w.d.KillTask(ctx, ns, id, 15, false), "task stopped by ctr")
	case "task-rm":
		_ = w.d.KillTask(ctx, ns, id, 9, true) // it may have ended
		_, err := w.d.DeleteTask(ctx, ns, id)
		did(err, "task deleted by ctr")
	case "rm":
		did(w.d.DeleteContainer(ctx, ns, id), "container deleted by ctr")
	case "rm-all":
		_ = w.d.KillTask(ctx, ns, id, 9, true) // it may have ended
		_, _ = w.d.DeleteTask(ctx, ns, id)     // there may be none
		did(w.d.DeleteContainer(ctx, ns, id), "container deleted by ctr")
	case "pause":
		did(w.d.Pause(ns, id), "task paused by ctr")
	case "snapshot-rm":
		did(w.d.RemoveSnapshot(ctx, ns, c.Snapshotter, c.SnapshotKey), "snapshot removed by ctr")
	case "image-rm":
		did(w.d.DeleteImage(ctx, ns, c.Image), "image removed by ctr")
	case "image-label":
		did(w.d.UpdateImageLabels(ctx, ns, c.Image, map[string]string{"team": "x"}), "image relabelled by ctr")
	case "content-rm":
		did(w.d.LoseContent(ns, c.Image), "image content lost")
	}
}

// stamp is a person who edits a label of a realm's namespace.
func (w *world) stamp(a action) {
	ns, key := namespaceOf(a.arg(0)), a.arg(1)
	if labels, err := w.d.NamespaceLabels(person, ns); err != nil || labels[state.LabelOwner] != owner {
		return
	}
	value := ""
	switch key {
	case "team":
		value = "x"
	case "managed-by":
		value, key = "somebody", state.Prefix+key
	default:
		key = state.Prefix + key
	}
	if w.d.SetNamespaceLabel(person, ns, key, value) == nil {
		w.fired("namespace relabelled by ctr")
	}
}

// importImage is a person who imports an image into a realm's namespace, before it is pulled or beside it.
func (w *world) importImage(a action) {
	ns := namespaceOf(a.arg(0))
	if w.d.Import(ns, "docker.io/library/web:"+a.arg(1), w.image(a.arg(1)), false) == nil {
		w.fired("image imported by ctr")
	}
}

// label is a person who edits a label of a container of ours.
func (w *world) label(a action) {
	ns, id := namespaceOf(a.arg(0)), a.arg(1)
	ctx, cancel := hurried()
	defer cancel()
	c, err := w.d.Container(ctx, ns, id)
	if err != nil || ownerOf(&c) != owner || recordOf(&c) == nil { // without a record of ours only the label tells
		return
	}
	key, value := a.arg(2), a.arg(3)
	if key != "app" {
		key = state.Prefix + key
	}
	if err := w.d.UpdateContainer(ctx, ns, containers.Container{ID: id, Labels: map[string]string{key: value}}, "labels."+key); err == nil {
		w.check.tamper(ns + "/" + id)
		w.fired("label edited by ctr")
	}
}

// take is a person who puts a container of their own in the place of ours.
func (w *world) take(a action) {
	ns, id := namespaceOf(a.arg(0)), a.arg(1)
	ctx, cancel := hurried()
	defer cancel()
	c, err := w.d.Container(ctx, ns, id)
	if err != nil || ownerOf(&c) != owner || w.check.busy(ns+"/"+id) {
		return // with an operation of ours under way it is a race that nobody can win: containerd compares nothing
	}
	_ = w.d.KillTask(ctx, ns, id, 9, true) // it may have ended
	_, _ = w.d.DeleteTask(ctx, ns, id)     // there may be none
	if w.d.DeleteContainer(ctx, ns, id) == nil && w.theirs(ns, id) == nil {
		w.mu.Lock()
		w.taken[ns+"/"+id] = a.arg(2) == "stay"
		w.mu.Unlock()
		w.baseline = w.foreign()
		w.fired("name taken")
	}
}

// theirs makes a running container that is not ours.
func (w *world) theirs(ns, id string) error {
	w.mu.Lock()
	w.foreigners[ns+"/"+id] = true
	w.mu.Unlock()
	key := "theirs-" + id
	if _, err := w.d.PrepareSnapshot(person, ns, "overlayfs", key, "", map[string]string{"containerd.io/gc.root": "now"}); err != nil {
		return err
	}
	err := w.d.CreateContainer(person, ns, containers.Container{
		ID: id, Image: "docker.io/library/theirs:1", Snapshotter: "overlayfs", SnapshotKey: key,
		Spec: &anypb.Any{TypeUrl: "spec"}, Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"},
	})
	if err == nil {
		_, err = w.d.CreateTask(person, ns, ctrd.TaskRequest{ID: id})
	}
	if err == nil {
		return w.d.StartTask(person, ns, id)
	}
	// Such as a killed shim of ours that is just being cleaned up after: they give up.
	_ = w.d.DeleteContainer(person, ns, id) // it may not have been made
	w.mu.Lock()
	delete(w.foreigners, ns+"/"+id)
	w.mu.Unlock()
	return errors.Join(err, w.d.RemoveSnapshot(person, ns, "overlayfs", key))
}

// guest is somebody who runs a container of their own beside ours. The namespace has to exist.
func (w *world) guest(a action) {
	if labels, err := w.d.NamespaceLabels(person, a.arg(0)); err != nil || labels == nil {
		return
	}
	if w.theirs(a.arg(0), fmt.Sprintf("guest%d", w.guests)) == nil {
		w.guests++
		w.close = w.close || slices.Contains(namespaces(), a.arg(0))
		w.baseline = w.foreign()
		w.fired("foreign container")
	}
}

// guestLeaves is somebody who takes the latest of their containers away.
func (w *world) guestLeaves(action) {
	for i := w.guests - 1; i >= 0; i-- {
		id := fmt.Sprintf("guest%d", i)
		for _, ns := range slices.Concat([]string{"moby", "default"}, namespaces()) {
			if _, err := w.d.Container(person, ns, id); err == nil {
				w.giveBack(ns + "/" + id)
				w.fired("foreign container removed")
				return
			}
		}
	}
}

func (w *world) confirm(action) {
	if !w.proc.alive() {
		return
	}
	for _, h := range w.proc.manager.Host().Holds {
		w.check.confirm(h.Realms)
		if _, err := w.proc.manager.Confirm(h.ID); err == nil {
			w.fired("removal confirmed")
		}
	}
}

func (w *world) suspend(a action) {
	if !w.proc.alive() {
		return
	}
	w.check.asked(a.arg(0))
	s := state.Suspension{Realm: state.RealmName(a.arg(0)), Until: w.now().Add(a.duration(1)), Reason: "surgery"}
	if w.proc.manager.Suspend(s) == nil {
		w.fired("realm suspended")
	}
}
