package fakectrd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// labelRoot on a snapshot keeps the garbage collector away from it.
const labelRoot = "containerd.io/gc.root"

// snapshotID names a snapshot inside a namespace.
type snapshotID struct{ snapshotter, key string }

func (a snapshotID) compare(b snapshotID) int {
	return strings.Compare(a.snapshotter+"/"+a.key, b.snapshotter+"/"+b.key)
}

type snapshot struct {
	snapshots.Info
	dir string // no other snapshot ever has the same
}

// sortedSnapshots returns the ids of all snapshots of a namespace in order.
func (n *namespace) sortedSnapshots() []snapshotID {
	return slices.SortedFunc(maps.Keys(n.snapshots), snapshotID.compare)
}

// Snapshots implements ctrd.Services.
func (d *Daemon) Snapshots(ctx context.Context, ns, snapshotter string) ([]snapshots.Info, error) {
	return read(ctx, d, "Snapshots", ns, "", func() ([]snapshots.Info, error) {
		if err := knownSnapshotter(snapshotter); err != nil {
			return nil, err
		}
		n := d.look(ns)
		var out []snapshots.Info
		for _, id := range n.sortedSnapshots() {
			if id.snapshotter == snapshotter {
				out = append(out, n.snapshots[id].clone())
			}
		}
		return out, nil
	})
}

// Snapshot implements ctrd.Services.
func (d *Daemon) Snapshot(ctx context.Context, ns, snapshotter, key string) (snapshots.Info, error) {
	return read(ctx, d, "Snapshot", ns, key, func() (snapshots.Info, error) {
		s, err := d.findSnapshot(ns, snapshotter, key)
		if err != nil {
			return snapshots.Info{}, err
		}
		return s.clone(), nil
	})
}

// PrepareSnapshot implements ctrd.Services.
func (d *Daemon) PrepareSnapshot(
	ctx context.Context, ns, snapshotter, key, parent string, labels map[string]string,
) ([]mount.Mount, error) {
	return writeResult(ctx, d, "PrepareSnapshot", ns, key, func() ([]mount.Mount, error) {
		if err := knownSnapshotter(snapshotter); err != nil {
			return nil, err
		}
		n, err := d.open(ns)
		if err != nil {
			return nil, err
		}
		stored, err := storedLabels(labels)
		if err != nil {
			return nil, err
		}
		l, leaseErr := n.leaseOf(ctx)
		id := snapshotID{snapshotter, key}
		if _, ok := n.snapshots[id]; ok {
			if !d.leaseLast {
				if leaseErr != nil {
					return nil, leaseErr
				}
				l.hold(id) // a newer containerd leases the one that exists
			}
			return nil, exists("snapshot", key)
		}
		if parent != "" {
			if p, ok := n.snapshots[snapshotID{snapshotter, parent}]; !ok {
				return nil, notFound("parent snapshot", parent)
			} else if p.Kind != snapshots.KindCommitted {
				return nil, fmt.Errorf("parent %q is not committed snapshot: %w", parent, errdefs.ErrInvalidArgument)
			}
		}
		if n.begun = true; leaseErr != nil { // found out in a second transaction
			return nil, leaseErr
		}
		n.snapshots[id] = d.newSnapshot(snapshots.KindActive, key, parent, stored)
		l.hold(id)
		d.publish(ns, "/snapshot/prepare", &eventtypes.SnapshotPrepare{Key: key, Parent: parent, Snapshotter: snapshotter})
		return n.mounts(id), nil
	})
}

// SnapshotMounts implements ctrd.Services.
func (d *Daemon) SnapshotMounts(ctx context.Context, ns, snapshotter, key string) ([]mount.Mount, error) {
	return read(ctx, d, "SnapshotMounts", ns, key, func() ([]mount.Mount, error) {
		s, err := d.findSnapshot(ns, snapshotter, key)
		if err != nil {
			return nil, err
		}
		if s.Kind == snapshots.KindCommitted {
			return nil, fmt.Errorf("snapshot %q not active or view: %w", key, errdefs.ErrFailedPrecondition)
		}
		return d.look(ns).mounts(snapshotID{snapshotter, key}), nil
	})
}

// RemoveSnapshot implements ctrd.Services. A container that uses the snapshot does not hinder it.
func (d *Daemon) RemoveSnapshot(ctx context.Context, ns, snapshotter, key string) error {
	return write(ctx, d, "RemoveSnapshot", ns, key, func() error {
		if _, err := d.findSnapshot(ns, snapshotter, key); err != nil {
			return err
		}
		n := d.look(ns)
		for id, s := range n.snapshots {
			if key != "" && id.snapshotter == snapshotter && s.Parent == key {
				return fmt.Errorf("cannot remove snapshot with child: %w", errdefs.ErrFailedPrecondition)
			}
		}
		id := snapshotID{snapshotter, key}
		d.removeSnapshot(ns, n, id)
		// Other leases than that of the call go on holding the name, and with it the next snapshot that has it.
		if l, err := n.leaseOf(ctx); err == nil && l != nil {
			delete(l.snapshots, id)
		}
		d.scheduleGC()
		return nil
	})
}

