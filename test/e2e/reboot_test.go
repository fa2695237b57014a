package e2e

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/internal/testenv"
	"kukeon.io/kukeon-reconciler/test/proxy"
)

var _ = Describe("After a reboot", func() {
	var h *host
	BeforeEach(func() { h = newHost() })

	It("everything accepted runs, although the manifests are away, and what had finished does not", func(ctx SpecContext) {
		job := h.container("job", "busybox", h.sharing(), "restartPolicy: never", shell("echo ran >> /host/job"))
		crash := h.container("crash", "busybox", h.sharing(), shell("echo ran >> /host/crash; exit 1"), "restartBackoffSeconds: 300")
		h.write("main.yaml", h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps"), job))
		h.write("edge.yaml", h.realm("edge", h.container("one", "sleeps"), crash))
		h.start()
		h.running("main", "db", "web")
		h.running("edge", "one")
		Eventually(h.phases).WithArguments("main").Should(HaveKeyWithValue("job", "Completed"))
		Eventually(h.phases).WithArguments("edge").Should(HaveKeyWithValue("crash", "Backoff"))
		crashes := len(h.lines("crash"))

		By("rebooting: nothing gets a chance to end well, /run is empty, and the disk of the manifests is not there yet")
		h.kill()
		h.endLogd()
		Expect(testenv.Reboot(ctx, daemon)).To(Succeed())
		Expect(os.RemoveAll(h.runDir)).To(Succeed())
		Expect(os.Rename(h.manifests, h.manifests+".away")).To(Succeed())
		Expect(h.pids("main")).To(BeEmpty())
		h.start()
		after := h.running("main", "db", "web")
		h.running("edge", "one")
		By("a crash loop's wait of minutes does not outlive the boot")
		Eventually(func() int { return len(h.lines("crash")) }).Should(BeNumerically(">", crashes))
		Expect(h.lines("job")).To(HaveLen(1), "the finished one-shot ran again")

		By("the manifests come back: nothing changes")
		Expect(os.Rename(h.manifests+".away", h.manifests)).To(Succeed())
		h.synced("main")
		Expect(h.running("main", "db", "web")).To(Equal(after))
		Expect(h.lines("job")).To(HaveLen(1))
	})
})

var _ = Describe("A removal that was accepted", func() {
	var h *host
	var before map[string]int
	BeforeEach(func() { h = newHost() })

	begin := func(edge ...string) {
		h.write("main.yaml", h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps")))
		h.write("edge.yaml", h.realm("edge", edge...))
		h.start()
		before = h.running("main", "db", "web")
	}
	// finished waits for the end of edge, and that nothing else has ended.
	finished := func() {
		GinkgoHelper()
		Eventually(h.namespaces).Should(Equal([]string{h.namespace("main")}))
		Expect(h.running("main", "db", "web")).To(Equal(before))
		Expect(h.snapshots("main")).To(HaveLen(2))
	}

	It("is carried out after a crash in between", func() {
		begin(h.container("one", "sleeps"), h.container("two", "sleeps"))
		edge := h.running("edge", "one", "two")
		By("killing the reconciler at the first write that would carry it out")
		var died atomic.Bool
		h.proxy.Hook(func(c proxy.Call) proxy.Fault {
			if c.Write == 0 || c.Namespace != h.namespace("edge") {
				return proxy.Fault{}
			}
			return proxy.Fault{Before: func() error {
				died.Store(true)
				return errors.Join(h.process.Process.Kill(), proxy.Lose())
			}}
		})
		h.remove("edge.yaml")
		Eventually(died.Load).Should(BeTrue())
		Eventually(h.exited).Should(BeClosed())
		Expect(h.pids("edge")).To(Equal(edge), "it was carried out already")
		h.proxy.Hook(nil)

		By("with the manifests away, it waits")
		Expect(os.Rename(h.manifests, h.manifests+".away")).To(Succeed())
		h.proxy.Reset()
		h.start()
		Consistently(h.proxy.Writes).WithTimeout(time.Second).Should(BeEmpty())
		Expect(h.pids("edge")).To(Equal(edge))
		Expect(os.Rename(h.manifests+".away", h.manifests)).To(Succeed())
		finished()
	})

	It("is finished after a crash in the middle of it, in a grace", func() {
		begin(h.container("stubborn", "ignores-term", "stopGracePeriodSeconds: 3"), h.container("one", "sleeps"))
		h.running("edge", "stubborn", "one")
		h.proxy.Reset()
		h.remove("edge.yaml")
		Eventually(func() (map[string]int, error) { return h.pids("edge") }).Should(And(HaveLen(1), HaveKey("stubborn")))
		Expect(h.wrote("Tasks.Kill")).To(BeTrue())
		h.kill()
		h.start()
		finished()
	})

	It("is dropped when the manifest is back before it was carried out, and what still runs keeps running", func() {
		begin(h.container("stubborn", "ignores-term", "stopGracePeriodSeconds: 60"))
		edge := h.running("edge", "stubborn")
		h.proxy.Hook(func(c proxy.Call) proxy.Fault {
			if c.Write > 0 && c.Namespace == h.namespace("edge") {
				return proxy.Fault{Before: func() error { return errors.Join(h.process.Process.Kill(), proxy.Lose()) }}
			}
			return proxy.Fault{}
		})
		h.remove("edge.yaml")
		Eventually(h.exited).Should(BeClosed())
		h.proxy.Hook(nil)
		h.proxy.Reset()
		h.write("edge.yaml", h.realm("edge", h.container("stubborn", "ignores-term", "stopGracePeriodSeconds: 60")))
		h.start()
		h.synced("edge")
		Expect(h.running("edge", "stubborn")).To(Equal(edge))
		Expect(h.wrote("Tasks.Kill")).To(BeFalse())
	})
})
