package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/internal/testenv"
)

var (
	chaosMinutes = flag.Float64("chaos.minutes", 3, "how long faults are made")
	chaosSeed    = flag.Uint64("chaos.seed", 0, "which faults, and when; 0 takes one from the clock")
)

const (
	// settleLimit is how long everything may take to be as declared once the last fault has ended.
	settleLimit = 60 * time.Second
	// watchInterval is how often /proc is searched for the containers' processes.
	watchInterval = 250 * time.Millisecond
	// judgeInterval is how often our status is compared with containerd.
	judgeInterval = time.Second
	// lastingShare is the share of the run, at its end, in which we are not killed, so that one process of ours has
	// lived through many faults when its memory and descriptors are counted.
	lastingShare = 0.25
	// faultsPerMinute is how many have to be made for a run to count.
	faultsPerMinute = 20
)

// chaosResult is the last line of the whole run.
var chaosResult string

func TestMain(m *testing.M) {
	code := m.Run()
	if chaosResult != "" {
		fmt.Println(chaosResult)
	}
	os.Exit(code)
}

var _ = Describe("Chaos", Label("chaos"), func() {
	It("leaves nothing behind, and everything as declared", func(ctx SpecContext) {
		c := newChaos(ctx)
		c.settle("before the first fault")
		before := c.foreign()
		c.watch()
		c.storm(time.Duration(*chaosMinutes * float64(time.Minute)))
		c.calmDown()
		slowest := c.converge()
		c.unwatch()
		c.after(before)
		if least := int(faultsPerMinute * *chaosMinutes); c.struck() < least {
			c.violate("not covered: %d faults, and not %d", c.struck(), least)
		}
		c.report(slowest)
		Expect(c.violations).To(BeEmpty(), "see above")
	})
})

// chaos is a host with five realms on a containerd of its own, and what happens to it.
type chaos struct {
	*host
	seed   uint64
	dice   *rand.Rand
	deck   []int // of faults
	client *containerd.Client
	realms []*chaosRealm
	disks  map[string]*disk
	later  []appointment // ends of faults that last
	log    []chaosFault
	missed int
	// reminders counts the realms of which containerd had forgotten shims.
	reminders int
	away      bool // we are dead, and not to be started yet
	began     time.Time

	mu         sync.Mutex // guards what follows, which the watcher uses as well, and the notes of realms and containers
	violations []string
	samples    struct{ processes, status, skipped int }
	slowest    map[string]time.Duration // by kind, from the fault to the container as declared
	most       usage                    // of one process of ours at any sample
	unwatch    func()
}

// appointment is something that is to happen.
type appointment struct {
	at time.Time
	do func()
}

// chaosFault is a fault that was made.
type chaosFault struct {
	at           time.Time
	kind, target string
}

// newChaos starts a containerd of which one disk can be full, places the foreign objects and starts us.
func newChaos(ctx context.Context) *chaos {
	GinkgoHelper()
	c := &chaos{seed: *chaosSeed, slowest: map[string]time.Duration{}, began: time.Now()}
	if c.seed == 0 {
		c.seed = uint64(c.began.UnixNano()) % 1_000_000
	}
	fmt.Printf("chaos: containerd %s, seed %d, %g minutes\n", testenv.DefaultVersion(), c.seed, *chaosMinutes)
	c.dice = rand.New(rand.NewPCG(c.seed, 0))
	c.disks = map[string]*disk{}

	// Its name is of the kind that testenv sweeps when this process is killed.
	top, err := os.MkdirTemp("", "kr-")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(os.RemoveAll, top)
	c.disks["containerd"] = newDisk("containerd", filepath.Join(top, "root"), 192<<20)
	shared := daemon
	daemon, err = testenv.Start(ctx, testenv.Options{Dir: top})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func(ctx SpecContext) {
		Expect(daemon.Stop(ctx)).To(Succeed())
		Expect(daemon.Leftovers()).To(BeEmpty())
		daemon = shared
	})
	c.client, err = containerd.New(daemon.Address, containerd.WithTimeout(time.Second))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(c.client.Close)

	for _, name := range []string{"state", "logs"} {
		c.disks[name] = newDisk(name, filepath.Join(dir, "disk-"+name), 48<<20)
	}
	c.host = newHost()
	c.state, c.logs = filepath.Join(c.disks["state"].path, "d"), filepath.Join(c.disks["logs"].path, "d")
	c.declare()
	for _, ns := range c.decoyed() {
		c.placeDecoys(ns)
	}
	for _, r := range c.realms {
		c.write(r.file, c.manifest(r))
	}
	c.launch(chaosFlags...)
	DeferCleanup(func() {
		if chaosResult == "" {
			c.violate("cut short, for the reason below")
			c.report(0)
		}
	})
	return c
}

