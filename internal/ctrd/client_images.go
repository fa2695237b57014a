package ctrd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// keepLabels is an image store in which a pull or an import over a record that exists leaves that record's labels alone:
// the client replaces them, and so would stamp what belongs to somebody else.
type keepLabels struct{ images.Store }

// Update implements images.Store. A record that already points to the target is not written.
func (s keepLabels) Update(ctx context.Context, image images.Image, fieldpaths ...string) (images.Image, error) {
	if len(fieldpaths) > 0 && !slices.Contains(fieldpaths, "target") {
		return s.Store.Update(ctx, image, fieldpaths...)
	}
	old, err := s.Get(ctx, image.Name)
	if err != nil || old.Target.Digest == image.Target.Digest {
		return old, err
	}
	return s.Store.Update(ctx, image, "target")
}

// Images implements Services.
func (c *Client) Images(ctx context.Context, ns string) ([]images.Image, error) {
	return c.client.ImageService().List(namespaces.WithNamespace(ctx, ns))
}

// Image implements Services.
func (c *Client) Image(ctx context.Context, ns, ref string) (images.Image, error) {
	return c.client.ImageService().Get(namespaces.WithNamespace(ctx, ns), ref)
}

// UpdateImageLabels implements Services.
func (c *Client) UpdateImageLabels(ctx context.Context, ns, ref string, labels map[string]string) error {
	_, err := c.client.ImageService().Update(namespaces.WithNamespace(ctx, ns),
		images.Image{Name: ref, Labels: labels}, "labels")
	return err
}

// DeleteImage implements Services. It waits for the garbage collection: containerd sometimes misses the last of several
// deletions in a row, and then keeps content, and with it the namespace, until something else is deleted.
func (c *Client) DeleteImage(ctx context.Context, ns, ref string) error {
	return c.client.ImageService().Delete(namespaces.WithNamespace(ctx, ns), ref, images.SynchronousDelete())
}

// ImageConfig implements Services.
func (c *Client) ImageConfig(ctx context.Context, ns, ref string) (ocispec.Image, string, error) {
	ctx = namespaces.WithNamespace(ctx, ns)
	record, err := c.client.ImageService().Get(ctx, ref)
	if err != nil {
		return ocispec.Image{}, "", err
	}
	store := c.client.ContentStore()
	descriptor, err := record.Config(ctx, store, platforms.Default())
	if err != nil {
		return ocispec.Image{}, "", fmt.Errorf("config of %s: %w", ref, err)
	}
	data, err := content.ReadBlob(ctx, store, descriptor)
	if err != nil {
		return ocispec.Image{}, "", fmt.Errorf("config of %s: %w", ref, err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return ocispec.Image{}, "", fmt.Errorf("config of %s: %w", ref, err)
	}
	return config, identity.ChainID(config.RootFS.DiffIDs).String(), nil
}

// Unpack implements Services.
func (c *Client) Unpack(ctx context.Context, ns, ref, snapshotter string) error {
	ctx = namespaces.WithNamespace(ctx, ns)
	record, err := c.client.ImageService().Get(ctx, ref)
	if err != nil {
		return err
	}
	image := containerd.NewImageWithPlatform(c.client, record, platforms.Default())
	if err := c.tie(ctx, image, snapshotter); err != nil {
		return err
	}
	return image.Unpack(ctx, snapshotter)
}

// tie has an image keep its snapshots from the garbage collection. The client does that after it has made the last of
// them; when that write is lost they look complete, nobody does it again, and they go with the next collection.
func (c *Client) tie(ctx context.Context, image containerd.Image, snapshotter string) error {
	config, err := image.Config(ctx)
	if err != nil {
		return err
	}
	layers, err := image.RootFS(ctx)
	if err != nil {
		return err
	}
	label := "containerd.io/gc.ref.snapshot." + snapshotter
	info := content.Info{Digest: config.Digest, Labels: map[string]string{label: identity.ChainID(layers).String()}}
	_, err = c.client.ContentStore().Update(ctx, info, "labels."+label)
	return err
}
