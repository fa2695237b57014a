package source

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"

	"kukeon.io/kukeon-reconciler/manifests"
)

var update = flag.Bool("update", false, "write what the scans print into the fixtures")

// TestScan reads the directory that each testdata/*.txtar lays out. The files below in/ are the manifests, the lines
// of setup are done to them afterwards, and scan is what one look must print.
func TestScan(t *testing.T) {
	fixtures, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(fixtures) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, fixture := range fixtures {
		t.Run(strings.TrimSuffix(filepath.Base(fixture), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(fixture)
			if err != nil {
				t.Fatal(err)
			}
			root := filepath.Join(t.TempDir(), "realms.d")
			want := lay(t, root, archive)
			got := strings.ReplaceAll(render(testReader(root).Read(t.Context())), root, "ROOT")
			if *update {
				*want = []byte(got)
				if err := os.WriteFile(fixture, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(*want), got); diff != "" {
				t.Errorf("scan (-want +got):\n%s", diff)
			}
		})
	}
}

// lay builds the directory of a fixture and returns its expectation.
func lay(t *testing.T, root string, archive *txtar.Archive) *[]byte {
	t.Helper()
	mkdir(t, root)
	var setup string
	var want *[]byte
	for i, f := range archive.Files {
		switch name, manifest := strings.CutPrefix(f.Name, "in/"); {
		case manifest:
			write(t, filepath.Join(root, name), strings.TrimSpace(string(f.Data)))
		case f.Name == "setup":
			setup = string(f.Data)
		case f.Name == "scan":
			want = &archive.Files[i].Data
		default:
			t.Fatalf("what is %s?", f.Name)
		}
	}
	for line := range strings.Lines(setup) {
		do(t, root, strings.Fields(line))
	}
	return want
}

// do carries out one line of setup.
func do(t *testing.T, root string, words []string) {
	t.Helper()
	at := func(i int) string { return filepath.Join(root, words[i]) }
	number := func(i, base int) int {
		n, err := strconv.ParseInt(words[i], base, 64)
		must(t, err)
		return int(n)
	}
	switch words[0] {
	case "link": // link NAME TEXT
		symlink(t, strings.ReplaceAll(words[2], "ROOT", root), at(1))
	case "mkdir":
		mkdir(t, at(1))
	case "fifo":
		must(t, unix.Mkfifo(at(1), 0o644))
	case "socket":
		must(t, unix.Mknod(at(1), unix.S_IFSOCK|0o644, 0))
	case "device":
		must(t, unix.Mknod(at(1), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))))
	case "chmod": // chmod NAME MODE
		must(t, os.Chmod(at(1), os.FileMode(number(2, 8))))
	case "chown": // chown NAME UID GID
		must(t, os.Lchown(at(1), number(2, 10), number(3, 10)))
	case "size": // size NAME BYTES
		must(t, os.Truncate(at(1), int64(number(2, 10))))
	case "files": // files COUNT
		for i := range number(1, 10) {
			write(t, filepath.Join(root, fmt.Sprintf("f%05d.yaml", i)), "")
		}
	default:
		t.Fatalf("setup: %q", words)
	}
}

// render prints what a scan says.
func render(s manifests.Scan) string {
	var b strings.Builder
	for _, f := range s.Files {
		fmt.Fprintf(&b, "file %s: %.20s\n", f.Path, f.Documents[0].Name)
	}
	for _, w := range s.Withheld {
		fmt.Fprintf(&b, "withheld %s by %s\n", w.Path, w.By)
	}
	for _, u := range s.Unsettled {
		fmt.Fprintf(&b, "unsettled %s\n", u)
	}
	for _, p := range s.Problems {
		fmt.Fprintf(&b, "problem %s\n", p)
	}
	if s.Revision != "" {
		fmt.Fprintf(&b, "revision %s\n", s.Revision)
	}
	switch {
	case !s.Exists:
		b.WriteString("missing\n")
	case s.Complete:
		b.WriteString("complete\n")
	default:
		b.WriteString("incomplete\n")
	}
	return b.String()
}

// testReader decodes a file into one document that is named like its content, and takes "opaque" for opaque.
func testReader(root string, opts ...Option) *Reader {
	return NewReader(root, append([]Option{WithDecoder(func(path string, data []byte) manifests.File {
		return manifests.File{
			Path: path, Opaque: string(data) == "opaque", Documents: []manifests.Document{{Name: string(data)}},
		}
	})}, opts...)...)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
}

func write(t *testing.T, file, content string) {
	t.Helper()
	mkdir(t, filepath.Dir(file))
	must(t, os.WriteFile(file, []byte(content), 0o644))
}

// symlink makes or atomically replaces a symlink, as git-sync and kubelet do.
func symlink(t *testing.T, text, at string) {
	t.Helper()
	mkdir(t, filepath.Dir(at))
	must(t, os.Symlink(text, at+"~new"))
	must(t, os.Rename(at+"~new", at))
}
