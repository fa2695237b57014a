package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kukeon.io/kukeon-reconciler/internal/testenv"
)

// usage is what one process of ours takes.
type usage struct {
	files, threads, kilobytes int
}

func (u usage) max(o usage) usage {
	return usage{max(u.files, o.files), max(u.threads, o.threads), max(u.kilobytes, o.kilobytes)}
}

func (u usage) String() string {
	return fmt.Sprintf("%d files, %d threads, %d MiB", u.files, u.threads, u.kilobytes>>10)
}

// measure is zero for a process that is gone.
func measure(pid int) usage {
	number := func(key string) int {
		values := procField(pid, key)
		if len(values) == 0 {
			return 0
		}
		n, _ := strconv.Atoi(values[0]) // the kernel writes numbers
		return n
	}
	files, _ := os.ReadDir(proc(pid, "fd"))
	return usage{len(files), number("Threads"), number("VmRSS")}
}

// pidOfUs is known to the watcher while we are killed and started.
func (c *chaos) pidOfUs() int {
	if c.process == nil || c.process.Process == nil {
		return 0
	}
	return c.process.Process.Pid
}

// What a process of ours may have more than one that has just started.
const (
	moreFiles      = 8
	moreGoroutines = 12
	moreKilobytes  = 48 << 10
)

// after looks at what the faults have left.
func (c *chaos) after(foreign map[string]string) {
	GinkgoHelper()
	c.quietPasses()
	for ns, now := range c.foreign() {
		if diff := gocmp.Diff(foreign[ns], now); diff != "" {
			c.violate("P3: what is not ours in %s has changed (-before +now):\n%s", ns, diff)
		}
	}
	for _, r := range c.realms {
		c.leaksOf(r)
	}
	if ran := c.lines("once"); len(ran) != 1 {
		c.violate("P5: the one-shot ran %d times", len(ran))
	}
	c.files()
	c.growth()
}

// quietPasses sees that nothing is written any more, and no process changes (P2).
func (c *chaos) quietPasses() {
	GinkgoHelper()
	c.judgeWrites()
	before := c.trees()
	for range 3 {
		if r := c.cli("reconcile"); r.code != 0 {
			c.violate("reconcile: %s", r)
		}
	}
	for _, w := range c.proxy.Writes() {
		c.violate("P2: a pass over what is as declared wrote %s", w)
	}
	if diff := gocmp.Diff(before, c.trees(), gocmp.AllowUnexported(tree{})); diff != "" {
		c.violate("P2: three passes changed processes (-before +now):\n%s", diff)
	}
}

// leaksOf compares all that a realm's namespace holds with what its declaration needs (P6).
func (c *chaos) leaksOf(r *chaosRealm) {
	GinkgoHelper()
	var runs, all []string
	for _, d := range r.containers {
		all = append(all, d.id)
		if !d.once {
			runs = append(runs, d.id)
		}
	}
	want := map[string][]string{
		"containers": all, "tasks": runs, "snapshots": all, "leases": nil, "outputs": all, "files": all, "shims": runs, "bundles": runs,
	}
	ns, got := c.namespace(r.name), c.holds(r)
	for what, names := range want {
		slices.Sort(names)
		if diff := gocmp.Diff(names, got[what], cmpopts.EquateEmpty()); diff != "" {
			c.violate("P6: %s of %s (-declared +there):\n%s", what, ns, diff)
		}
	}
}

// holds lists what there is of a realm, but for what is somebody else's.
func (c *chaos) holds(r *chaosRealm) map[string][]string {
	GinkgoHelper()
	ns, got := c.namespace(r.name), map[string][]string{}
	keep := func(what string, names []string, err error) {
		GinkgoHelper()
		if !errors.Is(err, fs.ErrNotExist) {
			Expect(err).NotTo(HaveOccurred())
		}
		got[what] = slices.Sorted(slices.Values(slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, c.decoy()) })))
	}
	below := func(dir string) ([]string, error) {
		found, err := os.ReadDir(dir)
		var names []string
		for _, e := range found {
			names = append(names, e.Name())
		}
		return names, err
	}
	for _, what := range []string{"containers", "leases"} {
		names, err := c.list(r.name, what)
		keep(what, names, err)
	}
	tasks, err := c.tasks(r.name)
	keep("tasks", slices.Collect(maps.Keys(tasks)), err)
	keys, err := c.snapshots(r.name)
	for i, key := range keys {
		if !strings.HasSuffix(key, c.decoy()) {
			keys[i] = key[:max(0, strings.LastIndexByte(key, '-'))]
		}
	}
	keep("snapshots", keys, err)
	for what, dir := range map[string]string{
		"outputs": filepath.Join(c.runDir, "io", ns), "files": filepath.Join(c.runDir, "files", ns),
		"bundles": filepath.Join(daemon.State, "io.containerd.runtime.v2.task", ns),
	} {
		names, err := below(dir)
		keep(what, names, err)
	}
	var shims []string
	for _, pid := range processes(ns) {
		line, err := os.ReadFile(proc(pid, "cmdline"))
		args := strings.Split(string(line), "\x00")
		if at := slices.Index(args, "-id"); err == nil && at >= 0 {
			shims = append(shims, args[at+1])
		}
	}
	keep("shims", shims, nil)
	return got
}

// temporary is what half-done writes are called.
var temporary = regexp.MustCompile(`^\.|~$|\.tmp|\.new$`)

