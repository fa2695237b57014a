package testenv

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// SaveArchive writes an image as an OCI archive that `ctr images import` brings in under ref, a full reference such
// as docker.io/library/busybox:1.36, with the same digest that a registry would give it.
func SaveArchive(img v1.Image, ref, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := writeArchive(f, img, ref); err != nil {
		_ = f.Close() // the archive is broken already
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return f.Close()
}

func writeArchive(out io.Writer, img v1.Image, ref string) error {
	blobs, err := imageBlobs(img)
	if err != nil {
		return err
	}
	manifest := blobs[len(blobs)-1]
	index, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType:   types.OCIManifestSchema1,
			Digest:      manifest.digest,
			Size:        int64(len(manifest.data)),
			Annotations: map[string]string{"io.containerd.image.name": ref},
		}},
	})
	if err != nil {
		return err
	}
	w := tarWriter{Writer: tar.NewWriter(out)}
	w.add(tar.Header{Name: "oci-layout", Mode: 0o644}, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	w.add(tar.Header{Name: "index.json", Mode: 0o644}, index)
	for _, b := range blobs {
		w.add(tar.Header{Name: path.Join("blobs", b.digest.Algorithm, b.digest.Hex), Mode: 0o644}, b.data)
	}
	return w.close()
}

// blob is one piece of an image's content.
type blob struct {
	digest v1.Hash
	data   []byte
}

// imageBlobs returns the layers, the config and, last, the manifest.
func imageBlobs(img v1.Image) ([]blob, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	var blobs []blob
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return nil, err
		}
		r, err := layer.Compressed()
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		blobs = append(blobs, blob{digest, data})
	}
	for _, piece := range []struct {
		digest func() (v1.Hash, error)
		data   func() ([]byte, error)
	}{{img.ConfigName, img.RawConfigFile}, {img.Digest, img.RawManifest}} {
		digest, err := piece.digest()
		if err != nil {
			return nil, err
		}
		data, err := piece.data()
		if err != nil {
			return nil, err
		}
		blobs = append(blobs, blob{digest, data})
	}
	return blobs, nil
}

// tarWriter writes reproducible entries and keeps the first error for close.
type tarWriter struct {
	*tar.Writer
	err error
}

func (w *tarWriter) add(header tar.Header, content []byte) {
	if w.err != nil {
		return
	}
	header.Size = int64(len(content))
	if w.err = w.WriteHeader(&header); w.err == nil {
		_, w.err = w.Write(content)
	}
}

func (w *tarWriter) close() error {
	return errors.Join(w.err, w.Close())
}
