package ctrd

import (
	"context"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// Containers implements Services.
func (c *Client) Containers(ctx context.Context, ns string) ([]containers.Container, error) {
	return c.client.ContainerService().List(namespaces.WithNamespace(ctx, ns))
}

// Container implements Services.
func (c *Client) Container(ctx context.Context, ns, id string) (containers.Container, error) {
	return c.client.ContainerService().Get(namespaces.WithNamespace(ctx, ns), id)
}

// CreateContainer implements Services.
func (c *Client) CreateContainer(ctx context.Context, ns string, record containers.Container) error {
	_, err := c.client.ContainerService().Create(namespaces.WithNamespace(ctx, ns), record)
	return err
}

// UpdateContainer implements Services.
func (c *Client) UpdateContainer(ctx context.Context, ns string, record containers.Container, fieldpaths ...string) error {
	_, err := c.client.ContainerService().Update(namespaces.WithNamespace(ctx, ns), record, fieldpaths...)
	return err
}

// DeleteContainer implements Services.
func (c *Client) DeleteContainer(ctx context.Context, ns, id string) error {
	return c.client.ContainerService().Delete(namespaces.WithNamespace(ctx, ns), id)
}

// Snapshots implements Services.
func (c *Client) Snapshots(ctx context.Context, ns, snapshotter string) ([]snapshots.Info, error) {
	var out []snapshots.Info
	err := c.client.SnapshotService(snapshotter).Walk(namespaces.WithNamespace(ctx, ns),
		func(_ context.Context, i snapshots.Info) error {
			out = append(out, i)
			return nil
		})
	return out, err
}

// Snapshot implements Services.
func (c *Client) Snapshot(ctx context.Context, ns, snapshotter, key string) (snapshots.Info, error) {
	return c.client.SnapshotService(snapshotter).Stat(namespaces.WithNamespace(ctx, ns), key)
}

// PrepareSnapshot implements Services.
func (c *Client) PrepareSnapshot(
	ctx context.Context, ns, snapshotter, key, parent string, labels map[string]string,
) ([]mount.Mount, error) {
	return c.client.SnapshotService(snapshotter).Prepare(namespaces.WithNamespace(ctx, ns), key, parent,
		snapshots.WithLabels(labels))
}

// SnapshotMounts implements Services.
func (c *Client) SnapshotMounts(ctx context.Context, ns, snapshotter, key string) ([]mount.Mount, error) {
	return c.client.SnapshotService(snapshotter).Mounts(namespaces.WithNamespace(ctx, ns), key)
}

// RemoveSnapshot implements Services.
func (c *Client) RemoveSnapshot(ctx context.Context, ns, snapshotter, key string) error {
	return c.client.SnapshotService(snapshotter).Remove(namespaces.WithNamespace(ctx, ns), key)
}
