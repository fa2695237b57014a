package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/gofrs/flock"
	"github.com/moby/sys/mountinfo"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/internal/testenv"
)

// What marks the directory of a run.
const (
	dirPrefix  = "e2e-"
	lockName   = "lock"
	binaryName = "kukeon-reconciler"
)

// sweepDead removes what runs that were killed have left: their reconcilers, log pumps and directories. Their
// containerds are testenv's to sweep.
func sweepDead() {
	GinkgoHelper()
	locks, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*", lockName))
	Expect(err).NotTo(HaveOccurred())
	for _, path := range locks {
		lock := flock.New(path)
		if mine, err := lock.TryLock(); err != nil || !mine {
			continue // its owner lives
		}
		top := filepath.Dir(path)
		Eventually(func() []int {
			left := processesOf(filepath.Join(top, binaryName))
			for _, pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL) // looked at again until it is gone
			}
			return left
		}).Should(BeEmpty())
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(top))
		Expect(err).NotTo(HaveOccurred())
		for _, m := range mounts {
			Expect(unix.Unmount(m.Mountpoint, unix.MNT_DETACH)).To(Succeed())
		}
		Expect(os.RemoveAll(top)).To(Succeed())
		Expect(lock.Close()).To(Succeed())
	}
}

// end ends the reconciler and its logd, empties the host's namespaces, and removes its directories.
func (h *host) end(ctx SpecContext) {
	if CurrentSpecReport().Failed() {
		h.explain()
	}
	if h.alive() {
		h.kill()
	}
	h.endLogd()
	left, err := h.namespaces()
	Expect(err).NotTo(HaveOccurred())
	sweep(ctx, left...)
	Expect(h.proxy.Close()).To(Succeed())
	Expect(processes(h.runDir)).To(BeEmpty(), "processes of ours are left")
	Expect(os.RemoveAll(h.dir)).To(Succeed())
}

// endLogd ends the log pump that `run` has started.
func (h *host) endLogd() {
	GinkgoHelper()
	for _, pid := range processes(h.runDir) {
		if err := syscall.Kill(pid, syscall.SIGTERM); !errors.Is(err, syscall.ESRCH) {
			Expect(err).NotTo(HaveOccurred())
		}
	}
	Eventually(processes).WithArguments(h.runDir).Should(BeEmpty(), "logd outlives SIGTERM")
}

// explain prints what a person wants to see of a failed spec.
func (h *host) explain() {
	GinkgoWriter.Printf("--- the end of the reconciler's log\n%s\n", h.logTail())
	GinkgoWriter.Printf("--- the end of containerd's log\n%s\n", containerdLog())
	left, err := h.namespaces()
	GinkgoWriter.Printf("--- namespaces %v %v\n", left, err)
	for _, ns := range left {
		for _, objects := range []string{"containers", "tasks", "images", "leases", "snapshots"} {
			out, err := tryCtr(ns, objects, "ls")
			GinkgoWriter.Printf("--- ctr -n %s %s ls %v\n%s\n", ns, objects, err, out)
		}
	}
	if h.alive() {
		GinkgoWriter.Printf("--- status\n%s\n", h.cli("status"))
	}
}

// containerdLog is the end of what containerd said.
func containerdLog() string { return tail(filepath.Join(daemon.Dir, "containerd.log")) }

// sweep removes namespaces with all that is in them.
func sweep(ctx context.Context, names ...string) {
	GinkgoHelper()
	sweepAt(ctx, daemon.Address, names...)
}

// sweepAt is sweep on another daemon than the suite's.
func sweepAt(ctx context.Context, address string, names ...string) {
	GinkgoHelper()
	client, err := containerd.New(address)
	Expect(err).NotTo(HaveOccurred())
	defer client.Close()
	for _, ns := range names {
		// A lease, an image and a snapshot hold each other; what still holds on is gone the next time.
		Eventually(func() error { return empty(namespaces.WithNamespace(ctx, ns), client, ns) }).Should(Succeed(), containerdLog)
		if strings.HasPrefix(ns, "kukeon-") { // with a suffix that nobody else has
			Eventually(testenv.RemoveCgroups).WithArguments(ns).Should(Succeed())
		}
	}
}

func empty(ctx context.Context, client *containerd.Client, ns string) error {
	containers, err := client.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		if err := removeContainer(ctx, c); err != nil {
			return fmt.Errorf("container %s: %w", c.ID(), err)
		}
	}
	records, err := client.ImageService().List(ctx)
	for _, record := range records {
		err = errors.Join(err, client.ImageService().Delete(ctx, record.Name))
	}
	held, listErr := client.LeasesService().List(ctx)
	err = errors.Join(err, listErr)
	for _, lease := range held {
		err = errors.Join(err, client.LeasesService().Delete(ctx, lease))
	}
	for _, snapshotter := range []string{"overlayfs", "native"} {
		service := client.SnapshotService(snapshotter)
		var keys []string
		walkErr := service.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
			keys = append(keys, i.Name)
			return nil
		})
		err = errors.Join(err, walkErr)
		for _, key := range keys {
			if rmErr := service.Remove(ctx, key); rmErr != nil && !errdefs.IsNotFound(rmErr) {
				err = errors.Join(err, rmErr)
			}
		}
	}
	// The collector overlooks what is deleted while it is at work, until the next deletion: so there is one more.
	last, leaseErr := client.LeasesService().Create(ctx, leases.WithRandomID())
	if leaseErr == nil {
		leaseErr = client.LeasesService().Delete(ctx, last, leases.SynchronousDelete)
	}
	err = errors.Join(err, leaseErr)
	deleteErr := client.NamespaceService().Delete(ctx, ns)
	if errdefs.IsNotFound(deleteErr) {
		deleteErr = nil
	}
	return errors.Join(err, deleteErr)
}

func removeContainer(ctx context.Context, c containerd.Container) error {
	task, err := c.Task(ctx, nil)
	if err == nil {
		// The kill does not reach a paused process. When it is not paused there is nothing to resume.
		_ = task.Resume(ctx)
		_, err = task.Delete(ctx, containerd.WithProcessKill)
	}
	if err != nil && !errdefs.IsNotFound(err) && !strings.Contains(err.Error(), "not found") {
		return err
	}
	return c.Delete(ctx)
}