// chaosFlags leave the debug log out, which would be large.
var chaosFlags = []string{"--log-level", "info"}

// decoyed are the namespaces with objects of somebody else: one of ours is among them.
func (c *chaos) decoyed() []string {
	return []string{"moby", "k8s.io", "default", c.namespace(c.realms[0].name)}
}

// foreign prints everything that is somebody's.
func (c *chaos) foreign() map[string]string {
	GinkgoHelper()
	all := map[string]string{}
	for _, ns := range c.decoyed()[:3] {
		all[ns] = dump(ns)
	}
	own := c.decoyed()[3]
	all[own] = c.decoys(own)
	return all
}

// settle waits until everything is as declared.
func (c *chaos) settle(when string) {
	GinkgoHelper()
	Eventually(c.unlike).WithTimeout(2*time.Minute).WithPolling(watchInterval).Should(BeEmpty(), when)
	c.proxy.Reset()
}

// converge waits for that as long as is promised, and returns how long it took.
func (c *chaos) converge() time.Duration {
	GinkgoHelper()
	began := time.Now()
	limit := began.Add(settleLimit)
	for {
		different := c.unlike()
		took := time.Since(began)
		if len(different) == 0 {
			return took
		}
		if took > forgottenAfter {
			c.remind()
		}
		if time.Now().After(limit) {
			for _, d := range different {
				c.violate("P1: %v after the last fault: %s", took.Round(time.Second), d)
			}
			return took
		}
		c.wait(watchInterval)
	}
}

// remind ends the shims that containerd has forgotten, as our status asks a person to, who then has us look. It is printed,
// and has to stay rare.
func (c *chaos) remind() {
	GinkgoHelper()
	for _, r := range c.realms {
		pids := forgotten(c.namespace(r.name))
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // looked at again
		}
		if len(pids) == 0 {
			continue
		}
		fmt.Println("chaos:", c.clock(), "containerd had forgotten shims of", r.name, "and their processes:", pids)
		if c.reminders++; c.reminders > rare {
			c.violate("containerd forgets shims too often")
		}
		Eventually(func() []int { return forgotten(c.namespace(r.name)) }).Should(BeEmpty())
		c.cli("reconcile", c.name(r.name)) // what it comes to is looked at again
	}
}

// wait lets time pass: faults have a rhythm of their own, which is no condition that could be waited for.
func (c *chaos) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// violate notes that something that has to hold does not.
func (c *chaos) violate(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.violateLocked(format, args...)
}

func (c *chaos) violateLocked(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if slices.ContainsFunc(c.violations, func(v string) bool { return strings.HasSuffix(v, text) }) {
		return // seen again at the next look
	}
	c.violations = append(c.violations, c.clock()+" "+text)
	fmt.Println("chaos: VIOLATION", c.clock(), text)
}

// clock is the time since the beginning, and of day, so that a line is found in the logs.
func (c *chaos) clock() string {
	return fmt.Sprintf("[%4.0fs %s]", time.Since(c.began).Seconds(), time.Now().UTC().Format("15:04:05.000"))
}
