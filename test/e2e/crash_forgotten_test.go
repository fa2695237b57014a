package e2e

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// forgottenAfter is far more than a scenario takes.
const forgottenAfter = 10 * time.Second

// reminders are the times that containerd had forgotten a shim.
var reminders struct {
	sync.Mutex
	lines []string
}

// forgotten are the processes of the namespace that wait for their start for long, and their shims. When its caller
// dies between the end of `runc create` and the shim's note of it, containerd 2.4 gives the shim up without ending it,
// and can make no task of that id until its own next start, at which it finds the shim again.
func forgotten(ns string) (pids []int) {
	GinkgoHelper()
	shims := processes(ns)
	for _, pid := range processes("init") {
		stat, err := os.ReadFile(proc(pid, "stat"))
		if err != nil {
			continue
		}
		rest := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		parent, err := strconv.Atoi(string(rest[1]))
		if err == nil && slices.Contains(shims, parent) && age(string(rest[19])) > forgottenAfter {
			pids = append(pids, pid, parent)
		}
	}
	return pids
}

// age is how long ago a process was started, by the field starttime of its stat, in hundredths of a second since boot.
func age(starttime string) time.Duration {
	GinkgoHelper()
	var now, then float64
	uptime, err := os.ReadFile("/proc/uptime")
	Expect(err).NotTo(HaveOccurred())
	_, err = fmt.Sscan(string(uptime), &now)
	Expect(err).NotTo(HaveOccurred())
	_, err = fmt.Sscan(starttime, &then)
	Expect(err).NotTo(HaveOccurred())
	return time.Duration((now - then/100) * float64(time.Second))
}

// remind ends the shims that containerd has forgotten, with their processes, as a person has to on a host where that
// happens. It is counted and printed, and has to stay rare.
func (l *life) remind(s *injection) {
	GinkgoHelper()
	pids := forgotten(l.namespace())
	if len(pids) == 0 {
		return
	}
	reminders.Lock()
	defer reminders.Unlock()
	reminders.lines = append(reminders.lines, fmt.Sprintf("%s, %s, write %d: processes %v", l.course[l.next].name, s.kind, s.write, pids))
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // looked at again
	}
}
