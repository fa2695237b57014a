package ctrd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

const (
	runtimeName = "io.containerd.runc.v2"
	// recordURL is the type of our extension, which is JSON.
	recordURL = state.Prefix + "Record"
)

// create prepares the snapshot and writes the container record with everything in one request, all under a lease that
// the creates of the realm share.
func (h *Host) create(ctx context.Context, at target, op plan.Create) error {
	if err := refuseLabels(op.Labels); err != nil {
		return err
	}
	if err := h.prepareSources(at.realm, op.Spec); err != nil {
		return err
	}
	leased, release, err := h.leases.acquire(ctx, at.ns, leaseID(at.realm, "create", "containers"),
		state.RPCDeadline+state.LeaseSlack, false)
	if err != nil {
		return err
	}
	err = h.createUnderLease(leased, at, op)
	h.ended(at.ns, release(false))
	return err
}

// ended notes a lease that could not be deleted; it is swept later.
func (h *Host) ended(ns state.Namespace, err error) {
	if err != nil {
		h.cfg.Log.V(1).Info("lease was left behind", "namespace", ns, "error", err.Error())
		h.mirror(ns).mark(dirt{leases: true})
	}
}

func (h *Host) createUnderLease(ctx context.Context, at target, op plan.Create) error {
	owner, err := h.Owner(ctx)
	if err != nil {
		return err
	}
	snapshotter, err := h.snapshotter(ctx, at.ns)
	if err != nil {
		return err
	}
	image, err := h.resolveRef(ctx, at.ns, op.Spec.Image)
	if errdefs.IsNotFound(err) {
		return &outcome.Waiting{For: "image " + op.Spec.Image}
	} else if err != nil {
		return err
	}
	openFiles, err := openFilesLimit()
	if err != nil {
		return err
	}
	mounts, done, err := h.prepareSnapshot(ctx, at, op, snapshotter, image.chain, owner)
	if err != nil || done {
		return err
	}
	spec, err := blueprint{
		ns: at.ns, id: op.ID, spec: op.Spec, image: image.config,
		files: h.files(at.ns, op.ID), volumes: h.volumes(at.realm), openFiles: openFiles,
		rootFS: func(read func(fs.FS) error) error { return h.cfg.Machine.ReadRootFS(ctx, mounts, read) },
	}.encode(ctx)
	if err != nil {
		return errors.Join(err, h.dropSnapshot(ctx, at.ns, snapshotter, op.SnapshotKey))
	}
	record := state.EncodeRecord(state.Record{Owner: owner, Realm: at.realm, Spec: op.Spec})
	err = change(ctx, "writing container "+string(op.ID), func(ctx context.Context) error {
		return h.svc.CreateContainer(ctx, string(at.ns), containers.Container{
			ID: string(op.ID), Image: op.Spec.Image, Labels: op.Labels,
			Runtime:     containers.RuntimeInfo{Name: runtimeName},
			Snapshotter: snapshotter, SnapshotKey: op.SnapshotKey, Spec: spec,
			Extensions: map[string]typeurl.Any{state.ExtensionSpec: &anypb.Any{TypeUrl: recordURL, Value: record}},
		})
	})
	switch {
	case errdefs.IsAlreadyExists(err):
		return h.alreadyCreated(ctx, at.ns, op, snapshotter)
	case definite(err):
		// What was not recorded needs no snapshot; with an unknown outcome the record may name it.
		return errors.Join(err, h.dropSnapshot(ctx, at.ns, snapshotter, op.SnapshotKey))
	}
	return err
}

