package fakectrd

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

// Image is what an image is made of. Two images that are equal in all but Process have the same digest.
type Image struct {
	// Layers names the layers, from the bottom up; nil means one called "base".
	Layers []string
	// Config is the image's config; platform and layers are filled in.
	Config ocispec.Image
	// Process is how a container's process behaves that runs it.
	Process Process
}

// complete fills the config in; the process is bound to the digest of the rest.
func (i Image) complete() Image {
	if i.Layers == nil {
		i.Layers = []string{"base"}
	}
	i.Config.OS, i.Config.Architecture = "linux", "amd64"
	i.Config.RootFS = ocispec.RootFS{Type: "layers"}
	for _, l := range i.Layers {
		i.Config.RootFS.DiffIDs = append(i.Config.RootFS.DiffIDs, digest.FromString(l))
	}
	return i
}

// chain returns the chain ids of the layers, from the bottom up.
func (i Image) chain() []string {
	ids := slices.Clone(i.Config.RootFS.DiffIDs)
	identity.ChainIDs(ids)
	var out []string
	for _, id := range ids {
		out = append(out, id.String())
	}
	return out
}

// descriptor is that of a complete image's manifest.
func (i Image) descriptor() ocispec.Descriptor {
	// A config is plain data: it can always be encoded.
	data, _ := json.Marshal(i.Config)
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Size: int64(len(data)),
	}
}

// Registry is where images are pulled from.
type Registry struct {
	mu       sync.Mutex
	images   map[string]Image
	errs     map[string]error
	away     bool
	delay    time.Duration
	requests int
}

// Put makes the registry serve the image under the reference.
func (r *Registry) Put(ref string, i Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[ref] = i.complete()
}

// Fail has every pull of the reference fail with err; nil ends that.
func (r *Registry) Fail(ref string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.errs == nil {
		r.errs = map[string]error{}
	}
	r.errs[ref] = err
}

// SetUnreachable takes the registry off the network, or puts it back.
func (r *Registry) SetUnreachable(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}

// SetDelay sets how long a pull takes.
func (r *Registry) SetDelay(delay time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delay = delay
}

// Requests counts the pulls that reached the registry.
func (r *Registry) Requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

