package hosttest

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
)

var daemonCases = []testCase{
	{"the server has an id that stays", func(h *host) {
		a, err := h.ServerID(h.ctx)
		h.ok(err)
		b, err := h.ServerID(h.ctx)
		h.ok(err)
		if a == "" || a != b {
			h.Errorf("%q, then %q", a, b)
		}
	}},
	{"the version is a number", func(h *host) {
		v, err := h.Version(h.ctx)
		h.ok(err)
		if !strings.HasPrefix(v, h.subject.Version+".") {
			h.Errorf("version %q, want %s", v, h.subject.Version)
		}
	}},
	{"a call whose context is over is not made", func(h *host) {
		over, cancel := context.WithDeadline(h.ctx, time.Now().Add(-time.Second))
		defer cancel()
		h.is("Deadline", h.CreateNamespace(over, h.ns, nil))
		canceled, cancel := context.WithCancel(h.ctx)
		cancel()
		h.is("Canceled", h.CreateNamespace(canceled, h.ns, nil))
		_, err := h.NamespaceLabels(h.ctx, h.ns)
		h.is("NotFound", err)
	}},
	{"one id in two namespaces is two objects", func(h *host) {
		a, b := h.ns, h.otherNS()
		for _, ns := range []string{a, b} {
			c := h.record("c", Forever)
			c.Labels = map[string]string{"in": ns}
			h.ok(h.CreateContainer(h.ctx, ns, c))
			h.ok(h.CreateLease(h.ctx, ns, "l", time.Hour))
			_, err := h.PrepareSnapshot(leases.WithLease(h.ctx, "l"), ns, Snapshotter, "s", "", nil)
			h.ok(err)
		}
		h.ok(h.DeleteContainer(h.ctx, a, "c"))
		h.ok(h.RemoveSnapshot(h.ctx, a, Snapshotter, "s"))
		h.ok(h.DeleteLease(h.ctx, a, "l"))
		c, err := h.Container(h.ctx, b, "c")
		h.ok(err)
		_, err = h.Snapshot(h.ctx, b, Snapshotter, "s")
		h.is("ok", err)
		held, err := h.Leases(h.ctx, b)
		h.ok(err)
		if c.Labels["in"] != b || len(held) != 1 {
			h.Errorf("left in %s: container %v, leases %v", b, c.Labels, held)
		}
	}},
}
