package source

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/manifests"
)

// archivesOf prints what a scan says of archives: those that the one manifest names, then those in the drop directory.
func archivesOf(scan manifests.Scan, base string) string {
	var b strings.Builder
	show := func(how string, a manifests.Archive) {
		state := a.Problem
		if a.Version != "" {
			state = "ready"
		}
		b.WriteString(how + " " + strings.TrimPrefix(a.Path, base+"/") + ": " + state + "\n")
	}
	for _, f := range scan.Files {
		for _, doc := range f.Documents {
			for _, image := range doc.Realm.Spec.Images {
				show("named", f.Archives[image.Archive])
			}
		}
	}
	for _, a := range scan.Dropped["shop"] {
		show("dropped", a)
	}
	for _, p := range scan.Problems {
		b.WriteString(strings.ReplaceAll(p.String(), base+"/", "") + "\n")
	}
	return b.String()
}

// archiveHost lays out a manifest directory with archives beside it.
func archiveHost(t *testing.T) (base string) {
	base = t.TempDir()
	files := map[string]string{
		"realms.d/team/shop.yaml": `{kind: Realm, metadata: {name: shop}, spec: {images: [
			{archive: images/app.tar}, {archive: ` + base + `/far.tar}, {archive: gone.tar}, {archive: images}, {archive: open.tar},
			{archive: linked.tar}, {archive: empty.tar}]}}`,
		"realms.d/team/images/app.tar": "app", "far.tar": "far", "realms.d/team/open.tar": "open", "realms.d/team/empty.tar": "",
		"images.d/shop/b.tar": "b", "images.d/shop/a.tar.gz": "a", "images.d/shop/.a.tar.copying": "a", "images.d/shop/c.tar~": "c",
		"images.d/shop/sub/d.tar": "d", "images.d/other/x.tar": "x",
	}
	for name, text := range files {
		mkdir(t, filepath.Dir(filepath.Join(base, name)))
		write(t, filepath.Join(base, name), text)
	}
	must(t, os.Chmod(filepath.Join(base, "realms.d/team/open.tar"), 0o666))
	symlink(t, "images/app.tar", filepath.Join(base, "realms.d/team/linked.tar"))
	return base
}

