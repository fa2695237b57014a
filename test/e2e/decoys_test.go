package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// restartLabel is what containerd's own restart monitor looks at; it is inert without a status to restart to.
const restartLabel = state.RestartMonitorPrefix + "explicitly-stopped"

var _ = Describe("What is not ours", func() {
	var h *host
	BeforeEach(func() { h = newHost() })

	It("is byte-equal after everything we do, in other namespaces and in our own", func() {
		others := []string{"moby", "default", "k8s.io"}
		DeferCleanup(func(ctx SpecContext) { sweep(ctx, others...) })
		for _, ns := range append(others, h.namespace("main")) {
			h.placeDecoys(ns)
		}
		before := map[string]string{}
		for _, ns := range others {
			before[ns] = dump(ns)
		}
		own := h.decoys(h.namespace("main"))

		By("creating")
		h.write("main.yaml", h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps")))
		h.write("edge.yaml", h.realm("edge", h.container("one", "sleeps")))
		h.start()
		pids := h.running("main", h.decoy(), "db", "web")
		By("changing")
		h.write("main.yaml", h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps", "env: [A=b]")))
		h.replaced("main", "web", pids)
		By("removing")
		h.write("main.yaml", h.realm("main", h.container("db", "sleeps")))
		h.running("main", h.decoy(), "db")
		h.synced("main")
		Expect(h.cli("describe", "realm", h.name("main")).stdout).To(MatchRegexp(h.decoy() + ".*not ours"))
		By("removing the realm: its namespace stays, without our keys, and we say why")
		h.remove("main.yaml")
		h.running("main", h.decoy())
		Eventually(h.list).WithArguments("main", "images").Should(Equal([]string{imported("exits-0")}))
		Eventually(func() string { return ctrIn("default", "namespaces", "ls") }).
			ShouldNot(MatchRegexp(h.namespace("main") + " .*" + state.Prefix))
		Eventually(func() int { return h.cli("get", "realms", h.name("main")).code }).Should(Equal(1), "the removal has not ended")
		Expect(h.namespaces()).To(ContainElement(h.namespace("main")))
		Expect(h.logTail()).To(ContainSubstring("the namespace stays, for it holds what is not ours: container " + h.decoy()))

		for _, ns := range others {
			Expect(dump(ns)).To(Equal(before[ns]), ns)
		}
		Expect(h.decoys(h.namespace("main"))).To(Equal(own))
		for _, w := range h.proxy.Writes() {
			Expect(w.Namespace).To(Or(BeEmpty(), Equal(h.namespace("main")), Equal(h.namespace("edge"))), w.Method)
		}
	})

	It("is used when it is an image that somebody imported first, and stays theirs", func() {
		h.ctr("main", "images", "import", archive("sleeps"))
		h.ctr("main", "images", "import", "--no-unpack", archive("exits-0"))
		before := h.ctr("main", "images", "ls")
		h.write("main.yaml", h.realm("main",
			h.containerOf("web", imported("sleeps"), "imagePullPolicy: Never"),
			// Its image has the layers of the other one, and nobody has unpacked it.
			h.containerOf("packed", imported("exits-0"), shell("sleep 1000"))))
		h.write("edge.yaml", h.realm("edge"))
		h.start()
		h.running("main", "packed", "web")
		h.synced("main")
		Expect(h.ctr("main", "images", "ls")).To(Equal(before), "somebody's image was stamped")
		Expect(ctrIn("default", "namespaces", "ls")).To(MatchRegexp(h.namespace("main") + " .*" + state.LabelOwner))
		h.remove("main.yaml")
		h.running("main")
		Eventually(h.list).WithArguments("main", "containers").Should(BeEmpty())
		Eventually(h.snapshots).WithArguments("main").Should(BeEmpty())
		Expect(h.ctr("main", "images", "ls")).To(Equal(before))
		Expect(h.namespaces()).To(ContainElement(h.namespace("main")))
	})

	It("is named when it is an image in another namespace, with the line that fixes it", func() {
		DeferCleanup(func(ctx SpecContext) { sweep(ctx, "default") })
		ctrIn("default", "images", "import", archive("sleeps"))
		h.write("main.yaml", h.realm("main", h.containerOf("web", imported("sleeps"), "imagePullPolicy: Never")))
		h.start()
		message := func() (string, error) {
			found, err := h.items("get", "containers", h.name("main")+"/web")
			if err != nil {
				return "", err
			}
			return fmt.Sprint(found[0]["phase"], ": ", found[0]["message"]), nil
		}
		Eventually(message).Should(And(MatchRegexp(`^Pending: .*namespace "?default`),
			ContainSubstring("`kukeon-reconciler images copy --from default --to "+h.name("main")+" "+imported("sleeps")+"`")))
		By("doing what the line says")
		r := h.cli("images", "copy", "--from", "default", "--to", h.name("main"), imported("sleeps"))
		Expect(r.code).To(Equal(0), r.String())
		Expect(r.stdout).To(Equal(imported("sleeps") + " brought to " + h.namespace("main") + "\n"))
		h.running("main", "web")
		By("doing it again, and from where it is not")
		Expect(h.cli("images", "copy", "--from", "default", "--to", h.name("main"), "sleeps:1").stdout).To(ContainSubstring("already"))
		r = h.cli("images", "copy", "--from", "default", "--to", h.name("main"), "absent:1")
		Expect(r.code).To(Equal(1), r.String())
		Expect(r.stderr).To(ContainSubstring("ctr -n default images ls"))
		By("removing the realm, the image of somebody stays")
		h.write("main.yaml", h.realm("main"))
		h.running("main")
		Eventually(h.list).WithArguments("main", "containers").Should(BeEmpty())
		Expect(h.list("main", "images")).To(Equal([]string{imported("sleeps")}))
	})

	It("is an image that is imported for a realm before there is one", func() {
		data, err := os.ReadFile(archive("sleeps"))
		Expect(err).NotTo(HaveOccurred())
		r := h.cliIn(string(data), "images", "import", "-r", h.name("main"), "-")
		Expect(r.code).To(Equal(0), r.String())
		Expect(r.stdout).To(Equal(imported("sleeps") + " brought to " + h.namespace("main") + "\n"))
		Expect(r.stderr).To(ContainSubstring("is not there yet"))
		h.write("main.yaml", h.realm("main", h.containerOf("web", imported("sleeps"), "imagePullPolicy: Never")))
		h.start()
		h.running("main", "web")
		By("importing what is no archive, and into what is no realm's namespace")
		Expect(h.cliIn("hello", "images", "import", "-r", h.name("main"), "-").code).To(Equal(1))
		Expect(h.cli("images", "import", "-r", "a/b", archive("sleeps")).code).To(Equal(2))
		Expect(h.cli("images", "import", archive("sleeps")).code).To(Equal(2))
	})

	It("is a conflict when it stands under the name of a declared container, until it is adopted", func() {
		h.ctr("main", "images", "import", archive("sleeps"))
		h.ctr("main", "run", "-d", "--label", restartLabel+"=true", imported("sleeps"), "web")
		before := h.running("main", "web")
		was := h.info("main", "web")
		h.write("main.yaml", h.realm("main", h.containerOf("web", imported("sleeps"))))
		h.start()
		Eventually(h.phases).WithArguments("main").Should(HaveKeyWithValue("web", "Conflict"))
		Expect(h.info("main", "web")).To(Equal(was))

		By("adopting it, it keeps running, and loses the keys of containerd's restart monitor")
		r := h.cli("adopt", h.name("main")+"/web")
		Expect(r.code).To(Equal(0), r.String())
		Eventually(h.phases).WithArguments("main").Should(HaveKeyWithValue("web", "Running"))
		h.synced("main")
		Expect(h.running("main", "web")).To(Equal(before))
		Expect(h.info("main", "web").Labels).To(And(HaveKey(state.LabelOwner), Not(HaveKey(restartLabel))))

		By("changing its declaration, it is made anew")
		h.write("main.yaml", h.realm("main", h.containerOf("web", imported("sleeps"), "env: [A=b]")))
		now := h.replaced("main", "web", before)
		Eventually(environ).WithArguments(now["web"]).Should(ContainElement("A=b"))
	})

	It("can be what was ours: release strips our keys and leaves everything running", func() {
		h.write("main.yaml", h.realm("main", h.container("web", "sleeps")))
		h.start()
		before := h.running("main", "web")
		h.synced("main")
		r := h.cli("release", h.name("main"))
		Expect(r.code).NotTo(Equal(0), "released although a manifest names it")
		h.remove("main.yaml") // held, since it was the last
		Eventually(func() string { return h.cli("status").stdout }).Should(ContainSubstring("removal held"))
		r = h.cli("release", h.name("main"))
		Expect(r.code).To(Equal(0), r.String())
		Expect(ctrIn("default", "namespaces", "ls")).NotTo(MatchRegexp(h.namespace("main") + " .*" + state.Prefix))
		Expect(h.info("main", "web").Labels).To(BeEmpty())
		Expect(h.ctr("main", "images", "ls")).NotTo(ContainSubstring(state.Prefix))
		Expect(h.running("main", "web")).To(Equal(before))
		h.proxy.Reset()
		Expect(h.cli("reconcile").code).To(Equal(0))
		Consistently(h.proxy.Writes).WithTimeout(state.PassInterval * 50).Should(BeEmpty())
		Expect(h.running("main", "web")).To(Equal(before))
	})
})

// decoy is the name of everything that placeDecoys makes.
func (h *host) decoy() string { return "decoy-" + h.suffix }

// placeDecoys makes an image, a running container, a snapshot and a lease that are somebody's.
func (h *host) placeDecoys(ns string) {
	GinkgoHelper()
	ctrIn(ns, "images", "import", archive("exits-0"))
	ctrIn(ns, "run", "-d", "--label", "team=somebody", imported("exits-0"), h.decoy(), "sleep", "100000")
	ctrIn(ns, "snapshots", "prepare", "extra-"+h.decoy())
	ctrIn(ns, "leases", "create", "--id", "lease-"+h.decoy())
}

// decoys prints what placeDecoys made in a namespace.
func (h *host) decoys(ns string) string {
	GinkgoHelper()
	lines := func(text, name string) string {
		return strings.Join(slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return !strings.Contains(line, name) }), "\n")
	}
	return strings.Join([]string{
		ctrIn(ns, "containers", "info", h.decoy()),
		ctrIn(ns, "snapshots", "info", h.decoy()),
		ctrIn(ns, "snapshots", "info", "extra-"+h.decoy()),
		strings.Join(strings.Fields(lines(ctrIn(ns, "images", "ls"), imported("exits-0"))), " "),
		strings.Join(strings.Fields(lines(ctrIn(ns, "leases", "ls"), h.decoy())), " "),
		strings.Join(strings.Fields(lines(ctrIn(ns, "tasks", "ls"), h.decoy())), " "),
	}, "\n")
}
