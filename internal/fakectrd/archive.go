package fakectrd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

// archived is an image in an archive.
type archived struct {
	Layers []string
	Config ocispec.Image
}

// Archive is a file that ImportArchive takes, with images by their full names.
func Archive(of map[string]Image) []byte {
	out := map[string]archived{}
	for ref, i := range of {
		i = i.complete()
		out[ref] = archived{i.Layers, i.Config}
	}
	data, err := json.Marshal(out)
	if err != nil {
		panic(err) // plain data can always be encoded
	}
	return data
}

// ImportArchive implements ctrd.Services. The archive is one that Archive made.
func (d *Daemon) ImportArchive(ctx context.Context, ns string, archive io.Reader, labels map[string]string) ([]images.Image, error) {
	var of map[string]archived
	data, err := io.ReadAll(archive)
	if err != nil {
		return nil, err
	}
	return writeResult(ctx, d, "ImportArchive", ns, "", func() ([]images.Image, error) {
		n, err := d.open(ns)
		if err != nil {
			return nil, err
		}
		if _, leased := leases.FromContext(ctx); !leased {
			n.begun = true // the client makes a lease of its own first
		}
		l, err := n.leaseOf(ctx)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, &of); err != nil {
			return nil, fmt.Errorf("no archive: %w", err)
		}
		if len(of) == 0 {
			return nil, ctrd.ErrNoName
		}
		var out []images.Image
		for _, ref := range slices.Sorted(maps.Keys(of)) {
			i := Image{Layers: of[ref].Layers, Config: of[ref].Config}.complete()
			d.addContent(n, l, i)
			record, err := d.putImage(ns, n, ref, i, labels)
			if err != nil {
				return nil, err
			}
			out = append(out, record)
		}
		return out, nil
	})
}
