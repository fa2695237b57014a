// Package hosttest is the conformance suite that every containerd passes, fake or real.
//
// Its cases are sentences about ctrd.Services: kinds of results and states that follow, never texts. A sentence that
// holds on one version only says so.
package hosttest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

// Snapshotter is the one that the suite uses.
const Snapshotter = "overlayfs"

// limit bounds every wait; the longest thing waited for, a garbage collection, takes half a second.
const limit = 15 * time.Second

// Subject is a containerd to test.
type Subject struct {
	Services ctrd.Services
	// Version is "2.4" or "1.6": which of two behaviours to expect where they differ.
	Version string
	// Suffix makes namespaces unique on this host.
	Suffix string
	// Image puts an image that every Program runs in into a namespace, unpacked, and returns its reference.
	Image func(t *testing.T, ns string) string
	// Remote puts such an image into a registry and returns its reference.
	Remote func(t *testing.T) string
	// Archive is such an image as a file, and the name that it has there.
	Archive func(t *testing.T) (file []byte, ref string)
	// World does to the containerd what ctrd never does.
	World World
	// Behave tells a containerd that runs no real processes which one the container's next will be. May be nil.
	Behave func(ns, id string, p Program)
}

// World is what happens to a containerd and its tasks from outside.
type World interface {
	// Pause freezes a task.
	Pause(ns, id string) error
	// HangShim and UnhangShim stop a task's shim and let it go on.
	HangShim(ns, id string) error
	UnhangShim(ns, id string) error
	// KillShim kills a task's shim.
	KillShim(ns, id string) error
	// Kill kills the daemon and Start starts it again; shims and processes live on.
	Kill() error
	Start() error
}

// Program is what a container runs.
type Program string

// The programs.
const (
	Forever Program = "runs until SIGKILL"
	Fails   Program = "exits with 3 at once"
	Gentle  Program = "runs until SIGTERM, then exits with 7"
)

// args is the program's command line in busybox.
func (p Program) args() []string {
	switch p {
	case Fails:
		return []string{"/bin/sh", "-c", "exit 3"}
	case Gentle:
		return []string{"/bin/sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done"}
	}
	return []string{"/bin/sleep", "100000"}
}

// Run runs the suite. Each case asks for a subject, which may be one for all, since each has namespaces of its own.
func Run(t *testing.T, subject func(t *testing.T) Subject) {
	for _, group := range []struct {
		name  string
		cases []testCase
	}{
		{"daemon", daemonCases},
		{"namespaces", namespaceCases},
		{"containers", containerCases},
		{"tasks", taskCases},
		{"snapshots and leases", snapshotCases},
		{"images", imageCases},
		{"events", eventCases},
		{"outages", outageCases},
	} {
		t.Run(group.name, func(t *testing.T) {
			for i, c := range group.cases {
				t.Run(c.sentence, func(t *testing.T) {
					s := subject(t)
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					h := &host{T: t, Services: s.Services, subject: s, ctx: ctx}
					h.ns = fmt.Sprintf("ht-%s-%d-%s", group.name[:2], i, s.Suffix)
					t.Cleanup(h.cleanUp)
					c.check(h)
				})
			}
		})
	}
}

// testCase is a sentence and its proof.
type testCase struct {
	sentence string
	check    func(h *host)
}

// host is one case's view of the subject.
type host struct {
	*testing.T
	ctrd.Services
	subject Subject
	ctx     context.Context
	// ns is a namespace of the case's own, not made yet.
	ns    string
	ref   string
	extra []string
}

// otherNS returns a second namespace of the case's own.
func (h *host) otherNS() string {
	ns := h.ns + "-b"
	h.extra = append(h.extra, ns)
	return ns
}

// cleanUp takes away what the case has left.
func (h *host) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	h.ctx = ctx
	for _, ns := range append(h.extra, h.ns) {
		list, err := h.Containers(ctx, ns)
		h.ok(err)
		for _, c := range list {
			h.stop(ns, c.ID)
			h.ok(h.DeleteContainer(ctx, ns, c.ID))
		}
		held, err := h.Leases(ctx, ns)
		h.ok(err)
		for _, l := range held {
			h.ok(h.DeleteLease(ctx, ns, l.ID))
		}
		records, err := h.Images(ctx, ns)
		h.ok(err)
		for _, i := range records {
			h.ok(h.DeleteImage(ctx, ns, i.Name))
		}
	}
}

// stop ends and deletes a task if there is one.
func (h *host) stop(ns, id string) {
	h.Helper()
	i, err := h.Task(h.ctx, ns, id)
	if errdefs.IsNotFound(err) {
		return
	}
	h.ok(err)
	if i.Status != "stopped" {
		if err := h.KillTask(h.ctx, ns, id, 9, true); !errdefs.IsNotFound(err) {
			h.ok(err)
		}
		if i.Status == "paused" {
			_ = h.ResumeTask(h.ctx, ns, id) // it may have died frozen
		}
		h.await(ns, id, "stopped")
	}
	_, err = h.DeleteTask(h.ctx, ns, id)
	h.ok(err)
}

