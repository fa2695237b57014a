package testenv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

// NewTB starts a containerd for a test and stops it at the test's end, which fails when anything is left. Version
// is as in Options. A host that lacks something fails the test with what to install: it never skips.
func NewTB(t testing.TB, version string) *Daemon {
	t.Helper()
	d, err := Start(t.Context(), Options{Version: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of containerd's log:\n%s", d.logTail())
		}
		// The test's own context is over by now.
		if err := d.Stop(context.Background()); err != nil {
			t.Errorf("stopping containerd: %v", err)
		}
		if left := d.Leftovers(); len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	})
	return d
}

// Leftovers returns what is still there of a stopped daemon, one line each: processes, mounts, runc's state,
// cgroups, files. It is empty after a successful Stop.
func (d *Daemon) Leftovers() []string {
	var left []string
	pids, err := findProcesses(d.Dir)
	if err != nil {
		left = append(left, err.Error())
	}
	for _, pid := range pids {
		left = append(left, fmt.Sprintf("process %d", pid))
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(d.Dir))
	if err != nil {
		left = append(left, err.Error())
	}
	for _, m := range mounts {
		left = append(left, "mount "+m.Mountpoint)
	}
	found, err := findTraces(d.Dir)
	if err != nil {
		left = append(left, err.Error())
	}
	found.add(d.seen)
	for _, path := range found.namespaces {
		// Another containerd's containers, alive or in runc's records, are not ours.
		entries, err := filepath.Glob(filepath.Join(path, "*", "state.json"))
		if _, statErr := os.Stat(path); statErr == nil && len(entries) == 0 && len(cgroupProcesses(path)) == 0 {
			left = append(left, path)
		}
		if err != nil {
			left = append(left, err.Error())
		}
	}
	paths := slices.Concat(found.runc, found.cgroups, []string{d.Root, d.State, d.Address})
	if d.ownDir {
		paths = append(paths, d.Dir)
	}
	for _, path := range paths {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			left = append(left, path)
		}
	}
	return left
}
