// Package tracetest plays random traces of API calls on two containerds side by side and tells where they differ.
//
// One of the two is the fake that most of our tests stand on, the other a real daemon: what the fake would get wrong,
// every test on it gets wrong with it. After every step the kind of the result, the value that came with it and all
// that the namespaces hold are compared, at the end the events of each object too. What differs by nature is compared
// as what it stands for: a pid as one, a digest as the image it belongs to, a path as a path.
//
// Containerd's garbage collector runs when it likes. To have both sides play the same game it is made to run, to its
// end, after every step that lets go of something; between those steps it has no reason to run.
package tracetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

const (
	// Patience bounds the wait for something that is bound to come: a process's end, an event. It is what a machine
	// needs that has other things to do, not what containerd needs.
	Patience = 20 * time.Second
	// callDeadline bounds one call.
	callDeadline = 30 * time.Second
	// tick is how often a condition is looked at.
	tick = 5 * time.Millisecond
)

// World is what happens to a containerd from outside of ctrd. Errors have the kinds that containerd gives them.
type World interface {
	// Import brings an image in, as `ctr images import` does.
	Import(ctx context.Context, ns, ref string, unpack bool) error
	// Retag has the registry serve the image called A or B under a reference.
	Retag(ctx context.Context, ref, image string) error
	// Pause freezes a task through the API.
	Pause(ctx context.Context, ns, id string) error
	// Signal sends a signal to a running process and not through the API.
	Signal(ctx context.Context, t Process, signal int) error
	// KillShim kills a task's shim.
	KillShim(ctx context.Context, t Process) error
	// Ready returns when a process that was started handles its signals.
	Ready(ctx context.Context, t Process) error
	// Output is where a new task's output goes; empty for nowhere.
	Output(ns, id string) string
	// Program tells a containerd that runs no processes what the next one of a container will be.
	Program(ns, id string, p Program)
	// Collect runs the garbage collector and returns when it has ended.
	Collect(ctx context.Context) error
	// Down ends the daemon, with SIGTERM when graceful and else with SIGKILL; Up starts it again.
	Down(graceful bool) error
	Up(ctx context.Context) error
}

// Process is a task's process.
type Process struct {
	NS, ID  string
	Pid     uint32
	Output  string
	Program Program
}

// Side is one of the two containerds.
type Side struct {
	ctrd.Services
	World World
	// Names tells images and the snapshots of their layers apart by their digests: see Learn.
	Names map[string]string
	// Refs are the references that steps use, by the names A, B, moving, missing and unreachable.
	Refs map[string]string
	// Archive is the image B as a file, named as Refs has it under imported.
	Archive []byte

	prefix string // of the trace's namespaces
	mounts map[string][]mount.Mount
	made   map[string]Process // with the task that was made last
	server string
	events *recorder
}

// begin makes the side ready for a trace whose namespaces begin with the prefix.
func (s *Side) begin(ctx context.Context, prefix string) error {
	s.prefix = prefix
	s.mounts, s.made = map[string][]mount.Mount{}, map[string]Process{}
	id, err := s.ServerID(ctx)
	if err != nil {
		return err
	}
	s.server = id
	if err := s.World.Retag(ctx, s.Refs["moving"], "A"); err != nil {
		return err
	}
	s.events, err = s.record(ctx, nil)
	return err
}

// in returns the full name of one of the trace's namespaces.
func (s *Side) in(ns string) string { return s.prefix + "-" + ns }

// Learn pulls the images A and B into a namespace, where they stay, and returns what their digests mean.
func (s *Side) Learn(ctx context.Context, ns string) (map[string]string, error) {
	names := map[string]string{}
	if err := s.CreateLease(ctx, ns, "learn", time.Hour); err != nil {
		return nil, err
	}
	ctx = leases.WithLease(ctx, "learn")
	for _, name := range []string{"A", "B"} {
		image, err := s.Pull(ctx, ns, s.Refs[name], ctrd.PullOptions{})
		if err != nil {
			return nil, err
		}
		config, _, err := s.ImageConfig(ctx, ns, s.Refs[name])
		if err != nil {
			return nil, err
		}
		names[image.Target.Digest.String()] = name
		for i, chain := range identity.ChainIDs(slices.Clone(config.RootFS.DiffIDs)) {
			if _, ok := names[chain.String()]; !ok {
				names[chain.String()] = fmt.Sprintf("%s/%d", name, i+1)
			}
		}
	}
	return names, nil
}

// named replaces a digest by what it means.
func (s *Side) named(text string) string {
	for digest, name := range s.Names {
		text = strings.ReplaceAll(text, digest, name)
	}
	return strings.ReplaceAll(text, s.prefix+"-", "")
}

// digest is the opposite of named, for the key of an image's snapshot.
func (s *Side) digest(name string) string {
	for digest, n := range s.Names {
		if n == name {
			return digest
		}
	}
	return name
}

// kinds are the kinds of results that containerd tells apart, and the name of each.
var kinds = []struct {
	name string
	is   func(error) bool
}{
	{"Deadline", func(err error) bool {
		return errors.Is(err, context.DeadlineExceeded) || errdefs.IsDeadlineExceeded(err)
	}},
	{"Canceled", errdefs.IsCanceled},
	{"Unavailable", errdefs.IsUnavailable},
	{"NotFound", errdefs.IsNotFound},
	{"AlreadyExists", errdefs.IsAlreadyExists},
	{"FailedPrecondition", errdefs.IsFailedPrecondition},
	{"InvalidArgument", errdefs.IsInvalidArgument},
	{"NotImplemented", errdefs.IsNotImplemented},
	{"PermissionDenied", errdefs.IsPermissionDenied},
	{"Aborted", errdefs.IsAborted},
	{"Internal", errdefs.IsInternal},
	{"EOF", func(err error) bool { return errors.Is(err, io.EOF) }},
}

// Kind names the kind of a result: ok, that of an errdefs kind, or plain for an error without any.
func Kind(err error) string {
	if err == nil {
		return "ok"
	}
	for _, k := range kinds {
		if k.is(err) {
			return k.name
		}
	}
	return "plain"
}

// await waits until the condition holds; the error is the context's or the condition's own.
func await(ctx context.Context, condition func() (bool, error)) error {
	return awaitFor(ctx, Patience, condition)
}

func awaitFor(ctx context.Context, limit time.Duration, condition func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		if ok, err := condition(); ok || err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
