package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/internal/testenv"
)

// ctrLimit bounds one call of ctr.
const ctrLimit = 30 * time.Second

// ctr runs ctr in a realm's namespace and expects it to succeed.
func (h *host) ctr(realm string, args ...string) string {
	GinkgoHelper()
	return ctrIn(h.namespace(realm), args...)
}

// ctrIn runs ctr in a namespace and expects it to succeed.
func ctrIn(namespace string, args ...string) string {
	GinkgoHelper()
	out, err := tryCtr(namespace, args...)
	Expect(err).NotTo(HaveOccurred())
	return out
}

func tryCtr(namespace string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), ctrLimit)
	defer cancel()
	return daemon.Ctr(ctx, namespace, args...)
}

// task is a line of `ctr tasks ls`.
type task struct {
	pid    int
	status string
}

// tasks lists the tasks in a realm's namespace by container.
func (h *host) tasks(realm string) (map[string]task, error) { return tasksIn(h.namespace(realm)) }

func tasksIn(namespace string) (map[string]task, error) {
	out, err := tryCtr(namespace, "tasks", "ls")
	if err != nil {
		return nil, err
	}
	tasks := map[string]task{}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n")[1:] {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, fmt.Errorf("ctr tasks ls printed %q", line)
		}
		pid, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, err
		}
		tasks[fields[0]] = task{pid, fields[2]}
	}
	return tasks, nil
}

// pids are the pids of the running tasks in a realm's namespace by container.
func (h *host) pids(realm string) (map[string]int, error) {
	tasks, err := h.tasks(realm)
	pids := map[string]int{}
	for id, t := range tasks {
		if t.status == "RUNNING" {
			pids[id] = t.pid
		}
	}
	return pids, err
}

// running waits until exactly these containers run in a realm's namespace, and returns their pids.
func (h *host) running(realm string, ids ...string) map[string]int {
	GinkgoHelper()
	slices.Sort(ids)
	var pids map[string]int
	Eventually(func() ([]string, error) {
		var err error
		pids, err = h.pids(realm)
		return slices.Sorted(maps.Keys(pids)), err
	}).Should(Equal(ids), func() string { return h.why(realm) })
	for id, pid := range pids {
		Expect(processExists(pid)).To(BeTrue(), "%s: no process %d", id, pid)
	}
	return pids
}

// replaced waits until a container runs with another pid than before, and returns all pids of the realm.
func (h *host) replaced(realm, id string, before map[string]int) map[string]int {
	GinkgoHelper()
	var pids map[string]int
	Eventually(func() (int, error) {
		var err error
		pids, err = h.pids(realm)
		return pids[id], err
	}).ShouldNot(Or(BeZero(), Equal(before[id])), func() string { return h.why(realm) })
	return pids
}

// why is what our own status says about a realm, for the message of a failure.
func (h *host) why(realm string) string {
	return h.cli("get", "containers", "-r", h.name(realm), "-o", "wide").String()
}

// list is what a quiet listing of ctr prints, such as list("main", "containers"), in order.
func (h *host) list(realm, objects string) ([]string, error) {
	return listIn(h.namespace(realm), objects)
}

func listIn(namespace, objects string) ([]string, error) {
	out, err := tryCtr(namespace, objects, "ls", "-q")
	return slices.Sorted(slices.Values(strings.Fields(out))), err
}

// snapshots are the keys in a realm's namespace that no other snapshot builds on: those of containers.
func (h *host) snapshots(realm string) ([]string, error) {
	out, err := tryCtr(h.namespace(realm), "snapshots", "ls")
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, line := range strings.Split(strings.TrimSpace(out), "\n")[1:] {
		if fields := strings.Fields(line); fields[len(fields)-1] == "Active" {
			keys = append(keys, fields[0])
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// namespaces lists this host's namespaces: those whose name ends in its suffix.
func (h *host) namespaces() ([]string, error) {
	all, err := listIn("default", "namespaces")
	return slices.DeleteFunc(all, func(n string) bool { return !strings.HasSuffix(n, h.suffix) }), err
}

// info is `ctr containers info`.
type info struct {
	Image       string
	Labels      map[string]string
	SnapshotKey string
	Snapshotter string
}

func (h *host) info(realm, id string) info {
	GinkgoHelper()
	var i info
	Expect(json.Unmarshal([]byte(h.ctr(realm, "containers", "info", id)), &i)).To(Succeed())
	return i
}

// dump prints everything that a namespace holds, so that two dumps of the same content are byte-equal.
func dump(namespace string) string {
	GinkgoHelper()
	var b strings.Builder
	show := func(args ...string) string {
		out := ctrIn(namespace, args...)
		fmt.Fprintf(&b, "# ctr -n %s %s\n%s\n", namespace, strings.Join(args, " "), out)
		return out
	}
	for _, line := range strings.Split(ctrIn(namespace, "namespaces", "ls"), "\n") {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == namespace {
			fmt.Fprintln(&b, fields) // the columns are as wide as other namespaces make them
		}
	}
	show("tasks", "ls")
	show("images", "ls")
	show("leases", "ls")
	for _, id := range strings.Fields(show("containers", "ls", "-q")) {
		show("containers", "info", id)
	}
	for _, line := range strings.Split(strings.TrimSpace(show("snapshots", "ls")), "\n")[1:] {
		show("snapshots", "info", strings.Fields(line)[0])
	}
	return b.String()
}

// exec runs a command in a running container.
func (h *host) exec(realm, id string, command ...string) error {
	args := append([]string{"tasks", "exec", "--fifo-dir", filepath.Join(h.dir, "fifo"), "--exec-id", "look-" + testenv.Suffix(), id}, command...)
	_, err := tryCtr(h.namespace(realm), args...)
	return err
}
