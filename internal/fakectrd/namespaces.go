package fakectrd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
)

// labelExpire is the lease label that the garbage collector obeys.
const labelExpire = "containerd.io/gc.expire"

// namespace is one tenant. Tasks are not in it: containerd keeps them with the shims, not in its metadata.
type namespace struct {
	// begun is true once something was written, if only in the first of the steps of a call that failed later.
	begun      bool
	labels     map[string]string
	containers map[string]containers.Container
	images     map[string]*image
	blobs      map[string]*blob
	snapshots  map[snapshotID]*snapshot
	leases     map[string]*lease
}

// lease protects what was made under it from the garbage collector.
type lease struct {
	leases.Lease
	blobs     map[string]bool
	snapshots map[snapshotID]bool
}

// open returns the namespace, made if need be: containerd makes it at the first write of anything in it.
func (d *Daemon) open(ns string) (*namespace, error) {
	if n, ok := d.namespaces[ns]; ok {
		return n, nil
	}
	if err := identifiers.Validate(ns); err != nil {
		return nil, err
	}
	n := &namespace{
		labels:     map[string]string{},
		containers: map[string]containers.Container{},
		images:     map[string]*image{},
		blobs:      map[string]*blob{},
		snapshots:  map[snapshotID]*snapshot{},
		leases:     map[string]*lease{},
	}
	d.namespaces[ns] = n
	return n, nil
}

// empty reports whether nothing is in the namespace, or there is none.
func (n *namespace) empty() bool {
	return n == nil || !n.begun && len(n.labels)+len(n.containers)+len(n.images)+len(n.blobs)+len(n.snapshots)+len(n.leases) == 0
}

// look returns the namespace for reading; an empty one when it does not exist.
func (d *Daemon) look(ns string) *namespace {
	if n, ok := d.namespaces[ns]; ok {
		return n
	}
	return &namespace{}
}

// sortedKeys returns a map's keys in the order in which containerd's database lists them.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func notFound(kind, id string) error { return fmt.Errorf("%s %q: %w", kind, id, errdefs.ErrNotFound) }
func exists(kind, id string) error {
	return fmt.Errorf("%s %q: %w", kind, id, errdefs.ErrAlreadyExists)
}

// storedLabels is what containerd keeps of labels: all that are not empty.
func storedLabels(in map[string]string) (map[string]string, error) {
	out := make(map[string]string, len(in))
	for k, v := range in {
		if err := labels.Validate(k, v); err != nil {
			return nil, err
		}
		if v != "" {
			out[k] = v
		}
	}
	return out, nil
}

// Namespaces implements ctrd.Services.
func (d *Daemon) Namespaces(ctx context.Context) ([]string, error) {
	return read(ctx, d, "Namespaces", "", "", func() ([]string, error) { return sortedKeys(d.namespaces), nil })
}

// NamespaceLabels implements ctrd.Services.
func (d *Daemon) NamespaceLabels(ctx context.Context, ns string) (map[string]string, error) {
	return read(ctx, d, "NamespaceLabels", ns, "", func() (map[string]string, error) {
		n, ok := d.namespaces[ns]
		if !ok {
			return nil, notFound("namespace", ns)
		}
		return maps.Clone(n.labels), nil
	})
}

// CreateNamespace implements ctrd.Services.
func (d *Daemon) CreateNamespace(ctx context.Context, ns string, labels map[string]string) error {
	return write(ctx, d, "CreateNamespace", ns, "", func() error {
		stored, err := storedLabels(labels)
		if err != nil {
			return err
		}
		if _, ok := d.namespaces[ns]; ok {
			return exists("namespace", ns)
		}
		n, err := d.open(ns)
		if err != nil {
			return err
		}
		n.labels = stored
		d.publish(ns, "/namespaces/create", &eventtypes.NamespaceCreate{Name: ns, Labels: maps.Clone(stored)})
		return nil
	})
}

