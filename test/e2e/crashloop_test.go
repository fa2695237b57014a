package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/test/proxy"
)

// The life of a realm, of which each write to containerd is broken once.
var life = []stage{
	{"creating two containers", func(h *host, realm string) string {
		return h.realm(realm, h.container("db", "sleeps"), h.container("web", "sleeps"))
	}, []string{"db", "web"}, ""},
	{"changing one", func(h *host, realm string) string {
		return h.realm(realm, h.container("db", "sleeps"), h.container("web", "sleeps", "env: [COLOR=green]"))
	}, []string{"db", "web"}, "green"},
	{"removing one", func(h *host, realm string) string {
		return h.realm(realm, h.container("web", "sleeps", "env: [COLOR=green]"))
	}, []string{"web"}, "green"},
	{"removing the realm", nil, nil, ""},
}

type stage struct {
	name string
	// manifest is what becomes of the realm's manifest; nil removes it.
	manifest func(h *host, realm string) string
	left     []string // containers that run at the end; none means that the namespace is gone
	color    string   // of web, in its environment
}

// point is where a stage is broken.
type point struct {
	write int // the k-th of the stage
	after bool
}

func (p point) String() string {
	if p.after {
		return fmt.Sprintf("after write %d", p.write)
	}
	return fmt.Sprintf("before write %d", p.write)
}

// fault lets act run at the point.
func (p point) fault(act func() error) proxy.Fault {
	if p.after {
		return proxy.Fault{After: act}
	}
	return proxy.Fault{Before: act}
}

// quick are flags of a daemon that may remove its last realm, and need not wait to do so.
var quick = []string{"--allow-empty", "--rescan", "300ms", "--prune-settle", "100ms"}

var _ = Describe("A crash at any write", Ordered, func() {
	var most int // writes of the longest stage
	var client *containerd.Client

	BeforeAll(func() {
		var err error
		client, err = containerd.New(daemon.Address)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(client.Close)

		By("counting the writes of a life without a fault")
		h := newHost()
		h.start(quick...)
		for _, s := range life {
			h.proxy.Reset()
			s.begin(h, "main")
			s.converges(client, h, "main", "without a fault")
			most = max(most, len(h.proxy.Writes()))
		}
		Expect(most).To(BeNumerically(">", 10))
		GinkgoWriter.Printf("%d writes in the longest stage\n", most)
	})

	It("of ours (SIGKILL) is made good by the next start, and nothing leaks", func() {
		const workers = 3 // more than cores, since much of it is waiting
		points := make(chan point)
		var running sync.WaitGroup
		var broken atomic.Int32
		for range workers {
			h := newHost()
			running.Go(func() {
				defer GinkgoRecover()
				defer func() {
					for range points { // one that has failed lets the others come to an end
					}
				}()
				h.start(quick...)
				for p := range points {
					broken.Add(int32(h.liveThrough(client, p)))
				}
			})
		}
		for k := 1; k <= most; k++ { // dead after one write is dead before the next
			points <- point{k, true}
		}
		close(points)
		running.Wait()
		GinkgoWriter.Printf("killed at %d writes\n", broken.Load())
		Expect(broken.Load()).To(BeNumerically(">=", most))
	})

	It("of a call (request lost, reply lost) is made good by the next try, and nothing leaks", func() {
		h := newHost()
		realms := map[string]point{}
		for k := 1; k <= most; k++ {
			realms[fmt.Sprintf("before%d", k)] = point{k, false}
			realms[fmt.Sprintf("after%d", k)] = point{k, true}
		}
		h.start(quick...)
		var broken atomic.Int32
		for _, s := range life {
			h.loseOnce(realms, &broken)
			for realm := range realms {
				s.begin(h, realm)
			}
			for realm, p := range realms {
				s.converges(client, h, realm, p.String())
			}
		}
		Expect(h.alive()).To(BeTrue())
		GinkgoWriter.Printf("lost %d calls\n", broken.Load())
		Expect(broken.Load()).To(BeNumerically(">=", most))
	})
})

