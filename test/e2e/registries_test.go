package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/internal/testenv"
	"kukeon.io/kukeon-reconciler/test/proxy"
)

var _ = Describe("Images come from private registries", func() {
	var h *host
	var private *testenv.Registry
	BeforeEach(func() {
		h = newHost()
		var err error
		private, err = testenv.NewRegistry(context.Background())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(private.Close)
	})

	// unique serves an image that runs for ever and that no containerd has seen.
	unique := func(ctx SpecContext, name string) string {
		GinkgoHelper()
		ref, err := private.Push(ctx, name, testenv.Unique(images["sleeps"], 200<<10, 2))
		Expect(err).NotTo(HaveOccurred())
		return ref
	}
	message := func(realm, id string) func() (string, error) {
		return func() (string, error) {
			found, err := h.items("get", "containers", h.name(realm)+"/"+id)
			if err != nil {
				return "", err
			}
			return fmt.Sprint(found[0]["phase"], ": ", found[0]["message"]), nil
		}
	}

	It("each realm by its own name and password, and tells nobody", func(ctx SpecContext) {
		const alice, bob = "canary-alice-5b1f", "canary-bob-97c2"
		private.SetGuard(testenv.BasicAuth(map[string]string{"alice": alice, "bob": bob}))
		ref := unique(ctx, "app:1")
		file := filepath.Join(h.dir, "password")
		Expect(os.WriteFile(file, []byte("stale"), 0o600)).To(Succeed())
		h.write("main.yaml", h.realmWith("main", fmt.Sprintf("  registryCredentials: [{serverAddress: %q, username: alice, passwordFile: %q}]\n", private.Host, file),
			h.containerOf("web", ref), h.container("db", "sleeps")))
		h.start()
		h.running("main", "db")
		Eventually(message("main", "web")).Should(And(HavePrefix("Backoff: "),
			ContainSubstring("registry "+private.Host+" does not give image "+ref+" to alice; mend spec.registryCredentials of realm "+h.name("main"))))
		By("changing the password in its file")
		Expect(os.WriteFile(file, []byte(alice+"\n"), 0o600)).To(Succeed())
		Expect(h.cli("reconcile").code).To(Equal(0))
		h.running("main", "db", "web")
		before := blobs(private.Requests())
		Expect(before).NotTo(BeEmpty())

		By("a realm without credentials, and one with the password in a manifest that everybody can read")
		h.write("bare.yaml", h.realm("bare", h.containerOf("web", ref)))
		Eventually(message("bare", "web")).Should(ContainSubstring("does not give image " + ref + " to anonymous pulls; write spec.registryCredentials"))
		h.write("edge.yaml", h.realmWith("edge", "  registryCredentials: [{username: bob, password: "+bob+"}]\n", h.containerOf("web", ref)))
		h.running("edge", "web")
		Expect(blobs(private.Requests())).To(Equal(before), "the second realm downloaded what containerd had")
		Expect(h.cli("status").stdout).To(ContainSubstring("edge.yaml:6"))

		By("looking for the passwords everywhere")
		var told strings.Builder
		for _, args := range [][]string{
			{"status"}, {"get", "realms", "-o", "json"}, {"get", "containers", "-o", "yaml"}, {"get", "images", "-o", "json"},
			{"describe", "realm", h.name("edge")}, {"describe", "container", h.name("edge") + "/web"}, {"plan"},
		} {
			fmt.Fprintln(&told, args, h.cli(args...))
		}
		for _, realm := range []string{"main", "edge"} {
			told.WriteString(dump(h.namespace(realm)))
		}
		log, err := os.ReadFile(h.logPath())
		Expect(err).NotTo(HaveOccurred())
		told.Write(log)
		Expect(told.String()).To(And(ContainSubstring(ref), Not(ContainSubstring(alice)), Not(ContainSubstring(bob))))
	})

	It("once, however many containers and realms begin with them at the same time", func(ctx SpecContext) {
		ref := unique(ctx, "app:1")
		private.SetGuard(testenv.Throttling(200 << 10)) // for a second or two
		for _, realm := range []string{"main", "edge", "third"} {
			h.write(realm+".yaml", h.realm(realm, h.containerOf("one", ref), h.containerOf("two", ref)))
		}
		h.start()
		for _, realm := range []string{"main", "edge", "third"} {
			h.running(realm, "one", "two")
		}
		fetched := blobs(private.Requests())
		Expect(fetched).NotTo(BeEmpty())
		Expect(slices.Compact(slices.Sorted(slices.Values(fetched)))).To(HaveLen(len(fetched)), "%v", fetched)
	})

	It("while the old container keeps running, until the new image is pulled and unpacked", func(ctx SpecContext) {
		h.write("main.yaml", h.realm("main", h.container("web", "sleeps")))
		h.start()
		before := h.running("main", "web")
		h.synced("main")
		ref := unique(ctx, "next:1")
		var unpacked, early atomic.Bool
		h.proxy.Hook(func(c proxy.Call) proxy.Fault {
			switch c.Method {
			case "Snapshots.Commit":
				unpacked.Store(true)
			case "Tasks.Kill":
				early.Store(!unpacked.Load())
			}
			return proxy.Fault{}
		})
		private.SetGuard(testenv.Throttling(50 << 10)) // for some four seconds
		h.write("main.yaml", h.realm("main", h.containerOf("web", ref)))
		Eventually(message("main", "web")).Should(ContainSubstring("waits for image " + ref))
		Consistently(h.pids).WithArguments("main").WithTimeout(2 * time.Second).Should(Equal(before))
		h.replaced("main", "web", before)
		Expect(unpacked.Load()).To(BeTrue())
		Expect(early.Load()).To(BeFalse(), "stopped before the new image was unpacked")
	})

	It("and each fault of theirs is told as what it is, while others go on", func(ctx SpecContext) {
		ref := unique(ctx, "app:1")
		h.write("main.yaml", h.realm("main", h.containerOf("web", ref), h.container("db", "sleeps")))
		private.SetGuard(testenv.Answering(http.StatusServiceUnavailable))
		h.start()
		h.running("main", "db")
		for _, fault := range []struct {
			guard testenv.Guard
			text  string
		}{
			{testenv.Answering(http.StatusServiceUnavailable), "it answers 503"},
			{testenv.Answering(http.StatusUnauthorized), "anonymous pulls"},
			{testenv.Answering(http.StatusNotFound), "does not exist in its registry"},
			{testenv.Falsifying(100), "damaged"},
		} {
			private.SetGuard(fault.guard)
			Expect(h.cli("reconcile").code).To(Equal(0))
			Eventually(message("main", "web")).Should(ContainSubstring(fault.text))
		}
		By("a registry that gives a kilobyte a second: cancelled at once when nobody wants it any more")
		private.SetGuard(testenv.Throttling(1 << 10))
		Expect(h.cli("reconcile").code).To(Equal(0))
		Eventually(message("main", "web")).Should(HavePrefix("Pulling: "))
		h.write("main.yaml", h.realm("main", h.containerOf("web", image("sleeps")), h.container("db", "sleeps")))
		h.running("main", "db", "web")
		h.synced("main")
	})
})

// blobs are those of a registry's requests that fetch content.
func blobs(requests []string) (out []string) {
	for _, r := range requests {
		if strings.HasPrefix(r, "GET ") && strings.Contains(r, "/blobs/") {
			out = append(out, r)
		}
	}
	return out
}