// removeSnapshot takes a snapshot away and tells so.
func (d *Daemon) removeSnapshot(ns string, n *namespace, id snapshotID) {
	delete(n.snapshots, id)
	d.publish(ns, "/snapshot/remove", &eventtypes.SnapshotRemove{Key: id.key, Snapshotter: id.snapshotter})
}

func (d *Daemon) newSnapshot(kind snapshots.Kind, key, parent string, labels map[string]string) *snapshot {
	now := d.now().UTC()
	d.dirs++
	return &snapshot{dir: fmt.Sprintf("/fakectrd/%d", d.dirs), Info: snapshots.Info{
		Kind: kind, Name: key, Parent: parent, Labels: labels, Created: now, Updated: now,
	}}
}

func (d *Daemon) findSnapshot(ns, snapshotter, key string) (*snapshot, error) {
	if err := knownSnapshotter(snapshotter); err != nil {
		return nil, err
	}
	s, ok := d.look(ns).snapshots[snapshotID{snapshotter, key}]
	if !ok {
		return nil, notFound("snapshot", key)
	}
	return s, nil
}

// knownSnapshotter refuses a snapshotter that no daemon has.
func knownSnapshotter(name string) error {
	if name != "overlayfs" && name != "native" {
		return fmt.Errorf("snapshotter not loaded: %s: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (s *snapshot) clone() snapshots.Info {
	i := s.Info
	i.Labels = maps.Clone(i.Labels)
	return i
}

// mounts looks like what overlayfs gives; nothing is ever mounted.
func (n *namespace) mounts(id snapshotID) []mount.Mount {
	s := n.snapshots[id]
	var lower []string
	for p := n.parent(id.snapshotter, s); p != nil; p = n.parent(id.snapshotter, p) {
		lower = append(lower, p.dir+"/fs")
	}
	if lower == nil {
		return []mount.Mount{{Type: "bind", Source: s.dir + "/fs", Options: []string{"rw", "rbind"}}}
	}
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"workdir=" + s.dir + "/work", "upperdir=" + s.dir + "/fs", "lowerdir=" + strings.Join(lower, ":"),
	}}}
}

// parent returns the snapshot below another; nil at the bottom.
func (n *namespace) parent(snapshotter string, s *snapshot) *snapshot {
	if s.Parent == "" {
		return nil // not the snapshot whose key is empty
	}
	if s.Parent == "" { // which is also a name that a snapshot may have
		return nil
	}
	return n.snapshots[snapshotID{snapshotter, s.Parent}]
}

// mountable reports whether the mounts are those of a snapshot that exists: without any, and with the directory of one
// that was removed, no container has a root.
func (n *namespace) mountable(mounts []mount.Mount) bool {
	for id, s := range n.snapshots {
		if s.Kind != snapshots.KindCommitted && slices.EqualFunc(mounts, n.mounts(id), sameMount) {
			return true
		}
	}
	return false
}

func sameMount(a, b mount.Mount) bool {
	return a.Source == b.Source && slices.Equal(a.Options, b.Options)
}

// scheduleGC has the garbage collector run soon, as it does after deletions.
func (d *Daemon) scheduleGC() {
	if d.gcDelay < 0 || d.gcTimer != nil {
		return
	}
	d.gcTimer = time.AfterFunc(d.gcDelay, d.GC)
}

// GC collects garbage now: content and snapshots that no image, container or living lease leads to, and leases that
// have expired. What was prepared without a lease, and is named by no container yet, is lost here.
func (d *Daemon) GC() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gcTimer = nil
	if !d.down { // else Up schedules it again
		d.collectAll()
	}
}

// collectAll removes the garbage of all namespaces.
func (d *Daemon) collectAll() {
	for _, ns := range sortedKeys(d.namespaces) {
		d.collect(ns, d.namespaces[ns])
	}
}

// collect removes the garbage of one namespace.
func (d *Daemon) collect(ns string, n *namespace) {
	blobs, used := map[string]bool{}, map[snapshotID]bool{}
	for _, i := range n.images {
		blobs[i.Target.Digest.String()] = true
	}
	for _, id := range sortedKeys(n.leases) {
		l := n.leases[id]
		expires, err := time.Parse(time.RFC3339, l.Labels[labelExpire])
		if err == nil && d.now().After(expires) {
			delete(n.leases, id)
			continue
		}
		maps.Copy(blobs, l.blobs)
		maps.Copy(used, l.snapshots)
	}
	for _, c := range n.containers {
		used[snapshotID{c.Snapshotter, c.SnapshotKey}] = true
	}
	for id, s := range n.snapshots {
		if s.Labels[labelRoot] != "" {
			used[id] = true
		}
	}
	for digest, b := range n.blobs {
		if !blobs[digest] {
			delete(n.blobs, digest)
			continue
		}
		for snapshotter, chain := range b.unpacked {
			used[snapshotID{snapshotter, chain}] = true
		}
	}
	for _, id := range slices.Collect(maps.Keys(used)) {
		for s, ok := n.snapshots[id]; ok; s, ok = n.snapshots[id] {
			used[id] = true
			if id.key = s.Parent; id.key == "" {
				break
			}
		}
	}
	for _, id := range n.sortedSnapshots() {
		switch {
		case used[id]:
		case d.collectsQuietly:
			delete(n.snapshots, id) // without a word
		default:
			d.removeSnapshot(ns, n, id)
		}
	}
}
