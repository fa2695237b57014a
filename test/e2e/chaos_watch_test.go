package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	. "github.com/onsi/ginkgo/v2"
)

// tree is the first process of a container's process tree, as /proc shows it.
type tree struct {
	pid int
	rev string
}

// trees finds the process trees of this host's containers by mark: processes that are the first in a pid namespace of
// their own. What runc prepares counts from its start on, since before that it has runc's environment.
func (c *chaos) trees() map[string][]tree {
	found := map[string][]tree{}
	paths, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is well-formed
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(data, []byte(c.suffix)) {
			continue
		}
		var mark, rev string
		for _, variable := range strings.Split(string(data), "\x00") {
			if value, ok := strings.CutPrefix(variable, "CHAOS="); ok {
				mark = value
			}
			if value, ok := strings.CutPrefix(variable, "REV="); ok {
				rev = value
			}
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if mark == "" || err != nil || !strings.Contains(mark, c.suffix) {
			continue
		}
		if inside := procField(pid, "NSpid"); len(inside) == 2 && inside[1] == "1" {
			found[mark] = append(found[mark], tree{pid, rev})
		}
	}
	return found
}

// procField are the values of a line of /proc/<pid>/status; none when the process is gone.
func procField(pid int, key string) []string {
	data, _ := os.ReadFile(proc(pid, "status"))
	for line := range strings.Lines(string(data)) {
		if name, values, ok := strings.Cut(line, ":"); ok && name == key {
			return strings.Fields(values)
		}
	}
	return nil
}

// parentPid is the parent of a process that may be gone.
func parentPid(pid int) (int, error) {
	values := procField(pid, "PPid")
	if len(values) != 1 {
		return 0, errMissed
	}
	return strconv.Atoi(values[0])
}

// watch looks at all processes, again and again, until unwatch.
func (c *chaos) watch() {
	stop, ended := make(chan struct{}), make(chan struct{})
	c.unwatch = sync.OnceFunc(func() {
		close(stop)
		<-ended
	})
	DeferCleanup(c.unwatch)
	go func() {
		defer close(ended)
		ticker := time.NewTicker(watchInterval)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				c.look()
			}
		}
	}()
}

// look is one sample of all processes: P5 and P4.
func (c *chaos) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.samples.processes++
	now, found := time.Now(), c.trees()
	for mark, all := range found {
		// Two looks: one of two may have ended while /proc was read.
		if len(all) > 1 && slices.Equal(all, c.trees()[mark]) {
			c.violateLocked("P5: %s has %d process trees: %v", mark, len(all), all)
		}
	}
	for _, d := range c.containers(func(d *chaosContainer) bool { return !d.once }) {
		c.lookAt(d, found[c.mark(d)], now)
	}
	c.most = c.most.max(measure(c.pidOfUs()))
}

// lookAt compares a container with the last look.
func (c *chaos) lookAt(d *chaosContainer, all []tree, now time.Time) {
	pid, whole := 0, false
	if len(all) > 0 {
		pid, whole = all[0].pid, all[0].rev == strconv.Itoa(d.rev)
	}
	if pid != d.pid && d.pid != 0 && now.After(d.excused) {
		c.violateLocked("P4: the process of %s was %d and is %d, and nothing was done to it", c.mark(d), d.pid, pid)
	}
	d.pid = pid
	recovering := !whole || d.waiting != "" && d.was == pid
	if recovering && (d.waiting != "" || now.Before(d.excused)) {
		d.excused = now.Add(grace)
	}
	if !recovering && d.waiting != "" {
		c.slowest[d.waiting] = max(c.slowest[d.waiting], now.Sub(d.since))
		d.waiting = ""
	}
}

// running are the running tasks of a realm's namespace, as containerd has them.
func (c *chaos) runningTasks(r *chaosRealm) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), c.namespace(r.name)), 5*time.Second)
	defer cancel()
	list, err := c.client.TaskService().List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, err
	}
	pids := map[string]int{}
	for _, t := range list.Tasks {
		if t.Status == tasktypes.Status_RUNNING && t.ID != c.decoy() {
			pids[t.ID] = int(t.Pid)
		}
	}
	return pids, nil
}

// differences are those between a realm's declaration and what runs: in containerd, in /proc, and in both the same.
func (c *chaos) differences(r *chaosRealm, tasks map[string]int, found map[string][]tree) (notRunning, notAsDeclared []string) {
	declared := map[string]bool{}
	for _, d := range r.containers {
		declared[d.id] = true
		all := found[c.mark(d)]
		switch {
		case d.once:
			if tasks[d.id] != 0 || len(all) > 0 {
				notAsDeclared = append(notAsDeclared, fmt.Sprintf("%s runs again", c.mark(d)))
			}
		case len(all) != 1 || all[0].pid != tasks[d.id]:
			notRunning = append(notRunning, fmt.Sprintf("%s: processes %v, task %d", c.mark(d), all, tasks[d.id]))
		case all[0].rev != strconv.Itoa(d.rev):
			notAsDeclared = append(notAsDeclared, fmt.Sprintf("%s: REV is %s and not %d", c.mark(d), all[0].rev, d.rev))
		}
	}
	for id, pid := range tasks {
		if !declared[id] {
			notAsDeclared = append(notAsDeclared, fmt.Sprintf("%s/%s is not declared: task %d", c.namespace(r.name), id, pid))
		}
	}
	return notRunning, notAsDeclared
}

// unlike says what is not as declared, or what our status denies.
func (c *chaos) unlike() []string {
	var different []string
	found, declared := c.trees(), map[string]bool{}
	for _, d := range c.containers(func(d *chaosContainer) bool { return !d.once }) {
		declared[c.mark(d)] = true
	}
	for mark, all := range found {
		if !declared[mark] {
			different = append(different, fmt.Sprintf("%s is not declared: processes %v", mark, all))
		}
	}
	for _, r := range c.realms {
		tasks, err := c.runningTasks(r)
		if err != nil {
			return []string{err.Error()}
		}
		notRunning, notAsDeclared := c.differences(r, tasks, found)
		different = slices.Concat(different, notRunning, notAsDeclared)
	}
	if len(different) > 0 {
		return different
	}
	status, err := c.said()
	if err != nil {
		return []string{err.Error()}
	}
	for _, r := range c.realms {
		if s := status.realms[c.name(r.name)]; !s.Ready || !s.InSync {
			different = append(different, fmt.Sprintf("status of %s: ready %v, in sync %v: %s: %s%s", r.name, s.Ready, s.InSync,
				s.Reason, s.Message, status.trouble(c.name(r.name))))
		}
	}
	return different
}