// files sees that nothing half-done lies about, and that nobody of ours runs but the two who should.
func (c *chaos) files() {
	GinkgoHelper()
	for _, top := range []string{c.manifests, c.state, c.runDir, c.logs} {
		Expect(filepath.WalkDir(top, func(path string, _ os.DirEntry, err error) error {
			if err == nil && temporary.MatchString(filepath.Base(path)) {
				c.violate("P6: left behind: %s", path)
			}
			return err
		})).To(Succeed())
	}
	if pids := processes(c.runDir); len(pids) != 2 {
		c.violate("P6: %d processes of ours, and not one run and one logd: %v", len(pids), pids)
	}
}

// growth compares the process that has lived through the last faults with one that has seen none (P8).
func (c *chaos) growth() {
	GinkgoHelper()
	logd := usage{}
	for _, pid := range c.logd() {
		logd = measure(pid)
	}
	old := measure(c.pidOfUs())
	oldGoroutines := c.goroutines()
	c.start(chaosFlags...)
	if r := c.cli("reconcile"); r.code != 0 {
		c.violate("reconcile: %s", r)
	}
	c.settle("after a restart of ours")
	young := measure(c.pidOfUs())
	youngGoroutines := c.goroutines()
	fmt.Printf("chaos: of ours, after the faults: %v, %d goroutines; started anew: %v, %d goroutines; logd: %v; most at any time: %v\n",
		old, oldGoroutines, young, youngGoroutines, logd, c.most)
	if old.files > young.files+moreFiles || oldGoroutines > youngGoroutines+moreGoroutines || old.kilobytes > young.kilobytes+moreKilobytes {
		c.violate("P8: we have grown from %v, %d goroutines to %v, %d goroutines", young, youngGoroutines, old, oldGoroutines)
	}
}

// goroutines ends us with SIGQUIT, at which Go prints them all.
func (c *chaos) goroutines() int {
	GinkgoHelper()
	before, err := os.ReadFile(c.logPath())
	Expect(err).NotTo(HaveOccurred())
	Expect(c.process.Process.Signal(syscall.SIGQUIT)).To(Succeed())
	Eventually(c.exited).WithTimeout(exitLimit).Should(BeClosed())
	all, err := os.ReadFile(c.logPath())
	Expect(err).NotTo(HaveOccurred())
	return bytes.Count(all[len(before):], []byte("\ngoroutine "))
}

// tell prints how it goes.
func (c *chaos) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Printf("chaos: %s %d faults (%d missed), %d looks at the processes, %d comparisons of our status (%d realms were busy), %d failures\n",
		c.clock(), c.struck(), c.missed, c.samples.processes, c.samples.status, c.samples.skipped, len(c.violations))
}

// struck counts the faults that were made.
func (c *chaos) struck() (n int) {
	for _, s := range c.log {
		if !strings.HasPrefix(s.kind, "missed") {
			n++
		}
	}
	return n
}

// report prints what was done and found, and keeps the logs of a run that has failed.
func (c *chaos) report(took time.Duration) {
	GinkgoHelper()
	counts := map[string]int{}
	for _, s := range c.log {
		counts[s.kind]++
	}
	fmt.Printf("\n%-42s %6s  %s\n", "fault", "times", "slowest until as declared again")
	for _, f := range faults {
		slowest := "-"
		if d, ok := c.slowest[f.kind]; ok {
			slowest = d.Round(10 * time.Millisecond).String()
		}
		fmt.Printf("%-42s %6d  %s\n", f.kind, counts[f.kind], slowest)
	}
	all := slices.Max(append(slices.Collect(maps.Values(c.slowest)), 0))
	fmt.Printf("\nslowest amid faults %v; as declared %v after the last; looks at the processes: %d; comparisons of our status: %d\n\n",
		all.Round(10*time.Millisecond), took.Round(10*time.Millisecond), c.samples.processes, c.samples.status)
	if len(c.violations) > 0 {
		c.keep()
	}
	chaosResult = fmt.Sprintf("chaos: %d faults in %g minutes, %d failures (containerd %s, seed %d)",
		c.struck(), *chaosMinutes, len(c.violations), testenv.DefaultVersion(), c.seed)
}

// keep prints the faults of the last minute and keeps all of them, and the logs, below bin.
func (c *chaos) keep() {
	GinkgoHelper()
	root, err := testenv.Root()
	Expect(err).NotTo(HaveOccurred())
	to := filepath.Join(root, "bin", fmt.Sprintf("chaos-%s-%d", testenv.DefaultVersion(), c.seed))
	Expect(os.MkdirAll(to, 0o755)).To(Succeed())
	file, err := os.Create(filepath.Join(to, "faults"))
	Expect(err).NotTo(HaveOccurred())
	defer file.Close()
	end := c.began
	if len(c.log) > 0 {
		end = c.log[len(c.log)-1].at
	}
	for _, s := range c.log {
		w := io.Writer(file)
		if end.Sub(s.at) < time.Minute {
			w = io.MultiWriter(file, os.Stdout)
		}
		fmt.Fprintf(w, "[%4.0fs %s] %s: %s\n", s.at.Sub(c.began).Seconds(), s.at.UTC().Format("15:04:05.000"), s.kind, s.target)
	}
	for from, name := range map[string]string{c.logPath(): "reconciler.log", filepath.Join(daemon.Dir, "containerd.log"): "containerd.log"} {
		data, err := os.ReadFile(from)
		Expect(err).NotTo(HaveOccurred())
		Expect(os.WriteFile(filepath.Join(to, name), data, 0o644)).To(Succeed())
	}
	fmt.Printf("--- the end of our log; all of it, containerd's, and all faults are in %s\n%s\n", to, c.logTail())
}