// SetNamespaceLabel implements ctrd.Services. Like containerd it makes a namespace that does not exist.
func (d *Daemon) SetNamespaceLabel(ctx context.Context, ns, key, value string) error {
	return write(ctx, d, "SetNamespaceLabel", ns, key, func() error {
		if err := labels.Validate(key, value); err != nil {
			return fmt.Errorf("%s: %w", err.Error(), errdefs.ErrUnknown) // the namespaces service loses the kind
		}
		n, err := d.open(ns)
		if err != nil {
			return err
		}
		if n.labels[key] = value; value == "" {
			delete(n.labels, key)
		}
		d.publish(ns, "/namespaces/update", &eventtypes.NamespaceUpdate{Name: ns, Labels: map[string]string{key: value}})
		return nil
	})
}

// DeleteNamespace implements ctrd.Services.
func (d *Daemon) DeleteNamespace(ctx context.Context, ns string) error {
	return write(ctx, d, "DeleteNamespace", ns, "", func() error {
		n, ok := d.namespaces[ns]
		if !ok {
			return notFound("namespace", ns)
		}
		var left []string
		for what, count := range map[string]int{
			"images": len(n.images), "blobs": len(n.blobs), "containers": len(n.containers), "snapshots": len(n.snapshots),
		} {
			if count > 0 {
				left = append(left, what)
			}
		}
		if slices.Sort(left); len(left) > 0 {
			return fmt.Errorf("namespace %q must be empty, but it still has %s: %w",
				ns, strings.Join(left, ", "), errdefs.ErrFailedPrecondition)
		}
		delete(d.namespaces, ns)
		d.publish(ns, "/namespaces/delete", &eventtypes.NamespaceDelete{Name: ns})
		return nil
	})
}

// Leases implements ctrd.Services.
func (d *Daemon) Leases(ctx context.Context, ns string) ([]leases.Lease, error) {
	return read(ctx, d, "Leases", ns, "", func() ([]leases.Lease, error) {
		n := d.look(ns)
		var out []leases.Lease
		for _, id := range sortedKeys(n.leases) {
			l := n.leases[id].Lease
			l.Labels = maps.Clone(l.Labels)
			out = append(out, l)
		}
		return out, nil
	})
}

// CreateLease implements ctrd.Services.
func (d *Daemon) CreateLease(ctx context.Context, ns, id string, expires time.Duration) error {
	return write(ctx, d, "CreateLease", ns, id, func() error {
		n, err := d.open(ns)
		if err != nil {
			return err
		}
		if _, ok := n.leases[id]; ok {
			return exists("lease", id)
		}
		now := d.now()
		n.leases[id] = &lease{
			Lease: leases.Lease{
				ID: id, CreatedAt: now.UTC(),
				Labels: map[string]string{labelExpire: now.Add(expires).Format(time.RFC3339)},
			},
			blobs:     map[string]bool{},
			snapshots: map[snapshotID]bool{},
		}
		return nil
	})
}

// DeleteLease implements ctrd.Services.
func (d *Daemon) DeleteLease(ctx context.Context, ns, id string) error {
	return write(ctx, d, "DeleteLease", ns, id, func() error {
		n := d.look(ns)
		if _, ok := n.leases[id]; !ok {
			return notFound("lease", id)
		}
		delete(n.leases, id)
		d.scheduleGC()
		return nil
	})
}

// leaseOf returns the lease in ctx. Like containerd it says NotFound when that lease does not exist, which is easily
// taken for something else that is missing.
func (n *namespace) leaseOf(ctx context.Context) (*lease, error) {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return nil, nil
	}
	l, ok := n.leases[id]
	if !ok {
		return nil, notFound("lease", id)
	}
	return l, nil
}

// hold adds a snapshot to the lease; a nil lease holds nothing.
func (l *lease) hold(id snapshotID) {
	if l != nil {
		l.snapshots[id] = true
	}
}

// holdBlob adds content to the lease; a nil lease holds nothing.
func (l *lease) holdBlob(digest string) {
	if l != nil {
		l.blobs[digest] = true
	}
}
