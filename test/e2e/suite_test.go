package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/gofrs/flock"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/internal/testenv"
)

// What all specs share.
var (
	daemon   *testenv.Daemon
	registry *testenv.Registry
	binary   string // kukeon-reconciler, built from this tree
	images   map[string]v1.Image
	dir      string // everything of this run but containerd's own, below a lock that says that we live
)

func TestEndToEnd(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(15 * time.Second)
	SetDefaultEventuallyPollingInterval(30 * time.Millisecond)
	SetDefaultConsistentlyPollingInterval(100 * time.Millisecond)
	RunSpecs(t, "kukeon-reconciler on containerd "+testenv.DefaultVersion())
}

var _ = BeforeSuite(func(ctx SpecContext) {
	sweepDead()
	var err error
	dir, err = os.MkdirTemp("", dirPrefix)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(os.RemoveAll, dir)
	lock := flock.New(filepath.Join(dir, lockName))
	Expect(lock.TryLock()).To(BeTrue())
	DeferCleanup(lock.Close)

	By("building the binary")
	// With the flags of `make build`, so that both find the other's work in Go's cache.
	binary = filepath.Join(dir, binaryName)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary,
		"kukeon.io/kukeon-reconciler/cmd/kukeon-reconciler")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), string(out))

	By("starting containerd " + testenv.DefaultVersion() + " and a registry")
	var log bytes.Buffer
	daemon, err = testenv.Start(ctx, testenv.Options{Log: &log})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx SpecContext) {
		Expect(daemon.Stop(ctx)).To(Succeed())
		Expect(daemon.Leftovers()).To(BeEmpty())
	})
	registry, err = testenv.NewRegistry(context.Background())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(registry.Close)

	images = testenv.SmallImages()
	images["busybox"] = testenv.BusyboxImage()
	for name, img := range images {
		_, err := registry.Push(ctx, name+":1", img)
		Expect(err).NotTo(HaveOccurred())
		Expect(testenv.SaveArchive(img, "docker.io/library/"+name+":1", archive(name))).To(Succeed())
	}
})

// image is the reference of one of the images in the suite's registry.
func image(name string) string { return fmt.Sprintf("%s/%s:1", registry.Host, name) }

// archive is the path of an OCI archive of one of the images, which `ctr images import` calls imported(name).
func archive(name string) string { return filepath.Join(dir, name+".tar") }

// imported is the reference that an image has after its archive was imported.
func imported(name string) string { return "docker.io/library/" + name + ":1" }
