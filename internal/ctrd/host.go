// Package ctrd is the only package that talks to containerd.
//
// A [Host] keeps a mirror of every namespace that somebody asked for. Events and the ends of our own operations mark
// parts of it dirty, and [Host.Observe] reads only those again: looking at an unchanged namespace costs no call.
// [Host.Do] carries out one operation; its errors are the kinds of package outcome, or plain ones that are worth a
// retry. Services is the narrow waist below all of that, with a real daemon or a fake behind it.
package ctrd

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-logr/logr"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// Config is what a Host is made of.
type Config struct {
	Services Services
	// Snapshotter is used for every namespace; empty means what the namespace's label
	// containerd.io/defaults/snapshotter says, else overlayfs.
	Snapshotter string
	// RegistryConfigDir holds <registry>/hosts.toml, as containerd's certs.d does; empty: there is none.
	RegistryConfigDir string
	// Boot identifies this boot of the host.
	Boot string
	// VolumesDir holds <realm>/<name> of every volume mount, made on demand and never removed here.
	VolumesDir string
	// FilesDir holds <namespace>/<id>/{hosts,hostname,resolv.conf}, our copies that are mounted into containers.
	FilesDir string
	// OpenArchive opens an archive of images.
	OpenArchive func(path string) (Archive, error)
	// Output is told of every task before it is made; nil means that output goes nowhere.
	Output Output
	// Slots bound what is under way at a time; a kind without any is not bounded.
	Slots map[SlotKind]Slots
	// Machine is what starting a container takes beside containerd; nil means this host.
	Machine Machine
	Log     logr.Logger
	Now     func() time.Time // nil means time.Now
}

// Archive is a file of images. Its version is another one whenever its content may be.
type Archive interface {
	io.ReadSeekCloser
	Version() (string, error)
}

// Output is who carries the output of containers.
type Output interface {
	// Prepare names the streams of a task about to be created. The closer, which may be nil, holds them open until
	// the task exists, because creating it blocks until a FIFO has a reader. A run has a number of its own.
	Prepare(realm state.RealmName, ns state.Namespace, id state.ContainerID, spec state.Spec, run int) (Streams, io.Closer, error)
	// Remove ends what Prepare began, when the container is removed.
	Remove(ns state.Namespace, id state.ContainerID) error
}

// Streams are where a task's output goes: paths of FIFOs, file:// URIs, or empty for nowhere.
type Streams struct{ Stdout, Stderr string }

// SlotKind tells apart what must not wait for each other.
type SlotKind string

// The kinds of slots.
const (
	SlotStart SlotKind = "start" // creating, starting, deleting and resuming a task
	SlotStop  SlotKind = "stop"  // signals
	SlotPull  SlotKind = "pull"  // fetching an image, however long that takes
)

// Slots bounds calls of a kind. A slot is held for one call, never through a grace or a backoff.
type Slots interface {
	Acquire(ctx context.Context, ns state.Namespace) (release func(), err error)
}

// How long the mirror waits and how often it tries again.
const (
	// patience is how long a pass waits for a slow read; what has not answered by then is shown as unknown and
	// read on in the background. A healthy read takes half a millisecond.
	patience = time.Second
	// listDeadline bounds reading a list; 500 containers take 10 ms.
	listDeadline = 10 * time.Second
	// retrySlow is how often the background reads what did not answer.
	retrySlow = 2 * time.Second
	// secondLook is when everything is listed once more after a stream began, because nobody acknowledges a
	// subscription: what happened before it took effect would be missed.
	secondLook = 250 * time.Millisecond
	// firstPause and longestPause bound the pause before the next try to reach the daemon, which doubles.
	firstPause   = 100 * time.Millisecond
	longestPause = time.Second
)

// Host is one containerd. Its methods may be called concurrently.
type Host struct {
	cfg    Config
	svc    Services
	leases leaseKeeper
	pulls  turns // by reference
	// imports lets one archive at a time be read: more only keep the disk busy with seeking.
	imports turns

	corpses sync.Map // corpse -> time.Time: since when former processes are in the way of a start

	mu        sync.Mutex
	owner     state.Owner
	mirrors   map[state.Namespace]*mirror
	streaming bool // events arrive: what is clean can be trusted
	spaces    map[state.Namespace]map[string]string
	resolved  map[string]resolved // by the digest of an image's target; content does not change

	life       context.Context // of background reads; nil when Run is not running
	background sync.WaitGroup
	wake       func(state.Namespace)
	slow       chan struct{} // a slot of one: something is slow and has to be read in the background
}

// New returns a Host. It makes no call.
func New(cfg Config) *Host {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Machine == nil {
		cfg.Machine = thisMachine{}
	}
	return &Host{
		cfg: cfg, svc: cfg.Services,
		leases:   leaseKeeper{svc: cfg.Services, held: map[leaseKey]*heldLease{}},
		mirrors:  map[state.Namespace]*mirror{},
		resolved: map[string]resolved{},
		slow:     make(chan struct{}, 1),
	}
}

// Owner is the daemon's identity, which our objects carry. It is asked once per connection.
func (h *Host) Owner(ctx context.Context) (state.Owner, error) {
	h.mu.Lock()
	owner := h.owner
	h.mu.Unlock()
	if owner != "" {
		return owner, nil
	}
	ctx, cancel := context.WithTimeout(ctx, state.ObserveDeadline)
	defer cancel()
	id, err := h.svc.ServerID(ctx)
	if err != nil {
		return "", readError("reading the daemon's identity", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.owner = state.Owner(id)
	return h.owner, nil
}

// mirror returns the namespace's mirror; a new one is dirty all over.
func (h *Host) mirror(ns state.Namespace) *mirror {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok := h.mirrors[ns]
	if !ok {
		m = newMirror(ns)
		h.mirrors[ns] = m
	}
	return m
}

// allMirrors returns every mirror there is.
func (h *Host) allMirrors() []*mirror {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*mirror, 0, len(h.mirrors))
	for _, m := range h.mirrors {
		out = append(out, m)
	}
	return out
}

// labelSnapshotter is containerd's own label for a namespace's default snapshotter.
const labelSnapshotter = "containerd.io/defaults/snapshotter"

// snapshotter is the one for new snapshots of the namespace.
func (h *Host) snapshotter(ctx context.Context, ns state.Namespace) (string, error) {
	if h.cfg.Snapshotter != "" {
		return h.cfg.Snapshotter, nil
	}
	labels, known := h.mirror(ns).namespaceLabels()
	if !known {
		ctx, cancel := context.WithTimeout(ctx, state.ObserveDeadline)
		defer cancel()
		var err error
		if labels, err = h.svc.NamespaceLabels(ctx, string(ns)); err != nil && !errdefs.IsNotFound(err) {
			return "", readError("reading namespace "+string(ns), err)
		}
	}
	return snapshotterOf(labels), nil
}

func snapshotterOf(labels map[string]string) string {
	if s := labels[labelSnapshotter]; s != "" {
		return s
	}
	return "overlayfs"
}
