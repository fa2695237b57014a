package hosttest

import (
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
)

var namespaceCases = []testCase{
	{"one that does not exist is NotFound, and looking into it makes none", func(h *host) {
		_, err := h.NamespaceLabels(h.ctx, h.ns)
		h.is("NotFound", err)
		_, err = h.Container(h.ctx, h.ns, "c")
		h.is("NotFound", err)
		_, err = h.Task(h.ctx, h.ns, "c")
		h.is("NotFound", err)
		_, err = h.Image(h.ctx, h.ns, "i")
		h.is("NotFound", err)
		_, err = h.Snapshot(h.ctx, h.ns, Snapshotter, "s")
		h.is("NotFound", err)
		cs, err := h.Containers(h.ctx, h.ns)
		h.is("ok", err)
		ts, err := h.Tasks(h.ctx, h.ns)
		h.is("ok", err)
		is, err := h.Images(h.ctx, h.ns)
		h.is("ok", err)
		ss, err := h.Snapshots(h.ctx, h.ns, Snapshotter)
		h.is("ok", err)
		ls, err := h.Leases(h.ctx, h.ns)
		h.is("ok", err)
		if n := len(cs) + len(ts) + len(is) + len(ss) + len(ls); n != 0 {
			h.Errorf("%d objects in a namespace that does not exist", n)
		}
		h.is("NotFound", h.DeleteNamespace(h.ctx, h.ns))
		h.listed(false)
	}},
	{"it is made once, with its labels", func(h *host) {
		h.ok(h.CreateNamespace(h.ctx, h.ns, map[string]string{"reconciler.kukeon.io/owner": "me"}))
		h.is("AlreadyExists", h.CreateNamespace(h.ctx, h.ns, nil))
		h.labelled(map[string]string{"reconciler.kukeon.io/owner": "me"})
		h.listed(true)
	}},
	{"without labels it exists all the same", func(h *host) {
		h.ok(h.CreateNamespace(h.ctx, h.ns, nil))
		_, err := h.NamespaceLabels(h.ctx, h.ns)
		h.is("ok", err)
	}},
	{"its labels are set and removed one by one", func(h *host) {
		h.ok(h.CreateNamespace(h.ctx, h.ns, map[string]string{"a.b/c": "1", "keep": "2"}))
		h.ok(h.SetNamespaceLabel(h.ctx, h.ns, "a.b/c", "3"))
		h.ok(h.SetNamespaceLabel(h.ctx, h.ns, "reconciler.kukeon.io/realm", "main"))
		h.labelled(map[string]string{"a.b/c": "3", "keep": "2", "reconciler.kukeon.io/realm": "main"})
		h.ok(h.SetNamespaceLabel(h.ctx, h.ns, "a.b/c", ""))
		h.ok(h.SetNamespaceLabel(h.ctx, h.ns, "never-there", ""))
		h.labelled(map[string]string{"keep": "2", "reconciler.kukeon.io/realm": "main"})
	}},
	{"labelling or writing into one that does not exist makes it", func(h *host) {
		h.ok(h.SetNamespaceLabel(h.ctx, h.ns, "k", "v"))
		h.listed(true)
		h.ok(h.DeleteNamespace(h.ctx, h.ns))
		h.ok(h.CreateLease(h.ctx, h.ns, "l", time.Hour))
		h.listed(true)
		h.is("AlreadyExists", h.CreateNamespace(h.ctx, h.ns, nil))
	}},
	{"an empty one is deleted, labels or not", func(h *host) {
		h.ok(h.CreateNamespace(h.ctx, h.ns, map[string]string{"k": "v"}))
		h.is("ok", h.DeleteNamespace(h.ctx, h.ns))
		h.is("NotFound", h.DeleteNamespace(h.ctx, h.ns))
		h.listed(false)
	}},
	{"one with a container, a snapshot or an image is not deleted", func(h *host) {
		h.ok(h.CreateContainer(h.ctx, h.ns, h.record("c", Forever)))
		h.is("FailedPrecondition", h.DeleteNamespace(h.ctx, h.ns))
		h.ok(h.DeleteContainer(h.ctx, h.ns, "c"))
		_, err := h.PrepareSnapshot(h.lease("l"), h.ns, Snapshotter, "s", "", nil)
		h.ok(err)
		h.is("FailedPrecondition", h.DeleteNamespace(h.ctx, h.ns))
		h.ok(h.RemoveSnapshot(h.ctx, h.ns, Snapshotter, "s"))
		ref := h.subject.Image(h.T, h.ns)
		h.is("FailedPrecondition", h.DeleteNamespace(h.ctx, h.ns))
		h.ok(h.DeleteLease(h.ctx, h.ns, "l"))
		h.ok(h.DeleteImage(h.ctx, h.ns, ref))
		h.is("ok", h.DeleteNamespace(h.ctx, h.ns)) // deleting an image collects its content and snapshots at once
	}},
	{"a lease that holds nothing goes with it", func(h *host) {
		h.lease("l")
		h.is("ok", h.DeleteNamespace(h.ctx, h.ns))
		held, err := h.Leases(h.ctx, h.ns)
		h.ok(err)
		if len(held) != 0 {
			h.Errorf("leases of a deleted namespace: %v", held)
		}
	}},
	{"a name that containerd cannot hold is InvalidArgument", func(h *host) {
		h.is("InvalidArgument", h.CreateNamespace(h.ctx, "bad_-name-"+h.subject.Suffix, nil))
		h.is("InvalidArgument", h.CreateContainer(h.ctx, "bad/name", h.record("c", Forever)))
	}},
}

// listed checks whether the case's namespace is in the list.
func (h *host) listed(want bool) {
	h.Helper()
	all, err := h.Namespaces(h.ctx)
	h.ok(err)
	if got := slices.Contains(all, h.ns); got != want {
		h.Errorf("%s in %v: %v, want %v", h.ns, all, got, want)
	}
}

// labelled checks the labels of the case's namespace.
func (h *host) labelled(want map[string]string) {
	h.Helper()
	got, err := h.NamespaceLabels(h.ctx, h.ns)
	h.ok(err)
	if diff := cmp.Diff(want, got); diff != "" {
		h.Errorf("labels (-want +got):\n%s", diff)
	}
}
