package ctrd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What a person brings into a realm's namespace by hand carries no label of ours, so that it is somebody's and never
// deleted by us. Nothing of it is unpacked: whoever needs it does that.

// Brought is an image that a person has brought into a namespace.
type Brought struct {
	Ref    string
	Digest string
	// Bytes is how much content came with it; what containerd had already costs nothing.
	Bytes int64
	// Unchanged is true when the namespace had the very image under this name.
	Unchanged bool
}

// CopyImage gives a namespace an image that another one of the same daemon has. Content that containerd may share is not
// copied. The name, if there already, is pointed to the image. NotFound means that the other namespace has no such image,
// or not all of it.
func (c *Client) CopyImage(ctx context.Context, from, to, ref string) (out Brought, err error) {
	source := namespaces.WithNamespace(ctx, from)
	image, err := c.client.ImageService().Get(source, ref)
	if err != nil {
		return Brought{}, err
	}
	target, done, err := c.client.WithLease(namespaces.WithNamespace(ctx, to))
	if err != nil {
		return Brought{}, err
	}
	defer func() { err = errors.Join(err, done(context.WithoutCancel(target))) }()
	out = Brought{Ref: ref, Digest: image.Target.Digest.String()}
	if err := c.copyContent(source, target, image.Target, &out.Bytes); err != nil {
		return Brought{}, err
	}
	out.Unchanged, err = c.name(target, images.Image{Name: ref, Target: image.Target})
	return out, err
}

// copyContent copies what a descriptor leads to, children first. Manifests of other platforms are copied as far as they
// are there.
func (c *Client) copyContent(source, target context.Context, top ocispec.Descriptor, bytes *int64) error {
	store := c.client.ContentStore()
	seen := map[digest.Digest]bool{}
	var walk func(d ocispec.Descriptor, needed bool) error
	walk = func(d ocispec.Descriptor, needed bool) error {
		if seen[d.Digest] {
			return nil
		}
		seen[d.Digest] = true
		info, err := store.Info(source, d.Digest)
		if errdefs.IsNotFound(err) && !needed {
			return nil
		}
		if err != nil {
			return fmt.Errorf("content %s (%s): %w", d.Digest, d.MediaType, err)
		}
		children, err := images.Children(source, store, d)
		if err != nil {
			return fmt.Errorf("content %s (%s): %w", d.Digest, d.MediaType, err)
		}
		here := platforms.Default()
		for _, child := range children {
			theirs := images.IsIndexType(d.MediaType) && child.Platform != nil && !here.Match(*child.Platform)
			if err := walk(child, needed && !theirs); err != nil {
				return err
			}
		}
		n, err := copyBlob(source, target, store, d, referrers(info.Labels))
		*bytes += n
		if err != nil {
			return fmt.Errorf("content %s (%s): %w", d.Digest, d.MediaType, err)
		}
		return nil
	}
	return walk(top, true)
}

// referrers are the labels of content that tell what it leads to and where it came from.
func referrers(labels map[string]string) map[string]string {
	out := maps.Clone(labels)
	maps.DeleteFunc(out, func(k, _ string) bool {
		return !strings.HasPrefix(k, "containerd.io/gc.ref.content") && !strings.HasPrefix(k, "containerd.io/distribution.source.") &&
			k != "containerd.io/uncompressed"
	})
	return out
}

// copyBlob makes content visible in the target's namespace, and returns how many bytes that took.
func copyBlob(source, target context.Context, store content.Store, d ocispec.Descriptor, labels map[string]string) (n int64, err error) {
	w, err := store.Writer(target, content.WithRef("kukeon-copy-"+d.Digest.String()), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		if len(labels) == 0 {
			return 0, nil
		}
		var fields []string
		for _, k := range slices.Sorted(maps.Keys(labels)) {
			fields = append(fields, "labels."+k)
		}
		_, err = store.Update(target, content.Info{Digest: d.Digest, Labels: labels}, fields...)
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	status, err := w.Status()
	if err != nil {
		return 0, err
	}
	if status.Offset == d.Size { // shared: containerd has it
		err = w.Commit(target, d.Size, d.Digest, content.WithLabels(labels))
	} else {
		var r content.ReaderAt
		if r, err = store.ReaderAt(source, d); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		n = d.Size - status.Offset
		err = content.Copy(target, w, content.NewReader(r), d.Size, d.Digest, content.WithLabels(labels))
	}
	if errdefs.IsAlreadyExists(err) { // somebody was faster
		err = nil
	}
	return n, err
}

// name points a name to an image, and reports whether it did already. Labels of a record that is there stay.
func (c *Client) name(ctx context.Context, image images.Image) (unchanged bool, err error) {
	records := c.client.ImageService()
	old, err := records.Get(ctx, image.Name)
	switch {
	case errdefs.IsNotFound(err):
		_, err = records.Create(ctx, image)
		return false, err
	case err != nil:
		return false, err
	case old.Target.Digest == image.Target.Digest:
		return true, nil
	}
	_, err = records.Update(ctx, image, "target")
	return false, err
}

// ImportImages brings the images of an archive into a namespace, as ImportArchive does.
func (c *Client) ImportImages(ctx context.Context, to string, archive io.Reader) (out []Brought, err error) {
	before, err := c.Images(ctx, to)
	if err != nil {
		return nil, err
	}
	imported, err := c.ImportArchive(ctx, to, archive, nil)
	if err != nil {
		return nil, err
	}
	ctx = namespaces.WithNamespace(ctx, to)
	for _, record := range imported {
		b := Brought{Ref: record.Name, Digest: record.Target.Digest.String()}
		b.Unchanged = slices.ContainsFunc(before, func(old images.Image) bool {
			return old.Name == record.Name && old.Target.Digest == record.Target.Digest
		})
		image := containerd.NewImageWithPlatform(c.client, record, platforms.Default())
		if b.Bytes, err = image.Size(ctx); err != nil {
			return nil, fmt.Errorf("size of image %s: %w", record.Name, err)
		}
		out = append(out, b)
	}
	return out, nil
}
