package fakectrd

import (
	"context"
	"fmt"
	"maps"
	"strings"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// Containers implements ctrd.Services.
func (d *Daemon) Containers(ctx context.Context, ns string) ([]containers.Container, error) {
	return read(ctx, d, "Containers", ns, "", func() ([]containers.Container, error) {
		n := d.look(ns)
		var out []containers.Container
		for _, id := range sortedKeys(n.containers) {
			out = append(out, cloneContainer(n.containers[id]))
		}
		return out, nil
	})
}

// Container implements ctrd.Services.
func (d *Daemon) Container(ctx context.Context, ns, id string) (containers.Container, error) {
	return read(ctx, d, "Container", ns, id, func() (containers.Container, error) {
		c, ok := d.look(ns).containers[id]
		if !ok {
			return containers.Container{}, notFound("container", id)
		}
		return cloneContainer(c), nil
	})
}

// CreateContainer implements ctrd.Services. Neither image nor snapshot are looked at.
func (d *Daemon) CreateContainer(ctx context.Context, ns string, c containers.Container) error {
	return write(ctx, d, "CreateContainer", ns, c.ID, func() error {
		n, err := d.open(ns)
		if err != nil {
			return err
		}
		c = cloneContainer(c)
		if err := d.store(&c); err != nil {
			return err
		}
		if _, ok := n.containers[c.ID]; ok {
			return exists("container", c.ID)
		}
		c.CreatedAt = d.now().UTC()
		c.UpdatedAt = c.CreatedAt
		n.containers[c.ID] = c
		d.publish(ns, "/containers/create", &eventtypes.ContainerCreate{
			ID: c.ID, Image: c.Image, Runtime: &eventtypes.ContainerCreate_Runtime{Name: c.Runtime.Name},
		})
		return nil
	})
}

// UpdateContainer implements ctrd.Services.
func (d *Daemon) UpdateContainer(ctx context.Context, ns string, c containers.Container, fieldpaths ...string) error {
	return write(ctx, d, "UpdateContainer", ns, c.ID, func() error {
		n := d.look(ns)
		old, ok := n.containers[c.ID]
		if !ok {
			return notFound("container", c.ID)
		}
		updated := cloneContainer(old)
		if err := d.applyFields(&updated, cloneContainer(c), fieldpaths); err != nil {
			return err
		}
		// The database only ever adds and replaces extensions.
		written := updated.Extensions
		updated.Extensions = cloneContainer(old).Extensions
		maps.Copy(updated.Extensions, written)
		if err := d.store(&updated); err != nil {
			return err
		}
		updated.UpdatedAt = d.now().UTC()
		n.containers[c.ID] = updated
		d.publish(ns, "/containers/update", &eventtypes.ContainerUpdate{
			ID: c.ID, Image: updated.Image, Labels: maps.Clone(updated.Labels), SnapshotKey: updated.SnapshotKey,
		})
		return nil
	})
}

// DeleteContainer implements ctrd.Services. A task does not hinder it: it goes on without a container.
func (d *Daemon) DeleteContainer(ctx context.Context, ns, id string) error {
	return write(ctx, d, "DeleteContainer", ns, id, func() error {
		n := d.look(ns)
		if _, ok := n.containers[id]; !ok {
			return notFound("container", id)
		}
		delete(n.containers, id)
		d.scheduleGC()
		d.publish(ns, "/containers/delete", &eventtypes.ContainerDelete{ID: id})
		return nil
	})
}

// applyFields copies the named fields, as containerd does.
func (d *Daemon) applyFields(dst *containers.Container, src containers.Container, fieldpaths []string) error {
	if len(fieldpaths) == 0 {
		fieldpaths = []string{"labels", "spec", "extensions", "image", "snapshotkey"}
		if dst.Snapshotter != src.Snapshotter || dst.Runtime.Name != src.Runtime.Name {
			return fmt.Errorf("snapshotter and runtime are immutable: %w", errdefs.ErrInvalidArgument)
		}
	}
	for _, path := range fieldpaths {
		if k, ok := strings.CutPrefix(path, "labels."); ok {
			dst.Labels[k] = src.Labels[k]
			continue
		}
		if k, ok := strings.CutPrefix(path, "extensions."); ok {
			dst.Extensions[k] = src.Extensions[k]
			continue
		}
		switch path {
		case "labels":
			dst.Labels = src.Labels
		case "spec":
			if src.Spec != nil || d.needsSpec { // else the database writes no spec that is not there
				dst.Spec = src.Spec
			}
		case "extensions":
			dst.Extensions = maps.Clone(src.Extensions)
		case "image":
			dst.Image = src.Image
		case "snapshotkey":
			dst.SnapshotKey = src.SnapshotKey
		default:
			return fmt.Errorf("cannot update %q field on %q: %w", path, dst.ID, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// store brings a container into the form in which the database holds it, and refuses what that refuses.
func (d *Daemon) store(c *containers.Container) error {
	if err := identifiers.Validate(c.ID); err != nil {
		return err
	}
	stored, err := storedLabels(c.Labels)
	if err != nil {
		return err
	}
	c.Labels = stored
	switch {
	case c.Runtime.Name == "":
		return fmt.Errorf("container.Runtime.Name must be set: %w", errdefs.ErrInvalidArgument)
	case c.Spec == nil && d.needsSpec:
		return fmt.Errorf("container.Spec must be set: %w", errdefs.ErrInvalidArgument)
	case c.SnapshotKey != "" && c.Snapshotter == "":
		return fmt.Errorf("container.Snapshotter must be set if container.SnapshotKey is set: %w", errdefs.ErrInvalidArgument)
	}
	if c.Spec == nil {
		c.Spec = &anypb.Any{} // it comes back as an empty one
	}
	for k, v := range c.Extensions {
		if v == nil {
			c.Extensions[k] = &anypb.Any{} // a removed extension stays, as an empty one
		}
	}
	return nil
}

// cloneContainer copies all that a caller could change; the values of specs and extensions are never written to.
func cloneContainer(c containers.Container) containers.Container {
	labels, extensions := c.Labels, c.Extensions
	c.Labels = make(map[string]string, len(labels))
	maps.Copy(c.Labels, labels)
	c.Extensions = make(map[string]typeurl.Any, len(extensions))
	for k, v := range extensions {
		if v != nil {
			v = typeurl.MarshalProto(v)
		}
		c.Extensions[k] = v
	}
	if c.Spec != nil {
		c.Spec = typeurl.MarshalProto(c.Spec)
	}
	return c
}
