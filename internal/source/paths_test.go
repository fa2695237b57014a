package source

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/manifests"
)

const realm = "apiVersion: v1beta1\nkind: Realm\nmetadata: {name: %}\nspec: {containers: []}\n"

// files returns path=realm of each document read.
func files(s manifests.Scan) string {
	var list []string
	for _, f := range s.Files {
		for _, d := range f.Documents {
			list = append(list, f.Path+"="+d.RealmName)
		}
	}
	return strings.Join(list, " ")
}

func TestReadPaths(t *testing.T) {
	t.Chdir(t.TempDir())
	for file, name := range map[string]string{"d/one.yaml": "one", "d/sub/two.yaml": "two", "three.txt": "three", "d/x.yaml~": "x"} {
		write(t, file, strings.ReplaceAll(realm, "%", name))
	}
	must(t, os.Chown("d/one.yaml", 1001, 1001))
	must(t, os.Chmod("d/sub/two.yaml", 0o666))
	symlink(t, "../three.txt", "l/four.yaml")
	must(t, unix.Mkfifo("fifo", 0o644))
	for _, c := range []struct {
		paths    []string
		files    string
		problems string
	}{
		{[]string{"d"}, "d/one.yaml=one d/sub/two.yaml=two", ""},
		{[]string{"./d/", "d/one.yaml", "d"}, "d/one.yaml=one d/sub/two.yaml=two", ""},
		{[]string{"three.txt"}, "three.txt=three", ""},
		{[]string{"l/four.yaml"}, "l/four.yaml=three", ""},
		{[]string{"-", "three.txt", "-"}, "-=stdin three.txt=three", ""},
		{[]string{"l"}, "", "l/four.yaml: the symlink leads out of the manifest directory"},
		{[]string{"fifo"}, "", "fifo: not a regular file but a named pipe"},
		{[]string{"d/sub", "three.txt"}, "d/sub/two.yaml=two three.txt=three", ""},
	} {
		scan, err := ReadPaths(c.paths, strings.NewReader(strings.ReplaceAll(realm, "%", "stdin")))
		must(t, err)
		if diff := cmp.Diff(c.files, files(scan)); diff != "" {
			t.Errorf("%v: files (-want +got):\n%s", c.paths, diff)
		}
		problems := ""
		for _, p := range scan.Problems {
			problems += p.String()
		}
		if problems != c.problems || scan.Complete != (problems == "") {
			t.Errorf("%v: problems %q, complete %v; want %q", c.paths, problems, scan.Complete, c.problems)
		}
	}
	t.Chdir("d")
	scan, err := ReadPaths([]string{"."}, nil)
	must(t, err)
	if want := "one.yaml=one sub/two.yaml=two"; files(scan) != want {
		t.Errorf("files %s, want %s", files(scan), want)
	}
}

func TestReadPathsFailsOnWhatIsNotThere(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "a.yaml", "")
	symlink(t, "nowhere", "l.yaml")
	for _, path := range []string{"none", "none/x.yaml", "l.yaml"} {
		if _, err := ReadPaths([]string{"a.yaml", path}, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want fs.ErrNotExist", path, err)
		}
	}
}

func TestReadPathsWaitsForAWriter(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(dir + "/a.yaml")
	must(t, err)
	closed := make(chan error, 1)
	time.AfterFunc(4*SettleRetry, func() {
		_, err := f.WriteString(strings.ReplaceAll(realm, "%", "slow"))
		closed <- errors.Join(err, f.Close())
	})
	for _, path := range []string{dir + "/a.yaml", dir} {
		scan, err := ReadPaths([]string{path}, nil)
		must(t, err)
		if want := dir + "/a.yaml=slow"; files(scan) != want || !scan.Complete {
			t.Errorf("%s: %s, want %s", path, render(scan), want)
		}
	}
	must(t, <-closed)
}

func TestStandardInputIsLimited(t *testing.T) {
	scan, err := ReadPaths([]string{"-"}, strings.NewReader(strings.Repeat("#", maxFileBytes+1)))
	must(t, err)
	expect(t, scan, "problem -:1: more than 1048576 bytes\nincomplete")
}
