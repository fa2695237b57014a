package ctrd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// importArchive brings in what is in a file. One that is cut off leaves nothing, and begins anew. The file may change or go
// while it is read: what is in it is known by digests, and the next look at it plans another import.
func (h *Host) importArchive(ctx context.Context, at target, op plan.Import) (err error) {
	done, err := h.imports.take(ctx, "")
	if err != nil {
		return err
	}
	defer done()
	file, err := h.cfg.OpenArchive(op.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := unchanged(file, op); err != nil {
		return err
	}
	read := state.Import{Path: op.Path, Version: op.Version, Refs: op.Known.Refs, Seq: op.Known.Seq}
	if op.Known.Digest != "" {
		if read.Digest, err = digestOf(ctx, file); err != nil {
			return fmt.Errorf("reading it: %w", err)
		}
	}
	if read.Digest == "" || read.Digest != op.Known.Digest {
		if read, err = h.importAnew(ctx, at, op, file); err != nil {
			return err
		}
	}
	read.At = h.cfg.Now().Round(0).UTC()
	h.mirror(at.ns).imported(read)
	return nil
}

// importAnew imports the file from its beginning.
func (h *Host) importAnew(ctx context.Context, at target, op plan.Import, file Archive) (state.Import, error) {
	owner, err := h.Owner(ctx)
	if err != nil {
		return state.Import{}, err
	}
	leased, release, err := h.leases.acquire(ctx, at.ns, leaseID(at.realm, "import", op.Path), state.PullLease, false)
	if err != nil {
		return state.Import{}, err
	}
	read, err := h.importUnderLease(leased, at, op, file, owner)
	h.ended(at.ns, release(false))
	return read, err
}

func (h *Host) importUnderLease(ctx context.Context, at target, op plan.Import, file Archive, owner state.Owner) (state.Import, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return state.Import{}, fmt.Errorf("reading it: %w", err)
	}
	bounded, cancel := context.WithTimeout(ctx, state.PullLease)
	defer cancel()
	bytes := &hashed{Reader: file, hash: sha256.New(), ctx: ctx}
	images, err := h.svc.ImportArchive(bounded, string(at.ns), bytes, map[string]string{
		state.LabelOwner: string(owner), state.LabelRealm: string(at.realm),
	})
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return state.Import{}, ctx.Err()
	case errdefs.IsUnavailable(err):
		return state.Import{}, &outcome.Unavailable{Err: err}
	default:
		return state.Import{}, err
	}
	if _, err := io.Copy(io.Discard, bytes); err != nil { // what follows the archive in the file
		return state.Import{}, fmt.Errorf("reading it: %w", err)
	}
	read := state.Import{Path: op.Path, Version: op.Version, Digest: bytes.digest(), Seq: op.Seq}
	for _, i := range images {
		read.Refs = append(read.Refs, i.Name)
	}
	slices.Sort(read.Refs)
	read.Refs = slices.Compact(read.Refs)
	return read, nil
}

var errChanged = errors.New("the file has changed since it was looked at")

// unchanged refuses a file that is no longer what the import was planned for: the next look at it plans another.
func unchanged(file Archive, op plan.Import) error {
	version, err := file.Version()
	if err == nil && version != op.Version {
		err = errChanged
	}
	return err
}

// hashed computes the digest of what is read through it. A read ends with its context.
type hashed struct {
	io.Reader
	hash hash.Hash
	ctx  context.Context
}

// Read implements io.Reader.
func (r *hashed) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.Reader.Read(p)
	r.hash.Write(p[:n]) // never fails
	return n, err
}

func (r *hashed) digest() string { return "sha256:" + hex.EncodeToString(r.hash.Sum(nil)) }

// digestOf reads a whole file.
func digestOf(ctx context.Context, file io.Reader) (string, error) {
	r := &hashed{Reader: file, hash: sha256.New(), ctx: ctx}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return "", err
	}
	return r.digest(), nil
}

// imported notes what an archive brought.
func (m *mirror) imported(i state.Import) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.imports[i.Path] = i
	for _, ref := range i.Refs {
		delete(m.incomplete, ref) // its content came along
	}
}