// fetch gets an image over the network.
func (r *Registry) fetch(ctx context.Context, ref string) (Image, error) {
	r.mu.Lock()
	delay := r.delay
	r.mu.Unlock()
	if err := sleep(ctx, delay); err != nil {
		return Image{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		err := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		return Image{}, fmt.Errorf("failed to resolve reference %q: %w", ref, err)
	}
	r.requests++
	if err := r.errs[ref]; err != nil {
		return Image{}, fmt.Errorf("failed to resolve reference %q: %w", ref, err)
	}
	i, ok := r.images[ref]
	if !ok {
		return Image{}, fmt.Errorf("failed to resolve reference %q: %w", ref, notFound("image", ref))
	}
	return i, nil
}

// image is a record.
type image struct{ images.Image }

// blob stands for all the content of one image.
type blob struct {
	Image
	// unpacked holds the chain that each snapshotter unpacked it to; it lives as long as the content does.
	unpacked map[string]string
}

func (i *image) clone() images.Image {
	out := i.Image
	out.Labels = maps.Clone(out.Labels)
	return out
}

// Images implements ctrd.Services.
func (d *Daemon) Images(ctx context.Context, ns string) ([]images.Image, error) {
	return read(ctx, d, "Images", ns, "", func() ([]images.Image, error) {
		n := d.look(ns)
		var out []images.Image
		for _, ref := range sortedKeys(n.images) {
			out = append(out, n.images[ref].clone())
		}
		return out, nil
	})
}

// Image implements ctrd.Services.
func (d *Daemon) Image(ctx context.Context, ns, ref string) (images.Image, error) {
	return read(ctx, d, "Image", ns, ref, func() (images.Image, error) {
		i, ok := d.look(ns).images[ref]
		if !ok {
			return images.Image{}, notFound("image", ref)
		}
		return i.clone(), nil
	})
}

// UpdateImageLabels implements ctrd.Services.
func (d *Daemon) UpdateImageLabels(ctx context.Context, ns, ref string, labels map[string]string) error {
	return write(ctx, d, "UpdateImageLabels", ns, ref, func() error {
		i, ok := d.look(ns).images[ref]
		if !ok {
			return notFound("image", ref)
		}
		stored, err := storedLabels(labels)
		if err != nil {
			return err
		}
		i.Labels, i.UpdatedAt = stored, d.now().UTC()
		d.publish(ns, "/images/update", &eventtypes.ImageUpdate{Name: ref, Labels: maps.Clone(stored)})
		return nil
	})
}

// DeleteImage implements ctrd.Services. It collects garbage before it returns.
func (d *Daemon) DeleteImage(ctx context.Context, ns, ref string) error {
	return write(ctx, d, "DeleteImage", ns, ref, func() error {
		n := d.look(ns)
		if _, ok := n.images[ref]; !ok {
			return notFound("image", ref)
		}
		delete(n.images, ref)
		d.publish(ns, "/images/delete", &eventtypes.ImageDelete{Name: ref})
		d.collectAll()
		return nil
	})
}

// content returns what the record of the reference leads to; NotFound when there is no record or no content.
func (n *namespace) content(ref string) (*blob, error) {
	i, ok := n.images[ref]
	if !ok {
		return nil, notFound("image", ref)
	}
	b, ok := n.blobs[i.Target.Digest.String()]
	if !ok {
		return nil, notFound("content", i.Target.Digest.String())
	}
	return b, nil
}

// ImageConfig implements ctrd.Services.
func (d *Daemon) ImageConfig(ctx context.Context, ns, ref string) (ocispec.Image, string, error) {
	var chainID string
	config, err := read(ctx, d, "ImageConfig", ns, ref, func() (ocispec.Image, error) {
		b, err := d.look(ns).content(ref)
		if err != nil {
			return ocispec.Image{}, err
		}
		if chain := b.chain(); len(chain) > 0 {
			chainID = chain[len(chain)-1]
		}
		return b.Config, nil
	})
	if err != nil {
		return ocispec.Image{}, "", err
	}
	return config, chainID, nil
}

// Pull implements ctrd.Services.
func (d *Daemon) Pull(ctx context.Context, ns, ref string, o ctrd.PullOptions) (images.Image, error) {
	return writeResult(ctx, d, "Pull", ns, ref, func() (images.Image, error) {
		n, err := d.open(ns)
		if err != nil {
			return images.Image{}, err
		}
		if _, leased := leases.FromContext(ctx); !leased {
			n.begun = true // the client makes a lease of its own first
		}
		var fetched Image
		err = d.unlocked(func() (err error) { // a pull takes its time
			fetched, err = d.Registry.fetch(ctx, ref)
			if killed(ctx) { // the bytes go through the client
				err = errUnavailable
			}
			return err
		})
		if err != nil {
			return images.Image{}, err
		}
		if n, err = d.open(ns); err != nil {
			return images.Image{}, err
		}
		l, err := n.leaseOf(ctx)
		if err != nil {
			return images.Image{}, err
		}
		d.addContent(n, l, fetched)
		return d.putImage(ns, n, ref, fetched, o.Labels)
	})
}

// addContent stores an image's content, under the lease when there is one.
func (d *Daemon) addContent(n *namespace, l *lease, i Image) {
	id := i.descriptor().Digest.String()
	if _, ok := n.blobs[id]; !ok {
		n.blobs[id] = &blob{Image: i, unpacked: map[string]string{}}
	}
	l.holdBlob(id)
}

// putImage writes an image record; one that exists keeps its labels.
func (d *Daemon) putImage(ns string, n *namespace, ref string, i Image, labels map[string]string) (images.Image, error) {
	stored, err := storedLabels(labels)
	if err != nil {
		return images.Image{}, err
	}
	now := d.now().UTC()
	if old, ok := n.images[ref]; ok {
		target := i.descriptor()
		if target.Digest == old.Target.Digest {
			return old.clone(), nil // ctrd does not write what is there
		}
		old.Target, old.UpdatedAt = target, now
		d.scheduleGC() // what it was before may be garbage
		d.publish(ns, "/images/update", &eventtypes.ImageUpdate{Name: ref, Labels: maps.Clone(old.Labels)})
		return old.clone(), nil
	}
	n.images[ref] = &image{images.Image{
		Name: ref, Labels: stored, Target: i.descriptor(), CreatedAt: now, UpdatedAt: now,
	}}
	d.publish(ns, "/images/create", &eventtypes.ImageCreate{Name: ref, Labels: maps.Clone(stored)})
	return n.images[ref].clone(), nil
}

// Unpack implements ctrd.Services.
func (d *Daemon) Unpack(ctx context.Context, ns, ref, snapshotter string) error {
	return write(ctx, d, "Unpack", ns, ref, func() error {
		n := d.look(ns)
		b, err := n.content(ref)
		if err != nil {
			return err
		}
		if err := knownSnapshotter(snapshotter); err != nil {
			return err
		}
		l, err := n.leaseOf(ctx)
		if err != nil && !n.unpacked(b, snapshotter) { // nobody asks for the lease when there is nothing to do
			return err
		}
		d.unpack(ns, n, l, b, snapshotter)
		return nil
	})
}

// unpacked reports whether all snapshots of the chain are there.
func (n *namespace) unpacked(b *blob, snapshotter string) bool {
	return !slices.ContainsFunc(b.chain(), func(key string) bool {
		_, ok := n.snapshots[snapshotID{snapshotter, key}]
		return !ok
	})
}

// unpack makes those snapshots of the chain that are missing.
func (d *Daemon) unpack(ns string, n *namespace, l *lease, b *blob, snapshotter string) {
	parent := ""
	for _, key := range b.chain() {
		id := snapshotID{snapshotter, key}
		if _, ok := n.snapshots[id]; !ok {
			n.snapshots[id] = d.newSnapshot(snapshots.KindCommitted, key, parent, nil)
			extract := fmt.Sprintf(snapshots.UnpackKeyFormat, "0", key)
			d.publish(ns, "/snapshot/prepare",
				&eventtypes.SnapshotPrepare{Key: extract, Parent: parent, Snapshotter: snapshotter})
			d.publish(ns, "/snapshot/commit",
				&eventtypes.SnapshotCommit{Key: extract, Name: key, Snapshotter: snapshotter})
		}
		l.hold(id)
		parent = key
	}
	b.unpacked[snapshotter] = parent
}