// liveThrough leads a realm of this host through its life, kills us at the point of every stage, and starts us again.
// It returns how many stages had such a write.
func (h *host) liveThrough(client *containerd.Client, p point) (broken int) {
	GinkgoHelper()
	realm := strings.ReplaceAll(p.String(), " write ", "")
	for _, s := range life {
		var at atomic.Value // the call at which we were killed
		process, exited := h.process.Process, h.exited
		h.proxy.Reset()
		h.proxy.Hook(func(c proxy.Call) proxy.Fault {
			if c.Write != p.write {
				return proxy.Fault{}
			}
			return p.fault(func() error {
				at.Store(c.Method)
				err := process.Kill()
				<-exited
				return errors.Join(err, proxy.Lose())
			})
		})
		s.begin(h, realm)
		s.converges(client, h, realm, "killed "+p.String())
		h.proxy.Hook(nil)
		if at.Load() != nil {
			broken++
		}
	}
	return broken
}

// loseOnce fails, in each realm's namespace, the write at its point, counted from now on.
func (h *host) loseOnce(realms map[string]point, broken *atomic.Int32) {
	var mu sync.Mutex
	counts := map[string]int{}
	h.proxy.Hook(func(c proxy.Call) proxy.Fault {
		mu.Lock()
		defer mu.Unlock()
		for realm, p := range realms {
			if c.Write == 0 || !concerns(c, h.namespace(realm)) {
				continue
			}
			if counts[realm]++; counts[realm] == p.write {
				broken.Add(1)
				return p.fault(proxy.Lose)
			}
		}
		return proxy.Fault{}
	})
}

// concerns reports whether a call is about a namespace: its own requests name it in their body.
func concerns(c proxy.Call, ns string) bool {
	return c.Namespace == ns || strings.HasPrefix(c.Method, "Namespaces.") && bytes.Contains(c.Request, []byte(ns))
}

// begin puts the stage's manifest in place.
func (s stage) begin(h *host, realm string) {
	GinkgoHelper()
	if s.manifest == nil {
		h.remove(realm + ".yaml")
		return
	}
	h.write(realm+".yaml", s.manifest(h, realm))
}

// converges waits until the world is as after a stage without faults, and starts us again when we do not run.
func (s stage) converges(client *containerd.Client, h *host, realm, fault string) {
	GinkgoHelper()
	ns := h.namespace(realm)
	want := holdings{}
	if s.left != nil {
		want = holdings{Namespace: true, Color: s.color, Running: s.left, Tasks: s.left, Containers: s.left, Snapshots: s.left,
			Outputs: s.left, Files: s.left, Shims: s.left}
	}
	looked := time.Now()
	Eventually(func() (holdings, error) {
		if !h.alive() {
			h.start(quick...)
		}
		got, err := h.holdings(client, ns)
		if len(got.Containers) == len(s.left) && len(got.Outputs) == len(s.left) {
			got.Shims = shims(ns) // a search of /proc, which is not for every look
		}
		if time.Since(looked) > forgottenAfter {
			looked = time.Now()
			if forgotten(ns) {
				remind(s.name + ", " + fault)
			}
		}
		return got, err
	}).WithTimeout(60*time.Second).WithPolling(60*time.Millisecond).Should(Equal(want), "%s, %s", s.name, fault)
}

// forgottenAfter is far more than a stage takes.
const forgottenAfter = 10 * time.Second

// reminders counts how often containerd was restarted because it had forgotten a shim.
var reminders struct {
	sync.Mutex
	count int
}

