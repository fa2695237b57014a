package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("However manifests are written, nothing is removed by the way", func() {
	var h *host
	BeforeEach(func() { h = newHost() })

	// mains is a manifest of main whose web has a color, with a comment that means nothing.
	mains := func(color, comment string) string {
		return "# " + comment + "\n" + h.realm("main", h.container("db", "sleeps"), h.container("web", "sleeps", "env: [COLOR="+color+"]"))
	}
	edges := func() string { return h.realm("edge", h.container("one", "sleeps")) }
	colored := func(pids map[string]int, color string) map[string]int {
		GinkgoHelper()
		now := h.replaced("main", "web", pids)
		Eventually(environ).WithArguments(now["web"]).Should(ContainElement("COLOR=" + color))
		Expect(now["db"]).To(Equal(pids["db"]), "the neighbour was restarted")
		return now
	}
	put := func(path, text string) {
		GinkgoHelper()
		Expect(os.MkdirAll(filepath.Dir(path), 0o755)).To(Succeed())
		Expect(os.WriteFile(path, []byte(text), 0o644)).To(Succeed())
	}

	It("vim's way: the old file renamed away, the new one written in its place, slowly", func() {
		path := filepath.Join(h.manifests, "main.yaml")
		put(path, mains("blue", "first"))
		put(filepath.Join(h.manifests, "edge.yaml"), edges())
		h.start("--prune-settle", "2s", "--rescan", "100ms")
		pids, edge := h.running("main", "db", "web"), h.running("edge", "one")
		h.synced("main")
		h.proxy.Reset()
		save := func(text string, pause time.Duration) {
			GinkgoHelper()
			probe := filepath.Join(h.manifests, "4913") // vim's test of the directory
			put(probe, "")
			Expect(os.Remove(probe)).To(Succeed())
			Expect(os.Rename(path, path+"~")).To(Succeed())
			between := time.Now()
			Consistently(h.proxy.Writes).WithTimeout(pause).Should(BeEmpty())
			Expect(time.Since(between)).To(BeNumerically("<", 2*time.Second), "this machine is too slow for this spec")
			file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			Expect(err).NotTo(HaveOccurred())
			for i := range len(text) / 10 {
				_, err := file.WriteString(text[i*10 : i*10+10])
				Expect(err).NotTo(HaveOccurred())
			}
			_, err = file.WriteString(text[len(text)/10*10:])
			Expect(err).NotTo(HaveOccurred())
			Expect(file.Close()).To(Succeed())
			Expect(os.Remove(path + "~")).To(Succeed())
		}
		for i := range 5 {
			save(mains("blue", fmt.Sprint("save ", i)), time.Second/2)
		}
		h.synced("main")
		Consistently(h.proxy.Writes).WithTimeout(3 * time.Second).Should(BeEmpty())
		Expect(h.running("main", "db", "web")).To(Equal(pids))
		By("the last save changes something")
		save(mains("green", "the end"), time.Second/2)
		colored(pids, "green")
		Expect(h.running("edge", "one")).To(Equal(edge))
	})

	It("git's way: checkouts and resets in the directory itself", func() {
		git := func(args ...string) {
			GinkgoHelper()
			cmd := exec.Command("git", append([]string{"-C", h.manifests, "-c", "user.name=e2e", "-c", "user.email=e2e@localhost"}, args...)...)
			out, err := cmd.CombinedOutput()
			Expect(err).NotTo(HaveOccurred(), string(out))
		}
		path := filepath.Join(h.manifests, "realms", "main.yaml")
		git("init", "-q", "-b", "blue")
		put(path, mains("blue", "first"))
		put(filepath.Join(h.manifests, "realms", "edge.yaml"), edges())
		git("add", ".")
		git("commit", "-q", "-m", "blue")
		git("checkout", "-q", "-b", "comment")
		put(path, mains("blue", "only a comment"))
		git("commit", "-q", "-a", "-m", "comment")
		git("checkout", "-q", "-b", "green", "blue")
		put(path, mains("green", "first"))
		git("commit", "-q", "-a", "-m", "green")
		git("checkout", "-q", "blue")

		h.start("--prune-settle", "2s", "--rescan", "100ms")
		pids, edge := h.running("main", "db", "web"), h.running("edge", "one")
		h.synced("main")
		h.proxy.Reset()
		for range 10 {
			git("checkout", "-q", "comment")
			git("reset", "-q", "--hard", "blue")
			git("reset", "-q", "--hard", "comment@{1}")
			git("checkout", "-q", "blue")
		}
		Consistently(h.proxy.Writes).WithTimeout(3 * time.Second).Should(BeEmpty())
		git("checkout", "-q", "green")
		pids = colored(pids, "green")
		git("checkout", "-q", "blue")
		colored(pids, "blue")
		Expect(h.running("edge", "one")).To(Equal(edge))
		By("a commit that drops a realm is intent")
		git("rm", "-q", "realms/edge.yaml")
		git("commit", "-q", "-m", "without edge")
		Eventually(h.namespaces).Should(Equal([]string{h.namespace("main")}))
	})

	// Both tools swap one symlink; everything behind it changes at once.
	DescribeTable("one swap of a symlink is one change",
		func(root string, swap func(version string, files map[string]string)) {
			h.manifests = filepath.Join(h.dir, root)
			swap("one", map[string]string{"main.yaml": mains("blue", "first"), "edge.yaml": edges()})
			h.start(often...)
			pids, edge := h.running("main", "db", "web"), h.running("edge", "one")
			h.synced("main")
			h.proxy.Reset()
			By("a swap to the same content")
			swap("two", map[string]string{"main.yaml": mains("blue", "second"), "edge.yaml": edges()})
			Consistently(h.proxy.Writes).WithTimeout(quiet).Should(BeEmpty())
			generation := h.generation("main")
			By("a swap to a change")
			swap("three", map[string]string{"main.yaml": mains("green", "third"), "edge.yaml": edges()})
			pids = colored(pids, "green")
			h.synced("main")
			Expect(h.generation("main")).To(Equal(generation+1), "one swap counts as several changes")
			Expect(h.running("edge", "one")).To(Equal(edge))
			By("a swap that drops a realm")
			swap("four", map[string]string{"main.yaml": mains("green", "fourth")})
			Eventually(h.namespaces).Should(Equal([]string{h.namespace("main")}))
			Expect(h.running("main", "db", "web")).To(Equal(pids))
		},
		Entry("git-sync's current, with the directory above it given", "sync", func(version string, files map[string]string) {
			swapLink(h, "sync", "current", ".worktrees/"+version, files)
		}),
		Entry("git-sync's current, itself given", "sync/current", func(version string, files map[string]string) {
			swapLink(h, "sync", "current", ".worktrees/"+version, files)
		}),
		Entry("a ConfigMap's ..data", "config", func(version string, files map[string]string) {
			swapLink(h, "config", "..data", "..2026_"+version, files)
			for _, name := range []string{"main.yaml", "edge.yaml"} { // the kubelet links each file once
				link := filepath.Join(h.dir, "config", name)
				if _, there := files[name]; !there {
					Expect(os.Remove(link)).To(Succeed())
				} else if _, err := os.Lstat(link); err != nil {
					Expect(os.Symlink("..data/"+name, link)).To(Succeed())
				}
			}
		}),
	)
})

// swapLink writes files into a new directory and lets a symlink point to it, at once, below the host's directory.
func swapLink(h *host, root, link, target string, files map[string]string) {
	GinkgoHelper()
	root = filepath.Join(h.dir, root)
	Expect(os.MkdirAll(filepath.Join(root, target), 0o755)).To(Succeed())
	for name, text := range files {
		Expect(os.WriteFile(filepath.Join(root, target, name), []byte(text), 0o644)).To(Succeed())
	}
	temp := filepath.Join(root, ".swap")
	Expect(os.Symlink(target, temp)).To(Succeed())
	Expect(os.Rename(temp, filepath.Join(root, link))).To(Succeed())
}

// generation is a realm's, as our status has it.
func (h *host) generation(realm string) int64 {
	GinkgoHelper()
	realms, err := h.items("get", "realms", h.name(realm))
	Expect(err).NotTo(HaveOccurred())
	n, ok := realms[0]["generation"].(float64)
	Expect(ok).To(BeTrue())
	return int64(n)
}
