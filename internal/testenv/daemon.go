package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/gofrs/flock"
)

const (
	// startTimeout bounds a start; a healthy one takes well under half a second.
	startTimeout = 20 * time.Second
	// stopTimeout bounds a graceful end of the daemon, after which it is killed.
	stopTimeout = 10 * time.Second
	// pollInterval is how often a condition of the host is looked at while waiting for it.
	pollInterval = 5 * time.Millisecond
	// dirPrefix names the directories that Start makes, so that a later Start finds those of the dead.
	dirPrefix = "kr-"
)

// Options says which containerd to start and where.
type Options struct {
	// Version is "2.4", "1.7" or "1.6"; empty means DefaultVersion.
	Version string
	// Dir holds everything of the daemon. Keep it short: a socket's path may have 107 bytes.
	// Empty means a new directory below os.TempDir, removed by Stop.
	Dir string
	// Log receives the daemon's log when it stops; until then it is in containerd.log in Dir. May be nil.
	Log io.Writer
}

// Daemon is a private containerd. Its methods may not be called concurrently, except Ctr and Pid.
type Daemon struct {
	Version string
	// Address is the path of the gRPC socket.
	Address string
	// Root and State are containerd's directories of these names; Dir is above both.
	Root, State, Dir string

	bin    string
	log    io.Writer
	lock   *flock.Flock
	ownDir bool // made by Start, so removed by Stop
	// seen accumulates the traces that were found outside Dir, so that Leftovers can look again.
	seen    traces
	stopped bool

	mu      sync.Mutex
	process *os.Process
	exited  chan struct{} // closed when process has ended and was waited for
}

// Start starts a containerd and returns once it serves. What earlier, now dead processes left behind is
// removed first, so that a killed test run has no lasting effect.
func Start(ctx context.Context, o Options) (*Daemon, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a private containerd needs root")
	}
	if o.Version == "" {
		o.Version = DefaultVersion()
	}
	bin, err := binaries(o.Version)
	if err != nil {
		return nil, err
	}
	if err := sweepDead(ctx); err != nil {
		return nil, fmt.Errorf("removing what a killed run left behind: %w", err)
	}
	d := &Daemon{Version: o.Version, Dir: o.Dir, bin: bin, log: o.Log}
	if err := d.prepare(); err != nil {
		return nil, err
	}
	if err = d.configure(); err == nil {
		err = d.start(ctx)
	}
	if err != nil {
		// The caller's context may be over already; cleaning up has to happen all the same.
		return nil, errors.Join(err, d.Stop(context.WithoutCancel(ctx)))
	}
	return d, nil
}

// prepare makes the directory and takes its lock.
func (d *Daemon) prepare() error {
	var err error
	if d.Dir == "" {
		d.ownDir = true
		d.Dir, err = os.MkdirTemp("", dirPrefix)
	} else {
		if d.Dir, err = filepath.Abs(d.Dir); err == nil {
			err = os.MkdirAll(d.Dir, 0o700)
		}
	}
	if err != nil {
		return err
	}
	d.Address = filepath.Join(d.Dir, "c.sock")
	d.Root, d.State = filepath.Join(d.Dir, "root"), filepath.Join(d.Dir, "state")
	d.lock = flock.New(filepath.Join(d.Dir, lockName))
	if ok, err := d.lock.TryLock(); err != nil || !ok {
		return errors.Join(fmt.Errorf("%s belongs to another daemon", d.Dir), err)
	}
	return nil
}

