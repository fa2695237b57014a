package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// proc is a path below /proc of a process.
func proc(pid int, path string) string { return filepath.Join("/proc", strconv.Itoa(pid), path) }

// environ is the environment that a process was started with. For a moment after a start it is runc's.
func environ(pid int) ([]string, error) {
	data, err := os.ReadFile(proc(pid, "environ"))
	return strings.Split(strings.TrimRight(string(data), "\x00"), "\x00"), err
}

// statusLine are the values of a line of /proc/<pid>/status.
func statusLine(pid int, key string) []string {
	GinkgoHelper()
	data, err := os.ReadFile(proc(pid, "status"))
	Expect(err).NotTo(HaveOccurred())
	for _, line := range strings.Split(string(data), "\n") {
		if name, values, ok := strings.Cut(line, ":"); ok && name == key {
			return strings.Fields(values)
		}
	}
	return nil
}

// processExists reports whether a process is there and is no zombie.
func processExists(pid int) bool {
	stat, err := os.ReadFile(proc(pid, "stat"))
	if err != nil {
		return false
	}
	rest := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return rest[0] != "Z" && rest[0] != "X"
}

// processes are the living processes with this argument on their command line.
func processes(argument string) []int {
	GinkgoHelper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	Expect(err).NotTo(HaveOccurred())
	var pids []int
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil || !slices.Contains(strings.Split(string(line), "\x00"), argument) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && processExists(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// processesOf are the living processes that run this program.
func processesOf(program string) []int {
	GinkgoHelper()
	paths, err := filepath.Glob("/proc/[0-9]*/exe")
	Expect(err).NotTo(HaveOccurred())
	var pids []int
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if exe, linkErr := os.Readlink(path); err == nil && linkErr == nil && exe == program && processExists(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parent is the parent of a process: of a container's, its shim.
func parent(pid int) int {
	GinkgoHelper()
	pids := statusLine(pid, "PPid")
	Expect(pids).To(HaveLen(1))
	shim, err := strconv.Atoi(pids[0])
	Expect(err).NotTo(HaveOccurred())
	Expect(shim).To(BeNumerically(">", 1))
	return shim
}
