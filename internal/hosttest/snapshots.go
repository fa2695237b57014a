package hosttest

import (
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/google/go-cmp/cmp"
)

var snapshotCases = []testCase{
	{"a snapshot is prepared once, with its labels", func(h *host) {
		ctx := h.lease("l")
		labels := map[string]string{"reconciler.kukeon.io/owner": "me"}
		mounts, err := h.PrepareSnapshot(ctx, h.ns, Snapshotter, "s-1", "", labels)
		h.ok(err)
		_, err = h.PrepareSnapshot(ctx, h.ns, Snapshotter, "s-1", "", labels)
		h.is("AlreadyExists", err)
		again, err := h.SnapshotMounts(h.ctx, h.ns, Snapshotter, "s-1")
		h.ok(err)
		if diff := cmp.Diff(mounts, again); diff != "" || len(mounts) == 0 {
			h.Errorf("mounts (-prepared +read):\n%s", diff)
		}
		i, err := h.Snapshot(h.ctx, h.ns, Snapshotter, "s-1")
		h.ok(err)
		if diff := cmp.Diff(labels, i.Labels); diff != "" || i.Kind != snapshots.KindActive || i.Name != "s-1" {
			h.Errorf("%+v, labels (-want +got):\n%s", i, diff)
		}
		list, err := h.Snapshots(h.ctx, h.ns, Snapshotter)
		h.ok(err)
		if diff := cmp.Diff([]snapshots.Info{i}, list); diff != "" {
			h.Errorf("list (-want +got):\n%s", diff)
		}
	}},
	{"a snapshot that does not exist is NotFound", func(h *host) {
		h.ok(h.CreateNamespace(h.ctx, h.ns, nil))
		_, err := h.Snapshot(h.ctx, h.ns, Snapshotter, "s")
		h.is("NotFound", err)
		_, err = h.SnapshotMounts(h.ctx, h.ns, Snapshotter, "s")
		h.is("NotFound", err)
		h.is("NotFound", h.RemoveSnapshot(h.ctx, h.ns, Snapshotter, "s"))
		_, err = h.PrepareSnapshot(h.lease("l"), h.ns, Snapshotter, "s", "no-such-parent", nil)
		h.is("NotFound", err)
		_, err = h.Snapshot(h.ctx, h.ns, Snapshotter, "s")
		h.is("NotFound", err)
	}},
	{"a snapshotter that does not exist is InvalidArgument", func(h *host) {
		_, err := h.Snapshots(h.ctx, h.ns, "no-such-snapshotter")
		h.is("InvalidArgument", err)
		_, err = h.Snapshot(h.ctx, h.ns, "no-such-snapshotter", "s")
		h.is("InvalidArgument", err)
	}},
	{"a lease that does not exist makes a prepare NotFound", func(h *host) {
		h.ok(h.CreateNamespace(h.ctx, h.ns, nil))
		_, err := h.PrepareSnapshot(leases.WithLease(h.ctx, "gone"), h.ns, Snapshotter, "s", "", nil)
		h.is("NotFound", err)
	}},
	{"the snapshot of a running task is removed without ado", func(h *host) {
		h.run("c", Forever)
		h.is("ok", h.RemoveSnapshot(h.ctx, h.ns, Snapshotter, "c-1"))
		_, err := h.Snapshot(h.ctx, h.ns, Snapshotter, "c-1")
		h.is("NotFound", err)
		h.await(h.ns, "c", "running")
	}},
	{"an image's snapshot with a container on it is not removed", func(h *host) {
		h.container("c", Forever)
		_, chain, err := h.ImageConfig(h.ctx, h.ns, h.ref)
		h.ok(err)
		i, err := h.Snapshot(h.ctx, h.ns, Snapshotter, chain)
		h.ok(err)
		if i.Kind != snapshots.KindCommitted {
			h.Errorf("kind %s", i.Kind)
		}
		_, err = h.SnapshotMounts(h.ctx, h.ns, Snapshotter, chain)
		h.is("FailedPrecondition", err)
		h.is("FailedPrecondition", h.RemoveSnapshot(h.ctx, h.ns, Snapshotter, chain))
	}},
	{"a lease is made once, whatever is in its name, and expires", func(h *host) {
		id := "kukeon/main/create/docker.io/library/web:1"
		h.ok(h.CreateLease(h.ctx, h.ns, id, time.Hour))
		h.is("AlreadyExists", h.CreateLease(h.ctx, h.ns, id, time.Hour))
		held, err := h.Leases(h.ctx, h.ns)
		h.ok(err)
		if len(held) != 1 || held[0].ID != id {
			h.Fatalf("leases %v", held)
		}
		expires, err := time.Parse(time.RFC3339, held[0].Labels["containerd.io/gc.expire"])
		h.ok(err)
		if left := time.Until(expires); left < 50*time.Minute || left > time.Hour {
			h.Errorf("expires in %v, want an hour", left)
		}
		h.ok(h.DeleteLease(h.ctx, h.ns, id))
		h.is("NotFound", h.DeleteLease(h.ctx, h.ns, id))
	}},
	{"the garbage collector takes what no lease and no container holds, and nothing else", func(h *host) {
		_, err := h.PrepareSnapshot(h.ctx, h.ns, Snapshotter, "bare", "", nil)
		h.ok(err)
		_, err = h.PrepareSnapshot(h.lease("l"), h.ns, Snapshotter, "leased", "", nil)
		h.ok(err)
		_, err = h.PrepareSnapshot(h.lease("create"), h.ns, Snapshotter, "named", "", nil)
		h.ok(err)
		_, err = h.PrepareSnapshot(h.lease("create"), h.ns, Snapshotter, "dropped", "", nil)
		h.ok(err)
		c := h.record("c", Forever)
		c.Snapshotter, c.SnapshotKey = Snapshotter, "named"
		h.ok(h.CreateContainer(h.ctx, h.ns, c))
		h.ok(h.CreateLease(h.ctx, h.ns, "expired", -time.Minute))
		h.ok(h.DeleteLease(h.ctx, h.ns, "create"))
		h.collected("only what is held is left", func() bool {
			list, err := h.Snapshots(h.ctx, h.ns, Snapshotter)
			h.ok(err)
			var names []string
			for _, i := range list {
				names = append(names, i.Name)
			}
			held, err := h.Leases(h.ctx, h.ns)
			h.ok(err)
			left := strings.Join(names, " ")
			if !strings.Contains(left, "leased") || !strings.Contains(left, "named") {
				h.Fatalf("left are %s", left)
			}
			return len(names) == 2 && len(held) == 1
		})
	}},
}
