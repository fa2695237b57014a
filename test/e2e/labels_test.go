package e2e

import (
	"maps"
	"slices"
	"strings"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/protobuf/proto"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/testenv"
	"kukeon.io/kukeon-reconciler/test/proxy"
)

// refused are labels that nobody but their owner may set; the first two run a program of the host as root.
var refused = map[string]string{
	"containerd.io/restart.status":      "running",
	"containerd.io/restart.loguri":      "binary:///bin/false",
	"containerd.io/gc.root":             "now",
	"io.containerd.image.config.stop":   "x",
	"io.cri-containerd.kind":            "sandbox",
	"io.kubernetes.pod.name":            "x",
	"nerdctl/name":                      "x",
	"com.docker.compose.project":        "x",
	"kukeon.io/spec-hash":               "x",
	"reconciler.kukeon.io/owner":        "somebody",
	"reconciler.kukeon.io/forged-by-us": "x",
}

var _ = Describe("No label leads to root", func() {
	var h *host
	BeforeEach(func() { h = newHost() })

	It("from a manifest: it is a problem that names the label, and nothing is made of it", func() {
		for key, value := range refused {
			h.write("main.yaml", h.realm("main", h.container("web", "sleeps", "labels: {"+key+": "+value+"}")))
			r := h.cli("validate", h.manifests)
			Expect(r.code).To(Equal(1), key+": "+r.String())
			Expect(r.stdout + r.stderr).To(And(MatchRegexp(`main\.yaml:7:\d+: `), ContainSubstring(key)))
		}
		h.start()
		Eventually(func() string { return h.cli("status").stdout }).Should(ContainSubstring("main.yaml:7"))
		Expect(h.namespaces()).To(BeEmpty())
		Expect(h.proxy.Writes()).To(BeEmpty())

		By("a running realm stays as it was accepted")
		h.write("main.yaml", h.realm("main", h.container("web", "sleeps", "labels: {team: edge}")))
		before := h.running("main", "web")
		h.write("main.yaml", h.realm("main", h.container("web", "sleeps", "labels: {containerd.io/restart.status: running}")))
		Eventually(func() string { return h.cli("status").stdout }).Should(ContainSubstring("main.yaml:7"))
		Expect(h.running("main", "web")).To(Equal(before))
		Expect(h.info("main", "web").Labels).To(And(HaveKeyWithValue("team", "edge"), Not(HaveKey("containerd.io/restart.status"))))
		Expect(leaks(h.proxy.Writes())).To(BeEmpty())
	})

	It("from an image: none is ever written, whatever becomes of the container", func(ctx SpecContext) {
		ref := labelled(ctx)
		h.write("main.yaml", h.realm("main", h.containerOf("web", ref), h.containerOf("db", ref, "labels: {team: edge}")))
		h.start()
		before := h.running("main", "web", "db")
		By("changing labels, changing meaning, restarting, and editing with ctr")
		h.write("main.yaml", h.realm("main", h.containerOf("web", ref, "env: [A=b]"), h.containerOf("db", ref, "labels: {team: core}")))
		now := h.replaced("main", "web", before)
		h.ctr("main", "tasks", "kill", "-s", "KILL", "db")
		h.replaced("main", "db", now)
		h.ctr("main", "containers", "label", "db", "team=nobody")
		Eventually(func() map[string]string { return h.info("main", "db").Labels }).Should(HaveKeyWithValue("team", "core"))

		By("looking at what went to containerd, byte by byte")
		writes := h.proxy.Writes()
		Expect(leaks(writes)).To(BeEmpty())
		methods := map[string]bool{}
		for _, w := range writes {
			methods[w.Method] = true
		}
		Expect(slices.Collect(maps.Keys(methods))).To(ContainElements("Containers.Create", "Containers.Update", "Images.Create", "Tasks.Create"))
		By("looking at what containerd has")
		for _, id := range []string{"web", "db"} {
			for key := range h.info("main", id).Labels {
				Expect(key).To(Or(HavePrefix(state.Prefix), Equal("team")))
			}
		}
	})

	It("from before: what is adopted loses them, keeps its pid, and is ours from then on", func() {
		ns := h.namespace("main")
		ctrIn(ns, "images", "import", archive("sleeps"))
		run := []string{"run", "--detach"}
		for _, key := range []string{"containerd.io/restart.status=running", "containerd.io/restart.policy=always", "team=edge"} {
			run = append(run, "--label", key)
		}
		ctrIn(ns, append(run, imported("sleeps"), "web")...)
		before := h.running("main", "web")
		h.write("main.yaml", h.realm("main", h.containerOf("web", imported("sleeps"))))
		h.start()
		Eventually(h.phases).WithArguments("main").Should(HaveKeyWithValue("web", "Conflict"))
		Expect(h.info("main", "web").Labels).To(HaveKey("containerd.io/restart.status"), "somebody else's labels were touched")

		r := h.cli("adopt", h.name("main")+"/web")
		Expect(r.code).To(Equal(0), r.String())
		Eventually(h.phases).WithArguments("main").Should(HaveKeyWithValue("web", "Running"))
		labels := h.info("main", "web").Labels
		Expect(labels).To(And(HaveKey(state.LabelOwner), HaveKeyWithValue("team", "edge")))
		for key := range labels {
			Expect(key).NotTo(HavePrefix(state.RestartMonitorPrefix))
		}
		Expect(h.running("main", "web")).To(Equal(before))
		Expect(h.cli("wait", h.name("main"), "--for", "synced", "--timeout", "10s").code).To(Equal(0))

		By("changing its declaration, it is made anew by us")
		h.write("main.yaml", h.realm("main", h.containerOf("web", imported("sleeps"), "env: [A=b]")))
		now := h.replaced("main", "web", before)
		Eventually(environ).WithArguments(now["web"]).Should(ContainElement("A=b"))
		Expect(leaks(h.proxy.Writes())).To(BeEmpty())
	})
})

