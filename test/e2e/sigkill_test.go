package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/test/proxy"
)

var _ = Describe("What runs keeps running", func() {
	var h *host
	var before map[string]int
	BeforeEach(func() {
		h = newHost()
		h.write("main.yaml", h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps")))
	})
	// begin has db and web running and nothing left to do.
	begin := func() {
		h.start()
		before = h.running("main", "db", "web")
		h.synced("main")
	}

	It("when the reconciler is killed; what happened meanwhile is repaired afterwards", func() {
		begin()
		h.kill()
		h.proxy.Reset()
		h.start()
		h.synced("main")
		Expect(h.running("main", "db", "web")).To(Equal(before))
		Expect(h.proxy.Writes()).To(BeEmpty())
		h.kill()
		h.ctr("main", "tasks", "kill", "-s", "KILL", "web")
		h.start()
		after := h.replaced("main", "web", before)
		Expect(after["db"]).To(Equal(before["db"]))
	})

	It("when containerd is killed; the connection is back within 2 s, and repair with it", func(ctx SpecContext) {
		h.address = daemon.Address
		begin()
		Expect(daemon.Kill(syscall.SIGKILL)).To(Succeed())
		Eventually(func() string { return h.cli("status").stdout }).Should(ContainSubstring("not connected"))
		Expect(processExists(before["web"]) && processExists(before["db"])).To(BeTrue())
		Expect(daemon.Restart(ctx)).To(Succeed())
		Eventually(func() string { return h.cli("status").stdout }).WithTimeout(2*time.Second + slack).
			Should(ContainSubstring("connected for"))
		Expect(h.running("main", "db", "web")).To(Equal(before))
		h.ctr("main", "tasks", "kill", "-s", "KILL", "web")
		Expect(h.replaced("main", "web", before)["db"]).To(Equal(before["db"]))
	})

	It("when containerd is killed in the midst of a task's removal, once its leftovers are cleared away", func(ctx SpecContext) {
		begin()
		Expect(daemon.Kill(syscall.SIGKILL)).To(Succeed())
		tasks := filepath.Join(daemon.State, "io.containerd.runtime.v2.task", h.namespace("main"))
		Expect(os.MkdirAll(filepath.Join(tasks, ".web", "left"), 0o700)).To(Succeed())
		Expect(os.MkdirAll(filepath.Join(tasks, "gone", "rootfs", "proc"), 0o700)).To(Succeed())
		clearLeftovers()
		Expect(daemon.Restart(ctx)).To(Succeed())
		Expect(h.running("main", "db", "web")).To(Equal(before))
		h.ctr("main", "tasks", "kill", "-s", "KILL", "web") // whose removal would fail for ever
		Expect(h.replaced("main", "web", before)["db"]).To(Equal(before["db"]))
		Expect(filepath.Join(tasks, "gone")).NotTo(BeADirectory())
	})

	It("when both are killed, and containerd comes back last", func(ctx SpecContext) {
		h.address = daemon.Address
		begin()
		h.kill()
		Expect(daemon.Kill(syscall.SIGKILL)).To(Succeed())
		h.start()
		Expect(processExists(before["web"]) && processExists(before["db"])).To(BeTrue())
		Expect(daemon.Restart(ctx)).To(Succeed())
		h.synced("main")
		Expect(h.running("main", "db", "web")).To(Equal(before))
	})

	It("when the reconciler is stopped, also in the middle of a long grace", func() {
		h.write("edge.yaml", h.realm("edge", h.container("stubborn", "ignores-term", "stopGracePeriodSeconds: 3")))
		begin()
		h.running("edge", "stubborn")
		h.proxy.Reset()
		h.write("edge.yaml", h.realm("edge"))
		Eventually(h.wrote).WithArguments("Tasks.Kill").Should(BeTrue())
		h.stop()
		Expect(h.running("main", "db", "web")).To(Equal(before))
		Expect(h.pids("edge")).To(HaveKey("stubborn"), "somebody killed it before its grace was over")
		h.start()
		h.running("edge")
	})

	It("for 1,000 idle passes, without a single write", func() {
		// A realm makes at most one pass in 20 ms: ten of them are through sooner.
		realms := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i"}
		for _, name := range realms {
			h.write(name+".yaml", h.realm(name, h.container("web", "sleeps")))
		}
		begin()
		for _, name := range realms {
			h.running(name, "web")
			h.synced(name)
		}
		var passes atomic.Int32
		h.proxy.Hook(func(c proxy.Call) proxy.Fault {
			if strings.HasPrefix(c.Method, "Containers.List") { // a pass that was asked for reads its namespace in full
				passes.Add(1)
			}
			return proxy.Fault{}
		})
		h.proxy.Reset()
		for passes.Load() < 1000 {
			r := h.cli("reconcile")
			Expect(r.code).To(Equal(0), r.String())
		}
		Expect(h.proxy.Writes()).To(BeEmpty())
		Expect(h.running("main", "db", "web")).To(Equal(before))
	})
})

// slack is what a busy machine may add to a promised time.
const slack = 3 * time.Second

// synced waits until our status says that a realm is ready and nothing is left to do.
func (h *host) synced(realm string) {
	GinkgoHelper()
	r := h.cli("wait", h.name(realm), "--for", "synced", "--timeout", "20s")
	Expect(r.code).To(Equal(0), func() string { return r.String() + h.why(realm) })
}

// wrote reports whether a write of this method has come in since the start or the last Reset.
func (h *host) wrote(method string) bool {
	for _, c := range h.proxy.Writes() {
		if c.Method == method {
			return true
		}
	}
	return false
}
