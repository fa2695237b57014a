package ctrd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// imageConfig reads an image's config and chain ID.
func (h *Host) imageConfig(ctx context.Context, ns state.Namespace, ref string) (ocispec.Image, string, error) {
	type read struct {
		image ocispec.Image
		chain string
	}
	r, err := look(ctx, "reading image "+ref, func(ctx context.Context) (read, error) {
		image, chain, err := h.svc.ImageConfig(ctx, string(ns), ref)
		return read{image, chain}, err
	})
	return r.image, r.chain, err
}

func (h *Host) image(ctx context.Context, ns state.Namespace, ref string) (images.Image, error) {
	return look(ctx, "reading image "+ref, func(ctx context.Context) (images.Image, error) {
		return h.svc.Image(ctx, string(ns), ref)
	})
}

// pull fetches and unpacks an image. What was fetched by a pull that failed stays under its lease, and the next one
// goes on from there.
func (h *Host) pull(ctx context.Context, at target, op plan.Pull) error {
	_, err := h.image(ctx, at.ns, op.Ref)
	present := err == nil
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	owner, err := h.Owner(ctx)
	if err != nil {
		return err
	}
	leased, release, err := h.leases.acquire(ctx, at.ns, leaseID(at.realm, "pull", op.Ref), state.PullLease, true)
	if err != nil {
		return err
	}
	if !present || op.Refresh {
		err = h.fetch(leased, at, op.Ref, owner)
		if err != nil && present && ctx.Err() == nil && !outcome.IsUnavailable(err) {
			h.cfg.Log.V(1).Info("tag could not be looked up; the local image serves", "image", op.Ref, "error", err.Error())
			err = nil
		}
		if err == nil {
			h.mirror(at.ns).sawRegistry(op.Ref, h.cfg.Now())
		}
	}
	if err == nil {
		err = h.unpackUnderLease(leased, at.ns, op.Ref)
	}
	h.ended(at.ns, release(err != nil))
	return err
}

// fetch asks the registry. It has no deadline but the lease's: slow links take hours.
func (h *Host) fetch(ctx context.Context, at target, ref string, owner state.Owner) error {
	bounded, cancel := context.WithTimeout(ctx, state.PullLease)
	defer cancel()
	labels := map[string]string{state.LabelOwner: string(owner), state.LabelRealm: string(at.realm)}
	_, err := h.svc.Pull(bounded, string(at.ns), ref, labels)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errdefs.IsUnavailable(err):
		return &outcome.Unavailable{Err: err}
	}
	return pullError(ref, err, h.remedy(ctx, at.ns, ref))
}

// remedy is the line that brings an image in which another namespace has; empty when none has it.
func (h *Host) remedy(ctx context.Context, ns state.Namespace, ref string) string {
	others, err := h.Locate(ctx, ref, ns)
	if err != nil || len(others) == 0 {
		return ""
	}
	return fmt.Sprintf("it is in namespace %s: ctr -n %[1]s images export - %s | ctr -n %s images import -", others[0], ref, ns)
}

// pullError tells what a person can do about a pull that failed. remedy may be empty.
func pullError(ref string, err error, remedy string) error {
	stalled := func(why, otherwise string) error {
		if remedy == "" {
			remedy = otherwise
		}
		return &outcome.Stalled{Why: why, Remedy: remedy, Err: err}
	}
	status := 0
	if s := (remoteserrors.ErrUnexpectedStatus{}); errors.As(err, &s) {
		status = s.StatusCode
	}
	switch {
	case status == http.StatusNotFound, errdefs.IsNotFound(err):
		return stalled("image "+ref+" does not exist in its registry", "push it there, or import it with ctr images import")
	case status == http.StatusUnauthorized, status == http.StatusForbidden, errors.Is(err, docker.ErrInvalidAuthorization):
		return stalled("the registry does not give image "+ref+" to anonymous pulls", "import it with ctr images import")
	case errors.As(err, new(*tls.CertificateVerificationError)), errors.As(err, new(tls.RecordHeaderError)):
		return stalled("the registry of image "+ref+" cannot be trusted", "give the host its certificate")
	case remedy != "":
		return fmt.Errorf("pulling %s: %w; %s", ref, err, remedy)
	}
	return fmt.Errorf("pulling %s: %w", ref, err)
}

// sawRegistry notes that the registry was asked about a tag.
func (m *mirror) sawRegistry(ref string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lookedUp[ref] = now
}

// unpack makes an image usable that somebody imported without unpacking it.
func (h *Host) unpack(ctx context.Context, at target, op plan.Unpack) error {
	leased, release, err := h.leases.acquire(ctx, at.ns, leaseID(at.realm, "unpack", op.Ref),
		state.RPCDeadline+state.LeaseSlack, false)
	if err != nil {
		return err
	}
	err = h.unpackUnderLease(leased, at.ns, op.Ref)
	h.ended(at.ns, release(false))
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
	if err := h.svc.Unpack(ctx, string(ns), ref, snapshotter); err != nil {
		return readError("unpacking "+ref, err)
	}
	return nil
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
