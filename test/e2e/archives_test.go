package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/internal/testenv"
	"kukeon.io/kukeon-reconciler/test/proxy"
)

var _ = Describe("Images come from archives", func() {
	var h *host
	BeforeEach(func() { h = newHost() })

	// archived saves an image that runs for ever, and that no containerd has seen, under a name of this host's.
	archived := func(file, tag string, size int) (ref string) {
		GinkgoHelper()
		ref = "docker.io/library/archived-" + h.suffix + ":" + tag
		Expect(os.MkdirAll(filepath.Dir(file), 0o755)).To(Succeed())
		Expect(testenv.SaveArchive(testenv.Unique(images["sleeps"], size, 2), ref, file+".new")).To(Succeed())
		Expect(os.Rename(file+".new", file)).To(Succeed())
		return ref
	}
	It("on a host without any network, also when somebody deletes one", func() {
		one := archived(filepath.Join(h.manifests, "images", "one.tar"), "1", 100<<10)
		two := archived(filepath.Join(filepath.Dir(h.manifests), "images.d", h.name("main"), "two.tar"), "2", 100<<10)
		h.write("main.yaml", h.realmWith("main", "  images: [{archive: images/one.tar}]\n",
			h.containerOf("web", one), h.containerOf("db", two, "imagePullPolicy: Never")))
		h.start()
		before := h.running("main", "web", "db")
		h.synced("main")

		found, err := h.items("get", "images", one)
		Expect(err).NotTo(HaveOccurred())
		Expect(found[0]["usedBy"]).To(ConsistOf("web", filepath.Join(h.manifests, "images", "one.tar")))

		By("deleting an image with ctr, and making its container anew")
		h.ctr("main", "images", "rm", one)
		Eventually(func() string { return h.ctr("main", "images", "ls", "-q") }).Should(ContainSubstring(one))
		h.write("main.yaml", h.realmWith("main", "  images: [{archive: images/one.tar}]\n",
			h.containerOf("web", one, "env: [A=1]"), h.containerOf("db", two, "imagePullPolicy: Never")))
		after := h.replaced("main", "web", before)
		Expect(after["db"]).To(Equal(before["db"]))
		h.synced("main")

		By("starting again, which imports nothing")
		h.stop()
		var wrote atomic.Bool
		h.proxy.Hook(func(c proxy.Call) proxy.Fault {
			if c.Method == "Content.Write" || c.Write > 0 && strings.HasPrefix(c.Method, "Images.") {
				wrote.Store(true)
			}
			return proxy.Fault{}
		})
		h.start()
		h.synced("main")
		Expect(wrote.Load()).To(BeFalse(), "what was imported was imported again")
		Expect(h.running("main", "web", "db")).To(Equal(after))
		Expect(h.cli("plan").stdout).NotTo(ContainSubstring("import"))
	})

	It("again when a file changes, and nothing restarts for that alone", func() {
		drop := filepath.Join(filepath.Dir(h.manifests), "images.d", h.name("main"), "app.tar")
		ref := archived(drop, "1", 100<<10)
		h.write("main.yaml", h.realm("main", h.containerOf("web", ref)))
		h.start("--rescan", "200ms")
		before := h.running("main", "web")
		digest := func() string { return h.ctr("main", "images", "ls") }
		first := digest()
		archived(drop, "1", 101<<10)
		Eventually(digest).WithTimeout(30 * time.Second).ShouldNot(Equal(first))
		h.synced("main")
		Expect(h.running("main", "web")).To(Equal(before))

		By("an archive that is none, which is told and disturbs nothing")
		Expect(os.WriteFile(filepath.Join(filepath.Dir(drop), "bad.tar"), []byte("this is no archive"), 0o600)).To(Succeed())
		Eventually(func() string { return h.cli("describe", "realm", h.name("main")).stdout }).WithTimeout(30 * time.Second).
			Should(ContainSubstring("bad.tar"))
		Expect(h.running("main", "web")).To(Equal(before))
		Expect(os.Remove(filepath.Join(filepath.Dir(drop), "bad.tar"))).To(Succeed())
		h.synced("main")
	})
})
