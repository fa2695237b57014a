package hosttest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

var eventCases = []testCase{
	{"every write to a container and its task is told in order, but the deletion of a task not always", func(h *host) {
		h.container("c", Fails) // not watched: images and snapshots have cases of their own
		w := h.watch()
		h.ok(h.UpdateContainer(h.ctx, h.ns, containers.Container{ID: "c", Labels: map[string]string{"a": "1"}}, "labels.a"))
		mounts, err := h.SnapshotMounts(h.ctx, h.ns, Snapshotter, "c-1")
		h.ok(err)
		_, err = h.CreateTask(h.ctx, h.ns, ctrd.TaskRequest{ID: "c", Rootfs: mounts})
		h.ok(err)
		h.ok(h.StartTask(h.ctx, h.ns, "c"))
		w.until("/tasks/exit c")
		_, err = h.DeleteTask(h.ctx, h.ns, "c")
		h.ok(err)
		h.ok(h.DeleteContainer(h.ctx, h.ns, "c"))
		h.ok(h.RemoveSnapshot(h.ctx, h.ns, Snapshotter, "c-1"))
		w.until("/snapshot/remove c-1")
		// The shim tells it while it ends: one in a dozen is lost on 2.4, and none has a fixed place.
		w.seen = slices.DeleteFunc(w.seen, func(line string) bool { return line == "/tasks/delete c" })
		w.saw("/containers/update c", "/tasks/create c", "/tasks/start c", "/tasks/exit c 3",
			"/containers/delete c", "/snapshot/remove c-1")
	}},
	{"namespaces, snapshots, containers and images are told", func(h *host) {
		w := h.watch()
		h.ok(h.CreateNamespace(h.ctx, h.ns, nil))
		h.ok(h.SetNamespaceLabel(h.ctx, h.ns, "a", "b"))
		_, err := h.PrepareSnapshot(h.lease("l"), h.ns, Snapshotter, "s", "", nil)
		h.ok(err)
		h.ok(h.CreateContainer(h.ctx, h.ns, h.record("c", Forever)))
		h.ok(h.DeleteContainer(h.ctx, h.ns, "c"))
		h.ok(h.RemoveSnapshot(h.ctx, h.ns, Snapshotter, "s"))
		ref := h.subject.Remote(h.T)
		_, err = h.Pull(h.lease("l"), h.ns, ref, ctrd.PullOptions{})
		h.ok(err)
		h.ok(h.UpdateImageLabels(h.ctx, h.ns, ref, map[string]string{"a": "b"}))
		h.ok(h.DeleteLease(h.ctx, h.ns, "l"))
		h.ok(h.DeleteImage(h.ctx, h.ns, ref))
		h.ok(h.DeleteNamespace(h.ctx, h.ns))
		w.until("/namespaces/delete " + h.ns)
		w.saw("/namespaces/create "+h.ns, "/namespaces/update "+h.ns, "/snapshot/prepare s",
			"/containers/create c", "/containers/delete c", "/snapshot/remove s",
			"/images/create "+ref, "/images/update "+ref, "/images/delete "+ref, "/namespaces/delete "+h.ns)
	}},
	{"pause and resume are told", func(h *host) {
		w := h.watch()
		h.run("c", Forever)
		w.until("/tasks/start c") // which containerd may tell long after the start
		w.seen = nil
		h.ok(h.subject.World.Pause(h.ns, "c"))
		h.ok(h.ResumeTask(h.ctx, h.ns, "c"))
		w.until("/tasks/resumed c")
		w.saw("/tasks/paused c", "/tasks/resumed c")
	}},
	{"unpacking is told as snapshots", func(h *host) {
		ref := h.subject.Remote(h.T)
		_, err := h.Pull(h.lease("l"), h.ns, ref, ctrd.PullOptions{})
		h.ok(err)
		w := h.watch()
		h.ok(h.Unpack(h.lease("l"), h.ns, ref, Snapshotter))
		_, chain, err := h.ImageConfig(h.ctx, h.ns, ref)
		h.ok(err)
		w.until("/snapshot/commit " + chain)
	}},
	{"a failed write is not told", func(h *host) {
		h.ok(h.CreateContainer(h.ctx, h.ns, h.record("c", Forever)))
		w := h.watch()
		h.is("AlreadyExists", h.CreateContainer(h.ctx, h.ns, h.record("c", Forever)))
		h.is("NotFound", h.DeleteContainer(h.ctx, h.ns, "d"))
		h.ok(h.DeleteContainer(h.ctx, h.ns, "c"))
		w.until("/containers/delete c")
		w.saw("/containers/delete c")
	}},
	{"the stream ends with its context, and says so once", func(h *host) {
		ctx, cancel := context.WithCancel(h.ctx)
		_, ended := h.Subscribe(ctx)
		cancel()
		h.is("Canceled", <-ended)
	}},
}

// watcher collects the events of a case's namespace.
type watcher struct {
	h      *host
	events <-chan *events.Envelope
	ended  <-chan error
	seen   []string
}

// watch subscribes and returns once events arrive for sure: containerd does not say when it has subscribed us.
func (h *host) watch() *watcher {
	h.Helper()
	w := &watcher{h: h}
	w.events, w.ended = h.Subscribe(h.ctx)
	probe := h.otherNS()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		h.ok(h.SetNamespaceLabel(h.ctx, probe, "probe", fmt.Sprint(n)))
		select {
		case e := <-w.events:
			if e.Namespace == probe {
				return w
			}
		case err := <-w.ended:
			h.Fatal(err)
		case <-tick.C:
		}
	}
}

// until collects until an event begins with the text.
func (w *watcher) until(text string) {
	w.h.Helper()
	for {
		select {
		case e := <-w.events:
			if e.Namespace != w.h.ns {
				continue
			}
			line := w.describe(e)
			if strings.HasPrefix(line, "/content/") {
				continue // only 2.x tells about content, and it means nothing to us
			}
			w.seen = append(w.seen, line)
			if strings.HasPrefix(line, text) {
				return
			}
		case err := <-w.ended:
			w.h.Fatalf("stream ended: %v\nseen: %s", err, strings.Join(w.seen, "\n"))
		}
	}
}

// end reads until the stream ends: an event that nobody takes keeps the client from seeing it.
func (w *watcher) end() error {
	for {
		select {
		case <-w.events:
		case err := <-w.ended:
			return err
		}
	}
}

// saw checks what was collected.
func (w *watcher) saw(want ...string) {
	w.h.Helper()
	if diff := cmp.Diff(want, w.seen); diff != "" {
		w.h.Errorf("events (-want +got):\n%s", diff)
	}
}

// describe prints an event's topic and what it is about.
func (w *watcher) describe(e *events.Envelope) string {
	payload, err := typeurl.UnmarshalAny(e.Event)
	w.h.ok(err)
	id := ""
	switch p := payload.(type) {
	case *eventtypes.TaskExit:
		if p.ID != p.ContainerID {
			w.h.Errorf("exit of %q in %q", p.ID, p.ContainerID)
		}
		id = fmt.Sprintf("%s %d", p.ContainerID, p.ExitStatus)
	case interface{ GetContainerID() string }:
		id = p.GetContainerID()
	case *eventtypes.SnapshotCommit:
		id = p.Name
	case interface{ GetKey() string }:
		id = p.GetKey()
	case interface{ GetID() string }:
		id = p.GetID()
	case interface{ GetName() string }:
		id = p.GetName()
	}
	return e.Topic + " " + id
}
