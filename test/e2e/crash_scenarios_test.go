package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	noimage "github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"kukeon.io/kukeon-reconciler/internal/testenv"
)

// scenario is one thing that happens to a realm. Each of its writes is broken once.
type scenario struct {
	name string
	// arrange prepares the host beside us; may be nil. Nothing is broken yet.
	arrange func(l *life) error
	// act is what a person does, or a process.
	act func(l *life) error
}

// A course is a row of scenarios, each of which begins where the one before ends: so that most points need no
// preparation of their own. Those with many writes come first, and then a high write needs few of them.
type course []scenario

var courses = []course{
	{
		{name: "new realm", act: func(l *life) error {
			ref, err := l.push("first")
			if err != nil {
				return err
			}
			l.containers = map[string]string{"db": l.containerOf("db", ref), "web": l.containerOf("web", ref)}
			return l.declare()
		}},
		{name: "change image", act: func(l *life) error {
			ref, err := l.push("second")
			if err != nil {
				return err
			}
			l.containers["db"] = l.containerOf("db", ref)
			return l.declare()
		}},
		{name: "pull", act: func(l *life) error {
			ref, err := l.push("third")
			if err != nil {
				return err
			}
			l.spec = "  images: [{image: \"" + ref + "\"}]\n"
			return l.declare()
		}},
		{name: "add a container", act: func(l *life) error {
			var err error
			if l.latest, err = l.push("fourth"); err != nil {
				return err
			}
			l.containers["more"] = l.containerOf("more", l.latest)
			return l.declare()
		}},
		{name: "change spec", act: func(l *life) error {
			l.containers["web"] = l.containerOf("web", l.latest, "env: [COLOR=green]")
			return l.declare()
		}},
		{name: "live update", act: func(l *life) error {
			l.containers["web"] = l.containerOf("web", l.latest, "env: [COLOR=green]", "labels: {team: edge}", "restartBackoffSeconds: 2")
			return l.declare()
		}},
		{name: "restart after exit", act: func(l *life) error {
			return l.killTask("db")
		}},
		{name: "rename the manifest", act: func(l *life) error {
			before := l.file
			l.file = "renamed-" + before
			return os.Rename(filepath.Join(l.manifests, before), filepath.Join(l.manifests, l.file))
		}},
		{name: "remove one", act: func(l *life) error {
			delete(l.containers, "more")
			return l.declare()
		}},
		{name: "remove the realm", act: (*life).remove},
	},
	{
		{name: "take over", arrange: func(l *life) error {
			ctx, cancel := context.WithTimeout(context.Background(), ctrLimit)
			defer cancel()
			_, err := l.daemon.Ctr(ctx, l.namespace(), "images", "import", archive("sleeps"))
			return err
		}, act: func(l *life) error {
			l.containers = map[string]string{"web": l.containerOf("web", imported("sleeps"), "imagePullPolicy: Never")}
			return l.declare()
		}},
		{name: "remove the realm, not the image", act: (*life).remove},
	},
	{
		{name: "import an archive", arrange: func(l *life) error {
			image, err := l.fresh("archived")
			if err != nil {
				return err
			}
			return testenv.SaveArchive(image, l.archived(), filepath.Join(l.manifests, l.name()+".tar"))
		}, act: func(l *life) error {
			l.spec = "  images: [{archive: " + l.name() + ".tar}]\n"
			l.containers = map[string]string{"web": l.containerOf("web", l.archived(), "imagePullPolicy: Never")}
			return l.declare()
		}},
		{name: "remove the realm with its archive", act: (*life).remove},
	},
}

// life is one realm of a rig on its way through a course.
type life struct {
	*rig
	realm  string // without the host's suffix
	course course
	next   int // scenario

	latest    string    // the image of its newest container
	collected time.Time // when containerd's garbage was last collected

	file       string            // its manifest
	spec       string            // lines of its manifest beside the containers
	containers map[string]string // lines of its manifest
}

func (l *life) namespace() string { return l.host.namespace(l.realm) }
func (l *life) name() string      { return l.host.name(l.realm) }

// declare writes the manifest.
func (l *life) declare() error {
	var lines []string
	for _, id := range []string{"db", "more", "web"} {
		if line := l.containers[id]; line != "" {
			lines = append(lines, line)
		}
	}
	temp := filepath.Join(l.manifests, "."+l.file)
	if err := os.WriteFile(temp, []byte(l.realmWith(l.realm, l.spec, lines...)), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(l.manifests, l.file))
}

// remove removes the manifest.
func (l *life) remove() error {
	l.containers = nil
	return os.Remove(filepath.Join(l.manifests, l.file))
}

// killTask kills a container's process, as its crash would.
func (l *life) killTask(id string) error {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), l.namespace()), ctrLimit)
	defer cancel()
	_, err := l.client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: 9, All: true})
	return err
}

// archived is the name of the image in the life's archive.
func (l *life) archived() string { return "docker.io/library/" + l.name() + ":1" }

// push puts a fresh image into the registry.
func (l *life) push(name string) (ref string, err error) {
	img, err := l.fresh(name)
	if err != nil {
		return "", err
	}
	return registry.Push(context.Background(), strings.ReplaceAll(l.name(), "_", "-")+"-"+name+":1", img)
}

// fresh makes an image of which nobody has any part yet: the image "sleeps" with a file of its own in each layer, and one
// layer more. How many writes a pull and an unpack take depends on what of it is there already.
func (l *life) fresh(name string) (v1.Image, error) {
	own := []byte(l.name() + " " + name)
	base, err := images["sleeps"].Layers()
	if err != nil {
		return nil, err
	}
	img, err := mutate.ConfigFile(noimage.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH})
	if err != nil {
		return nil, err
	}
	for i, below := range append(base, nil) {
		layer, err := layerWith(below, fmt.Sprintf("etc/whose-%d", i), own)
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, err
		}
	}
	config, err := images["sleeps"].ConfigFile()
	if err != nil {
		return nil, err
	}
	return mutate.Config(img, config.Config)
}

// layerWith is a layer, or an empty one, with a file more.
func layerWith(below v1.Layer, name string, content []byte) (v1.Layer, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	if below != nil && err == nil {
		err = copyEntries(w, below)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer), nil
}

func copyEntries(w *tar.Writer, from v1.Layer) error {
	text, err := from.Uncompressed()
	if err != nil {
		return err
	}
	defer func() { _ = text.Close() }() // it was read
	r := tar.NewReader(text)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = w.WriteHeader(header)
		}
		if err == nil {
			_, err = io.Copy(w, r)
		}
		if err != nil {
			return err
		}
	}
}
