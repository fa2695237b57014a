package hosttest

import (
	"bytes"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/anypb"
)

const extension = "reconciler.kukeon.io/spec"

var containerCases = []testCase{
	{"it is read back as it was written", func(h *host) {
		c := h.record("web", Forever)
		c.Labels = map[string]string{"reconciler.kukeon.io/owner": "me", "app": "web"}
		c.Image, c.Snapshotter, c.SnapshotKey = "docker.io/library/none:1", Snapshotter, "not-there"
		c.Extensions = map[string]typeurl.Any{extension: value(strings.Repeat("x", 200_000))}
		h.ok(h.CreateContainer(h.ctx, h.ns, c))
		got, err := h.Container(h.ctx, h.ns, "web")
		h.ok(err)
		if got.CreatedAt.IsZero() || got.UpdatedAt.IsZero() {
			h.Error("no times")
		}
		list, err := h.Containers(h.ctx, h.ns)
		h.ok(err)
		for _, got := range append(list, got) {
			if diff := cmp.Diff(shown(c), shown(got)); diff != "" {
				h.Errorf("(-want +got):\n%s", diff)
			}
		}
		if len(list) != 1 {
			h.Errorf("%d containers", len(list))
		}
	}},
	{"it is made once", func(h *host) {
		h.ok(h.CreateContainer(h.ctx, h.ns, h.record("c", Forever)))
		h.is("AlreadyExists", h.CreateContainer(h.ctx, h.ns, h.record("c", Forever)))
	}},
	{"one that does not exist is NotFound", func(h *host) {
		h.ok(h.CreateNamespace(h.ctx, h.ns, nil))
		_, err := h.Container(h.ctx, h.ns, "c")
		h.is("NotFound", err)
		h.is("NotFound", h.UpdateContainer(h.ctx, h.ns, h.record("c", Forever), "labels"))
		h.is("NotFound", h.DeleteContainer(h.ctx, h.ns, "c"))
	}},
	{"what containerd cannot hold is InvalidArgument", func(h *host) {
		c := h.record("a/b", Forever)
		h.is("InvalidArgument", h.CreateContainer(h.ctx, h.ns, c))
		c = h.record("c", Forever)
		c.Labels = map[string]string{"long": strings.Repeat("x", 4097)}
		h.is("InvalidArgument", h.CreateContainer(h.ctx, h.ns, c))
		c = h.record("c", Forever)
		c.SnapshotKey = "without-snapshotter"
		h.is("InvalidArgument", h.CreateContainer(h.ctx, h.ns, c))
		c = h.record("c", Forever)
		c.Spec = nil
		h.isV("ok", "InvalidArgument", h.CreateContainer(h.ctx, h.ns, c))
	}},
	{"labels with dots and slashes are updated one by one, and removed by the empty value", func(h *host) {
		c := h.record("c", Forever)
		c.Labels = map[string]string{"keep": "1", "reconciler.kukeon.io/exit": "0@x", "a.b/c": "2"}
		h.ok(h.CreateContainer(h.ctx, h.ns, c))
		h.ok(h.UpdateContainer(h.ctx, h.ns, containers.Container{
			ID: "c", Labels: map[string]string{"reconciler.kukeon.io/exit": "1@y", "new.io/x": "n", "unnamed": "u"},
		}, "labels.reconciler.kukeon.io/exit", "labels.a.b/c", "labels.new.io/x"))
		h.recorded("c", func(got containers.Container) {
			want := map[string]string{"keep": "1", "reconciler.kukeon.io/exit": "1@y", "new.io/x": "n"}
			if diff := cmp.Diff(want, got.Labels); diff != "" {
				h.Errorf("labels (-want +got):\n%s", diff)
			}
			if got.Spec == nil || got.Runtime.Name != c.Runtime.Name {
				h.Error("the update touched what it did not name")
			}
		})
	}},
	{"labels as a whole are replaced", func(h *host) {
		c := h.record("c", Forever)
		c.Labels = map[string]string{"a": "1", "b": "2"}
		h.ok(h.CreateContainer(h.ctx, h.ns, c))
		h.ok(h.UpdateContainer(h.ctx, h.ns, containers.Container{ID: "c", Labels: map[string]string{"b": "3"}}, "labels"))
		h.recorded("c", func(got containers.Container) {
			if diff := cmp.Diff(map[string]string{"b": "3"}, got.Labels); diff != "" {
				h.Errorf("labels (-want +got):\n%s", diff)
			}
		})
	}},
	{"labels, extension and spec change in one request", func(h *host) {
		c := h.record("c", Forever)
		c.Extensions = map[string]typeurl.Any{extension: value("old"), "other": value("stays")}
		h.ok(h.CreateContainer(h.ctx, h.ns, c))
		c = h.record("c", Fails)
		c.Labels = map[string]string{"l": "1"}
		c.Extensions = map[string]typeurl.Any{extension: value("new")}
		h.ok(h.UpdateContainer(h.ctx, h.ns, c, "labels.l", "spec", "extensions."+extension))
		c.Extensions["other"] = value("stays")
		h.recorded("c", func(got containers.Container) {
			if diff := cmp.Diff(shown(c), shown(got)); diff != "" {
				h.Errorf("(-want +got):\n%s", diff)
			}
		})
	}},
	{"an extension can be emptied but not removed", func(h *host) {
		c := h.record("c", Forever)
		c.Extensions = map[string]typeurl.Any{extension: value("old"), "other": value("stays")}
		h.ok(h.CreateContainer(h.ctx, h.ns, c))
		want := map[string]string{"other": "stays", extension: "old"}
		check := func(got containers.Container) {
			h.Helper()
			if diff := cmp.Diff(want, shown(got).Extensions); diff != "" {
				h.Errorf("extensions (-want +got):\n%s", diff)
			}
		}
		h.ok(h.UpdateContainer(h.ctx, h.ns, containers.Container{ID: "c"}, "extensions"))
		h.recorded("c", check)
		h.ok(h.UpdateContainer(h.ctx, h.ns, containers.Container{ID: "c"}, "extensions."+extension))
		want[extension] = ""
		h.recorded("c", check)
	}},
	{"an update that one field spoils changes nothing", func(h *host) {
		h.ok(h.CreateContainer(h.ctx, h.ns, h.record("c", Forever)))
		long := containers.Container{ID: "c", Labels: map[string]string{"a": "1", "b": strings.Repeat("x", 4097)}}
		h.is("InvalidArgument", h.UpdateContainer(h.ctx, h.ns, long, "labels.a", "labels.b"))
		h.is("InvalidArgument", h.UpdateContainer(h.ctx, h.ns, long, "labels.a", "runtime"))
		h.recorded("c", func(got containers.Container) {
			if len(got.Labels) != 0 {
				h.Errorf("labels %v", got.Labels)
			}
		})
	}},
	{"one with a running task is deleted, and leaves a task that only the list shows", func(h *host) {
		r := h.run("c", Forever)
		c, err := h.Container(h.ctx, h.ns, "c")
		h.ok(err)
		h.ok(h.DeleteContainer(h.ctx, h.ns, "c"))
		_, err = h.Task(h.ctx, h.ns, "c")
		h.is("NotFound", err)
		h.is("NotFound", h.KillTask(h.ctx, h.ns, "c", 9, true))
		_, err = h.DeleteTask(h.ctx, h.ns, "c")
		h.is("NotFound", err)
		list, err := h.Tasks(h.ctx, h.ns)
		h.ok(err)
		if len(list) != 1 || list[0].ID != "c" || list[0].Status != "running" {
			h.Errorf("tasks %v, want c running", list)
		}
		h.ok(h.CreateContainer(h.ctx, h.ns, c))
		_, err = h.CreateTask(h.ctx, h.ns, r)
		h.is("AlreadyExists", err)
		h.await(h.ns, "c", "running") // a record of the same id makes it reachable again
	}},
}

// recorded checks a container as it is read.
func (h *host) recorded(id string, check func(containers.Container)) {
	h.Helper()
	c, err := h.Container(h.ctx, h.ns, id)
	h.ok(err)
	check(c)
}

// value is an extension with some bytes.
func value(s string) typeurl.Any {
	return &anypb.Any{TypeUrl: "kukeon.io/test", Value: []byte(s)}
}

// view is what a container shows to us, comparable.
type view struct {
	ID, Image, Snapshotter, SnapshotKey, Runtime string
	Labels, Extensions                           map[string]string
	Spec                                         []byte
}

func shown(c containers.Container) view {
	v := view{
		ID: c.ID, Image: c.Image, Snapshotter: c.Snapshotter, SnapshotKey: c.SnapshotKey, Runtime: c.Runtime.Name,
		Labels: c.Labels, Extensions: map[string]string{}, Spec: bytes.Clone(c.Spec.GetValue()),
	}
	for k, e := range c.Extensions {
		v.Extensions[k] = string(e.GetValue())
	}
	return v
}
