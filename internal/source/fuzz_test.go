package source_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/compile"
	"kukeon.io/kukeon-reconciler/internal/source"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

const (
	mainManifest = `kind: Realm
metadata: {name: main}
spec:
  containers: [{id: web, image: web:1}, {id: db, image: web:1}]
---
kind: Container
metadata: {name: guest}
spec: {realmId: main, image: web:1}
`
	edgeManifest = "kind: Realm\nmetadata: {name: edge}\nspec: {containers: [{id: one, image: web:1}]}\n"
)

// What happens to the accepted directory, a bit each.
const (
	replaceMain = 1 << iota
	addBeside
	dropEdge
	setMainAside
	addBelow
	dropMain
	addJSON
)

// FuzzDirectory puts any bytes into a directory whose realms were accepted, reads it twice, far enough apart for an
// absence to count, and compiles and decides each time: nothing that was accepted is lost without a reason.
func FuzzDirectory(f *testing.F) {
	examples, err := filepath.Glob("../../examples/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range examples {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, []byte(edgeManifest), byte(replaceMain|addBeside))
	}
	tombstone := "kind: Realm\nmetadata: {name: main}\nspec: {state: Absent}\n"
	for what := range byte(1 << 7) {
		f.Add([]byte(mainManifest[:len(mainManifest)/2]), []byte("kind: Realm\nmetadata: {name: third}\nspec: {containers: []}\n"), what)
	}
	f.Add([]byte(tombstone), []byte(mainManifest), byte(replaceMain))
	f.Add([]byte(tombstone), []byte(tombstone), byte(replaceMain|addBeside))
	f.Add([]byte("kind: Realm\nmetadata: {name: main}\nspec: {containers: []}\n"), []byte("kind: Realm\nmetadata: {name: main}\n"), byte(replaceMain|dropEdge))
	f.Fuzz(func(t *testing.T, first, second []byte, what byte) {
		h := newDirectory(t)
		h.decide()
		if len(h.accepted.Realms) != 2 {
			t.Fatalf("the good manifests are not accepted: %v", h.desired.Problems)
		}
		h.change(first, second, what)
		for look := range 2 {
			h.now = h.now.Add(3 * time.Second)
			prev := h.accepted
			h.decide()
			h.check(prev, look)
		}
	})
}

// directory is a manifest directory and what was accepted of it.
type directory struct {
	*testing.T
	root     string
	reader   *source.Reader
	now      time.Time
	scan     manifests.Scan
	desired  compile.Desired
	accepted state.Accepted
}

func newDirectory(t *testing.T) *directory {
	h := &directory{T: t, now: time.Now()}
	var err error
	if h.root, err = os.MkdirTemp("/dev/shm", "fuzz-"); err != nil { // a disk is a hundred times slower
		h.root = t.TempDir()
	}
	t.Cleanup(func() { h.must(os.RemoveAll(h.root)) })
	h.reader = source.NewReader(h.root, source.WithClock(func() time.Time { return h.now }))
	h.write("main.yaml", []byte(mainManifest))
	h.write("edge.yaml", []byte(edgeManifest))
	return h
}

func (h *directory) write(path string, data []byte) {
	at := filepath.Join(h.root, path)
	h.must(os.MkdirAll(filepath.Dir(at), 0o755))
	h.must(os.WriteFile(at, data, 0o644))
}

func (h *directory) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *directory) change(first, second []byte, what byte) {
	if what&replaceMain != 0 {
		h.write("main.yaml", first)
	}
	if what&addBeside != 0 {
		h.write("beside.yaml", second)
	}
	if what&addBelow != 0 {
		h.write("below/it.yml", second)
	}
	if what&addJSON != 0 {
		h.write("beside.json", first)
	}
	if what&dropEdge != 0 {
		h.must(os.Remove(filepath.Join(h.root, "edge.yaml")))
	}
	switch {
	case what&setMainAside != 0:
		h.must(os.Rename(filepath.Join(h.root, "main.yaml"), filepath.Join(h.root, "main.yaml.skip")))
	case what&dropMain != 0:
		h.must(os.Remove(filepath.Join(h.root, "main.yaml")))
	}
}

func (h *directory) decide() {
	const owner = state.Owner("owner")
	var namespaces []state.NamespaceSummary
	for name, r := range h.accepted.Realms {
		namespaces = append(namespaces, state.NamespaceSummary{
			Name: r.Namespace, Containers: len(r.Containers), Ours: len(r.Containers),
			Labels: map[string]string{state.LabelOwner: string(owner), state.LabelRealm: string(name)},
		})
	}
	h.scan = h.reader.Read(h.Context())
	h.desired = compile.Compile(h.scan, compile.Options{}, namespaces, owner, h.accepted)
	h.accepted = accept.Decide(h.accepted, h.scan, h.desired, namespaces, nil, h.now, accept.Settings{PruneSettle: 2 * time.Second}).Accepted
}

// check wants a reason for everything that was accepted and is no more.
func (h *directory) check(prev state.Accepted, look int) {
	for name, was := range prev.Realms {
		is, kept := h.accepted.Realms[name]
		named := h.documents(name)
		if broken := h.broken(was.Paths, named); broken != "" && (!kept || len(is.Containers) != len(was.Containers) || is.Generation != was.Generation) {
			h.Errorf("realm %s changes although %s", name, broken)
		}
		if !kept {
			absent := h.scan.Complete && look > 0 && len(named) == 0
			tombstone := slices.ContainsFunc(named, func(d manifests.Document) bool { return d.Realm != nil && d.Realm.Spec.State == manifests.Absent })
			if !absent && !tombstone {
				h.Errorf("realm %s is lost at look %d; complete %v, problems %v", name, look, h.scan.Complete, h.desired.Problems)
			}
			continue
		}
		listed := slices.ContainsFunc(named, func(d manifests.Document) bool { return d.Realm != nil && d.Realm.Spec.ContainersDeclared })
		for _, c := range was.Containers {
			if _, still := is.Find(c.ID); still {
				continue
			}
			if gone := c.Standalone && h.scan.Complete && look > 0; c.Standalone && !gone || !c.Standalone && !listed {
				h.Errorf("container %s/%s is lost at look %d; problems %v", name, c.ID, look, h.desired.Problems)
			}
		}
	}
}

// documents are those that name a realm.
func (h *directory) documents(name state.RealmName) []manifests.Document {
	var out []manifests.Document
	for _, f := range h.scan.Files {
		for _, d := range f.Documents {
			if d.RealmName == string(name) {
				out = append(out, d)
			}
		}
	}
	return out
}

// broken names an error in a file that contributed to a realm or names it now.
func (h *directory) broken(paths []string, named []manifests.Document) string {
	for _, p := range h.desired.Problems {
		concerns := slices.Contains(paths, p.File) || slices.ContainsFunc(named, func(d manifests.Document) bool { return d.File == p.File })
		if p.Severity == manifests.Error && concerns {
			return p.String()
		}
	}
	return ""
}
