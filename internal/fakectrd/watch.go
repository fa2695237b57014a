package fakectrd

import (
	"context"
	"maps"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/containers"
)

// Client is a process that uses the daemon, for those who want to kill it.
type Client struct{ dead atomic.Bool }

type clientKey struct{}

// WithClient makes the calls of the context, and of those derived from it, the client's.
func WithClient(ctx context.Context, c *Client) context.Context {
	return context.WithValue(ctx, clientKey{}, c)
}

// Kill ends the client as SIGKILL does: from now on none of its calls reaches the daemon, nor do those that are on
// their way. What the daemon is carrying out already it carries out.
func (c *Client) Kill() { c.dead.Store(true) }

// Killed reports whether Kill was called.
func (c *Client) Killed() bool { return c.dead.Load() }

// killed reports whether a call comes from a client that is dead.
func killed(ctx context.Context) bool {
	c, _ := ctx.Value(clientKey{}).(*Client)
	return c != nil && c.Killed()
}

// Before is what a write finds.
type Before struct {
	// Exists reports whether the namespace is there, Stamp are its labels.
	Exists bool
	Stamp  map[string]string
	// Container is the record with the call's id; nil when there is none. It is shared: do not change it.
	Container *containers.Container
	// Task is the status of the task with the call's id; empty when there is none.
	Task string
	// Run tells about the processes that the container with the call's id had so far.
	Run Run
	// Labels are those of the image or snapshot that the call names.
	Labels map[string]string
	// Users are the containers whose record names the snapshot that the call names.
	Users []string
}

// Audit has f hear of every write that is about to be carried out, and of what it finds; nil ends that. A person's are
// not told. It is called with the daemon locked: f must not call the daemon.
func (d *Daemon) Audit(f func(Call, Before)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.audit = f
}

// before looks at what a write is about to change.
func (d *Daemon) before(c Call) Before {
	n, exists := d.namespaces[c.Namespace]
	if !exists {
		n = &namespace{}
	}
	b := Before{Exists: exists, Stamp: maps.Clone(n.labels)}
	if record, ok := n.containers[c.ID]; ok {
		b.Container = &record
	}
	if t, ok := d.tasks[key{c.Namespace, c.ID}]; ok {
		b.Task = t.Status
	}
	if r, ok := d.processes[key{c.Namespace, c.ID}]; ok {
		b.Run = *r
	}
	switch c.Method {
	case "DeleteImage", "UpdateImageLabels":
		if i, ok := n.images[c.ID]; ok {
			b.Labels = i.Labels
		}
	case "RemoveSnapshot":
		for id, s := range n.snapshots {
			if id.key == c.ID {
				b.Labels = s.Labels
			}
		}
		for _, id := range sortedKeys(n.containers) {
			if n.containers[id].SnapshotKey == c.ID {
				b.Users = append(b.Users, id)
			}
		}
	}
	return b
}
