package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

// descriptors counts what our processes, `run` and `logd`, hold open, by what it is.
type descriptors map[string]int

func (l *life) descriptors() descriptors {
	GinkgoHelper()
	counts := descriptors{}
	for _, pid := range processes(l.runDir) {
		command := "logd"
		if pid == l.process.Process.Pid {
			command = "run"
		}
		links, err := filepath.Glob(proc(pid, "fd/*"))
		if err != nil {
			panic(err) // the pattern is bad
		}
		for _, link := range links {
			target, err := os.Readlink(link)
			if err != nil {
				continue // closed just now
			}
			if what, _, ok := strings.Cut(target, ":["); ok {
				target = what
				if what == "socket" && internet(pid, filepath.Base(link)) {
					continue // to a registry: the client keeps one or two for the next pull, for a while
				}
			}
			counts[command+" "+l.plain(target)]++
		}
	}
	return counts
}

// fdLimit is how long a descriptor may outlive what it was opened for.
const fdLimit = 5 * time.Second

// leaked waits until nothing more is open than after the undisturbed run, and returns an error when that does not come.
func (l *life) leaked(undisturbed descriptors) error {
	for began := time.Now(); ; time.Sleep(lookEvery) {
		var lines []string
		open := l.descriptors()
		for _, what := range slices.Sorted(maps.Keys(open)) {
			if open[what] > undisturbed[what] {
				lines = append(lines, fmt.Sprintf("%s: %d, %d undisturbed", what, open[what], undisturbed[what]))
			}
		}
		if lines == nil {
			return nil
		}
		if time.Since(began) > fdLimit {
			return errors.New("left open: " + strings.Join(lines, "; "))
		}
	}
}

// internet reports whether a process's descriptor is a socket of TCP.
func internet(pid int, descriptor string) bool {
	GinkgoHelper()
	number, err := strconv.Atoi(descriptor)
	Expect(err).NotTo(HaveOccurred())
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false // it has ended
	}
	defer func() { _ = unix.Close(process) }() // only looked at
	fd, err := unix.PidfdGetfd(process, number, 0)
	if err != nil {
		return false // closed just now
	}
	defer func() { _ = unix.Close(fd) }()
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	return err == nil && (domain == unix.AF_INET || domain == unix.AF_INET6)
}
