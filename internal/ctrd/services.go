package ctrd

import (
	"context"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Services is the narrow waist to containerd: what ctrd consumes, a real daemon (Dial) and the fake offer. Errors are
// errdefs kinds; NotFound is said only when the daemon said it. Every call is bounded by its context.
type Services interface {
	// ServerID is the daemon's UUID; stable over its restarts.
	ServerID(ctx context.Context) (string, error)
	// Version is the daemon's version, such as 2.4.2.
	Version(ctx context.Context) (string, error)
	// Subscribe streams every event of every namespace from about now on; nothing is replayed and the subscription
	// is not acknowledged: subscribe, then list. The error channel speaks once, when the stream has ended.
	Subscribe(ctx context.Context) (<-chan *events.Envelope, <-chan error)

	Namespaces(ctx context.Context) ([]string, error)
	NamespaceLabels(ctx context.Context, ns string) (map[string]string, error)
	CreateNamespace(ctx context.Context, ns string, labels map[string]string) error
	// SetNamespaceLabel sets one label; the empty value removes it.
	SetNamespaceLabel(ctx context.Context, ns, key, value string) error
	DeleteNamespace(ctx context.Context, ns string) error

	Containers(ctx context.Context, ns string) ([]containers.Container, error)
	Container(ctx context.Context, ns, id string) (containers.Container, error)
	CreateContainer(ctx context.Context, ns string, c containers.Container) error
	// UpdateContainer replaces the fields named by fieldpaths, such as labels or extensions.
	UpdateContainer(ctx context.Context, ns string, c containers.Container, fieldpaths ...string) error
	DeleteContainer(ctx context.Context, ns, id string) error

	Tasks(ctx context.Context, ns string) ([]TaskInfo, error)
	Task(ctx context.Context, ns, id string) (TaskInfo, error)
	CreateTask(ctx context.Context, ns string, t TaskRequest) (pid uint32, err error)
	StartTask(ctx context.Context, ns, id string) error
	KillTask(ctx context.Context, ns, id string, signal uint32, all bool) error
	ResumeTask(ctx context.Context, ns, id string) error
	DeleteTask(ctx context.Context, ns, id string) (TaskInfo, error)

	Images(ctx context.Context, ns string) ([]images.Image, error)
	Image(ctx context.Context, ns, ref string) (images.Image, error)
	// UpdateImageLabels replaces the labels of an image record.
	UpdateImageLabels(ctx context.Context, ns, ref string, labels map[string]string) error
	DeleteImage(ctx context.Context, ns, ref string) error
	// ImageConfig returns the config for this host's platform and the chain ID of its layers. NotFound: content is
	// missing.
	ImageConfig(ctx context.Context, ns, ref string) (ocispec.Image, string, error)
	// Pull fetches an image under the lease in ctx and writes its record; it does not unpack. NotFound means that the
	// registry does not have it, or with ErrIncomplete not all of it; *PlatformError that it is not made for this host.
	Pull(ctx context.Context, ns, ref string, o PullOptions) (images.Image, error)
	// ImportArchive brings the images of an OCI or docker archive, also of a compressed one, in under the lease in ctx, and
	// returns their records; it does not unpack. Names are completed as docker does. Labels are those of records that it
	// makes; those that exist keep their own. ErrNoName means that no image has a name.
	ImportArchive(ctx context.Context, ns string, archive io.Reader, labels map[string]string) ([]images.Image, error)
	// Unpack makes the image's chain of snapshots, under the lease in ctx.
	Unpack(ctx context.Context, ns, ref, snapshotter string) error

	Snapshots(ctx context.Context, ns, snapshotter string) ([]snapshots.Info, error)
	Snapshot(ctx context.Context, ns, snapshotter, key string) (snapshots.Info, error)
	PrepareSnapshot(ctx context.Context, ns, snapshotter, key, parent string, labels map[string]string) ([]mount.Mount, error)
	SnapshotMounts(ctx context.Context, ns, snapshotter, key string) ([]mount.Mount, error)
	RemoveSnapshot(ctx context.Context, ns, snapshotter, key string) error

	Leases(ctx context.Context, ns string) ([]leases.Lease, error)
	CreateLease(ctx context.Context, ns, id string, expires time.Duration) error
	DeleteLease(ctx context.Context, ns, id string) error
}

// PullOptions say how an image is pulled.
type PullOptions struct {
	// Labels are those of a record that the pull makes; one that exists keeps its own.
	Labels map[string]string
	// HostsDir holds <registry>/hosts.toml, as containerd's certs.d does; empty: there is none.
	HostsDir string
	// Login returns who we are to a registry, by the host that is asked; no user means nobody. nil: nobody anywhere.
	Login func(host string) (user, password string, err error)
}

// TaskInfo is a task as the daemon tells it. Status is one of state.TaskStatus's words.
type TaskInfo struct {
	ID       string
	Pid      uint32
	Status   string
	ExitCode uint32
	ExitedAt time.Time
}

// TaskRequest is what a task is made of. The paths may be empty; Stdout may also be a file:// URI.
type TaskRequest struct {
	ID             string
	Rootfs         []mount.Mount
	Stdout, Stderr string
}
