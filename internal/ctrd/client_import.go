package ctrd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
)

// ErrNoName is the error of an archive of which no image has a name.
var ErrNoName = errors.New("no image in it has a name")

// ImportArchive implements Services. Only what is for this host's platform is taken; an image of which nothing is, or not
// all, is an error.
func (c *Client) ImportArchive(ctx context.Context, ns string, archive io.Reader, labels map[string]string) (out []images.Image, err error) {
	ctx = namespaces.WithNamespace(ctx, ns)
	tar, err := compression.DecompressStream(archive)
	if err != nil {
		return nil, fmt.Errorf("no archive: %w", err)
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	options := []containerd.ImportOpt{
		containerd.WithImportPlatform(platforms.Default()), containerd.WithImageRefTranslator(archivedName),
	}
	if labels != nil {
		options = append(options, containerd.WithImageLabels(labels))
	}
	imported, err := c.client.Import(ctx, tar, options...)
	if err != nil {
		return nil, err
	}
	for _, i := range imported {
		if err := c.complete(ctx, i); err != nil {
			return nil, fmt.Errorf("image %s in it: %w", i.Name, err)
		}
	}
	if len(imported) == 0 {
		return nil, ErrNoName
	}
	return imported, nil
}

// complete returns an error when an image is not made for this host, or not all of it is there.
func (c *Client) complete(ctx context.Context, i images.Image) error {
	if err := c.suits(ctx, i.Target); err != nil {
		return err
	}
	available, _, _, missing, err := images.Check(ctx, c.client.ContentStore(), i.Target, platforms.Default())
	switch {
	case err != nil:
		return err
	case !available || len(missing) > 0:
		return fmt.Errorf("%w, such as %s", ErrIncomplete, missing[0].Digest)
	}
	return nil
}

// archivedName completes the name of an image in an OCI archive as docker does: tools that are not Docker write app:1. A
// mere tag, which some write in its place, is no name.
func archivedName(name string) string {
	if !strings.ContainsAny(name, ":/") {
		return ""
	}
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return name
	}
	return ref.String()
}
