// Command floor measures the least that running containers costs: it makes them with containerd's low-level services
// and does nothing else, so that `make bench` can say how much the reconciler adds.
//
// All containers get the same OCI spec, such as `ctr containers info --spec` prints of one that the reconciler made.
// It prints one line of JSON and removes what it made.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
)

// concurrency is where more stops helping on two cores: the task creation is bound by the CPU.
const concurrency = 4

// floor makes containers in one namespace.
type floor struct {
	client      *containerd.Client
	image       containerd.Image
	parent      string // snapshot that the image's layers were unpacked to
	snapshotter string
	spec        specs.Spec
	namespace   string
	fifos       string // directory
}

// result is what is printed.
type result struct {
	Containers int     `json:"containers"`
	RunningMs  float64 `json:"runningMs"`          // from the first request until all tasks run
	RepairMs   float64 `json:"repairMs,omitempty"` // median of delete, create and start of one task that has exited
}

func main() {
	if err := command(); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

// command is main with an error.
func command() error {
	address := flag.String("address", "/run/containerd/containerd.sock", "containerd's socket")
	namespace := flag.String("namespace", "", "namespace that has the image, and no container called floor-*")
	image := flag.String("image", "", "full reference of the image")
	snapshotter := flag.String("snapshotter", "overlayfs", "snapshotter")
	specFile := flag.String("spec", "", "file with the OCI spec as JSON")
	n := flag.Int("n", 10, "number of containers")
	repairs := flag.Int("repairs", 0, "number of containers whose task is killed and made anew, one after the other")
	flag.Parse()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), *namespace), 5*time.Minute)
	defer cancel()
	f := &floor{snapshotter: *snapshotter, namespace: *namespace}
	r, err := f.run(ctx, *address, *image, *specFile, *n, min(*n, *repairs))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func (f *floor) run(ctx context.Context, address, image, specFile string, n, repairs int) (r result, err error) {
	if f.client, err = containerd.New(address); err != nil {
		return r, err
	}
	defer f.client.Close()
	data, err := os.ReadFile(specFile)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &f.spec); err != nil {
		return r, fmt.Errorf("%s: %w", specFile, err)
	}
	if err := f.resolve(ctx, image); err != nil {
		return r, err
	}
	if f.fifos, err = os.MkdirTemp("", "floor-"); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(f.fifos)) }()
	lease, err := f.client.LeasesService().Create(ctx, leases.WithRandomID(), leases.WithExpiration(10*time.Minute))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, f.client.LeasesService().Delete(ctx, lease)) }()
	defer func() { err = errors.Join(err, f.each(n, func(i int) error { return f.remove(ctx, i) })) }()
	r.Containers = n
	leased := leases.WithLease(ctx, lease.ID)
	start := time.Now()
	if err := f.each(n, func(i int) error { return f.create(leased, i) }); err != nil {
		return r, err
	}
	r.RunningMs = ms(time.Since(start))
	r.RepairMs, err = f.repairAll(ctx, repairs)
	return r, err
}

// resolve finds the image and unpacks it when nobody has.
func (f *floor) resolve(ctx context.Context, ref string) (err error) {
	if f.image, err = f.client.GetImage(ctx, ref); err != nil {
		return err
	}
	if err := f.image.Unpack(ctx, f.snapshotter); err != nil {
		return err
	}
	diffs, err := f.image.RootFS(ctx)
	f.parent = identity.ChainID(diffs).String()
	return err
}

func (f *floor) each(n int, do func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(concurrency)
	for i := range n {
		g.Go(func() error { return do(i) })
	}
	return g.Wait()
}

func id(i int) string { return fmt.Sprintf("floor-%d", i) }

// create makes a snapshot, a container and a running task.
func (f *floor) create(ctx context.Context, i int) error {
	mounts, err := f.client.SnapshotService(f.snapshotter).Prepare(ctx, id(i), f.parent)
	if err != nil {
		return err
	}
	spec, linux := f.spec, *f.spec.Linux
	linux.CgroupsPath = filepath.Join("/", f.namespace, id(i)) // the one thing that may not be the same
	spec.Linux = &linux
	packed, err := typeurl.MarshalAny(&spec)
	if err != nil {
		return err
	}
	if _, err := f.client.ContainerService().Create(ctx, containers.Container{
		ID: id(i), Image: f.image.Name(), Snapshotter: f.snapshotter, SnapshotKey: id(i), Spec: packed,
		Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"},
	}); err != nil {
		return err
	}
	for _, path := range []string{f.fifo(i, "stdout"), f.fifo(i, "stderr")} {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			return err
		}
	}
	return f.start(ctx, i, mounts)
}

func (f *floor) fifo(i int, stream string) string { return filepath.Join(f.fifos, id(i)+"-"+stream) }

// start makes a task and starts it.
func (f *floor) start(ctx context.Context, i int, mounts []mount.Mount) error {
	// The creation of a task waits for a reader of its FIFOs; the shim keeps them open from then on.
	stdout, err := os.OpenFile(f.fifo(i, "stdout"), os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer stdout.Close()
	stderr, err := os.OpenFile(f.fifo(i, "stderr"), os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer stderr.Close()
	if _, err := f.client.TaskService().Create(ctx, &tasks.CreateTaskRequest{
		ContainerID: id(i), Rootfs: mount.ToProto(mounts), Stdout: stdout.Name(), Stderr: stderr.Name(),
	}); err != nil {
		return err
	}
	_, err = f.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: id(i)})
	return err
}