// configure writes config.toml. It is of version 2, which every supported containerd reads. Plugins that would write outside Dir (CRI, NRI,
// opt) or that this host could not use anyway are off; all else is as on a real host.
func (d *Daemon) configure() error {
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
temp = %q
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.podsandbox.controller.v1.podsandbox", "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs",
]
[grpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
`, d.Root, d.State, filepath.Join(d.Dir, "tmp"), d.Address, filepath.Join(d.Dir, "opt"))
	return os.WriteFile(filepath.Join(d.Dir, "config.toml"), []byte(config), 0o600)
}

// start runs the daemon and waits until it serves.
func (d *Daemon) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	logFile, err := os.OpenFile(d.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(filepath.Join(d.bin, "containerd"), "--config", filepath.Join(d.Dir, "config.toml"))
	// The shim is looked up on the daemon's PATH; runc may be in a directory that only root's PATH has.
	cmd.Env = append(os.Environ(), "PATH="+d.bin+":"+os.Getenv("PATH")+":/usr/sbin:/sbin", "NOTIFY_SOCKET=")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	// A process group of its own keeps a terminal's Ctrl-C away: we end the daemon when we are done.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	d.mu.Lock()
	d.process, d.exited = cmd.Process, exited
	d.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended does not matter: who needs it running notices that it is gone
		close(exited)
	}()
	if err := d.waitServing(ctx); err != nil {
		return fmt.Errorf("containerd %s does not serve: %w\n%s", d.Version, err, d.logTail())
	}
	return nil
}

// waitServing returns when the daemon answers on its socket, ends, or ctx is over.
func (d *Daemon) waitServing(ctx context.Context) error {
	client, err := containerd.New(d.Address, containerd.WithTimeout(startTimeout))
	if err != nil {
		return err
	}
	defer client.Close()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		// The socket first: a gRPC dial that comes too early would wait out its backoff.
		if conn, err := net.Dial("unix", d.Address); err == nil {
			conn.Close()
			_, err := client.IsServing(ctx)
			return err
		}
		select {
		case <-d.exited:
			return errors.New("it has ended")
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// Pid returns the daemon's process id, or 0 when it does not run.
func (d *Daemon) Pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.exited:
		return 0
	default:
		return d.process.Pid
	}
}

// Kill sends the daemon a signal. After one that ends it (KILL, TERM, INT) it returns when the daemon is gone; the
// shims and their containers live on, as they do on a real host.
func (d *Daemon) Kill(sig syscall.Signal) error {
	if d.Pid() == 0 {
		return nil
	}
	if err := d.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	switch sig {
	case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT:
	default:
		return nil
	}
	select {
	case <-d.exited:
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("containerd (pid %d) did not end within %v of signal %v", d.Pid(), stopTimeout, sig)
	}
}

// Restart ends the daemon gracefully, if it runs, and starts it again on the same directories.
func (d *Daemon) Restart(ctx context.Context) error {
	if err := d.Kill(syscall.SIGTERM); err != nil {
		return err
	}
	return d.start(ctx)
}

// Reboot does to this daemon what a reboot of the host does: it, all shims and all workloads are killed, the
// state directory, runc's state, the shims' sockets and the cgroups are gone, then it starts again.
func Reboot(ctx context.Context, d *Daemon) error {
	if err := d.Kill(syscall.SIGKILL); err != nil {
		return err
	}
	if err := d.clear(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(d.State); err != nil {
		return err
	}
	return d.start(ctx)
}

// Stop kills the daemon and everything that it runs, and removes every trace: mounts, cgroups, runc's state,
// sockets, files. Calling it again does nothing.
func (d *Daemon) Stop(ctx context.Context) error {
	if d.stopped {
		return nil
	}
	if d.process != nil {
		if err := d.Kill(syscall.SIGKILL); err != nil {
			return err
		}
	}
	if err := d.clear(ctx); err != nil {
		return err
	}
	var logErr error
	if d.log != nil {
		logErr = copyFile(d.log, d.logPath())
	}
	if err := removeDir(d.Dir, d.ownDir); err != nil {
		return err
	}
	d.stopped = true
	return errors.Join(logErr, d.lock.Close())
}

// Ctr runs the daemon's own ctr in a namespace and returns what it wrote to stdout. The error carries what it
// wrote to stderr. FIFOs of tasks that it starts are kept below Dir.
func (d *Daemon) Ctr(ctx context.Context, namespace string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "ctr"),
		append([]string{"--address", d.Address, "--namespace", namespace}, d.withFIFODir(args)...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("ctr -n %s %s: %w: %s", namespace, strings.Join(args, " "), err,
			strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// withFIFODir adds --fifo-dir to the commands of ctr that start a task, since ctr's default is on the host.
func (d *Daemon) withFIFODir(args []string) []string {
	at := 0
	switch {
	case len(args) > 0 && args[0] == "run":
		at = 1
	case len(args) > 1 && slices.Contains([]string{"t", "task", "tasks"}, args[0]) && args[1] == "start":
		at = 2
	default:
		return args
	}
	return slices.Insert(slices.Clone(args), at, "--fifo-dir", filepath.Join(d.Dir, "fifo"))
}

func (d *Daemon) logPath() string { return filepath.Join(d.Dir, "containerd.log") }

// logTail returns the last lines of the daemon's log, for a message that a person reads.
func (d *Daemon) logTail() string {
	const lines = 20
	log, err := os.ReadFile(d.logPath())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func copyFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
