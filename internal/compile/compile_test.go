package compile

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

var update = flag.Bool("update", false, "write what is found into the fixtures; then read the difference")

// TestMeaning compiles the manifests of each fixture, on a host without namespaces and with nothing accepted, and
// compares the realms and problems that come out. How names are settled and what is accepted of it is proved by the
// scripts of package accept.
func TestMeaning(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			scan := manifests.Scan{Exists: true, Complete: true, Revision: "4711"}
			if strings.HasPrefix(filepath.Base(path), "archives-") {
				scan.Dropped = map[string][]manifests.Archive{"main": {{Path: "/images.d/main/a.tar", Version: "2"}, {Path: "/manifests/z.tar", Version: "1"}}}
			}
			for i := range archive.Files {
				f := &archive.Files[i]
				if f.Name != "want" {
					file := manifests.Decode(f.Name, f.Data)
					file.Public = strings.HasPrefix(f.Name, "public")
					file.Archives = archives(file)
					scan.Files = append(scan.Files, file)
					continue
				}
				got := show(t, Compile(scan, Options{}, nil, "owner", state.Accepted{}))
				if *update {
					f.Data = []byte(got)
				} else if diff := cmp.Diff(string(f.Data), got); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			}
			if *update {
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// archives finds every archive that a file names, but for missing ones.
func archives(f manifests.File) map[string]manifests.Archive {
	out := map[string]manifests.Archive{}
	for _, doc := range f.Documents {
		if doc.Realm == nil {
			continue
		}
		for _, image := range doc.Realm.Spec.Images {
			a := manifests.Archive{Path: "/manifests/" + image.Archive, Version: "1"}
			if strings.HasPrefix(image.Archive, "missing") {
				a.Version, a.Problem = "", "it cannot be read: no such file or directory"
			}
			out[image.Archive] = a
		}
	}
	return out
}

func show(t *testing.T, d Desired) string {
	var b strings.Builder
	for _, r := range d.Realms {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
		b.WriteString("\n")
	}
	for _, p := range d.Problems {
		b.WriteString(p.String() + "\n")
	}
	return b.String()
}

func TestATemplateMakesADifferentNamespaceOfEveryRealm(t *testing.T) {
	for template, good := range map[string]bool{
		DefaultTemplate: true, "{realm}": true, "{realm}.kukeon.io": true,
		"": false, "kukeon": false, "{realm}{realm}": false, "kukeon_-{realm}": false, "{realm}-": false, "{Realm}": false,
		strings.Repeat("k", 76) + "{realm}": false,
	} {
		if err := CheckTemplate(template); (err == nil) != good {
			t.Errorf("template %q: %v", template, err)
		}
	}
}

func TestAWayToSpellASignalMeansNothing(t *testing.T) {
	for in, want := range map[string]string{"": "", "9": "9", "int": "SIGINT", "SIGINT": "SIGINT", "sigrtmin+3": "SIGRTMIN+3"} {
		if got := signal(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func TestWhereARealmThatNamesNoNamespaceLives(t *testing.T) {
	const owner = "us"
	stamped := func(ns state.Namespace, realm, by string) state.NamespaceSummary {
		return state.NamespaceSummary{Name: ns, Labels: map[string]string{state.LabelOwner: by, state.LabelRealm: realm}}
	}
	for _, c := range []struct {
		name       state.RealmName
		template   string
		namespaces []state.NamespaceSummary
		ns         state.Namespace
		lives      bool
	}{
		{name: "main", ns: "kukeon-main"},
		{name: "main", template: "{realm}.x", ns: "main.x"},
		{name: "main", namespaces: []state.NamespaceSummary{stamped("elsewhere", "main", owner)}, ns: "elsewhere", lives: true},
		{name: "main", namespaces: []state.NamespaceSummary{stamped("elsewhere", "main", "them")}, ns: "kukeon-main"},
		{name: state.SystemRealm, ns: state.SystemNamespace},
		{name: state.SystemRealm, namespaces: []state.NamespaceSummary{{Name: state.OldSystemNamespace}}, ns: state.OldSystemNamespace},
		{name: "a/b"}, {name: "system"}, {name: ""}, {name: "default", template: "{realm}"},
	} {
		ns, lives, err := NamespaceOf(c.name, Options{Template: c.template}, c.namespaces, owner)
		if refused := c.ns == ""; (err != nil) != refused || !refused && (ns != c.ns || lives != c.lives) {
			t.Errorf("%q with %q: %s, lives %v, %v", c.name, c.template, ns, lives, err)
		}
	}
}
