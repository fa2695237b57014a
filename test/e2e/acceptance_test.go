package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"
)

// often are flags that make a wrong removal happen soon.
var often = []string{"--prune-settle", "1s", "--rescan", "250ms"}

// quiet is how long a spec looks on while nothing may happen: longer than two scans that would count an absence.
const quiet = 2 * time.Second

var _ = Describe("The files", func() {
	var h *host
	var mainPids, edgePids map[string]int
	BeforeEach(func() { h = newHost() })

	// begin has main with db and web, and edge with one, running and in sync.
	begin := func() {
		GinkgoHelper()
		h.write("main.yaml", h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps")))
		h.write("edge.yaml", h.realm("edge", h.container("one", "sleeps")))
		h.start(often...)
		mainPids, edgePids = h.running("main", "db", "web"), h.running("edge", "one")
		h.synced("main")
		h.synced("edge")
		h.proxy.Reset()
	}
	// untouched looks on for a while: nobody loses its pid, and nothing is written at all.
	untouched := func() {
		GinkgoHelper()
		Consistently(h.proxy.Writes).WithTimeout(quiet).Should(BeEmpty())
		Expect(h.running("main", "db", "web")).To(Equal(mainPids))
		Expect(h.running("edge", "one")).To(Equal(edgePids))
	}
	// repaired kills a task and waits for its successor.
	repaired := func() {
		GinkgoHelper()
		h.ctr("main", "tasks", "kill", "-s", "KILL", "web")
		mainPids = h.replaced("main", "web", mainPids)
	}
	status := func() string { return h.cli("status").stdout }
	holdID := func() string {
		GinkgoHelper()
		var id string
		Eventually(func() string {
			if found := regexp.MustCompile(`kukeon-reconciler confirm (\w+)`).FindStringSubmatch(status()); found != nil {
				id = found[1]
			}
			return id
		}).ShouldNot(BeEmpty())
		return id
	}

	It("change and remove nothing anywhere while one of them is broken", func() {
		begin()
		h.write("main.yaml", strings.SplitAfter(h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps")), "image")[0])
		h.remove("edge.yaml")
		Eventually(status).Should(MatchRegexp(`main\.yaml:\d+`))
		untouched()
		repaired()
		By("it is mended: now the other realm's absence counts")
		h.write("main.yaml", h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps")))
		Eventually(h.namespaces).Should(Equal([]string{h.namespace("main")}))
		Expect(h.running("main", "db", "web")).To(Equal(mainPids))
	})

	It("freeze their realm when containers is null, and say what to write instead", func() {
		begin()
		h.write("main.yaml", strings.Replace(h.realm("main"), "containers: []", "containers:", 1))
		Eventually(status).Should(ContainSubstring("containers: []"))
		untouched()
	})

	It("are held when all are gone, until it is confirmed", func() {
		begin()
		h.remove("main.yaml")
		h.remove("edge.yaml")
		id := holdID()
		untouched()
		Expect(h.cli("status").code).To(Equal(1))
		repaired()
		r := h.cli("confirm", id)
		Expect(r.code).To(Equal(0), r.String())
		Eventually(h.namespaces).Should(BeEmpty())
		Expect(h.cli("confirm", id).code).NotTo(Equal(0), "the id is used up")
	})

	It("are held until they are back, which cancels the removal", func() {
		begin()
		h.remove("main.yaml")
		h.remove("edge.yaml")
		id := holdID()
		h.write("main.yaml", h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps")))
		h.write("edge.yaml", h.realm("edge", h.container("one", "sleeps")))
		Eventually(status).ShouldNot(ContainSubstring("removal held"))
		Expect(h.cli("confirm", id).code).NotTo(Equal(0))
		untouched()
	})

	It("remove nothing when their directory is removed, and count again when it is back", func() {
		begin()
		Expect(os.RemoveAll(h.manifests)).To(Succeed())
		Eventually(status).Should(ContainSubstring("cannot be read"))
		untouched()
		repaired()
		By("the directory comes back with one of the two: it is another directory, so that removals are held")
		h.write("main.yaml", h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps", "env: [A=b]")))
		mainPids = h.replaced("main", "web", mainPids)
		holdID()
		h.synced("main")
		h.proxy.Reset()
		untouched()
		h.write("edge.yaml", h.realm("edge", h.container("one", "sleeps")))
		Eventually(status).ShouldNot(ContainSubstring("removal held"))
		untouched()
	})

	It("remove nothing when their directory is unmounted", func() {
		mount("tmpfs", h.manifests)
		begin()
		Expect(unix.Unmount(h.manifests, 0)).To(Succeed())
		holdID()
		untouched()
		repaired()
		By("mounting one with the same files")
		mount("tmpfs", h.manifests)
		h.write("main.yaml", h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps")))
		h.write("edge.yaml", h.realm("edge", h.container("one", "sleeps")))
		Eventually(status).ShouldNot(ContainSubstring("removal held"))
		h.proxy.Reset()
		untouched()
		h.write("edge.yaml", h.realm("edge", h.container("one", "sleeps"), h.container("two", "sleeps")))
		h.running("edge", "one", "two")
	})

	It("remove nothing when another directory is mounted over theirs", func() {
		begin()
		mount("tmpfs", h.manifests)
		holdID()
		untouched()
		Expect(unix.Unmount(h.manifests, 0)).To(Succeed())
		Eventually(status).ShouldNot(ContainSubstring("removal held"))
		untouched()
	})

	It("are set aside by .skip: it removes nothing, and nothing is repaired meanwhile", func() {
		begin()
		path := filepath.Join(h.manifests, "edge.yaml")
		Expect(os.Rename(path, path+".skip")).To(Succeed())
		Eventually(status).Should(ContainSubstring("edge.yaml.skip"))
		untouched()
		h.ctr("edge", "tasks", "kill", "-s", "KILL", "one")
		Consistently(h.proxy.Writes).WithTimeout(quiet).Should(BeEmpty())
		Expect(os.Rename(path+".skip", path)).To(Succeed())
		h.running("edge", "one")
	})

	It("end even the last realm by a tombstone, at once and unheld", func() {
		h.write("main.yaml", h.realm("main", h.container("web", "sleeps")))
		h.start("--prune-settle", "1h")
		h.running("main", "web")
		h.write("main.yaml", h.realmWith("main", "  state: Absent\n", h.container("web", "sleeps")))
		Eventually(h.namespaces).Should(BeEmpty())
	})

	It("keep a realm that is never pruned, and it is still repaired", func() {
		begin()
		h.write("main.yaml", annotated(h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps")),
			`kukeon.io/prune: disabled`))
		h.synced("main")
		h.proxy.Reset()
		h.remove("main.yaml")
		untouched()
		repaired()
	})

	It("may lose half of their realms at once, and not more", func() {
		for _, name := range []string{"a", "b", "c", "d"} {
			h.write(name+".yaml", h.realm(name, h.container("web", "sleeps")))
		}
		h.start(often...)
		for _, name := range []string{"a", "b", "c", "d"} {
			h.running(name, "web")
		}
		h.remove("a.yaml")
		h.remove("b.yaml")
		Eventually(h.namespaces).Should(Equal([]string{h.namespace("c"), h.namespace("d")}))
		By("a third within ten minutes is held")
		pids := h.running("c", "web")
		h.remove("c.yaml")
		holdID()
		Consistently(h.pids).WithArguments("c").WithTimeout(quiet).Should(Equal(pids))
	})

	It("do not count before they are written to the end", func() {
		begin()
		By("a file that is open for writing and holds, so far, only the first of two containers")
		text := h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps"))
		first := h.realm("main", h.container("db", "sleeps"))
		Expect(text).To(HavePrefix(first))
		file, err := os.OpenFile(filepath.Join(h.manifests, "main.yaml"), os.O_WRONLY|os.O_TRUNC, 0)
		Expect(err).NotTo(HaveOccurred())
		defer file.Close()
		_, err = file.WriteString(first)
		Expect(err).NotTo(HaveOccurred())
		untouched()
		_, err = file.WriteString(text[len(first):])
		Expect(err).NotTo(HaveOccurred())
		Expect(file.Close()).To(Succeed())
		untouched()
	})
})

// mount mounts a new file system on a directory until the spec ends, and makes it look like the directory below.
func mount(kind, path string) {
	GinkgoHelper()
	Expect(unix.Mount(kind, path, kind, 0, "mode=0755")).To(Succeed())
	DeferCleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			Expect(err).To(Or(MatchError(unix.EINVAL), MatchError(unix.ENOENT)), "only an unmounted one is no mount any more")
		}
	})
}