func TestArchivesAreFoundBesideManifestsAndInTheDropDirectory(t *testing.T) {
	base := archiveHost(t)
	now := time.Now().Add(time.Hour)
	r := NewReader(filepath.Join(base, "realms.d"), WithClock(func() time.Time { return now }))
	scan := r.Read(t.Context())
	want := `named realms.d/team/images/app.tar: ready
named far.tar: ready
named realms.d/team/gone.tar: it cannot be read: no such file or directory
named realms.d/team/images: it is a directory
named realms.d/team/open.tar: refused: writable by everybody (mode 0666)
named realms.d/team/linked.tar: ready
named realms.d/team/empty.tar: it is empty
dropped images.d/shop/a.tar.gz: ready
dropped images.d/shop/b.tar: ready
`
	if diff := cmp.Diff(want, archivesOf(scan, base)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !scan.Complete || !scan.LookAgain.IsZero() {
		t.Errorf("complete %v, look again %s", scan.Complete, scan.LookAgain)
	}

	// A drop directory that anybody may write to is anybody's.
	must(t, os.Chmod(filepath.Join(base, "images.d/shop"), 0o777))
	scan = r.Read(t.Context())
	const refused = "images.d/shop: warning: its archives are not imported: the directory is writable by everybody (mode 0777)"
	if got := archivesOf(scan, base); len(scan.Dropped) > 0 || !strings.Contains(got, refused) || !scan.Complete {
		t.Errorf("%s", got)
	}
}

func TestAnArchiveThatIsBeingCopiedIsWaitedFor(t *testing.T) {
	base := archiveHost(t)
	path := filepath.Join(base, "images.d/shop/b.tar")
	var now time.Time
	r := NewReader(filepath.Join(base, "realms.d"), WithClock(func() time.Time { return now }))
	look := func(after time.Duration) (manifests.Archive, manifests.Scan) {
		info, err := os.Stat(path)
		must(t, err)
		now = time.Unix(0, statOf(info).ctime).Add(after)
		scan := r.Read(t.Context())
		return scan.Dropped["shop"][1], scan
	}
	young, scan := look(time.Second)
	if young.Version != "" || young.Problem != beingWritten || scan.LookAgain.IsZero() || scan.LookAgain.After(now.Add(2*time.Second)) || !scan.Complete {
		t.Errorf("%+v; look again %s", young, scan.LookAgain)
	}
	old, _ := look(archiveQuiet)
	if old.Version == "" {
		t.Errorf("%+v", old)
	}
	write(t, path, "other")
	changed, _ := look(archiveQuiet)
	if changed.Version == "" || changed.Version == old.Version {
		t.Errorf("%+v after %+v", changed, old)
	}
	// A write that came after the look began, or on a server whose clock is ahead, is one that goes on.
	if ahead, _ := look(-time.Second); !ahead.Settling || ahead.Version != "" {
		t.Errorf("%+v", ahead)
	}
	// A clock that was set back says nothing about the file.
	if behind, _ := look(-time.Hour); behind.Version != changed.Version {
		t.Errorf("%+v", behind)
	}
}

func TestAnArchiveThatIsWrittenForEverKeepsNobodyWaiting(t *testing.T) {
	base := archiveHost(t)
	path := filepath.Join(base, "images.d/shop/b.tar")
	now := time.Now()
	r := NewReader(filepath.Join(base, "realms.d"), WithClock(func() time.Time { return now }))
	look := func() manifests.Archive {
		write(t, path, "more and more")
		now = time.Now().Add(time.Second) // each look finds it a second old
		return r.Read(t.Context()).Dropped["shop"][1]
	}
	if a := look(); !a.Settling {
		t.Errorf("%+v", a)
	}
	r.unquiet[path] = r.unquiet[path].Add(-maxUnquiet)
	if a := look(); a.Settling || a.Version != "" || a.Problem != beingWritten {
		t.Errorf("%+v", a)
	}
}

func TestAFileSystemThatDoesNotAnswerIsNotWaitedForTwice(t *testing.T) {
	r := NewReader(t.TempDir())
	answer := make(chan error)
	asked := 0
	question := func() (string, error) { asked++; return "there", <-answer }
	began := time.Now()
	for range 3 {
		if _, err := ask(r, "/mnt/app.tar", question); !errors.Is(err, errNoAnswer) {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 2*answerLimit {
		t.Errorf("it took %s", took)
	}
	answer <- nil
	for {
		v, err := ask(r, "/mnt/app.tar", question)
		if err == nil {
			if v != "there" || asked != 1 {
				t.Errorf("%q, asked %d times", v, asked)
			}
			return
		}
	}
}

func TestWhoNamesADirectoryDoesNotNameItsNeighbours(t *testing.T) {
	base := archiveHost(t)
	scan, err := ReadPaths([]string{filepath.Join(base, "realms.d")}, strings.NewReader(""))
	must(t, err)
	if len(scan.Dropped) > 0 || scan.Files[0].Archives["images/app.tar"].Version == "" {
		t.Errorf("%+v %+v", scan.Dropped, scan.Files[0].Archives)
	}
}

func TestAnOpenArchiveIsTheOneThatWasFound(t *testing.T) {
	base := archiveHost(t)
	scan, err := ReadPaths([]string{filepath.Join(base, "realms.d/team/shop.yaml")}, strings.NewReader(""))
	must(t, err)
	found := scan.Files[0].Archives["images/app.tar"]
	if found.Path != filepath.Join(base, "realms.d/team/images/app.tar") || found.Version == "" { // young as it is
		t.Fatalf("%+v", found)
	}
	f, err := OpenArchive(found.Path)
	must(t, err)
	defer f.Close()
	if version, err := f.Version(); err != nil || version != found.Version {
		t.Errorf("%s, %v; found %s", version, err, found.Version)
	}
	if _, err := OpenArchive(filepath.Join(base, "none")); err == nil {
		t.Error("what is not there was opened")
	}
}
