// Command demo shows the reconciler at work on a private containerd, and removes every trace when it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"kukeon.io/kukeon-reconciler/internal/testenv"
	"kukeon.io/kukeon-reconciler/manifests"
)

const (
	image = "docker.io/library/busybox:1.36" // of all examples
	// stopTimeout is twice what the reconciler promises for its own end.
	stopTimeout = 10 * time.Second
)

// demo is one run: a private containerd, and a reconciler with everything it has below the daemon's directory.
type demo struct {
	daemon     *testenv.Daemon
	bin        string // kukeon-reconciler
	reconciler *exec.Cmd
	exited     chan struct{} // closed at the reconciler's end
}

func main() {
	seconds := flag.Int("seconds", 0, "end after this many seconds, failing when not everything came up by then (0: on Ctrl-C)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := show(ctx, time.Duration(*seconds)*time.Second)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// show runs the demo until ctx is over or, when it is not 0, for a while.
func show(ctx context.Context, limit time.Duration) (err error) {
	var over <-chan time.Time
	if limit > 0 {
		over = time.After(limit)
	}
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	d := &demo{bin: filepath.Join(root, "bin", "kukeon-reconciler"), exited: make(chan struct{})}
	if d.daemon, err = testenv.Start(ctx, testenv.Options{Version: testenv.Current}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.clean()) }()
	fmt.Printf("A private containerd %s runs, all its files are below %s.\n", d.daemon.Version, d.daemon.Dir)
	if err := d.seed(ctx, filepath.Join(root, "examples")); err != nil {
		if ctx.Err() != nil {
			return nil // the person has seen enough
		}
		return err
	}
	if err := d.start(); err != nil {
		return err
	}
	return d.watch(ctx, over)
}

// dir returns the path of something below the daemon's directory, which goes when the daemon stops.
func (d *demo) dir(name string) string { return filepath.Join(d.daemon.Dir, "demo", name) }

// seed copies the examples, and imports the image into the namespaces of their realms: what a person with ctr does
// before the reconciler takes them over.
func (d *demo) seed(ctx context.Context, examples string) error {
	if err := os.MkdirAll(d.dir("realms.d"), 0o755); err != nil {
		return err
	}
	archive := d.dir("busybox.tar")
	if err := testenv.SaveArchive(testenv.BusyboxImage(), image, archive); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(examples, "*.yaml"))
	if err != nil {
		return err
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, doc := range manifests.Decode(path, data).Documents {
			if doc.Realm == nil || doc.Realm.Spec.State == manifests.Absent {
				continue
			}
			namespace := "kukeon-" + doc.Name
			if others, _ := filepath.Glob("/run/containerd/runc/" + namespace + "/*"); len(others) > 0 {
				return fmt.Errorf("this host runs a realm %q already, whose containers those of the demo would touch", doc.Name)
			}
			if _, err := d.daemon.Ctr(ctx, namespace, "images", "import", archive); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(d.dir("realms.d"), filepath.Base(path)), data, 0o644); err != nil {
			return err
		}
	}
	fmt.Printf("Imported %s into their namespaces, and copied %d manifests to %s.\n", image, len(files), d.dir("realms.d"))
	return nil
}

// start runs the reconciler, its own log in a file.
func (d *demo) start() error {
	log, err := os.Create(d.dir("reconciler.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	d.reconciler = exec.Command(d.bin, "run", "--manifests", d.dir("realms.d"), "--state-dir", d.dir("state"),
		"--run-dir", d.dir("run"), "--log-dir", d.dir("log"), "--containerd-address", d.daemon.Address)
	d.reconciler.Stdout, d.reconciler.Stderr = log, log
	// Ctrl-C is for us: we end it in order.
	d.reconciler.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.reconciler.Start(); err != nil {
		return err
	}
	fmt.Printf("The reconciler runs, its log is %s.\n\n", log.Name())
	go func() {
		_ = d.reconciler.Wait() // watch tells of an end that nobody wanted
		close(d.exited)
	}()
	return nil
}

// hints says where to look and what to try.
func (d *demo) hints() {
	fmt.Printf(`
Look:
  bin/tools/ctr -a %[1]s -n kukeon-main tasks ls
  bin/kukeon-reconciler status --run-dir %[2]s
Try, and watch this terminal:
  sed -i 's/sleep 1;/sleep 2;/' %[3]s/hello.yaml
  bin/tools/ctr -a %[1]s -n kukeon-main tasks kill -s KILL clock

`, d.daemon.Address, d.dir("run"), d.dir("realms.d"))
}

// clean ends the reconciler and its log pump, and has the daemon remove the rest.
func (d *demo) clean() error {
	fmt.Println("Cleaning up.")
	// The demo's own context is over by now.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	if d.reconciler != nil && d.reconciler.Process != nil {
		errs = append(errs, d.end(ctx))
	}
	errs = append(errs, d.daemon.Stop(ctx))
	if left := d.daemon.Leftovers(); len(left) > 0 {
		errs = append(errs, fmt.Errorf("left behind: %s", strings.Join(left, ", ")))
	}
	return errors.Join(errs...)
}

// end stops the reconciler, and the log pump that it started and that outlives it by design.
func (d *demo) end(ctx context.Context) error {
	err := d.reconciler.Process.Signal(syscall.SIGTERM)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.exited:
	case <-time.After(stopTimeout):
		err = fmt.Errorf("the reconciler did not end within %v of SIGTERM", stopTimeout)
		_ = d.reconciler.Process.Kill()
		<-d.exited
	}
	return errors.Join(err, endAll(ctx, d.bin, d.daemon.Dir))
}
