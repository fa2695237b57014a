package testenv

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// What all containerds of a host share.
const (
	runcRoot    = "/run/containerd/runc" // <namespace>/<id>/state.json
	shimSockets = "/run/containerd/s"    // <sha256 of daemon address, namespace, id>
)

// taskPlugin is the directory of the runtime below root and state: <namespace>/<id>.
const taskPlugin = "io.containerd.runtime.v2.task"

const (
	lockName = "owner.lock"
	// clearTimeout bounds the end of the processes; after SIGKILL only a broken kernel takes longer.
	clearTimeout = 20 * time.Second
	// lockGrace is how old a directory without a lock holder has to be to count as left behind rather than as
	// being made just now.
	lockGrace = 10 * time.Second
)

// traces are what the containers of one daemon left on the host outside its directory.
type traces struct {
	runc    []string // directories below runcRoot
	cgroups []string // absolute paths below the cgroup mounts
	// namespaces are the directories above these. Neither runc nor containerd removes one, and another containerd
	// may use a namespace of the same name, so they go only when they are empty.
	namespaces []string
}

func (t *traces) add(o traces) {
	t.runc = uniq(append(t.runc, o.runc...))
	t.cgroups = uniq(append(t.cgroups, o.cgroups...))
	t.namespaces = uniq(append(t.namespaces, o.namespaces...))
}

func uniq(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}

// clear ends all processes of the daemon and removes what they left outside its directory, and the mounts in it.
func (d *Daemon) clear(ctx context.Context) error {
	found, err := clearHost(ctx, d.Dir)
	d.seen.add(found)
	return err
}

// clearHost does the work of clear for the daemon below dir, which may be of another, dead process.
func clearHost(ctx context.Context, dir string) (traces, error) {
	ctx, cancel := context.WithTimeout(ctx, clearTimeout)
	defer cancel()
	found, err := findTraces(dir)
	if err != nil {
		return found, err
	}
	if err := killAll(ctx, dir, found); err != nil {
		return found, err
	}
	// A runc that was killed at its work may have left more than was there before.
	more, err := findTraces(dir)
	if err != nil {
		return found, err
	}
	found.add(more)
	errs := []error{unmountAll(dir)}
	for _, path := range found.runc {
		errs = append(errs, os.RemoveAll(path))
	}
	for _, path := range found.cgroups {
		errs = append(errs, removeCgroup(ctx, path))
	}
	for _, path := range found.namespaces {
		_ = syscall.Rmdir(path)
	}
	return found, errors.Join(append(errs, removeDeadSockets(dir))...)
}

// findTraces reads the records that runc keeps of each container, and the bundles for the containers that runc had
// not recorded yet.
func findTraces(dir string) (t traces, err error) {
	states, err := filepath.Glob(filepath.Join(runcRoot, "*", "*", "state.json"))
	if err != nil {
		return t, err
	}
	for _, path := range states {
		data, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(data), dir+"/") {
			continue // just gone, or of another daemon
		}
		var state struct {
			CgroupPaths map[string]string `json:"cgroup_paths"`
		}
		if err := json.Unmarshal(data, &state); err != nil {
			return t, fmt.Errorf("%s: %w", path, err)
		}
		t.runc = append(t.runc, filepath.Dir(path))
		t.cgroups = slices.AppendSeq(t.cgroups, maps.Values(state.CgroupPaths))
	}
	roots, err := cgroupRoots()
	if err != nil {
		return t, err
	}
	// A container may run in the root cgroup, which is not its own.
	defer func() {
		t.cgroups = slices.DeleteFunc(t.cgroups, func(path string) bool { return slices.Contains(roots, path) })
	}()
	if err := t.addBundles(dir, roots); err != nil {
		return t, err
	}
	// containerd keeps a directory for each namespace that ever ran a task.
	used, err := filepath.Glob(filepath.Join(dir, "*", taskPlugin, "*"))
	if err != nil {
		return t, err
	}
	for _, path := range used {
		t.namespaces = append(t.namespaces, filepath.Join(runcRoot, filepath.Base(path)))
		for _, root := range roots {
			t.namespaces = append(t.namespaces, filepath.Join(root, filepath.Base(path)))
		}
	}
	t.runc, t.cgroups, t.namespaces = uniq(t.runc), uniq(t.cgroups), uniq(t.namespaces)
	return t, nil
}

