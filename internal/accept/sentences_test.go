package accept_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

var update = flag.Bool("update", false, "write what is found into the fixtures; then read the difference")

// TestSentences runs every script in testdata. Its name is the sentence of the design that it proves.
//
// A script is a sequence of steps. A file named after a time, such as 2s, begins the step at that time after the
// epoch; it holds the commands of method do. Files that follow with a path stand in the manifest directory
// from then on. Then the directory is scanned once, and the file named want holds what is accepted, being removed
// and held afterwards. All accepted realms run by the next step; nothing is removed unless a command says so.
func TestSentences(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { runScript(t, path) })
	}
}

func runScript(t *testing.T, path string) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	w, step := newWorld(), ""
	for i := range archive.Files {
		f := &archive.Files[i]
		at, err := time.ParseDuration(f.Name)
		switch {
		case err == nil:
			step, w.at = f.Name, at
			for line := range strings.Lines(string(f.Data)) {
				if line = strings.TrimSpace(line); line != "" {
					if err := w.do(strings.Fields(line)); err != nil {
						t.Fatalf("step %s: %s: %v", step, line, err)
					}
				}
			}
		case f.Name == "want":
			w.look()
			got := w.print()
			if *update {
				f.Data = []byte(got)
			} else if diff := cmp.Diff(strings.TrimRight(string(f.Data), "\n"), strings.TrimRight(got, "\n")); diff != "" {
				t.Errorf("step %s (-want +got):\n%s", step, diff)
			}
		default:
			w.files[f.Name] = string(bytes.Clone(f.Data))
		}
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// do carries one command of a script out.
func (w *world) do(words []string) error {
	arg := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	switch words[0] {
	case "rm":
		for _, path := range words[1:] {
			delete(w.files, path)
		}
	case "mv":
		w.files[arg(2)] = w.files[arg(1)]
		delete(w.files, arg(1))
	case "touch": // something about the directory changes, and no content
		w.touched++
	case "writing": // a file is being written from now on
		w.unsettled[arg(1)] = true
	case "written":
		delete(w.unsettled, arg(1))
	case "refuse":
		w.refused[arg(1)] = strings.Join(words[2:], " ")
	case "unmount":
		w.missing = true
	case "mount":
		w.missing = false
	case "root": // device, inode, text of a symlink on the path
		w.root = manifests.ScanIdentity{}
		if _, err := fmt.Sscan(arg(1)+" "+arg(2), &w.root.Device, &w.root.Inode); err != nil {
			return err
		}
		if len(words) > 3 {
			w.root.Links = words[3:]
		}
	case "commit":
		w.revision = arg(1)
	case "template":
		w.template = arg(1)
	case "confirm":
		w.confirm = words[1:]
	default:
		return w.doHost(words, arg)
	}
	return nil
}

// doHost is the part of do that concerns the host and us.
func (w *world) doHost(words []string, arg func(int) string) (err error) {
	switch words[0] {
	case "restart":
		return w.restart()
	case "lose-state":
		w.accepted = state.Accepted{}
	case "ended":
		realm, id, _ := strings.Cut(arg(1), "/")
		w.ended(state.RealmName(realm), state.ContainerID(id))
	case "silent": // containerd does not answer
		w.silent = true
	case "answers":
		w.silent = false
	case "namespace": // name, containers, those of ours, realm on the label if any
		n := state.NamespaceSummary{Name: state.Namespace(arg(1))}
		if len(words) > 4 {
			n.Labels = stamps(state.RealmName(arg(4)))
		}
		_, err = fmt.Sscan(arg(2)+" "+arg(3), &n.Containers, &n.Ours)
		w.namespaces[n.Name] = n
	case "unreadable":
		n := w.namespaces[state.Namespace(arg(1))]
		n.Incomplete, n.Containers, n.Ours = true, 0, 0
		w.namespaces[n.Name] = n
	case "drop-namespace":
		delete(w.namespaces, state.Namespace(arg(1)))
	case "removal-hold":
		w.settings.RemovalHold, err = time.ParseDuration(arg(1))
	case "allow-empty":
		w.settings.AllowEmpty = true
	default:
		return fmt.Errorf("unknown command")
	}
	return err
}
