package e2e

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("A graceful stop", func() {
	var h *host
	BeforeEach(func() { h = newHost() })

	// stubborn is a container that notes a TERM and stays.
	stubborn := func(id string, grace int, fields ...string) string {
		return h.container(id, "busybox", append(fields, h.sharing(), fmt.Sprintf("stopGracePeriodSeconds: %d", grace),
			shell("trap 'echo TERM >> /host/"+id+"' TERM; while :; do sleep 1 & wait; done"))...)
	}

	It("asks, waits out the grace, kills, and holds up nobody else", func() {
		const grace = 6
		h.write("edge.yaml", h.realm("edge", h.container("one", "sleeps")))
		h.write("main.yaml", h.realm("main", stubborn("old", grace), h.container("web", "sleeps"), h.container("db", "sleeps")))
		h.start()
		before, edge := h.running("main", "old", "web", "db"), h.running("edge", "one")

		By("removing the stubborn one, and changing its neighbour in the same edit")
		began := time.Now()
		h.write("main.yaml", h.realm("main", h.container("web", "sleeps", "env: [A=b]"), h.container("db", "sleeps")))
		now := h.replaced("main", "web", before)
		Expect(now["db"]).To(Equal(before["db"]))
		Eventually(h.lines).WithArguments("old").Should(Equal([]string{"TERM"}))

		By("in its grace, a killed neighbour and another realm are repaired")
		h.ctr("main", "tasks", "kill", "-s", "KILL", "db")
		h.ctr("edge", "tasks", "kill", "-s", "KILL", "one")
		h.replaced("main", "db", before)
		h.replaced("edge", "one", edge)
		Expect(processExists(before["old"])).To(BeTrue(), "it was killed %v after its TERM, within its grace", time.Since(began))

		By("after its grace it is killed and removed")
		Eventually(processExists).WithArguments(before["old"]).Should(BeFalse())
		Expect(time.Since(began)).To(BeNumerically(">=", grace*time.Second))
		Eventually(h.list).WithArguments("main", "containers").Should(Equal([]string{"db", "web"}))
		Expect(h.lines("old")).To(Equal([]string{"TERM"}), "it was asked more than once")
	})

	It("of a whole realm takes one grace, not one for each container", func() {
		const grace, containers = 4, 6
		var lines, ids []string
		for i := range containers {
			ids = append(ids, fmt.Sprintf("c%d", i))
			lines = append(lines, stubborn(ids[i], grace))
		}
		h.write("edge.yaml", h.realm("edge", h.container("one", "sleeps")))
		h.write("main.yaml", h.realm("main", lines...))
		h.start()
		h.running("main", ids...)
		h.running("edge", "one")
		h.remove("main.yaml")
		Eventually(h.lines).WithArguments("c0").Should(Equal([]string{"TERM"}))
		asked := time.Now()
		Eventually(h.namespaces).WithTimeout(4 * grace * time.Second).Should(Equal([]string{h.namespace("edge")}))
		Expect(time.Since(asked)).To(BeNumerically("<", 2*grace*time.Second))
	})

	It("sends the signal that is declared, and ends as soon as the process does", func() {
		polite := h.container("polite", "busybox", h.sharing(), "stopSignal: SIGUSR1", "stopGracePeriodSeconds: 60",
			shell("trap 'echo TERM >> /host/polite' TERM; trap 'echo USR1 >> /host/polite; exit 0' USR1; while :; do usleep 50000; done"))
		h.write("main.yaml", h.realm("main", polite))
		h.start()
		h.running("main", "polite")
		h.write("main.yaml", h.realm("main"))
		Eventually(h.list).WithArguments("main", "containers").Should(BeEmpty())
		Expect(h.lines("polite")).To(Equal([]string{"USR1"}))
	})

	It("is carried to its end when the container is declared again, which then starts as it was", func() {
		const grace = 3
		h.write("main.yaml", h.realm("main", stubborn("back", grace)))
		h.start()
		before, created := h.running("main", "back"), h.created("main", "back")
		h.write("main.yaml", h.realm("main"))
		Eventually(h.lines).WithArguments("back").Should(Equal([]string{"TERM"}))
		h.write("main.yaml", h.realm("main", stubborn("back", grace)))
		h.replaced("main", "back", before)
		Expect(h.running("main", "back")).NotTo(Equal(before))
		Expect(h.created("main", "back")).To(Equal(created), "its container was made anew")
	})
})
