package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("The main job", func() {
	var h *host
	BeforeEach(func() { h = newHost() })

	It("runs what a manifest declares, changes what changed, and removes what is gone", func() {
		h.start()

		By("dropping a manifest, the containers run")
		h.write("main.yaml", h.realm("main",
			h.container("db", "sleeps"), h.container("web", "sleeps", "env: [COLOR=blue]"), h.container("old", "sleeps")))
		h.write("edge.yaml", h.realm("edge", h.container("one", "sleeps")))
		before := h.running("main", "db", "web", "old")
		h.running("edge", "one")
		Eventually(environ).WithArguments(before["web"]).Should(ContainElement("COLOR=blue"))

		By("editing one container, only that one is made anew")
		h.write("main.yaml", h.realm("main",
			h.container("db", "sleeps"), h.container("web", "sleeps", "env: [COLOR=green]"), h.container("old", "sleeps")))
		now := h.replaced("main", "web", before)
		Eventually(environ).WithArguments(now["web"]).Should(ContainElement("COLOR=green"))
		Expect([]int{now["db"], now["old"]}).To(Equal([]int{before["db"], before["old"]}), "somebody else was restarted")
		Eventually(processExists).WithArguments(before["web"]).Should(BeFalse())

		By("removing a container from the manifest, it is gone with its snapshot and its output")
		h.write("main.yaml", h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps", "env: [COLOR=green]")))
		after := h.running("main", "db", "web")
		Expect(after).To(Equal(map[string]int{"db": now["db"], "web": now["web"]}))
		Eventually(h.list).WithArguments("main", "containers").Should(Equal([]string{"db", "web"}))
		Eventually(h.snapshots).WithArguments("main").Should(HaveLen(2))
		Eventually(h.outputs).WithArguments("main").Should(Equal([]string{"db", "web"}))

		By("removing one of two manifests, its realm is gone down to the namespace")
		h.remove("edge.yaml")
		Eventually(h.namespaces).Should(Equal([]string{h.namespace("main")}), func() string { return h.why("edge") })
		Expect(h.running("main", "db", "web")).To(Equal(after))
		Eventually(h.list).WithArguments("main", "leases").Should(BeEmpty())
	})

	It("reads several documents of one file, and JSON", func() {
		h.write("both.yaml", h.realm("main", h.container("web", "sleeps")), h.realm("edge", h.container("one", "sleeps")))
		h.write("third.json", `{"apiVersion": "v1beta1", "kind": "Realm", "metadata": {"name": "`+h.name("third")+`"},
			"spec": {"containers": [{"id": "json", "image": "`+image("sleeps")+`", "stopGracePeriodSeconds": 1}]}}`)
		h.start()
		h.running("main", "web")
		h.running("edge", "one")
		h.running("third", "json")
	})

	It("takes a container away when its list becomes empty, which is intent", func() {
		h.write("main.yaml", h.realm("main", h.container("web", "sleeps")))
		h.start()
		h.running("main", "web")
		h.write("main.yaml", h.realm("main"))
		h.running("main")
		Eventually(h.list).WithArguments("main", "containers").Should(BeEmpty())
		Expect(h.namespaces()).To(Equal([]string{h.namespace("main")}), "the realm is still declared")
	})

	It("runs containers with everything a manifest can give them", func() {
		Expect(os.WriteFile(filepath.Join(h.dir, "shared.txt"), []byte("from the host\n"), 0o644)).To(Succeed())
		h.write("main.yaml", h.realm("main",
			h.container("all", "sleeps", `user: "1000:1000"`, "workingDir: /tmp", "readOnlyRootFilesystem: true",
				"hostNetwork: true", "tmpfs: [{path: /scratch, sizeBytes: 65536}]",
				"resources: {memory: 64Mi, pidsLimit: 20}", "capabilities: {drop: [ALL]}",
				"volumes: [{kind: bind, source: "+filepath.Join(h.dir, "shared.txt")+", target: /shared.txt, readOnly: true}, "+
					"{kind: volume, source: data, target: /data, ensure: true}]"),
			h.container("alone", "sleeps")))
		h.start()
		pids := h.running("main", "all", "alone")
		By("looking at its process, which is the image's own a moment after containerd calls it running")
		Eventually(os.Readlink).WithArguments(proc(pids["all"], "exe")).Should(Equal("/bin/busybox"))
		Eventually(os.Readlink).WithArguments(proc(pids["alone"], "exe")).Should(Equal("/bin/busybox"))
		Expect(statusLine(pids["all"], "Uid")).To(Equal([]string{"1000", "1000", "1000", "1000"}))
		Expect(statusLine(pids["all"], "CapEff")).To(Equal([]string{"0000000000000000"}))
		Expect(statusLine(pids["all"], "NoNewPrivs")).To(Equal([]string{"1"}))
		Expect(statusLine(pids["all"], "Seccomp")).To(Equal([]string{"2"}))
		Expect(os.Readlink(proc(pids["all"], "cwd"))).To(Equal("/tmp"))
		Expect(os.ReadFile(proc(pids["all"], "root/shared.txt"))).To(Equal([]byte("from the host\n")))
		Expect(h.exec("main", "all", "touch", "/forbidden")).NotTo(Succeed(), "the root file system is writable")
		Expect(h.exec("main", "all", "touch", "/scratch/x")).To(Succeed())
		By("looking at its network")
		host, err := os.Readlink("/proc/self/ns/net")
		Expect(err).NotTo(HaveOccurred())
		Expect(os.Readlink(proc(pids["all"], "ns/net"))).To(Equal(host))
		Expect(os.Readlink(proc(pids["alone"], "ns/net"))).NotTo(Equal(host))
		Expect(h.exec("main", "alone", "ping", "-c", "1", "-W", "1", "127.0.0.1")).To(Succeed(), "its loopback is down")
		By("removing it, its volume stays")
		h.write("main.yaml", h.realm("main", h.container("alone", "sleeps")))
		h.running("main", "alone")
		Eventually(h.list).WithArguments("main", "containers").Should(Equal([]string{"alone"}))
		Expect(filepath.Join(h.state, "volumes", h.name("main"), "data")).To(BeADirectory())
	})

	It("lists every mistake of a manifest with file, line and column", func() {
		path := filepath.Join(h.dir, "bad.yaml")
		Expect(os.WriteFile(path, []byte("kind: Realm\nmetadata: {name: main}\nspec:\n  containers:\n"+
			"  - {id: web, imgae: x}\n  - {id: db, image: y, workingDir: 1.10}\n"), 0o600)).To(Succeed())
		r := h.cli("validate", path)
		Expect(r.code).To(Equal(1), r.String())
		Expect(r.stdout + r.stderr).To(And(
			MatchRegexp(`bad\.yaml:5:\d+: .*imgae.*did you mean.*image`), MatchRegexp(`bad\.yaml:6:\d+: .*workingDir.*quote it`)))
		h.write("good.yaml", h.realm("main", h.container("web", "sleeps")))
		r = h.cli("validate", h.manifests)
		Expect(r.code).To(Equal(0), r.String())
		Expect(h.cli("validate", filepath.Join(h.dir, "absent.yaml")).code).To(Equal(2))
	})
})

// outputs are the containers of a realm that have a place for their output.
func (h *host) outputs(realm string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(h.runDir, "io", h.namespace(realm)))
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	return slices.Sorted(maps.Keys(names)), err
}
