package main

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// repairAll kills the tasks of the first n containers one after the other and returns the median of what it takes
// to delete, create and start one, in milliseconds.
func (f *floor) repairAll(ctx context.Context, n int) (float64, error) {
	var took []float64
	for i := range n {
		if err := f.kill(ctx, i); err != nil {
			return 0, err
		}
		start := time.Now()
		if _, err := f.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id(i)}); err != nil {
			return 0, err
		}
		mounts, err := f.client.SnapshotService(f.snapshotter).Mounts(ctx, id(i))
		if err != nil {
			return 0, err
		}
		if err := f.start(ctx, i, mounts); err != nil {
			return 0, err
		}
		took = append(took, ms(time.Since(start)))
	}
	if n == 0 {
		return 0, nil
	}
	slices.Sort(took)
	return took[n/2], nil
}

// kill ends a task and waits for its exit.
func (f *floor) kill(ctx context.Context, i int) error {
	kill := &tasks.KillRequest{ContainerID: id(i), Signal: uint32(syscall.SIGKILL), All: true}
	if _, err := f.client.TaskService().Kill(ctx, kill); err != nil {
		return err
	}
	_, err := f.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: id(i)})
	return err
}

// remove undoes create, as far as it came.
func (f *floor) remove(ctx context.Context, i int) error {
	killErr := f.kill(ctx, i)
	_, err := f.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id(i)})
	if err != nil && !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		return errors.Join(killErr, err)
	}
	if err := f.client.ContainerService().Delete(ctx, id(i)); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	err = f.client.SnapshotService(f.snapshotter).Remove(ctx, id(i))
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
