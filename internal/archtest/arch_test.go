package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Budgets are habits and not walls: what is over them is logged.
const (
	maxFiles = 8
	maxLines = 400
)

// file is a Go file of this module.
type file struct {
	pkg, name string // the package's directory, seen from the top, and the file's name
	source    []byte
}

func (f file) test() bool { return strings.HasSuffix(f.name, "_test.go") }

// sources returns all Go files of this module by package.
func sources(t *testing.T) map[string][]file {
	t.Helper()
	root := os.DirFS("../..")
	files := map[string][]file{}
	err := fs.WalkDir(root, ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			_, statErr := fs.Stat(root, path.Join(p, "go.mod"))
			other := p != "." && statErr == nil // another module
			if other || p == "bin" || e.Name() == "testdata" || (p != "." && strings.HasPrefix(e.Name(), ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(p) != ".go" {
			return nil
		}
		source, err := fs.ReadFile(root, p)
		files[path.Dir(p)] = append(files[path.Dir(p)], file{path.Dir(p), path.Base(p), source})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// room returns the entry of the table that governs a package: its own, or the nearest above it.
func room(pkg string) (string, bool) {
	for p := pkg; p != "."; p = path.Dir(p) {
		if _, ok := table[p]; ok {
			return p, true
		}
	}
	return "", false
}

// violations returns what a file does that the table does not allow.
func violations(f file) ([]string, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), f.name, f.source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	name, ok := room(f.pkg)
	if !ok {
		return []string{"package " + f.pkg + " is missing from the table"}, nil
	}
	rule := table[name]
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		if below(imported, containerdClient) && !rule.containerd {
			say("imports containerd's client; only ctrd talks to containerd")
		}
		if f.test() {
			continue // tests may use what they like, but see above
		}
		if ours, ok := strings.CutPrefix(imported, module); ok && !mayImport(name, rule, ours) {
			say("imports %s; the table allows %v", ours, rule.ours)
		}
		isImpure := func(p string) bool { return below(imported, p) }
		if rule.pure && slices.ContainsFunc(impure, isImpure) && !slices.Contains(values, imported) {
			say("imports %s, and is pure", imported)
		}
		if rule.pure && imported == "time" {
			for _, call := range clockUses(parsed, spec) {
				say("uses time.%s, and is pure: the clock is an argument", call)
			}
		}
	}
	return found, nil
}

// mayImport reports whether a room may import a package of ours. Within a room everybody may.
func mayImport(name string, rule rule, imported string) bool {
	other, ok := room(imported)
	switch {
	case !ok:
		return false
	case other == name:
		return true
	case other == "cmd/kukeon-reconciler":
		return false // nothing imports a command
	}
	return slices.Contains(rule.ours, all) || slices.Contains(rule.ours, other)
}

// below reports whether an import path is p or in a folder of p.
func below(imported, p string) bool { return imported == p || strings.HasPrefix(imported, p+"/") }

// clockUses returns the functions of package time in a file that read the clock.
func clockUses(f *ast.File, spec *ast.ImportSpec) []string {
	local := "time"
	if spec.Name != nil {
		local = spec.Name.Name
	}
	var used []string
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && clocks[s.Sel.Name] {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == local {
				used = append(used, s.Sel.Name)
			}
		}
		return true
	})
	return used
}

func TestEveryImportIsInTheTable(t *testing.T) {
	for _, files := range sources(t) {
		for _, f := range files {
			found, err := violations(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range found {
				t.Errorf("%s/%s: %s", f.pkg, f.name, v)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for pkg, files := range sources(t) {
		if !slices.ContainsFunc(files, func(f file) bool { return !f.test() }) {
			continue
		}
		docs := 0
		for _, f := range files {
			parsed, err := parser.ParseFile(token.NewFileSet(), f.name, f.source, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if !f.test() && parsed.Doc != nil {
				docs++
				name := parsed.Name.Name
				if text := parsed.Doc.Text(); name != "main" && !strings.HasPrefix(text, "Package "+name+" ") {
					t.Errorf("%s/%s: the package's doc begins %.40q", pkg, f.name, text)
				}
			}
		}
		if docs != 1 {
			t.Errorf("%s: %d files have a package doc, want 1", pkg, docs)
		}
	}
}

func TestBudgets(t *testing.T) {
	for pkg, files := range sources(t) {
		count := 0
		for _, f := range files {
			if f.test() {
				continue
			}
			count++
			if lines := bytes.Count(f.source, []byte("\n")); lines > maxLines {
				t.Logf("%s/%s has %d lines, the habit is %d", pkg, f.name, lines, maxLines)
			}
		}
		if count > maxFiles {
			t.Logf("%s has %d files, the habit is %d", pkg, count, maxFiles)
		}
	}
}

// TestTheNetCatchesFish shows each rule a file that breaks it.
func TestTheNetCatchesFish(t *testing.T) {
	for name, c := range map[string]struct {
		pkg, file, source string
		want              []string
	}{
		"a planner that reads the clock": {
			"internal/plan", "a.go", `package plan; import t "time"; var x = t.Now()`,
			[]string{"uses time.Now, and is pure: the clock is an argument"},
		},
		"a planner that has durations": {
			"internal/plan", "a.go", `package plan; import "time"; const x = time.Second`, nil,
		},
		"a planner that throws dice": {
			"internal/plan", "a.go", `package plan; import _ "math/rand/v2"`,
			[]string{"imports math/rand/v2, and is pure"},
		},
		"a planner that reads files": {
			"internal/plan", "a.go", `package plan; import _ "os"`, []string{"imports os, and is pure"},
		},
		"a planner's test that reads files": {
			"internal/plan", "a_test.go", `package plan; import _ "os"`, nil,
		},
		"a pure package that parses addresses": {
			"internal/compile", "a.go", `package compile; import _ "net/netip"`, nil,
		},
		"state that knows the planner": {
			"internal/state", "a.go", `package state; import _ "kukeon.io/kukeon-reconciler/internal/plan"`,
			[]string{"imports internal/plan; the table allows []"},
		},
		"a controller that talks to containerd": {
			"controllers", "a.go", `package controllers; import _ "github.com/containerd/containerd/v2/client"`,
			[]string{"imports containerd's client; only ctrd talks to containerd"},
		},
		"a controller's test that talks to containerd": {
			"controllers", "a_test.go", `package controllers; import _ "github.com/containerd/containerd/v2/client"`,
			[]string{"imports containerd's client; only ctrd talks to containerd"},
		},
		"a test that imports the command": {
			"test/e2e", "a.go", `package e2e; import _ "kukeon.io/kukeon-reconciler/cmd/kukeon-reconciler"`,
			[]string{"imports cmd/kukeon-reconciler; the table allows [*]"},
		},
		"a new package": {
			"internal/util", "a.go", `package util`, []string{"package internal/util is missing from the table"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := violations(file{c.pkg, c.file, []byte(c.source)})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
