package manifests

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write what Decode says into the fixtures; read the difference before committing it")

// Each fixture is a sentence: an input file, and what Decode says of it. The name of the first file in the archive is
// the path it is decoded as. Lines of the input may use \r and \uFEFF as text; they become the bytes.
func TestFixtures(t *testing.T) {
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
			if len(archive.Files) != 2 {
				t.Fatal("a fixture holds an input and its result")
			}
			input := archive.Files[0]
			got := describe(Decode(input.Name, bytesOf(input.Data)))
			if *update {
				archive.Files[1].Data = []byte(got)
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(archive.Files[1].Data), got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func bytesOf(text []byte) []byte {
	text = bytes.ReplaceAll(text, []byte(`<CR>`), []byte("\r"))
	text = bytes.ReplaceAll(text, []byte(`<BOM>`), []byte("\uFEFF"))
	text = bytes.ReplaceAll(text, []byte(`<FF>`), []byte{0xff})
	return bytes.ReplaceAll(text, []byte("<CUT>\n"), nil)
}

// describe prints what a file decoded to: its documents, and its problems.
func describe(f File) string {
	var b strings.Builder
	for _, d := range f.Documents {
		decoded := "refused"
		if d.Realm != nil || d.Container != nil {
			decoded = "decoded"
		}
		fmt.Fprintf(&b, "%s %q of realm %q at %s: %s\n", d.Kind, d.Name, d.RealmName, d.Position, decoded)
	}
	if f.Opaque {
		b.WriteString("opaque\n")
	}
	for _, p := range f.Problems {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}