// labelled pushes an image that carries every refused label, and returns its reference.
func labelled(ctx SpecContext) string {
	GinkgoHelper()
	file, err := images["sleeps"].ConfigFile()
	Expect(err).NotTo(HaveOccurred())
	file = file.DeepCopy()
	file.Config.Labels = map[string]string{"maintainer": "somebody"}
	maps.Copy(file.Config.Labels, refused)
	img, err := mutate.ConfigFile(images["sleeps"], file)
	Expect(err).NotTo(HaveOccurred())
	ref, err := registry.Push(ctx, "labelled-"+testenv.Suffix()+":1", img)
	Expect(err).NotTo(HaveOccurred())
	return ref
}

// leaks names the writes that carry a refused label. In a container's labels no foreign prefix is allowed at all. In
// other requests only whole keys can be looked for: containerd's own labels on content and snapshots are legitimate,
// and content itself is the image's, as it is.
func leaks(writes []proxy.Call) []string {
	GinkgoHelper()
	var found []string
	for _, w := range writes {
		bytes := string(w.Request)
		switch w.Method {
		case "Content.Write":
			continue
		case "Containers.Create", "Containers.Update":
			// The requests differ in what follows the record, which is the list of fields to change.
			var request containersapi.UpdateContainerRequest
			Expect(proto.Unmarshal(w.Request, &request)).To(Succeed())
			labels := request.Container.Labels
			maps.DeleteFunc(labels, func(_, value string) bool { return value == "" }) // asks for its removal
			for key := range labels {
				if key != "team" && (!strings.HasPrefix(key, state.Prefix) || strings.Contains(key, "forged")) {
					found = append(found, w.String()+": label "+key)
				}
			}
			record, err := proto.Marshal(request.Container)
			Expect(err).NotTo(HaveOccurred())
			bytes = string(record)
		}
		for key := range refused {
			if key != state.LabelOwner && strings.Contains(bytes, key) {
				found = append(found, w.String()+": bytes "+key)
			}
		}
		if strings.Contains(bytes, "somebody") {
			found = append(found, w.String()+": a forged owner")
		}
	}
	return found
}
