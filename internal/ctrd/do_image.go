package ctrd

import (
	"context"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// resolved is what an image's target leads to.
type resolved struct {
	config ocispec.ImageConfig
	chain  string // of the layers, which is the key of the snapshot of all of them
}

// maxResolved bounds what is remembered of images; a tag that moves every hour fills it in weeks.
const maxResolved = 1000

// resolve reads an image's config, the first time that it is seen.
func (h *Host) resolve(ctx context.Context, ns state.Namespace, i images.Image) (resolved, error) {
	digest := i.Target.Digest.String()
	h.mu.Lock()
	r, ok := h.resolved[digest]
	h.mu.Unlock()
	if ok {
		return r, nil
	}
	r, err := look(ctx, "reading image "+i.Name, func(ctx context.Context) (resolved, error) {
		image, chain, err := h.svc.ImageConfig(ctx, string(ns), i.Name)
		return resolved{image.Config, chain}, err
	})
	if err != nil {
		return r, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.resolved) >= maxResolved {
		clear(h.resolved)
	}
	h.resolved[digest] = r
	return r, nil
}

// resolveRef is resolve for a reference.
func (h *Host) resolveRef(ctx context.Context, ns state.Namespace, ref string) (resolved, error) {
	h.mu.Lock()
	streaming := h.streaming
	h.mu.Unlock()
	if i, ok := h.mirror(ns).knownImage(ref); ok && streaming {
		return h.resolve(ctx, ns, i)
	}
	i, err := h.image(ctx, ns, ref)
	if err != nil {
		return resolved{}, err
	}
	return h.resolve(ctx, ns, i)
}

// knownImage returns an image's record if what is known of it can be trusted.
func (m *mirror) knownImage(ref string) (images.Image, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range m.images {
		if i.Name == ref {
			return i, !m.stale().store
		}
	}
	return images.Image{}, false
}

func (h *Host) image(ctx context.Context, ns state.Namespace, ref string) (images.Image, error) {
	return look(ctx, "reading image "+ref, func(ctx context.Context) (images.Image, error) {
		return h.svc.Image(ctx, string(ns), ref)
	})
}

// unpack makes an image usable that somebody imported without unpacking it. The layers that were unpacked when
// that was cut off stay under the lease until the next try.
func (h *Host) unpack(ctx context.Context, at target, op plan.Unpack) error {
	leased, release, err := h.leases.acquire(ctx, at.ns, leaseID(at.realm, "unpack", op.Ref), state.PullLease, true)
	if err != nil {
		return err
	}
	err = h.unpackUnderLease(leased, at.ns, op.Ref)
	h.ended(at.ns, release(err != nil && !errdefs.IsNotFound(err)))
	return err
}

func (h *Host) unpackUnderLease(ctx context.Context, ns state.Namespace, ref string) error {
	snapshotter, err := h.snapshotter(ctx, ns)
	if err != nil {
		return err
	}
	// Big images take longer to unpack than a call may last, and unpacking is many calls.
	ctx, cancel := context.WithTimeout(ctx, state.LeaseSlack)
	defer cancel()
	err = h.svc.Unpack(ctx, string(ns), ref, snapshotter)
	h.mirror(ns).setIncomplete(ref, errdefs.IsNotFound(err))
	if err != nil {
		return readError("unpacking "+ref, err)
	}
	return nil
}

// setIncomplete notes whether content was missing when an image was to be unpacked.
func (m *mirror) setIncomplete(ref string, incomplete bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.incomplete, ref)
	if incomplete {
		m.incomplete[ref] = true
	}
}

// deleteImage deletes a record of ours.
func (h *Host) deleteImage(ctx context.Context, at target, op plan.DeleteImage) error {
	i, err := h.image(ctx, at.ns, op.Ref)
	if err != nil {
		return absent(err)
	}
	if err := h.ours(ctx, "image "+op.Ref, state.Owner(i.Labels[state.LabelOwner])); err != nil {
		return err
	}
	return absent(change(ctx, "deleting image "+op.Ref, func(ctx context.Context) error {
		return h.svc.DeleteImage(ctx, string(at.ns), op.Ref)
	}))
}

// releaseImage strips our keys off an image record of ours.
func (h *Host) releaseImage(ctx context.Context, at target, op plan.ReleaseImage) error {
	i, err := h.image(ctx, at.ns, op.Ref)
	if err != nil {
		return absent(err)
	}
	if i.Labels[state.LabelOwner] == "" {
		return nil // done by an attempt whose answer was lost
	}
	if err := h.ours(ctx, "image "+op.Ref, state.Owner(i.Labels[state.LabelOwner])); err != nil {
		return err
	}
	labels := maps.Clone(i.Labels)
	maps.DeleteFunc(labels, func(k, _ string) bool { return strings.HasPrefix(k, state.Prefix) })
	return absent(change(ctx, "labelling image "+op.Ref, func(ctx context.Context) error {
		return h.svc.UpdateImageLabels(ctx, string(at.ns), op.Ref, labels)
	}))
}
