package ctrd

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// statusOf says a task's status in our words. A task being paused counts as paused: nothing else can be done to it.
func statusOf(s task.Status) state.TaskStatus {
	switch s {
	case task.Status_CREATED:
		return state.TaskCreated
	case task.Status_RUNNING:
		return state.TaskRunning
	case task.Status_PAUSED, task.Status_PAUSING:
		return state.TaskPaused
	case task.Status_STOPPED:
		return state.TaskStopped
	}
	return state.TaskUnknown
}

// taskInfo tells about the task with the id.
func taskInfo(id string, p *task.Process) TaskInfo {
	i := TaskInfo{ID: id, Pid: p.Pid, Status: string(statusOf(p.Status))}
	if i.Status == string(state.TaskStopped) {
		i.ExitCode, i.ExitedAt = p.ExitStatus, protobuf.FromTimestamp(p.ExitedAt)
	}
	return i
}

// deadlineSlack is how long before the caller's own deadline an error without a kind still counts as that deadline.
const deadlineSlack = 100 * time.Millisecond

// taskError gives a failed call of the tasks service its kind. The daemon passes our deadline on to the shim, and 1.6
// then answers with an error of no kind that races with the deadline itself: the request may yet be carried out.
func taskError(ctx context.Context, err error) error {
	native := errgrpc.ToNative(err)
	if deadline, ok := ctx.Deadline(); ok && errdefs.IsUnknown(native) && time.Until(deadline) < deadlineSlack {
		return fmt.Errorf("%w: %w", native, context.DeadlineExceeded)
	}
	return native
}

// Tasks implements Services.
func (c *Client) Tasks(ctx context.Context, ns string) ([]TaskInfo, error) {
	r, err := c.client.TaskService().List(namespaces.WithNamespace(ctx, ns), &tasks.ListTasksRequest{})
	if err != nil {
		return nil, taskError(ctx, err)
	}
	var out []TaskInfo
	for _, p := range r.Tasks {
		out = append(out, taskInfo(p.ID, p))
	}
	return out, nil
}

// Task implements Services.
func (c *Client) Task(ctx context.Context, ns, id string) (TaskInfo, error) {
	r, err := c.client.TaskService().Get(namespaces.WithNamespace(ctx, ns), &tasks.GetRequest{ContainerID: id})
	if err != nil {
		return TaskInfo{}, taskError(ctx, err)
	}
	return taskInfo(id, r.Process), nil
}

// CreateTask implements Services.
func (c *Client) CreateTask(ctx context.Context, ns string, t TaskRequest) (uint32, error) {
	request := &tasks.CreateTaskRequest{ContainerID: t.ID, Stdout: t.Stdout, Stderr: t.Stderr}
	for _, m := range t.Rootfs {
		request.Rootfs = append(request.Rootfs,
			&types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	r, err := c.client.TaskService().Create(namespaces.WithNamespace(ctx, ns), request)
	if err != nil {
		return 0, taskError(ctx, err)
	}
	return r.Pid, nil
}

// StartTask implements Services.
func (c *Client) StartTask(ctx context.Context, ns, id string) error {
	_, err := c.client.TaskService().Start(namespaces.WithNamespace(ctx, ns), &tasks.StartRequest{ContainerID: id})
	return taskError(ctx, err)
}

// KillTask implements Services.
func (c *Client) KillTask(ctx context.Context, ns, id string, signal uint32, all bool) error {
	_, err := c.client.TaskService().Kill(namespaces.WithNamespace(ctx, ns),
		&tasks.KillRequest{ContainerID: id, Signal: signal, All: all})
	return taskError(ctx, err)
}

// ResumeTask implements Services.
func (c *Client) ResumeTask(ctx context.Context, ns, id string) error {
	_, err := c.client.TaskService().Resume(namespaces.WithNamespace(ctx, ns), &tasks.ResumeTaskRequest{ContainerID: id})
	return taskError(ctx, err)
}

// DeleteTask implements Services.
func (c *Client) DeleteTask(ctx context.Context, ns, id string) (TaskInfo, error) {
	r, err := c.client.TaskService().Delete(namespaces.WithNamespace(ctx, ns), &tasks.DeleteTaskRequest{ContainerID: id})
	if err != nil {
		return TaskInfo{}, taskError(ctx, err)
	}
	return TaskInfo{
		ID: id, Pid: r.Pid, Status: string(state.TaskStopped),
		ExitCode: r.ExitStatus, ExitedAt: protobuf.FromTimestamp(r.ExitedAt),
	}, nil
}