// addBundles adds the traces of the containers that have a bundle.
func (t *traces) addBundles(dir string, roots []string) error {
	bundles, err := filepath.Glob(filepath.Join(dir, "state", taskPlugin, "*", "*", "config.json"))
	if err != nil {
		return err
	}
	for _, path := range bundles {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // just gone
		}
		var spec specs.Spec
		if json.Unmarshal(data, &spec) != nil || spec.Linux == nil || !strings.HasPrefix(spec.Linux.CgroupsPath, "/") {
			continue // cut off in the middle of its making: then runc never saw it
		}
		for _, root := range roots {
			t.cgroups = append(t.cgroups, filepath.Join(root, spec.Linux.CgroupsPath))
		}
		id, namespace := filepath.Base(filepath.Dir(path)), filepath.Base(filepath.Dir(filepath.Dir(path)))
		t.runc = append(t.runc, filepath.Join(runcRoot, namespace, id))
	}
	return nil
}

// cgroupRoots returns where the cgroup hierarchies are mounted: one on a v2 host, a dozen on a v1 host.
func cgroupRoots() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, err
	}
	roots := make([]string, 0, len(mounts))
	for _, m := range mounts {
		roots = append(roots, m.Mountpoint)
	}
	return roots, nil
}

// killAll kills the daemon's processes and the workloads, again and again until none is left.
func killAll(ctx context.Context, dir string, t traces) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		pids, err := findProcesses(dir)
		if err != nil {
			return err
		}
		for _, cgroup := range t.cgroups {
			// SIGKILL does not reach a process that v1's freezer holds.
			_ = os.WriteFile(filepath.Join(cgroup, "freezer.state"), []byte("THAWED"), 0)
			pids = append(pids, cgroupProcesses(cgroup)...)
			if slices.Contains(pids, os.Getpid()) {
				return fmt.Errorf("a container shares the cgroup %s with us", cgroup)
			}
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("killing %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v outlive SIGKILL: %w", pids, ctx.Err())
		case <-ticker.C:
		}
	}
}

// unmountAll unmounts everything below dir, the innermost first.
func unmountAll(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	slices.SortFunc(mounts, func(a, b *mountinfo.Info) int { return cmp.Compare(b.ID, a.ID) })
	var errs []error
	for _, m := range mounts {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmounting %s: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}

// removeCgroup removes a cgroup with those in it. A cgroup stays busy for a moment after its last process has ended.
func removeCgroup(ctx context.Context, path string) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := removeCgroupTree(path)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// RemoveCgroups removes the cgroups of a namespace that no other containerd uses: containerd sometimes leaves that of a
// task which ends just as it is deleted. One in which a process lives is an error.
func RemoveCgroups(namespace string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	var errs []error
	for _, root := range roots {
		errs = append(errs, removeCgroupTree(filepath.Join(root, namespace)))
	}
	return errors.Join(errs...)
}

func removeCgroupTree(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroupTree(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(path); err != nil && !errors.Is(err, syscall.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: path, Err: err}
	}
	return nil
}

// removeDeadSockets removes the shims' sockets that are younger than dir and that nobody listens on: a shim that
// was killed leaves its own behind, and the name, a hash, does not tell whose it was.
func removeDeadSockets(dir string) error {
	born, err := os.Stat(filepath.Join(dir, lockName))
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(shimSockets)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(shimSockets, e.Name())
		info, err := e.Info()
		if err != nil || info.ModTime().Before(born.ModTime()) || !deaf(path) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// deaf reports whether nobody listens on a unix socket. It asks twice, since a socket is made a moment before somebody
// listens on it; /proc/net/unix would be no answer, for what it shows is no snapshot while other sockets come and go.
func deaf(path string) bool {
	for range 2 {
		c, err := net.Dial("unix", path)
		if err == nil {
			_ = c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
	return true
}

// removeDir removes a daemon's directory, or only what is the daemon's in it when the caller gave it.
func removeDir(dir string, own bool) error {
	if own {
		return os.RemoveAll(dir)
	}
	var errs []error
	for _, name := range []string{
		"root", "state", "tmp", "opt", "fifo", "c.sock", "c.sock.ttrpc", "config.toml", "containerd.log", lockName,
	} {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	_ = os.Remove(dir) // when nothing of the caller's is in it
	return errors.Join(errs...)
}

// sweepDead removes the daemons of processes that died without calling Stop.
func sweepDead(ctx context.Context) error {
	locks, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*", lockName))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range locks {
		if info, err := os.Stat(path); err != nil || time.Since(info.ModTime()) < lockGrace {
			continue
		}
		lock := flock.New(path)
		if held, err := lock.TryLock(); err != nil || !held {
			continue // its owner lives
		}
		_, err := clearHost(ctx, filepath.Dir(path))
		if err == nil {
			err = os.RemoveAll(filepath.Dir(path))
		}
		errs = append(errs, err, lock.Close())
	}
	return errors.Join(errs...)
}
