package simulate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/plan"
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
	if key != "app" && key != label {
		key = state.Prefix + key
	}
	if err := w.d.UpdateContainer(ctx, ns, containers.Container{ID: id, Labels: map[string]string{key: value}}, "labels."+key); err != nil {
		return
	}
	w.fired("label edited by ctr")
	if key != label {
		w.check.tamper(ns + "/" + id)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.marked[ns+"/"+id] = c.CreatedAt
}

// label is a key that means nothing to us.
const label = "theirs"

// unmarked checks that labels of others stay as long as the containers that they put them on.
func (w *world) unmarked() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, made := range w.marked {
		ns, id, _ := strings.Cut(key, "/")
		c, err := w.d.Container(person, ns, id)
		switch {
		case errdefs.IsUnavailable(err):
		case err != nil || !c.CreatedAt.Equal(made):
			delete(w.marked, key)
		case c.Labels[label] == "":
			w.check.fail("P3", "a label that is not ours is gone from %s", key)
			delete(w.marked, key)
		}
	}
}

// take is a person who puts a container of their own in the place of ours.
func (w *world) take(a action) { w.takes(namespaceOf(a.arg(0)), a.arg(1), a.arg(2) == "stay") }

func (w *world) takes(ns, id string, stays bool) (taken bool) {
	ctx, cancel := hurried()
	defer cancel()
	w.alone(func() {
		c, err := w.d.Container(ctx, ns, id)
		if err != nil || ownerOf(&c) != owner || w.check.busy(ns+"/"+id) {
			return // with an operation of ours under way it is a race that nobody can win: containerd compares nothing
		}
		_ = w.d.KillTask(ctx, ns, id, 9, true) // it may have ended
		_, _ = w.d.DeleteTask(ctx, ns, id)     // there may be none
		if taken = w.d.DeleteContainer(ctx, ns, id) == nil && w.theirs(ns, id) == nil; !taken {
			return
		}
		w.mu.Lock()
		w.taken[ns+"/"+id] = stays
		w.mu.Unlock()
		w.baseline = w.foreign()
		w.fired("name taken")
	})
	return taken
}

// await has somebody wait for the moment in which we begin to act on a container.
func (w *world) await(a action) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.usurper = a.number(0) + 1
}

// usurp is that somebody: what was planned for ours meets theirs.
func (w *world) usurp(ns string, op plan.Operation) {
	if op.Object().Kind != plan.ContainerObject {
		return
	}
	w.mu.Lock()
	now := w.usurper == 1
	w.usurper = max(w.usurper-1, 0)
	w.mu.Unlock()
	if now && !w.takes(ns, op.Object().Name, false) {
		w.mu.Lock()
		w.usurper = 1 // nothing of ours was there: the next one
		w.mu.Unlock()
	}
}

// alone has one person at a time change what is not ours, or compare it. It is a channel and no lock, because time goes
// on only for who waits for something of this world.
func (w *world) alone(act func()) {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	act()
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
	w.alone(func() {
		if w.theirs(a.arg(0), fmt.Sprintf("guest%d", w.guests)) == nil {
			w.guests++
			w.close = w.close || slices.Contains(namespaces(), a.arg(0))
			w.baseline = w.foreign()
			w.fired("foreign container")
		}
	})
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