// prepareSnapshot makes the container's snapshot. One that exists belongs to this very container, which is then done,
// or to an attempt that did not end, and is made anew.
func (h *Host) prepareSnapshot(
	ctx context.Context, at target, op plan.Create, snapshotter, chain string, owner state.Owner,
) (mounts []mount.Mount, done bool, err error) {
	labels := map[string]string{state.LabelOwner: string(owner), state.LabelRealm: string(at.realm)}
	prepare := func() error {
		return change(ctx, "preparing snapshot "+op.SnapshotKey, func(ctx context.Context) error {
			var err error
			mounts, err = h.svc.PrepareSnapshot(ctx, string(at.ns), snapshotter, op.SnapshotKey, chain, labels)
			return err
		})
	}
	err = prepare()
	if errdefs.IsAlreadyExists(err) {
		c, readErr := h.container(ctx, at.ns, op.ID)
		switch {
		case readErr == nil:
			return nil, true, h.sameContainer(ctx, op, c)
		case !errdefs.IsNotFound(readErr):
			return nil, false, readErr
		}
		if err := h.removeOurSnapshot(ctx, at.ns, snapshotter, op.SnapshotKey); err != nil {
			return nil, false, err
		}
		err = prepare()
	}
	if errdefs.IsNotFound(err) {
		h.mirror(at.ns).mark(dirt{store: true})
		return nil, false, &outcome.Waiting{For: "image " + op.Spec.Image + " to be unpacked"}
	}
	if err == nil {
		h.mirror(at.ns).prepared(snapshotter, op.SnapshotKey, labels)
	}
	return mounts, false, err
}

// alreadyCreated is the end of a create that found a record: ours with the same meaning is what was wanted.
func (h *Host) alreadyCreated(ctx context.Context, ns state.Namespace, op plan.Create, snapshotter string) error {
	c, err := h.container(ctx, ns, op.ID)
	if err != nil {
		return err
	}
	if c.SnapshotKey != op.SnapshotKey {
		return errors.Join(h.sameContainer(ctx, op, c), h.dropSnapshot(ctx, ns, snapshotter, op.SnapshotKey))
	}
	return h.sameContainer(ctx, op, c)
}

func (h *Host) sameContainer(ctx context.Context, op plan.Create, c containers.Container) error {
	owner := ownerOf(c)
	if err := h.ours(ctx, "container "+c.ID, owner); err != nil {
		return err
	}
	if ext := c.Extensions[state.ExtensionSpec]; ext != nil {
		if r, err := state.DecodeRecord(ext.GetValue()); err == nil && r.Spec.Digest() == op.Spec.Digest() {
			return nil
		}
	}
	return &outcome.Conflict{Object: "another container " + c.ID, Owner: string(owner)}
}

// dropSnapshot takes back a snapshot that we have just prepared.
func (h *Host) dropSnapshot(ctx context.Context, ns state.Namespace, snapshotter, key string) error {
	err := change(context.WithoutCancel(ctx), "removing snapshot "+key, func(ctx context.Context) error {
		return h.svc.RemoveSnapshot(ctx, string(ns), snapshotter, key)
	})
	if err = absent(err); err == nil {
		h.mirror(ns).removed(key)
	}
	return err
}

// removeOurSnapshot removes a snapshot that carries our owner.
func (h *Host) removeOurSnapshot(ctx context.Context, ns state.Namespace, snapshotter, key string) error {
	s, err := look(ctx, "reading snapshot "+key, func(ctx context.Context) (snapshots.Info, error) {
		return h.svc.Snapshot(ctx, string(ns), snapshotter, key)
	})
	if err != nil {
		return absent(err)
	}
	if err := h.ours(ctx, "snapshot "+key, state.Owner(s.Labels[state.LabelOwner])); err != nil {
		return err
	}
	return h.dropSnapshot(ctx, ns, snapshotter, key)
}

// removeSnapshot removes a snapshot of ours, unless a container names it after all.
func (h *Host) removeSnapshot(ctx context.Context, at target, op plan.RemoveSnapshot) error {
	all, err := list(ctx, "containers", func(ctx context.Context) ([]containers.Container, error) {
		return h.svc.Containers(ctx, string(at.ns))
	})
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.SnapshotKey == op.Key {
			return &outcome.Waiting{For: "container " + c.ID + " to go, which uses it"}
		}
	}
	snapshotter, err := h.snapshotter(ctx, at.ns)
	if err != nil {
		return err
	}
	return h.removeOurSnapshot(ctx, at.ns, snapshotter, op.Key)
}