// forgotten reports whether a process of the namespace waits for its start under a shim for that long. When its caller
// dies between the end of `runc create` and the shim's note of it, containerd gives the shim up without ending it, and
// can make no task of that id until its own next start, at which it finds the shim again.
func forgotten(ns string) bool {
	GinkgoHelper()
	shims := processes(ns)
	return slices.ContainsFunc(processes("init"), func(pid int) bool {
		stat, err := os.ReadFile(proc(pid, "stat"))
		if err != nil {
			return false
		}
		rest := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		parent, err := strconv.Atoi(rest[1])
		return err == nil && slices.Contains(shims, parent) && age(rest[19]) > forgottenAfter
	})
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

// remind restarts containerd, as a person has to on a host where that happens. It has to stay rare.
func remind(when string) {
	GinkgoHelper()
	reminders.Lock()
	defer reminders.Unlock()
	reminders.count++
	GinkgoWriter.Printf("%s: containerd has forgotten a shim\n", when)
	Expect(reminders.count).To(BeNumerically("<", 4))
	Expect(daemon.Restart(context.Background())).To(Succeed())
}

// holdings are what there is of a realm on the host.
type holdings struct {
	Namespace  bool
	Color      string
	Running    []string
	Tasks      []string
	Containers []string
	Snapshots  []string // of containers, or abandoned: those that nothing builds on; without the digest in their name
	Leases     []string
	Outputs    []string
	Files      []string
	Shims      []string
}

// holdings looks at the daemon itself, beside the proxy. It uses the client in place of ctr, whose start takes longer
// than most of what is looked at.
func (h *host) holdings(client *containerd.Client, ns string) (got holdings, err error) {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), ns), ctrLimit)
	defer cancel()
	all, err := client.NamespaceService().List(ctx)
	if err != nil {
		return got, err
	}
	got.Namespace = slices.Contains(all, ns)
	records, err := client.Containers(ctx)
	if err != nil {
		return got, err
	}
	for _, c := range records {
		got.Containers = append(got.Containers, c.ID())
		task, err := c.Task(ctx, nil)
		if err != nil {
			continue
		}
		got.Tasks = append(got.Tasks, c.ID())
		if status, err := task.Status(ctx); err == nil && status.Status == containerd.Running {
			got.Running = append(got.Running, c.ID())
			got.Color += color(task.Pid())
		}
	}
	leases, err := client.LeasesService().List(ctx)
	if err != nil {
		return got, err
	}
	for _, l := range leases {
		got.Leases = append(got.Leases, l.ID)
	}
	err = client.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind != snapshots.KindCommitted {
			id, _, _ := strings.Cut(i.Name, "-")
			got.Snapshots = append(got.Snapshots, id)
		}
		return nil
	})
	if err != nil {
		return got, err
	}
	got.Outputs = entries(filepath.Join(h.runDir, "io", ns))
	got.Files = entries(filepath.Join(h.runDir, "files", ns))
	for _, names := range [][]string{got.Containers, got.Tasks, got.Running, got.Snapshots} {
		slices.Sort(names)
	}
	return got, nil
}

// entries are the names in a directory; none when it is absent.
func entries(dir string) []string {
	GinkgoHelper()
	found, err := os.ReadDir(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		Expect(err).NotTo(HaveOccurred())
	}
	var names []string
	for _, e := range found {
		names = append(names, e.Name())
	}
	return names
}

// color is COLOR in the environment of a process.
func color(pid uint32) string {
	data, err := os.ReadFile(proc(int(pid), "environ"))
	if err != nil {
		return ""
	}
	for _, variable := range strings.Split(string(data), "\x00") {
		if value, ok := strings.CutPrefix(variable, "COLOR="); ok {
			return value
		}
	}
	return ""
}

// shims are the containers of a namespace that have a shim.
func shims(ns string) []string {
	GinkgoHelper()
	var ids []string
	for _, pid := range processes(ns) {
		line, err := os.ReadFile(proc(pid, "cmdline"))
		args := strings.Split(string(line), "\x00")
		if at := slices.Index(args, "-id"); err == nil && at >= 0 {
			ids = append(ids, args[at+1])
		}
	}
	slices.Sort(ids)
	return ids
}
