package hosttest

import (
	"bytes"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/image-spec/identity"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

var imageCases = []testCase{
	{"one that does not exist is NotFound", func(h *host) {
		h.ok(h.CreateNamespace(h.ctx, h.ns, nil))
		const ref = "docker.io/library/none:1"
		_, err := h.Image(h.ctx, h.ns, ref)
		h.is("NotFound", err)
		_, _, err = h.ImageConfig(h.ctx, h.ns, ref)
		h.is("NotFound", err)
		h.is("NotFound", h.UpdateImageLabels(h.ctx, h.ns, ref, map[string]string{"a": "b"}))
		h.is("NotFound", h.Unpack(h.lease("l"), h.ns, ref, Snapshotter))
		h.is("NotFound", h.DeleteImage(h.ctx, h.ns, ref))
	}},
	{"its config is the host's, and its chain is a snapshot once it is unpacked", func(h *host) {
		ref := h.subject.Image(h.T, h.ns)
		config, chain, err := h.ImageConfig(h.ctx, h.ns, ref)
		h.ok(err)
		if config.OS != "linux" || chain != identity.ChainID(slices.Clone(config.RootFS.DiffIDs)).String() {
			h.Errorf("config %+v, chain %s", config, chain)
		}
		_, err = h.Snapshot(h.ctx, h.ns, Snapshotter, chain)
		h.is("ok", err)
	}},
	{"a pull writes the record with our labels and unpacks nothing", func(h *host) {
		ref := h.subject.Remote(h.T)
		labels := map[string]string{"reconciler.kukeon.io/owner": "me"}
		pulled, err := h.Pull(h.lease("l"), h.ns, ref, ctrd.PullOptions{Labels: labels})
		h.ok(err)
		got, err := h.Image(h.ctx, h.ns, ref)
		h.ok(err)
		if diff := cmp.Diff(labels, got.Labels); diff != "" || got.Name != ref || pulled.Target.Digest != got.Target.Digest {
			h.Errorf("%+v, labels (-want +got):\n%s", got, diff)
		}
		_, chain, err := h.ImageConfig(h.ctx, h.ns, ref)
		h.ok(err)
		_, err = h.Snapshot(h.ctx, h.ns, Snapshotter, chain)
		h.is("NotFound", err)
	}},
	{"a pull over a record that exists keeps its labels", func(h *host) {
		ref := h.subject.Remote(h.T)
		theirs := map[string]string{"theirs": "1"}
		_, err := h.Pull(h.lease("l"), h.ns, ref, ctrd.PullOptions{Labels: theirs})
		h.ok(err)
		pulled, err := h.Pull(h.lease("l"), h.ns, ref, ctrd.PullOptions{Labels: map[string]string{"reconciler.kukeon.io/owner": "me"}})
		h.ok(err)
		got, err := h.Image(h.ctx, h.ns, ref)
		h.ok(err)
		for _, i := range []images.Image{pulled, got} {
			if diff := cmp.Diff(theirs, i.Labels); diff != "" {
				h.Errorf("labels (-want +got):\n%s", diff)
			}
		}
	}},
	{"a pull of what the registry does not have is NotFound and leaves no record", func(h *host) {
		ref := h.subject.Remote(h.T) + "-not-there"
		_, err := h.Pull(h.lease("l"), h.ns, ref, ctrd.PullOptions{})
		h.is("NotFound", err)
		_, err = h.Image(h.ctx, h.ns, ref)
		h.is("NotFound", err)
	}},
	{"a pull from a registry that does not answer is a plain error", func(h *host) {
		_, err := h.Pull(h.lease("l"), h.ns, "127.0.0.1:1/none:1", ctrd.PullOptions{})
		h.is("plain", err)
	}},
	{"an import writes the record with our labels and unpacks nothing", func(h *host) {
		file, ref := h.subject.Archive(h.T)
		labels := map[string]string{"reconciler.kukeon.io/owner": "me"}
		for range 2 { // once more changes nothing
			imported, err := h.ImportArchive(h.lease("l"), h.ns, bytes.NewReader(file), labels)
			h.ok(err)
			got, err := h.Image(h.ctx, h.ns, ref)
			h.ok(err)
			if diff := cmp.Diff(labels, got.Labels); diff != "" || len(imported) != 1 || imported[0].Name != ref ||
				imported[0].Target.Digest != got.Target.Digest {
				h.Errorf("%+v, labels (-want +got):\n%s", imported, diff)
			}
			h.ok(h.DeleteLease(h.ctx, h.ns, "l"))
		}
		_, chain, err := h.ImageConfig(h.ctx, h.ns, ref)
		h.ok(err)
		_, err = h.Snapshot(h.ctx, h.ns, Snapshotter, chain)
		h.is("NotFound", err)
	}},
	{"an import over a record that exists keeps its labels", func(h *host) {
		file, ref := h.subject.Archive(h.T)
		theirs := map[string]string{"theirs": "1"}
		_, err := h.ImportArchive(h.lease("l"), h.ns, bytes.NewReader(file), theirs)
		h.ok(err)
		imported, err := h.ImportArchive(h.lease("m"), h.ns, bytes.NewReader(file), map[string]string{"reconciler.kukeon.io/owner": "me"})
		h.ok(err)
		got, err := h.Image(h.ctx, h.ns, ref)
		h.ok(err)
		for _, i := range append(imported, got) {
			if diff := cmp.Diff(theirs, i.Labels); diff != "" {
				h.Errorf("labels (-want +got):\n%s", diff)
			}
		}
	}},
	{"what is no archive, or cut short, is a plain error and leaves no record", func(h *host) {
		file, ref := h.subject.Archive(h.T)
		for _, bad := range [][]byte{[]byte("hello"), file[:len(file)/2], nil} {
			_, err := h.ImportArchive(h.lease("l"), h.ns, bytes.NewReader(bad), nil)
			h.is("plain", err)
			h.ok(h.DeleteLease(h.ctx, h.ns, "l"))
		}
		_, err := h.Image(h.ctx, h.ns, ref)
		h.is("NotFound", err)
	}},
	{"it is unpacked as often as one likes, and every snapshot stays", func(h *host) {
		ref := h.subject.Remote(h.T)
		ctx := h.lease("l")
		_, err := h.Pull(ctx, h.ns, ref, ctrd.PullOptions{})
		h.ok(err)
		h.ok(h.Unpack(ctx, h.ns, ref, Snapshotter))
		before, err := h.Snapshots(h.ctx, h.ns, Snapshotter)
		h.ok(err)
		h.ok(h.Unpack(ctx, h.ns, ref, Snapshotter))
		after, err := h.Snapshots(h.ctx, h.ns, Snapshotter)
		h.ok(err)
		if diff := cmp.Diff(before, after); diff != "" || len(after) == 0 {
			h.Errorf("snapshots (-before +after):\n%s", diff)
		}
		h.ok(h.DeleteLease(h.ctx, h.ns, "l"))
		_, chain, err := h.ImageConfig(h.ctx, h.ns, ref)
		h.ok(err)
		// A snapshot that nobody holds shows when the garbage collector has been.
		_, err = h.PrepareSnapshot(h.ctx, h.ns, Snapshotter, "bare", chain, nil)
		h.ok(err)
		h.collected("the bare snapshot is collected", func() bool {
			_, err := h.Snapshot(h.ctx, h.ns, Snapshotter, "bare")
			return kind(err) == "NotFound"
		})
		_, err = h.Snapshot(h.ctx, h.ns, Snapshotter, chain)
		h.is("ok", err)
	}},
	{"its labels are replaced as a whole", func(h *host) {
		ref := h.subject.Image(h.T, h.ns)
		h.ok(h.UpdateImageLabels(h.ctx, h.ns, ref, map[string]string{"a.b/c": "1", "d": "2"}))
		h.ok(h.UpdateImageLabels(h.ctx, h.ns, ref, map[string]string{"a.b/c": "3"}))
		list, err := h.Images(h.ctx, h.ns)
		h.ok(err)
		for _, i := range list {
			if diff := cmp.Diff(map[string]string{"a.b/c": "3"}, i.Labels); i.Name == ref && diff != "" {
				h.Errorf("labels (-want +got):\n%s", diff)
			}
		}
	}},
	{"a container goes on without its image", func(h *host) {
		r := h.container("c", Forever)
		h.ok(h.DeleteImage(h.ctx, h.ns, h.ref))
		h.ok(h.DeleteLease(h.ctx, h.ns, "create"))
		h.collected("the image's content is collected", func() bool {
			_, _, err := h.ImageConfig(h.ctx, h.ns, h.ref)
			return kind(err) == "NotFound"
		})
		_, err := h.CreateTask(h.ctx, h.ns, r)
		h.is("ok", err)
	}},
}
