package testenv

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// findProcesses returns the processes of the daemon below dir: itself, its shims, what these are just running, and
// all their descendants. Programs that merely talk to the daemon are not among them.
func findProcesses(dir string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		parent, zombie := parentOf(pid)
		if zombie {
			continue // dead already; whoever started it reaps it
		}
		children[parent] = append(children[parent], pid)
		if isOurs(pid, dir) {
			found = append(found, pid)
		}
	}
	for i := 0; i < len(found); i++ { // found grows while it is walked
		for _, child := range children[found[i]] {
			if !slices.Contains(found, child) {
				found = append(found, child)
			}
		}
	}
	return found, nil
}

// isOurs reports whether pid is one of containerd's own programs at work below dir.
func isOurs(pid int, dir string) bool {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	args := strings.Split(string(data), "\x00")
	switch filepath.Base(args[0]) {
	case "containerd", "containerd-shim-runc-v2", "runc", "ctr":
	default:
		return false
	}
	return slices.ContainsFunc(args[1:], func(arg string) bool { return strings.HasPrefix(arg, dir+"/") })
}

// parentOf returns the parent of a process, and whether the process is a zombie or gone.
func parentOf(pid int) (parent int, zombie bool) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, true
	}
	// pid (comm) state ppid ...; comm may contain anything, parentheses and spaces too.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 2 {
		return 0, true
	}
	parent, err = strconv.Atoi(fields[1])
	return parent, err != nil || fields[0] == "Z" || fields[0] == "X"
}

// cgroupProcesses returns the processes in a cgroup and in those below it; none when it does not exist.
func cgroupProcesses(cgroup string) []int {
	var pids []int
	_ = filepath.WalkDir(cgroup, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() != "cgroup.procs" {
			return nil // gone while we look: then nothing is in it
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for _, field := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(field)
			if _, zombie := parentOf(pid); err == nil && pid > 0 && !zombie {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}
