package tracetest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// cleanUp takes away everything that a trace has left.
func (s *Side) cleanUp(ctx context.Context) error {
	var errs []error
	for _, ns := range tenants {
		errs = append(errs, s.clear(ctx, s.in(ns)))
	}
	return errors.Join(errs...)
}

func (s *Side) clear(ctx context.Context, ns string) error {
	tasks, err := s.Tasks(ctx, ns)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if err := s.clearTask(ctx, ns, t.ID); err != nil {
			return err
		}
	}
	list, err := s.Containers(ctx, ns)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := s.DeleteContainer(ctx, ns, c.ID); err != nil {
			return err
		}
	}
	held, err := s.Leases(ctx, ns)
	if err != nil {
		return err
	}
	for _, l := range held {
		if err := s.DeleteLease(ctx, ns, l.ID); err != nil {
			return err
		}
	}
	records, err := s.Images(ctx, ns)
	if err != nil {
		return err
	}
	for _, i := range records {
		if err := s.DeleteImage(ctx, ns, i.Name); err != nil {
			return err
		}
	}
	return s.clearSnapshots(ctx, ns)
}

// clearTask ends and deletes a task. One without a container is reached only once it has one again.
func (s *Side) clearTask(ctx context.Context, ns, id string) error {
	if _, err := s.Container(ctx, ns, id); errdefs.IsNotFound(err) {
		spec, err := typeurl.MarshalAny(&specs.Spec{})
		if err != nil {
			return err
		}
		c := containers.Container{ID: id, Spec: spec, Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"}}
		if err := s.CreateContainer(ctx, ns, c); err != nil {
			return err
		}
	}
	return await(ctx, func() (bool, error) {
		t, err := s.Task(ctx, ns, id)
		switch {
		case errdefs.IsNotFound(err):
			return true, nil
		case err != nil:
			return false, err
		case t.Status == "stopped":
			_, err := s.DeleteTask(ctx, ns, id)
			return errdefs.IsNotFound(err), ignore(err, errdefs.IsNotFound)
		case t.Status == "paused":
			// A process that was killed frozen dies when it goes on; one that is gone already does not go on.
			_ = s.ResumeTask(ctx, ns, id)
		}
		return false, ignore(s.KillTask(ctx, ns, id, sigkill, true), errdefs.IsNotFound)
	})
}

// clearSnapshots removes the snapshots that the garbage collector is kept from, and the namespace.
func (s *Side) clearSnapshots(ctx context.Context, ns string) error {
	err := await(ctx, func() (bool, error) {
		if err := s.World.Collect(ctx); err != nil {
			return false, err
		}
		list, err := s.Snapshots(ctx, ns, overlayfs)
		for _, i := range slices.Backward(list) {
			err := s.RemoveSnapshot(ctx, ns, overlayfs, i.Name)
			if ignore(err, errdefs.IsFailedPrecondition, errdefs.IsNotFound) != nil {
				return false, err
			}
		}
		return len(list) == 0, err
	})
	if err != nil {
		return fmt.Errorf("removing snapshots: %w", err)
	}
	return ignore(s.DeleteNamespace(ctx, ns), errdefs.IsNotFound)
}

// ignore returns the error unless it is of one of the kinds.
func ignore(err error, kinds ...func(error) bool) error {
	if err == nil || slices.ContainsFunc(kinds, func(is func(error) bool) bool { return is(err) }) {
		return nil
	}
	return err
}
