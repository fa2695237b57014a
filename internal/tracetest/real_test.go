package tracetest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs/pkg/errgrpc"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/testenv"
	"kukeon.io/kukeon-reconciler/internal/tracetest"
)

// realDaemon is a containerd for all traces of a run, with its registry.
type realDaemon struct {
	daemon   *testenv.Daemon
	registry *testenv.Registry
	client   *containerd.Client
	dir      string
	suffix   string
	outputs  int
	side     tracetest.Side
	images   map[string]v1.Image
	configs  map[string]ocispec.Image
	layers   map[string][]string
}

func startReal(t *testing.T, version string) *realDaemon {
	r := &realDaemon{
		daemon: testenv.NewTB(t, version), dir: t.TempDir(), suffix: testenv.Suffix(),
		images:  map[string]v1.Image{"A": testenv.BusyboxImage(), "B": twoLayers(t)},
		configs: map[string]ocispec.Image{},
		layers:  map[string][]string{"A": {"base"}, "B": {"base", "top"}},
	}
	services, err := ctrd.Dial(r.daemon.Address)
	check(t, err)
	t.Cleanup(func() { check(t, services.Close()) })
	r.registry, err = testenv.NewRegistry(context.Background())
	check(t, err)
	t.Cleanup(func() { check(t, r.registry.Close()) })
	check(t, r.connect())
	t.Cleanup(func() { check(t, r.client.Close()) })
	r.side = tracetest.Side{Services: services, World: r, Refs: map[string]string{
		"A": r.registry.Host + "/a:1", "B": r.registry.Host + "/b:1", "moving": r.registry.Host + "/moving:1",
		"missing": r.registry.Host + "/missing:1", "unreachable": "127.0.0.1:1/none:1",
		"imported": "docker.io/library/imported:1",
	}}
	for name, image := range r.images {
		check(t, r.Retag(t.Context(), r.side.Refs[name], name))
		raw, err := image.RawConfigFile()
		check(t, err)
		var config ocispec.Image
		check(t, json.Unmarshal(raw, &config))
		r.configs[name] = config
	}
	check(t, testenv.SaveArchive(r.images["B"], r.side.Refs["imported"], r.archive()))
	r.side.Archive, err = os.ReadFile(r.archive())
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r.side.Names, err = r.side.Learn(ctx, "tr-learn-"+r.suffix)
	check(t, err)
	return r
}

// twoLayers is busybox with a file on top.
func twoLayers(t *testing.T) v1.Image {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	check(t, w.WriteHeader(&tar.Header{Name: "top", Mode: 0o644, Typeflag: tar.TypeReg}))
	check(t, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	check(t, err)
	image, err := mutate.AppendLayers(testenv.BusyboxImage(), layer)
	check(t, err)
	return image
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *realDaemon) archive() string { return filepath.Join(r.dir, "imported.tar") }

// connect makes a new connection for what ctrd does not do; an old one would be slow to notice that the daemon is back.
func (r *realDaemon) connect() (err error) {
	if r.client != nil {
		if err := r.client.Close(); err != nil {
			return err
		}
	}
	r.client, err = containerd.New(r.daemon.Address)
	return err
}

func (r *realDaemon) Import(ctx context.Context, ns, _ string, unpack bool) error {
	args := []string{"images", "import", r.archive()}
	if !unpack {
		args = []string{"images", "import", "--no-unpack", r.archive()}
	}
	_, err := r.daemon.Ctr(ctx, ns, args...)
	return err
}

func (r *realDaemon) Retag(ctx context.Context, ref, image string) error {
	_, err := r.registry.Push(ctx, strings.TrimPrefix(ref, r.registry.Host+"/"), r.images[image])
	return err
}

func (r *realDaemon) Pause(ctx context.Context, ns, id string) error {
	_, err := r.client.TaskService().Pause(namespaces.WithNamespace(ctx, ns), &tasks.PauseTaskRequest{ContainerID: id})
	return errgrpc.ToNative(err)
}

func (r *realDaemon) Signal(_ context.Context, p tracetest.Process, signal int) error {
	return syscall.Kill(int(p.Pid), syscall.Signal(signal))
}

func (r *realDaemon) KillShim(_ context.Context, p tracetest.Process) error {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
	if err != nil {
		return err
	}
	parent, err := strconv.Atoi(strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[1])
	if err != nil {
		return err
	}
	return syscall.Kill(parent, syscall.SIGKILL)
}

// Ready waits until a process is the program that it is to be, and for the word that a steerable one says once its signals
// are handled: until then it is runc's, which ends with 2 on a SIGTERM that the program would be spared.
func (r *realDaemon) Ready(ctx context.Context, p tracetest.Process) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Pid))
		ready := err != nil || !bytes.HasSuffix(line, []byte("\x00init\x00")) // what has ended is ready, too
		var said []byte
		if p.Program == tracetest.Steerable {
			said, err = os.ReadFile(strings.TrimPrefix(p.Output, "file://"))
			ready = err == nil && bytes.Contains(said, []byte("ready"))
		}
		if ready {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is %q and says %q: %w", p.ID, line, said, ctx.Err())
		}
	}
}

// Output gives each task a file of its own.
func (r *realDaemon) Output(string, string) string {
	r.outputs++
	return fmt.Sprintf("file://%s/output-%d", r.dir, r.outputs)
}

func (r *realDaemon) Program(string, string, tracetest.Program) {}

// Collect deletes a lease and waits for the garbage collection that this causes.
func (r *realDaemon) Collect(ctx context.Context) error {
	ctx = namespaces.WithNamespace(ctx, "tr-learn-"+r.suffix)
	l, err := r.client.LeasesService().Create(ctx, leases.WithRandomID())
	if err != nil {
		return err
	}
	return r.client.LeasesService().Delete(ctx, l, leases.SynchronousDelete)
}

func (r *realDaemon) Down(graceful bool) error {
	if graceful {
		return r.daemon.Kill(syscall.SIGTERM)
	}
	return r.daemon.Kill(syscall.SIGKILL)
}

func (r *realDaemon) Up(ctx context.Context) error {
	if err := r.daemon.Restart(ctx); err != nil {
		return err
	}
	return r.connect()
}
