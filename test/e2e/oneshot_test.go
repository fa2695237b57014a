package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("One-shots", func() {
	var h *host
	BeforeEach(func() { h = newHost() })

	// job is a container that notes each of its runs in /host and then runs the script.
	job := func(id, policy, script string, fields ...string) string {
		return h.container(id, "busybox", append(fields, h.sharing(), "restartPolicy: "+policy, "restartBackoffSeconds: 0",
			shell("echo ran >> /host/"+id+"; "+script))...)
	}
	const forEver = `trap "exit 0" TERM; while :; do usleep 50000; done`
	const whenToldTo = `while ! [ -e /host/go ]; do usleep 50000; done; `

	It("are run to their end once, over our restart and containerd's", func(ctx SpecContext) {
		h.write("main.yaml", h.realm("main",
			job("once", "never", "exit 0"),
			job("fails", "never", "exit 3"),
			job("third", "on-failure", "[ $(wc -l < /host/third) -ge 3 ]"),
			job("limited", "on-failure", "exit 1", "restartMaxRetries: 1"),
			h.container("web", "sleeps")))
		h.start()
		runs := func() map[string]int { return h.runs("once", "fails", "third", "limited") }
		Eventually(h.phases).WithArguments("main").Should(Equal(map[string]string{
			"once": "Completed", "fails": "Failed", "third": "Completed", "limited": "Failed", "web": "Running",
		}))
		ran := map[string]int{"once": 1, "fails": 1, "third": 3, "limited": 2}
		Expect(runs()).To(Equal(ran))
		By("their tasks are gone")
		Eventually(h.tasks).WithArguments("main").Should(And(HaveLen(1), HaveKey("web")))
		before := h.running("main", "web")

		By("we are killed and started again: nothing is written")
		h.kill()
		h.proxy.Reset()
		h.start()
		Expect(h.cli("reconcile").code).To(Equal(0))
		Consistently(runs).WithTimeout(time.Second).Should(Equal(ran))
		Expect(h.proxy.Writes()).To(BeEmpty())

		By("containerd is restarted: nothing is written")
		Expect(daemon.Restart(ctx)).To(Succeed())
		Eventually(func() string { return h.cli("status").stdout }).Should(MatchRegexp(`containerd .* connected for`))
		Expect(h.cli("reconcile").code).To(Equal(0))
		Consistently(runs).WithTimeout(2 * time.Second).Should(Equal(ran))
		Expect(h.proxy.Writes()).To(BeEmpty())
		Expect(h.running("main", "web")).To(Equal(before))
	})

	It("are run again when their declaration changes, and only those", func() {
		h.write("main.yaml", h.realm("main", job("one", "never", "exit 0"), job("two", "never", "exit 0")))
		h.start()
		Eventually(h.runs).WithArguments("one", "two").Should(Equal(map[string]int{"one": 1, "two": 1}))
		Eventually(h.phases).WithArguments("main").Should(Equal(map[string]string{"one": "Completed", "two": "Completed"}))
		h.write("main.yaml", h.realm("main", job("one", "never", "exit 0", "env: [A=b]"), job("two", "never", "exit 0")))
		Eventually(h.runs).WithArguments("one", "two").Should(Equal(map[string]int{"one": 2, "two": 1}))
		Eventually(h.phases).WithArguments("main").Should(Equal(map[string]string{"one": "Completed", "two": "Completed"}))
		Expect(h.runs("one", "two")).To(Equal(map[string]int{"one": 2, "two": 1}))
	})

	It("that end while we are away are judged by how they ended", func() {
		h.write("main.yaml", h.realm("main",
			job("good", "on-failure", whenToldTo+"exit 0"),
			job("bad", "on-failure", whenToldTo+"[ $(wc -l < /host/bad) -ge 2 ]")))
		h.start()
		h.running("main", "good", "bad")
		h.kill()
		h.touch("go")
		Eventually(h.pids).WithArguments("main").Should(BeEmpty())
		h.start()
		Eventually(h.phases).WithArguments("main").Should(Equal(map[string]string{"good": "Completed", "bad": "Completed"}))
		Expect(h.runs("good", "bad")).To(Equal(map[string]int{"good": 1, "bad": 2}))
	})

	It("whose end nobody saw count as failed: never is not run again, on-failure is", func(ctx SpecContext) {
		h.write("main.yaml", h.realm("main", job("never", "never", forEver), job("retried", "on-failure", forEver)))
		h.start()
		h.running("main", "never", "retried")
		h.kill()
		for _, id := range []string{"never", "retried"} {
			h.ctr("main", "tasks", "kill", "-s", "KILL", id)
		}
		Eventually(h.pids).WithArguments("main").Should(BeEmpty())
		By("containerd is restarted, and 2.x forgets the tasks and their exit codes")
		Expect(daemon.Restart(ctx)).To(Succeed())
		h.start()
		h.running("main", "retried")
		Eventually(h.phases).WithArguments("main").Should(Equal(map[string]string{"never": "Failed", "retried": "Running"}))
		Expect(h.runs("never", "retried")).To(Equal(map[string]int{"never": 1, "retried": 2}))
	})
})
