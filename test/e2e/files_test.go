package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// write puts a manifest in place as one should: written beside, then renamed.
func (h *host) write(name string, documents ...string) {
	GinkgoHelper()
	path := filepath.Join(h.manifests, name)
	Expect(os.MkdirAll(filepath.Dir(path), 0o755)).To(Succeed())
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	Expect(os.WriteFile(temp, []byte(strings.Join(documents, "---\n")), 0o644)).To(Succeed())
	Expect(os.Rename(temp, path)).To(Succeed())
}

// remove removes a manifest.
func (h *host) remove(name string) {
	GinkgoHelper()
	Expect(os.Remove(filepath.Join(h.manifests, name))).To(Succeed())
}

// realm is the document of a realm with these containers, each a line from container.
func (h *host) realm(name string, containers ...string) string {
	return h.realmWith(name, "", containers...)
}

// realmWith is realm with more lines in its spec, each indented by two spaces and ended.
func (h *host) realmWith(name, spec string, containers ...string) string {
	text := fmt.Sprintf("apiVersion: v1beta1\nkind: Realm\nmetadata:\n  name: %s\nspec:\n%s", h.name(name), spec)
	if len(containers) == 0 {
		return text + "  containers: []\n"
	}
	return text + "  containers:\n" + strings.Join(containers, "")
}

// annotated is a realm's document with an annotation.
func annotated(document, annotation string) string {
	return strings.Replace(document, "\nspec:\n", "\n  annotations: {"+annotation+"}\nspec:\n", 1)
}

// container is the line of a container of one of the suite's images, with more fields such as `restartPolicy: never`.
// Its grace is a second, since a spec waits for it.
func (h *host) container(id, imageName string, fields ...string) string {
	return h.containerOf(id, image(imageName), fields...)
}

// containerOf is container with any reference.
func (h *host) containerOf(id, ref string, fields ...string) string {
	text := fmt.Sprintf("id: %s, image: %q, stopGracePeriodSeconds: 1", id, ref)
	for _, field := range fields {
		if strings.HasPrefix(field, "stopGracePeriodSeconds") {
			text = strings.Replace(text, ", stopGracePeriodSeconds: 1", "", 1)
		}
		text += ", " + field
	}
	return "  - {" + text + "}\n"
}

// shell are the fields of a container that runs a shell script.
func shell(script string) string { return fmt.Sprintf("command: [sh, -c, %q]", script) }
