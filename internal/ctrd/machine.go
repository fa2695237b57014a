package ctrd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// Machine is what starting a container takes on the host beside containerd.
type Machine interface {
	// Loopback brings lo up in the network namespace of the process.
	Loopback(pid uint32) error
	// Processes lists the processes in the container's cgroup.
	Processes(ns state.Namespace, id state.ContainerID) ([]int, error)
	// Begun reports whether the first process of a task runs its program, and is not runc any more, which prepares it. A
	// process that is gone has not begun.
	Begun(pid uint32) (bool, error)
	// Forget removes the empty directories that runc leaves behind for a namespace that is gone.
	Forget(ns state.Namespace) error
	// ReadRootFS mounts a root file system read-only for as long as read runs.
	ReadRootFS(ctx context.Context, mounts []mount.Mount, read func(fs.FS) error) error
}

// NoMachine does nothing: for daemons that are fake. Root file systems are empty.
type NoMachine struct{}

// Loopback implements Machine.
func (NoMachine) Loopback(uint32) error { return nil }

// Processes implements Machine.
func (NoMachine) Processes(state.Namespace, state.ContainerID) ([]int, error) { return nil, nil }

// Begun implements Machine.
func (NoMachine) Begun(uint32) (bool, error) { return false, nil }

// Forget implements Machine.
func (NoMachine) Forget(state.Namespace) error { return nil }

// ReadRootFS implements Machine.
func (NoMachine) ReadRootFS(_ context.Context, _ []mount.Mount, read func(fs.FS) error) error {
	return read(emptyFS{})
}

// emptyFS has no files.
type emptyFS struct{}

// Open implements fs.FS.
func (emptyFS) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// thisMachine is the host we run on.
type thisMachine struct{}

// Loopback implements Machine. A fresh network namespace has lo, but down.
func (thisMachine) Loopback(pid uint32) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread sits in a foreign namespace and ends with this goroutine.
		runtime.LockOSThread()
		done <- loopbackOf(fmt.Sprintf("/proc/%d/ns/net", pid))
	}()
	return <-done
}

func loopbackOf(path string) (err error) {
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening network namespace %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, unix.Close(ns)) }()
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering network namespace %s: %w", path, err)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bringing loopback up: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(socket)) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bringing loopback up: %w", err)
	}
	return nil
}

// Processes implements Machine, for both versions of cgroups and for the mixture: the container's cgroup is
// /<namespace>/<id> in each hierarchy.
func (thisMachine) Processes(ns state.Namespace, id state.ContainerID) ([]int, error) {
	const root = "/sys/fs/cgroup"
	tail := filepath.Join(string(ns), string(id), "cgroup.procs")
	below, err := filepath.Glob(filepath.Join(root, "*", tail))
	if err != nil {
		return nil, err
	}
	seen := map[int]bool{}
	var pids []int
	for _, file := range append(below, filepath.Join(root, tail)) {
		data, err := os.ReadFile(file)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV): // never made, or removed just now
			continue
		case err != nil:
			return nil, err
		}
		for _, line := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(line); err == nil && !seen[pid] {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// runcInit is how the kernel calls runc's own process, which becomes the container's first one.
const runcInit = "runc:["

// Begun implements Machine.
func (thisMachine) Begun(pid uint32) (bool, error) {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking at process %d: %w", pid, err)
	}
	return !strings.HasPrefix(string(name), runcInit), nil
}

// Forget implements Machine. Only empty directories can be removed this way: what another containerd keeps under the
// same name stays.
func (thisMachine) Forget(ns state.Namespace) error {
	dirs, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", "*", string(ns)))
	if err != nil {
		return err
	}
	dirs = append(dirs, filepath.Join("/sys/fs/cgroup", string(ns)), filepath.Join("/run/containerd/runc", string(ns)))
	var errs []error
	for _, dir := range dirs {
		err := unix.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.ENOTDIR):
		default:
			errs = append(errs, fmt.Errorf("removing %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// ReadRootFS implements Machine. Links in it that lead outside are not followed.
func (thisMachine) ReadRootFS(ctx context.Context, mounts []mount.Mount, read func(fs.FS) error) error {
	return mount.WithReadonlyTempMount(ctx, mounts, func(path string) error {
		root, err := os.OpenRoot(path)
		if err != nil {
			return err
		}
		return errors.Join(read(root.FS()), root.Close())
	})
}

// openFilesLimit is the hard limit of open files that we run under, for which containerd's is taken.
func openFilesLimit() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("reading the limit of open files: %w", err)
	}
	return limit.Max, nil
}
