package e2e

import (
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/internal/state"
)

var _ = Describe("Drift is repaired, and the neighbours are left alone", func() {
	var h *host
	BeforeEach(func() { h = newHost() })

	// begin has db and web running.
	begin := func() map[string]int {
		h.write("main.yaml", h.realm("main",
			h.container("db", "sleeps"), h.container("web", "sleeps", "labels: {team: edge}")))
		h.start()
		return h.running("main", "db", "web")
	}

	DescribeTable("a container that was taken away runs again",
		func(damage func(before map[string]int)) {
			before := begin()
			damage(before)
			after := h.replaced("main", "web", before)
			Expect(after["db"]).To(Equal(before["db"]), "the neighbour was restarted")
			Expect(h.running("main", "db", "web")).To(Equal(after))
			Expect(h.snapshots("main")).To(HaveLen(2))
			Eventually(h.list).WithArguments("main", "leases").Should(BeEmpty())
		},
		Entry("after its task was killed", func(map[string]int) {
			h.ctr("main", "tasks", "kill", "-s", "KILL", "web")
		}),
		Entry("after its process was killed", func(before map[string]int) {
			Expect(syscall.Kill(before["web"], syscall.SIGKILL)).To(Succeed())
		}),
		Entry("after its shim was killed", func(before map[string]int) {
			Expect(syscall.Kill(parent(before["web"]), syscall.SIGKILL)).To(Succeed())
		}),
		Entry("after its task was deleted", func(map[string]int) {
			h.ctr("main", "tasks", "delete", "--force", "web")
		}),
		Entry("after its container was deleted", func(map[string]int) {
			// We are quick: between the two commands the task may be back already.
			Eventually(func() error {
				if _, err := tryCtr(h.namespace("main"), "tasks", "delete", "--force", "web"); err != nil {
					return err
				}
				_, err := tryCtr(h.namespace("main"), "containers", "delete", "web")
				return err
			}).WithPolling(time.Millisecond).Should(Succeed())
		}),
		Entry("after its snapshot was removed", func(map[string]int) {
			h.ctr("main", "snapshots", "rm", h.info("main", "web").SnapshotKey)
		}),
	)

	It("puts edited labels back without a restart", func() {
		before := begin()
		was := h.info("main", "web").Labels
		Expect(was).To(HaveKeyWithValue("team", "edge"))
		h.ctr("main", "containers", "label", "web", "team=core", state.LabelRealm+"=other", state.LabelSource+"=")
		Eventually(func() map[string]string { return h.info("main", "web").Labels }).Should(Equal(was))
		Expect(h.running("main", "db", "web")).To(Equal(before))
	})

	It("resumes a paused task", func() {
		before := begin()
		h.ctr("main", "tasks", "pause", "web")
		Expect(h.running("main", "db", "web")).To(Equal(before))
	})

	It("runs everything again after all tasks were killed at once", func() {
		before := begin()
		for _, pid := range before {
			Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
		}
		h.replaced("main", "web", before)
		h.replaced("main", "db", before)
	})
})

var _ = Describe("A crash loop", func() {
	var h *host
	BeforeEach(func() { h = newHost() })

	// starts are the seconds since boot at which the container was started.
	starts := func() []float64 {
		GinkgoHelper()
		var times []float64
		for _, line := range h.lines("starts") {
			at, err := strconv.ParseFloat(strings.Fields(line)[0], 64)
			Expect(err).NotTo(HaveOccurred())
			times = append(times, at)
		}
		return times
	}

	It("backs off, disturbs nobody, and is not forgotten over our restart", func() {
		crash := h.container("crash", "busybox", h.sharing(), shell("cat /proc/uptime >> /host/starts; exit 7"))
		h.write("main.yaml", h.realm("main", crash, h.container("web", "sleeps")))
		h.start()
		before := h.running("main", "web")
		Eventually(starts).Should(HaveLen(4))
		t := starts()
		By("again at once, then after 1 s, 2 s, with up to a fifth more")
		Expect(t[1] - t[0]).To(BeNumerically("<", 1))
		Expect(t[2] - t[1]).To(BeNumerically(">=", 1))
		Expect(t[3] - t[2]).To(BeNumerically(">=", 2))
		Eventually(h.phases).WithArguments("main").Should(Equal(map[string]string{"crash": "Backoff", "web": "Running"}))
		Expect(h.restarts("main", "crash")).To(BeNumerically("==", 3))

		By("killing and starting the reconciler in the middle of a wait of 4 s")
		h.kill()
		h.start()
		Eventually(h.phases).WithArguments("main").Should(HaveKeyWithValue("crash", "Backoff"))
		Expect(h.restarts("main", "crash")).To(BeNumerically("==", 3))
		Eventually(starts).Should(HaveLen(5))
		t = starts()
		Expect(t[4] - t[3]).To(BeNumerically(">=", 4))
		Eventually(h.restarts).WithArguments("main", "crash").Should(BeNumerically("==", 4))
		Expect(h.running("main", "web")).To(Equal(before))

		By("correcting it, it runs at once")
		h.write("main.yaml", h.realm("main", h.container("crash", "sleeps"), h.container("web", "sleeps")))
		h.running("main", "crash", "web")
		Eventually(h.restarts).WithArguments("main", "crash").Should(BeNumerically("==", 0))
	})
})

// restarts is how often our status says that a container was started again.
func (h *host) restarts(realm, id string) (float64, error) {
	GinkgoHelper()
	found, err := h.items("get", "containers", h.name(realm)+"/"+id)
	if err != nil {
		return 0, err
	}
	n, _ := found[0]["restarts"].(float64)
	return n, nil
}