// update writes metadata, in one request.
func (h *Host) update(ctx context.Context, at target, op plan.Update) error {
	if err := refuseLabels(op.Set); err != nil {
		return err
	}
	c, err := h.container(ctx, at.ns, op.ID)
	if err != nil {
		return err
	}
	if !op.Adopt {
		if err := h.ours(ctx, "container "+c.ID, ownerOf(c)); err != nil {
			return err
		}
	}
	u := containers.Container{ID: c.ID, Labels: map[string]string{}, Extensions: map[string]typeurl.Any{}}
	var paths []string
	label := func(k, v string) {
		if c.Labels[k] != v {
			u.Labels[k] = v
			paths = append(paths, "labels."+k)
		}
	}
	for k, v := range op.Set {
		label(k, v)
	}
	for _, k := range op.Drop {
		label(k, "")
	}
	for k := range c.Labels {
		if op.Adopt && strings.HasPrefix(k, state.RestartMonitorPrefix) {
			label(k, "")
		}
	}
	switch old := c.Extensions[state.ExtensionSpec]; {
	case op.Record != nil:
		u.Extensions[state.ExtensionSpec] = &anypb.Any{TypeUrl: recordURL, Value: state.EncodeRecord(*op.Record)}
		paths = append(paths, "extensions."+state.ExtensionSpec)
	case op.DropRecord && old != nil && len(old.GetValue()) > 0:
		// containerd never removes an extension; an empty one counts as none.
		u.Extensions[state.ExtensionSpec] = &anypb.Any{}
		paths = append(paths, "extensions."+state.ExtensionSpec)
	}
	if len(paths) == 0 {
		return nil
	}
	return h.updateContainer(ctx, at.ns, u, paths)
}

// complete notes the end of a container that is not run again, and deletes its stopped task.
func (h *Host) complete(ctx context.Context, at target, op plan.Complete) error {
	c, err := h.owned(ctx, at.ns, op.ID)
	if err != nil {
		return absent(err)
	}
	t, err := h.taskOf(ctx, at.ns, op.ID)
	if err != nil {
		return err
	}
	switch state.TaskStatus(t.Status) {
	case state.TaskNone, state.TaskStopped:
		if err := h.setLabels(ctx, at.ns, c, op.Labels); err != nil {
			return err
		}
		return h.deleteTask(ctx, at.ns, op.ID)
	}
	return &outcome.Waiting{For: string(op.ID) + " to end: it runs again"}
}

// remove deletes a stopped container with all that is its own. Its files and output go before its record, so that a
// removal that breaks off is seen and taken up again.
func (h *Host) remove(ctx context.Context, at target, op plan.Remove) error {
	c, err := h.owned(ctx, at.ns, op.ID)
	if errdefs.IsNotFound(err) {
		snapshotter, err := h.snapshotter(ctx, at.ns)
		if err != nil {
			return err
		}
		return errors.Join(h.removeFiles(at.ns, op.ID), h.removeOurSnapshot(ctx, at.ns, snapshotter, op.SnapshotKey))
	} else if err != nil {
		return err
	}
	t, err := h.taskOf(ctx, at.ns, op.ID)
	if err != nil {
		return err
	}
	switch state.TaskStatus(t.Status) {
	case state.TaskNone, state.TaskStopped, state.TaskCreated:
		if err := h.deleteTask(ctx, at.ns, op.ID); err != nil {
			return err
		}
	default:
		return &outcome.Waiting{For: string(op.ID) + " to stop"}
	}
	if err := h.removeFiles(at.ns, op.ID); err != nil {
		return err
	}
	err = absent(change(ctx, "deleting container "+c.ID, func(ctx context.Context) error {
		return h.svc.DeleteContainer(ctx, string(at.ns), c.ID)
	}))
	if err != nil || c.SnapshotKey == "" {
		return err
	}
	// That of an adopted container carries no label of ours; nobody names it any more all the same.
	return h.dropSnapshot(ctx, at.ns, c.Snapshotter, c.SnapshotKey)
}

// removeFiles removes what we keep on the host for a container.
func (h *Host) removeFiles(ns state.Namespace, id state.ContainerID) error {
	err := os.RemoveAll(h.files(ns, id))
	if h.cfg.Output != nil {
		err = errors.Join(err, h.cfg.Output.Remove(ns, id))
	}
	return err
}
