package testenv

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// BusyboxImage returns an OCI image of this host's static /bin/busybox with all its applets in /bin, users root and
// app (1000:1000), and Cmd ["sh"]. Its digest is the same at every call on the same host.
func BusyboxImage() v1.Image {
	img, err := image("sh")
	if err != nil {
		panic(fmt.Sprintf("building the busybox image, please run hack/install-deps.sh: %v", err))
	}
	return img
}

// SmallImages returns variants of the busybox image by tag, each with a digest of its own and all with the same
// layer: "sleeps" runs for ever and ends on TERM, "exits-0" and "exits-1" end at once, "ignores-term" runs until it
// is killed, and "prints" writes numbered lines, LINES (default 10) of them a second.
func SmallImages() map[string]v1.Image {
	scripts := map[string]string{
		"sleeps":       `trap 'exit 0' TERM; sleep 2147483647 & wait`,
		"exits-0":      `exit 0`,
		"exits-1":      `exit 1`,
		"ignores-term": `trap '' TERM; while :; do sleep 3600 & wait; done`,
		"prints":       `i=0; while :; do i=$((i+1)); echo "line $i"; usleep $((1000000/${LINES:-10})); done`,
	}
	images := map[string]v1.Image{}
	for tag, script := range scripts {
		img, err := image("sh", "-c", script)
		if err != nil {
			panic(fmt.Sprintf("building the image %s, please run hack/install-deps.sh: %v", tag, err))
		}
		images[tag] = img
	}
	return images
}

// image returns busybox with another command.
func image(cmd ...string) (v1.Image, error) {
	layer, err := busyboxLayer()
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.AppendLayers(img, layer); err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS = runtime.GOARCH, "linux"
	file.Config.Cmd = cmd
	file.Config.Env = []string{"PATH=/bin"}
	return mutate.ConfigFile(img, file)
}

// busyboxLayer packs /bin/busybox and a minimal root around it, once per process.
var busyboxLayer = sync.OnceValues(func() (v1.Layer, error) {
	binary, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	var buf bytes.Buffer
	w := tarWriter{Writer: tar.NewWriter(&buf)}
	for _, dir := range []string{"bin", "dev", "etc", "proc", "sys", "run", "var", "root", "home", "home/app"} {
		w.add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	w.add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	w.add(tar.Header{Name: "etc/passwd", Mode: 0o644},
		[]byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n"))
	w.add(tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\napp:x:1000:\n"))
	w.add(tar.Header{Name: "bin/busybox", Mode: 0o755}, binary)
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			w.add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	if err := w.close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
})

// RandomImage is an image for this host with so many layers, each of a file of random bytes of the size; it has a digest
// of its own at every call, and nothing to run.
func RandomImage(size, layers int) v1.Image {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	file, err := img.ConfigFile()
	if err == nil {
		file = file.DeepCopy()
		file.Architecture, file.OS = runtime.GOARCH, "linux"
		img, err = mutate.ConfigFile(img, file)
	}
	if err != nil {
		panic(fmt.Sprintf("building a random image: %v", err))
	}
	return Unique(img, size, layers)
}

// Unique returns the image with so many layers more, each of a file of random bytes of the size: content that no
// containerd has yet.
func Unique(img v1.Image, size, layers int) v1.Image {
	for n := range layers {
		data := make([]byte, size)
		_, _ = rand.Read(data) // never fails
		layer, err := oneFile(fmt.Sprintf("random-%d", n), data)
		if err == nil {
			img, err = mutate.AppendLayers(img, layer)
		}
		if err != nil {
			panic(fmt.Sprintf("building a random image: %v", err))
		}
	}
	return img
}

// oneFile is a layer, not compressed, with one file.
func oneFile(name string, data []byte) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return static.NewLayer(buf.Bytes(), types.OCIUncompressedLayer), nil
}