// ok ends the case when something failed that is not its subject.
func (h *host) ok(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// kind names the kind of an error.
func kind(err error) string {
	for name, is := range map[string]func(error) bool{
		"NotFound": errdefs.IsNotFound, "AlreadyExists": errdefs.IsAlreadyExists, "Unavailable": errdefs.IsUnavailable,
		"FailedPrecondition": errdefs.IsFailedPrecondition, "InvalidArgument": errdefs.IsInvalidArgument,
		"Deadline": func(err error) bool { return errors.Is(err, context.DeadlineExceeded) },
		"Canceled": errdefs.IsCanceled,
	} {
		if is(err) {
			return name
		}
	}
	if err == nil {
		return "ok"
	}
	return "plain"
}

// is checks the kind of a result: ok, the name of an errdefs kind, or plain for an error without any.
func (h *host) is(want string, err error) {
	h.Helper()
	if got := kind(err); got != want {
		h.Errorf("%s (%v), want %s", got, err, want)
	}
}

// isV is is where the versions differ.
func (h *host) isV(want24, want16 string, err error) {
	h.Helper()
	if h.subject.Version == "1.6" {
		want24 = want16
	}
	h.is(want24, err)
}

// eventually waits until the condition holds.
func (h *host) eventually(what string, condition func() bool) {
	h.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-h.ctx.Done():
			h.Fatalf("%s: not within %v", what, limit)
		}
	}
}

// collected waits until the garbage collector has made the condition hold. It deletes something before each look, since
// containerd sometimes misses the last of several deletions in a row.
func (h *host) collected(what string, condition func() bool) {
	h.Helper()
	h.eventually(what, func() bool {
		if condition() {
			return true
		}
		h.ok(h.CreateLease(h.ctx, h.ns, "poke", time.Hour))
		h.ok(h.DeleteLease(h.ctx, h.ns, "poke"))
		return false
	})
}

// await waits for a task's status.
func (h *host) await(ns, id, status string) ctrd.TaskInfo {
	h.Helper()
	var last ctrd.TaskInfo
	h.eventually(id+" is "+status, func() bool {
		i, err := h.Task(h.ctx, ns, id)
		h.ok(err)
		last = i
		return i.Status == status
	})
	return last
}

// lease makes a lease and returns the context that uses it.
func (h *host) lease(id string) context.Context {
	h.Helper()
	if err := h.CreateLease(h.ctx, h.ns, id, time.Hour); !errdefs.IsAlreadyExists(err) {
		h.ok(err)
	}
	return leases.WithLease(h.ctx, id)
}

// record is a container that could run, without a snapshot.
func (h *host) record(id string, p Program) containers.Container {
	h.Helper()
	c := containers.Container{ID: id, Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"}}
	spec, err := oci.GenerateSpec(namespaces.WithNamespace(h.ctx, h.ns), nil, &c,
		oci.WithDefaultPathEnv, oci.WithProcessArgs(p.args()...))
	h.ok(err)
	c.Spec, err = typeurl.MarshalAny(spec)
	h.ok(err)
	return c
}

// container makes a container that can run and returns the request for its task.
func (h *host) container(id string, p Program) ctrd.TaskRequest {
	h.Helper()
	if h.ref == "" {
		h.ref = h.subject.Image(h.T, h.ns)
	}
	_, chain, err := h.ImageConfig(h.ctx, h.ns, h.ref)
	h.ok(err)
	mounts, err := h.PrepareSnapshot(h.lease("create"), h.ns, Snapshotter, id+"-1", chain, nil)
	h.ok(err)
	c := h.record(id, p)
	c.Image, c.Snapshotter, c.SnapshotKey = h.ref, Snapshotter, id+"-1"
	h.ok(h.CreateContainer(h.ctx, h.ns, c))
	if h.subject.Behave != nil {
		h.subject.Behave(h.ns, id, p)
	}
	return ctrd.TaskRequest{ID: id, Rootfs: mounts}
}

// task makes a container with a created task.
func (h *host) task(id string, p Program) ctrd.TaskRequest {
	h.Helper()
	r := h.container(id, p)
	_, err := h.CreateTask(h.ctx, h.ns, r)
	h.ok(err)
	return r
}

// run makes a container with a running task.
func (h *host) run(id string, p Program) ctrd.TaskRequest {
	h.Helper()
	r := h.task(id, p)
	h.ok(h.StartTask(h.ctx, h.ns, id))
	return r
}
