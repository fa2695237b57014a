package e2e

import (
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("The commands", func() {
	var h *host
	BeforeEach(func() { h = newHost() })

	// code expects a command to end with a code, and returns what it said.
	code := func(want int, args ...string) result {
		GinkgoHelper()
		r := h.cli(args...)
		Expect(r.code).To(Equal(want), "%v: %s", args, r)
		return r
	}
	// synced starts a realm main of the containers web and db, and waits until nothing is left to do.
	synced := func() map[string]int {
		GinkgoHelper()
		h.write("main.yaml", h.realm("main", h.container("web", "sleeps"), h.container("db", "sleeps")))
		h.start()
		code(0, "wait", h.name("main"), "--for", "synced", "--timeout", "15s")
		return h.running("main", "web", "db")
	}

	It("run --observe writes nothing at all, and plan shows what it would do", func() {
		h.write("main.yaml", h.realm("main", h.container("web", "sleeps")))
		h.start("--observe")
		Eventually(func() string { return h.cli("plan").stdout }).Should(And(
			ContainSubstring("pull "+image("sleeps")), MatchRegexp(`create web.*main\.yaml:7`), ContainSubstring("start web")))
		code(1, "plan")
		Expect(h.cli("status").stdout).To(ContainSubstring("mode observe"))
		Expect(h.namespaces()).To(BeEmpty())
		Expect(h.proxy.Writes()).To(BeEmpty())
		h.stop()

		By("of a realm that runs, nothing is repaired or removed")
		h.start()
		before := h.running("main", "web")
		h.stop()
		h.proxy.Reset()
		h.ctr("main", "tasks", "kill", "-s", "KILL", "web")
		Eventually(processExists).WithArguments(before["web"]).Should(BeFalse())
		h.start("--observe", "--allow-empty")
		Eventually(func() string { return h.cli("plan").stdout }).Should(MatchRegexp(`restart web: .*exit 137`))
		h.remove("main.yaml")
		Eventually(func() string { return h.cli("plan").stdout }).Should(ContainSubstring("remove web"))
		Expect(h.list("main", "containers")).To(Equal([]string{"web"}))
		Expect(h.proxy.Writes()).To(BeEmpty())
	})

	It("plan and plan -f tell what would change and why, by their exit code as well", func() {
		before := synced()
		h.proxy.Reset()
		code(0, "plan")
		code(0, "diff", h.name("main"))
		code(2, "plan", "nobody")
		code(0, "plan", "-f", h.manifests)

		next := filepath.Join(h.dir, "next.yaml")
		edited := h.realm("main", h.container("web", "sleeps", "env: [A=b]"), h.container("db", "sleeps"))
		Expect(os.WriteFile(next, []byte(edited), 0o600)).To(Succeed())
		changes := func(r result) {
			GinkgoHelper()
			Expect(r.stdout).To(And(MatchRegexp(`stop web.*: env .*\bA\b.*\(.*next\.yaml:7\)`), ContainSubstring("create web"), Not(MatchRegexp(`\bdb\b`))))
		}
		changes(code(1, "plan", "-f", next))
		Expect(os.WriteFile(filepath.Join(h.dir, "bad.yaml"), []byte("kind: Relm\n"), 0o600)).To(Succeed())
		Expect(code(2, "plan", "-f", filepath.Join(h.dir, "bad.yaml")).stderr).To(MatchRegexp(`bad\.yaml:1:\d+: `))
		h.stop()
		changes(code(1, "plan", "-f", next))
		code(2, "plan")
		Expect(h.proxy.Writes()).To(BeEmpty())
		Expect(h.running("main", "web", "db")).To(Equal(before))
	})

	It("apply converges once and says what it did to each container", func() {
		path := filepath.Join(h.dir, "shot.yaml")
		apply := func(want int, manifest string, args ...string) result {
			GinkgoHelper()
			Expect(os.WriteFile(path, []byte(manifest), 0o600)).To(Succeed())
			return code(want, append([]string{"apply", "-f", path, "--timeout", "30s"}, args...)...)
		}
		main := h.name("main")
		two := h.realm("main", h.container("web", "sleeps"), h.container("db", "sleeps"))
		Expect(apply(0, two, "--wait").stdout).To(Equal(main + "/db created\n" + main + "/web created\n"))
		before := h.running("main", "web", "db")
		h.proxy.Reset()
		Expect(apply(0, two).stdout).To(Equal(main + "/db unchanged\n" + main + "/web unchanged\n"))
		Expect(h.proxy.Writes()).To(BeEmpty())
		Expect(apply(0, h.realm("main", h.container("web", "sleeps", "env: [A=b]"), h.container("db", "sleeps"))).stdout).
			To(Equal(main + "/db unchanged\n" + main + "/web updated\n"))
		now := h.running("main", "web", "db")
		Expect(now["db"]).To(Equal(before["db"]))
		Eventually(environ).WithArguments(now["web"]).Should(ContainElement("A=b"))

		By("removing only what it is told to prune")
		one := h.realm("main", h.container("web", "sleeps", "env: [A=b]"))
		Expect(apply(0, one).stdout).To(Equal(main + "/web unchanged\n"))
		Expect(h.running("main", "web", "db")).To(Equal(now))
		Expect(apply(0, one, "--prune").stdout).To(Equal(main + "/db pruned\n" + main + "/web unchanged\n"))
		Expect(h.running("main", "web")).To(Equal(map[string]int{"web": now["web"]}))
		Expect(h.list("main", "containers")).To(Equal([]string{"web"}))

		By("writing nothing when a manifest is invalid, and failing when something fails")
		h.proxy.Reset()
		Expect(apply(2, one+"---\nkind: Realm\n").stderr).To(MatchRegexp(`shot\.yaml:\d+:\d+: `))
		Expect(h.proxy.Writes()).To(BeEmpty())
		absent := h.container("ghost", "absent", "imagePullPolicy: Never")
		Expect(apply(1, h.realm("main", h.container("web", "sleeps", "env: [A=b]"), absent)).stdout).
			To(Equal(main + "/ghost failed\n" + main + "/web unchanged\n"))
		code(2, "apply")
		h.address = filepath.Join(h.dir, "nobody.sock")
		code(2, "apply", "-f", path)
		h.address = h.proxy.Address

		By("taking a tombstone for the end of the realm")
		apply(0, h.realmWith("main", "  state: Absent\n"))
		Eventually(h.namespaces).Should(BeEmpty())
	})

	It("apply works beside a daemon, and refuses the realms that it manages", func() {
		before := synced()
		Expect(os.WriteFile(filepath.Join(h.dir, "edge.yaml"), []byte(h.realm("edge", h.container("one", "sleeps"))), 0o600)).To(Succeed())
		code(0, "apply", "--wait", "--timeout", "30s", "-f", filepath.Join(h.dir, "edge.yaml"))
		edge := h.running("edge", "one")
		r := code(2, "apply", "-f", h.manifests)
		Expect(r.stderr).To(And(ContainSubstring(h.name("main")), ContainSubstring("the daemon manages")))
		code(0, "reconcile")
		Expect(h.running("main", "web", "db")).To(Equal(before))
		Consistently(func() map[string]int { return h.running("edge", "one") }).Should(Equal(edge))
	})

	It("get and describe tell how things are, with the keys of the contract, also without a daemon", func() {
		before := synced()
		realms, err := h.items("get", "realms")
		Expect(err).NotTo(HaveOccurred())
		Expect(realms).To(HaveLen(1))
		Expect(realms[0]).To(And(
			HaveKeyWithValue("name", h.name("main")), HaveKeyWithValue("namespace", h.namespace("main")), HaveKeyWithValue("state", "Ready"),
			HaveKeyWithValue("ready", true), HaveKeyWithValue("inSync", true), HaveKeyWithValue("desired", 2.0), HaveKeyWithValue("running", 2.0),
			HaveKeyWithValue("generation", realms[0]["observedGeneration"]), HaveKey("revision")))
		Expect(realms[0]["conditions"]).To(ContainElement(And(HaveKeyWithValue("type", "Ready"), HaveKeyWithValue("status", "True"),
			HaveKey("reason"), HaveKey("message"), HaveKey("lastTransitionTime"))))
		containers, err := h.items("get", "containers", "web", "-r", h.name("main"))
		Expect(err).NotTo(HaveOccurred())
		Expect(containers).To(HaveLen(1))
		Expect(containers[0]).To(And(
			HaveKeyWithValue("realm", h.name("main")), HaveKeyWithValue("namespace", h.namespace("main")), HaveKeyWithValue("name", "web"),
			HaveKeyWithValue("containerId", "web"), HaveKeyWithValue("image", image("sleeps")), HaveKeyWithValue("phase", "Running"),
			HaveKeyWithValue("restarts", 0.0), HaveKeyWithValue("pid", float64(before["web"])), HaveKeyWithValue("inSync", true),
			HaveKeyWithValue("source", "main.yaml"), HaveKey("health"), HaveKey("reason"), HaveKey("message"), HaveKey("revision"), HaveKey("since")))
		Expect(code(0, "get", "containers", "-o", "name").stdout).To(Equal(h.name("main") + "/db\n" + h.name("main") + "/web\n"))
		code(1, "get", "realms", "nobody")
		Expect(code(0, "describe", "realm", h.name("main")).stdout).To(ContainSubstring(h.namespace("main")))
		Expect(code(0, "describe", "container", h.name("main")+"/web").stdout).To(And(ContainSubstring("main.yaml"), ContainSubstring(image("sleeps"))))
		code(1, "describe", "realm", "nobody")

		By("without a daemon, what containerd shows")
		h.stop()
		containers, err = h.items("get", "containers", "-r", h.name("main"))
		Expect(err).NotTo(HaveOccurred())
		Expect(containers).To(HaveExactElements(
			And(HaveKeyWithValue("name", "db"), HaveKeyWithValue("phase", "Running"), HaveKeyWithValue("pid", float64(before["db"]))),
			And(HaveKeyWithValue("name", "web"), HaveKeyWithValue("phase", "Running"), HaveKeyWithValue("pid", float64(before["web"])))))
		h.address = filepath.Join(h.dir, "nobody.sock")
		code(2, "get", "realms")
	})

	It("status and wait tell by their exit code whether all is well", func() {
		code(2, "status")
		code(2, "reconcile")
		code(2, "wait", h.name("main"), "--timeout", "100ms")
		synced()
		Expect(code(0, "status").stdout).To(And(ContainSubstring("1, 1 ready, 1 in sync"), ContainSubstring("pumped by logd")))
		code(0, "wait", h.name("main")+"/web")
		code(1, "wait", h.name("main"), "--for", "deleted", "--timeout", "200ms")

		By("a container that needs a person makes it 1, and says why")
		h.write("edge.yaml", h.realm("edge", h.container("job", "exits-1", "restartPolicy: never")))
		Eventually(func() string { return h.cli("status").stdout }).Should(MatchRegexp(`job: ended with exit code 1 .*kukeon-reconciler logs `))
		code(1, "status")
		code(1, "wait", h.name("edge"), "--timeout", "200ms")
		h.remove("edge.yaml")
		code(0, "wait", h.name("edge"), "--for", "deleted", "--timeout", "15s")
		Eventually(func() int { return h.cli("status").code }).Should(Equal(0))
	})

	It("suspend stops every write to what is suspended, until resume or its time", func() {
		before := synced()
		code(0, "suspend", h.name("main"), "--reason", "surgery")
		h.proxy.Reset()
		h.ctr("main", "tasks", "kill", "-s", "KILL", "web")
		h.write("main.yaml", h.realm("main", h.container("web", "sleeps"), h.container("db", "sleeps", "env: [A=b]")))
		Eventually(processExists).WithArguments(before["web"]).Should(BeFalse())
		By("also over a restart of ours")
		h.kill()
		h.start()
		Eventually(func() string { return h.cli("status").stdout }).Should(ContainSubstring("surgery"))
		Consistently(h.proxy.Writes).WithTimeout(1500 * time.Millisecond).Should(BeEmpty())
		Expect(h.pids("main")).To(Equal(map[string]int{"db": before["db"]}))
		code(0, "resume", h.name("main"))
		h.running("main", "web", "db")
		now := h.replaced("main", "db", before)

		By("of one container, for a time")
		code(0, "wait", h.name("main"), "--for", "synced", "--timeout", "15s")
		code(0, "suspend", h.name("main")+"/web", "--for", "3s")
		suspended := time.Now()
		h.ctr("main", "tasks", "kill", "-s", "KILL", "web")
		h.ctr("main", "tasks", "kill", "-s", "KILL", "db")
		h.replaced("main", "db", now)
		Expect(h.pids("main")).NotTo(HaveKey("web"))
		h.running("main", "web", "db")
		Expect(time.Since(suspended)).To(BeNumerically(">", 2*time.Second))
	})

	It("talk to the daemon over a socket that is its user's alone", func() {
		synced()
		for path, mode := range map[string]os.FileMode{"": 0o700, "api.sock": 0o600} {
			stat, err := os.Stat(filepath.Join(h.runDir, path))
			Expect(err).NotTo(HaveOccurred())
			Expect(stat.Mode().Perm()).To(Equal(mode), path)
		}
	})

	It("schema, version and completion need nothing at all", func() {
		h.address, h.runDir = filepath.Join(h.dir, "nobody.sock"), filepath.Join(h.dir, "nowhere")
		Expect(code(0, "schema").stdout).To(ContainSubstring("imagePullPolicy"))
		Expect(code(0, "version").stdout).NotTo(BeEmpty())
		Expect(code(0, "completion", "bash").stdout).To(ContainSubstring("kukeon-reconciler"))
		code(2, "frobnicate")
	})
})
