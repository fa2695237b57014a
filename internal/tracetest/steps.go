package tracetest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
)

// Step is one operation of a trace.
type Step struct {
	// Method is the one of ctrd.Services that is called, or of World.
	Method string
	// Text prints the step with its arguments.
	Text string
	// frees marks the steps that may leave garbage.
	frees bool
	// do carries the step out and prints the value that it answers.
	do func(ctx context.Context, s *Side) (string, error)
}

// kind is one kind of step.
type kind struct {
	method string
	// weight is how often it is drawn, compared with the others.
	weight int
	frees  bool
	// draw draws its arguments.
	draw func(d dice) (text string, do func(ctx context.Context, s *Side) (string, error))
}

// catalogue holds all kinds of steps.
func catalogue() []kind {
	var all []kind
	for _, part := range [][]kind{daemonKinds, namespaceKinds, containerKinds, taskKinds, imageKinds, snapshotKinds, leaseKinds,
		outsideKinds} {
		all = append(all, part...)
	}
	return all
}

// step draws the arguments of a step, and now and then a context that spoils it.
func (k kind) step(d dice) Step {
	text, do := k.draw(d)
	s := Step{Method: k.method, Text: strings.TrimSpace(k.method + " " + text), frees: k.frees, do: do}
	if !k.call() {
		return s
	}
	switch d.IntN(80) {
	case 0:
		return s.with("with its time over", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithDeadline(ctx, time.Now().Add(-time.Second))
		})
	case 1:
		return s.with("cancelled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, cancel
		})
	}
	often := 12
	switch k.method {
	case "Pull", "ImportArchive", "Unpack", "PrepareSnapshot":
		often = 2
	}
	if d.one(often) {
		return s.under(d.lease())
	}
	return s
}

// under returns the step under a lease.
func (s Step) under(lease string) Step {
	return s.with("under lease "+lease, func(ctx context.Context) (context.Context, context.CancelFunc) {
		return leases.WithLease(ctx, lease), func() {}
	})
}

// with returns the step in another context.
func (s Step) with(text string, change func(context.Context) (context.Context, context.CancelFunc)) Step {
	do := s.do
	s.Text += " " + text
	s.do = func(ctx context.Context, side *Side) (string, error) {
		ctx, cancel := change(ctx)
		defer cancel()
		return do(ctx, side)
	}
	return s
}

// quiet is for calls that answer nothing.
func quiet(f func(ctx context.Context, s *Side) error) func(context.Context, *Side) (string, error) {
	return func(ctx context.Context, s *Side) (string, error) { return "", f(ctx, s) }
}

// shown prints the value of a call that succeeded.
func shown[T any](v T, err error) func(show func(T) string) (string, error) {
	return func(show func(T) string) (string, error) {
		if err != nil {
			return "", err
		}
		return show(v), nil
	}
}

var daemonKinds = []kind{
	{"ServerID", 3, false, func(dice) (string, action) {
		return "", func(ctx context.Context, s *Side) (string, error) {
			id, err := s.ServerID(ctx)
			return fmt.Sprint(id == s.server), err
		}
	}},
	{"Version", 3, false, func(dice) (string, action) {
		return "", func(ctx context.Context, s *Side) (string, error) {
			return shown(s.Version(ctx))(func(v string) string { return v[:min(3, len(v))] })
		}
	}},
	{"Subscribe", 3, false, func(dice) (string, action) {
		return "and end it", quiet(func(ctx context.Context, s *Side) error {
			ctx, cancel := context.WithTimeout(ctx, callDeadline)
			_, ended := s.Subscribe(ctx)
			cancel()
			return <-ended
		})
	}},
}

var leaseKinds = []kind{
	{"Leases", 4, false, func(d dice) (string, action) {
		ns := d.ns()
		return ns, func(ctx context.Context, s *Side) (string, error) { return joined(s.Leases(ctx, s.in(ns)))(printLease) }
	}},
	// One that has expired is garbage, with all that it held.
	{"CreateLease", 14, true, func(d dice) (string, action) {
		return createLease(d.ns(), d.lease(), draw(d, odds[time.Duration]{{80, day}, {20, -2 * time.Hour}}))
	}},
	{"DeleteLease", 10, true, func(d dice) (string, action) {
		ns, id := d.ns(), d.lease()
		return ns + " " + id, quiet(func(ctx context.Context, s *Side) error { return s.DeleteLease(ctx, s.in(ns), id) })
	}},
}

const day = 24 * time.Hour

func createLease(ns, id string, expires time.Duration) (string, action) {
	return fmt.Sprintf("%s %s for %v", ns, id, expires), quiet(func(ctx context.Context, s *Side) error {
		return s.CreateLease(ctx, s.in(ns), id, expires)
	})
}

var snapshotKinds = []kind{
	{"Snapshots", 4, false, func(d dice) (string, action) {
		ns, by := d.ns(), d.snapshotter()
		return ns + " " + by, func(ctx context.Context, s *Side) (string, error) {
			return joined(s.Snapshots(ctx, s.in(ns), by))(s.printSnapshot)
		}
	}},
	{"Snapshot", 5, false, func(d dice) (string, action) {
		ns, by, key := d.ns(), d.snapshotter(), d.snapshot()
		return ns + " " + by + "/" + key, func(ctx context.Context, s *Side) (string, error) {
			return shown(s.Snapshot(ctx, s.in(ns), by, s.digest(key)))(s.printSnapshot)
		}
	}},
	{"PrepareSnapshot", 22, false, func(d dice) (string, action) {
		ns, by, key, parent, labels := d.ns(), d.snapshotter(), d.snapshot(), d.parent(), d.snapshotLabels()
		return prepare(ns, by, key, parent, labels)
	}},
	{"SnapshotMounts", 6, false, func(d dice) (string, action) {
		ns, by, key := d.ns(), d.snapshotter(), d.snapshot()
		return ns + " " + by + "/" + key, func(ctx context.Context, s *Side) (string, error) {
			mounts, err := s.SnapshotMounts(ctx, s.in(ns), by, s.digest(key))
			return s.keep(ns, key, mounts, err)
		}
	}},
	{"RemoveSnapshot", 10, true, func(d dice) (string, action) {
		ns, by, key := d.ns(), d.snapshotter(), d.snapshot()
		return ns + " " + by + "/" + key, quiet(func(ctx context.Context, s *Side) error {
			return s.RemoveSnapshot(ctx, s.in(ns), by, s.digest(key))
		})
	}},
}

func prepare(ns, by, key, parent string, labels map[string]string) (string, action) {
	return fmt.Sprintf("%s %s/%s on %s%s", ns, by, key, parent, brief(labels)),
		func(ctx context.Context, s *Side) (string, error) {
			mounts, err := s.PrepareSnapshot(ctx, s.in(ns), by, s.digest(key), s.digest(parent), labels)
			return s.keep(ns, key, mounts, err)
		}
}

// keep remembers a snapshot's mounts for the tasks that are made of it, as ctrd does between two calls.
func (s *Side) keep(ns, key string, mounts []mount.Mount, err error) (string, error) {
	if err != nil {
		return "", err
	}
	s.mounts[ns+"/"+key] = mounts
	return printMounts(mounts), nil
}

// joined prints a list on one line.
func joined[T any](list []T, err error) func(func(T) string) (string, error) {
	return func(show func(T) string) (string, error) {
		lines, err := listed(list, err)(show)
		return strings.Join(lines, "; "), err
	}
}
