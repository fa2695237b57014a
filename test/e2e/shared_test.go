package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// sharing is the field of a container that sees a directory of the host as /host: what a process writes there tells
// what it did, whatever else becomes of it.
func (h *host) sharing() string {
	GinkgoHelper()
	Expect(os.MkdirAll(h.shared(""), 0o777)).To(Succeed())
	return "volumes: [{kind: bind, source: " + h.shared("") + ", target: /host}]"
}

// shared is the path on the host of a file in /host.
func (h *host) shared(name string) string { return filepath.Join(h.dir, "shared", name) }

// lines are those of a file in /host, none while it is absent.
func (h *host) lines(name string) []string {
	data, err := os.ReadFile(h.shared(name))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

// touch makes a file in /host, for which a container waits.
func (h *host) touch(name string) {
	GinkgoHelper()
	Expect(os.WriteFile(h.shared(name), nil, 0o644)).To(Succeed())
}

// runs counts, by file in /host, how often a container that writes a line at its start was started.
func (h *host) runs(names ...string) map[string]int {
	counts := map[string]int{}
	for _, name := range names {
		counts[name] = len(h.lines(name))
	}
	return counts
}

// items are the JSON objects that a listing of ours prints, such as items("get", "containers").
func (h *host) items(args ...string) ([]map[string]any, error) {
	GinkgoHelper()
	r := h.cli(append(args, "-o", "json")...)
	if r.code != 0 {
		return nil, errors.New(r.String())
	}
	var list struct{ Items []map[string]any }
	err := json.Unmarshal([]byte(r.stdout), &list)
	return list.Items, err
}

// phases are what our status calls the containers of a realm.
func (h *host) phases(realm string) (map[string]string, error) {
	GinkgoHelper()
	phases := map[string]string{}
	containers, err := h.items("get", "containers", "-r", h.name(realm))
	for _, c := range containers {
		phases[fmt.Sprint(c["name"])] = fmt.Sprint(c["phase"])
	}
	return phases, err
}

// created is when a container's record was made.
func (h *host) created(realm, id string) time.Time {
	GinkgoHelper()
	var record struct{ CreatedAt time.Time }
	Expect(json.Unmarshal([]byte(h.ctr(realm, "containers", "info", id)), &record)).To(Succeed())
	return record.CreatedAt
}
