package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/manifests"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// names returns path=content of a scan's files.
func names(s manifests.Scan) string {
	var list []string
	for _, f := range s.Files {
		list = append(list, f.Path+"="+f.Documents[0].Name)
	}
	return strings.Join(list, " ")
}

func expect(t *testing.T, s manifests.Scan, want string) {
	t.Helper()
	if diff := cmp.Diff(want, strings.TrimSpace(render(s))); diff != "" {
		t.Errorf("scan (-want +got):\n%s", diff)
	}
}

func TestUnchangedFilesAreNeitherReadNorDecoded(t *testing.T) {
	root, decoded, opened := t.TempDir(), 0, 0
	now := time.Now().Add(time.Hour) // so that the timestamps are beyond doubt
	r := testReader(root, WithClock(func() time.Time { return now }))
	decode := r.decode
	r.decode = func(path string, data []byte) manifests.File { decoded++; return decode(path, data) }
	r.lease = func(f *os.File) error { opened++; return takeLease(f) }
	write(t, root+"/a.yaml", "a")
	write(t, root+"/b.yaml", "b")
	for _, step := range []struct {
		name            string
		change          func()
		opened, decoded int
	}{
		{"first scan", func() {}, 2, 2},
		{"nothing changed", func() {}, 0, 0},
		{"touched", func() { must(t, os.Chtimes(root+"/a.yaml", now, now.Add(-time.Minute))) }, 1, 0},
		{"rewritten with the same content", func() { write(t, root+"/a.yaml", "a") }, 1, 0},
		{"changed", func() { write(t, root+"/a.yaml", "A") }, 1, 1},
		{"renamed", func() { must(t, os.Rename(root+"/a.yaml", root+"/c.yaml")) }, 1, 1},
	} {
		step.change()
		opened, decoded = 0, 0
		scan := r.Read(t.Context())
		if !scan.Complete || opened != step.opened || decoded != step.decoded {
			t.Errorf("%s: opened %d, decoded %d, want %d and %d: %s", step.name, opened, decoded, step.opened, step.decoded, render(scan))
		}
	}
}

func TestAFileJustWrittenIsReadAgainThoughItsStatIsTheSame(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/a.yaml", "one")
	var st unix.Stat_t
	must(t, unix.Stat(root+"/a.yaml", &st))
	now := time.Unix(st.Ctim.Unix())
	r := testReader(root, WithClock(func() time.Time { return now }))
	r.Read(t.Context())
	// A second write within one tick of the clock, played by a cache that remembers the other content.
	c := r.cache["a.yaml"]
	write(t, root+"/a.yaml", "two")
	must(t, unix.Stat(root+"/a.yaml", &st))
	c.version.mtime, c.version.ctime = st.Mtim.Nano(), st.Ctim.Nano()
	r.cache["a.yaml"] = c
	if got := names(r.Read(t.Context())); got != "a.yaml=two" {
		t.Errorf("read %s", got)
	}
}

func TestFingerprintIsEqualOnlyWhenNothingChanged(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/a.yaml", "a")
	write(t, root+"/sub/b.yaml", "b")
	symlink(t, ".v/1", root+"/current")
	write(t, root+"/.v/1/c.yaml", "c")
	write(t, root+"/.v/2/c.yaml", "c")
	r := testReader(root)
	last := r.Read(t.Context()).Fingerprint
	if again := r.Read(t.Context()).Fingerprint; again != last {
		t.Fatal("an unchanged directory has another fingerprint")
	}
	for _, step := range []struct {
		name   string
		change func()
	}{
		{"rewritten with the same content", func() { write(t, root+"/a.yaml", "a") }},
		{"mode", func() { must(t, os.Chmod(root+"/a.yaml", 0o600)) }},
		{"renamed and back", func() {
			must(t, os.Rename(root+"/a.yaml", root+"/x"))
			must(t, os.Rename(root+"/x", root+"/a.yaml"))
		}},
		{"an ignored file came", func() { write(t, root+"/a.yaml~", "") }},
		{"a file below came and went", func() {
			write(t, root+"/sub/x", "")
			must(t, os.Remove(root+"/sub/x"))
		}},
		{"swapped", func() { symlink(t, ".v/2", root+"/current") }},
		{"removed", func() { must(t, os.Remove(root+"/a.yaml")) }},
	} {
		step.change()
		now := r.Read(t.Context()).Fingerprint
		if now == last {
			t.Errorf("%s: the fingerprint is the same", step.name)
		}
		last = now
	}
}

func TestHabitsOfWriters(t *testing.T) {
	write := func(name, content string) func(*testing.T) {
		return func(t *testing.T) { write(t, name, content) }
	}
	rename := func(from, to string) func(*testing.T) {
		return func(t *testing.T) { must(t, os.Rename(from, to)) }
	}
	remove := func(name string) func(*testing.T) { return func(t *testing.T) { must(t, os.Remove(name)) } }
	for name, steps := range map[string][]struct {
		do   func(*testing.T)
		want string
	}{
		"vim renames away, writes, deletes the backup": {
			{rename("a.yaml", "a.yaml~"), "b.yaml=b"},
			{write("a.yaml", "new"), "a.yaml=new b.yaml=b"},
			{remove("a.yaml~"), "a.yaml=new b.yaml=b"},
		},
		"git unlinks, then writes": {
			{remove("a.yaml"), "b.yaml=b"},
			{write("a.yaml", "new"), "a.yaml=new b.yaml=b"},
		},
		"a temporary file is renamed over": {
			{write(".a.yaml.tmp", "new"), "a.yaml=a b.yaml=b"},
			{rename(".a.yaml.tmp", "a.yaml"), "a.yaml=new b.yaml=b"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			t.Chdir(root)
			write("a.yaml", "a")(t)
			write("b.yaml", "b")(t)
			r := testReader(root)
			last := r.Read(t.Context())
			for i, step := range steps {
				step.do(t)
				scan := r.Read(t.Context())
				if got := names(scan); got != step.want || !scan.Complete {
					t.Errorf("step %d: %s, want %s", i, got, step.want)
				}
				// What is missing for a moment is never missing in two equal scans.
				if scan.Fingerprint == last.Fingerprint {
					t.Errorf("step %d: the fingerprint is the same", i)
				}
				last = scan
			}
		})
	}
}

// TestASwapIsNeverSeenHalf swaps versions of three files as fast as it can while scans are made.
func TestASwapIsNeverSeenHalf(t *testing.T) {
	for name, layout := range map[string]struct {
		version, link string
		files         [3]string
		root          string
	}{
		"git-sync below the root": {"%s/.worktrees/%040x", "%s/current", [3]string{}, ""},
		"git-sync beside itself":  {"%s/rev-%040x", "%s/current", [3]string{}, ""},
		"git-sync on the path":    {"%s/.worktrees/%040x", "%s/current", [3]string{}, "/current"},
		"ConfigMap":               {"%s/..%040x", "%s/..data", [3]string{"a.yaml", "b.yaml", "c.yaml"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			version := func(n int) string { return fmt.Sprintf(layout.version, dir, n) }
			swap := func(n int) {
				for _, f := range []string{"a", "b", "c"} {
					write(t, version(n)+"/"+f+".yaml", fmt.Sprint(n))
				}
				symlink(t, strings.TrimPrefix(version(n), dir+"/"), fmt.Sprintf(layout.link, dir))
			}
			swap(1)
			for _, f := range layout.files {
				if f != "" {
					symlink(t, "..data/"+f, dir+"/"+f)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			var swapping sync.WaitGroup
			defer swapping.Wait()
			defer cancel()
			swapping.Go(func() {
				for n := 2; ctx.Err() == nil; n++ {
					swap(n)
					if err := os.RemoveAll(version(n - 1)); err != nil {
						t.Error(err)
					}
				}
			})
			r := testReader(dir + layout.root)
			seen, complete := map[string]bool{}, 0
			for i := 0; i < 20_000 && (complete < 200 || len(seen) < 20); i++ {
				scan := r.Read(t.Context())
				versions := map[string]bool{}
				for _, f := range scan.Files {
					versions[f.Documents[0].Name] = true
					seen[f.Documents[0].Name] = true
				}
				if len(versions) > 1 || (scan.Complete && len(scan.Files) != 3) {
					t.Fatalf("a mixture: %s", render(scan))
				}
				if scan.Complete {
					complete++
				}
			}
			if complete < 10 || len(seen) < 10 {
				t.Errorf("only %d scans were complete, and %d versions seen", complete, len(seen))
			}
		})
	}
}

func TestASymlinkToADirectoryBesideAnotherMustStandStill(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/.v/1/a.yaml", "one")
	write(t, root+"/.v/2/a.yaml", "two")
	c := &clock{now: time.Now()}
	r := testReader(root, WithClock(c.read))
	symlink(t, ".v/1", root+"/current")
	expect(t, r.Read(t.Context()), "file current/a.yaml: one\ncomplete")
	symlink(t, ".v/2", root+"/any-name")
	expect(t, r.Read(t.Context()), "file current/a.yaml: one\nunsettled any-name\nincomplete")
	must(t, os.Rename(root+"/any-name", root+"/current"))
	expect(t, r.Read(t.Context()), "file current/a.yaml: two\ncomplete")
	symlink(t, ".v/1", root+"/stays")
	expect(t, r.Read(t.Context()), "file current/a.yaml: two\nunsettled stays\nincomplete")
	c.now = c.now.Add(time.Second)
	expect(t, r.Read(t.Context()), "file current/a.yaml: two\nfile stays/a.yaml: one\ncomplete")
}

func TestTheRootIsResolvedAnewAtEachScan(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "realms.d")
	r := testReader(root)
	expect(t, r.Read(t.Context()), "problem "+root+": the manifest directory does not exist\nmissing")

	write(t, root+"/a.yaml", "a")
	first := r.Read(t.Context())
	expect(t, first, "file a.yaml: a\ncomplete")
	again := r.Read(t.Context())
	if !cmp.Equal(first.Identity, again.Identity) || first.Identity.Inode == 0 {
		t.Errorf("identities of the same root: %v, %v", first.Identity, again.Identity)
	}

	mount(t, root)
	over := r.Read(t.Context())
	expect(t, over, "complete")
	if cmp.Equal(over.Identity, first.Identity) {
		t.Error("a root that was mounted over is the same")
	}
	must(t, unix.Unmount(root, 0))
	if back := r.Read(t.Context()); !cmp.Equal(back.Identity, first.Identity) || names(back) != "a.yaml=a" {
		t.Errorf("after the unmount: %s", render(back))
	}

	must(t, os.Rename(root, dir+"/gone"))
	expect(t, r.Read(t.Context()), "problem "+root+": the manifest directory does not exist\nmissing")
	symlink(t, "gone", root)
	linked := r.Read(t.Context())
	expect(t, linked, "file a.yaml: a\ncomplete")
	if diff := cmp.Diff([]string{root + " -> gone"}, linked.Identity.Links); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	symlink(t, "nowhere", root)
	expect(t, r.Read(t.Context()), "problem "+root+": the manifest directory does not exist\nmissing")

	must(t, os.Remove(root))
	must(t, unix.Mkfifo(root, 0o644))
	expect(t, r.Read(t.Context()), "problem "+root+": the manifest directory cannot be read: not a directory\nmissing")
}

// mount puts an empty tmpfs over dir until it is unmounted or the test ends.
func mount(t *testing.T, dir string) {
	t.Helper()
	must(t, unix.Mount("none", dir, "tmpfs", 0, "size=64m,mode=755"))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // fails when the test unmounted it already
}

func TestADirectoryThatKeepsChangingIsUnsettled(t *testing.T) {
	for name, want := range map[string]string{"": ".", "/sub": "sub", "/.v/1": "current", "/.v/1/deep": "current/deep"} {
		root := t.TempDir()
		write(t, root+name+"/a.yaml", "a")
		mkdir(t, root+"/.v/1/deep")
		symlink(t, ".v/1", root+"/current")
		r := testReader(root)
		decode, n := r.decode, 0
		r.decode = func(path string, data []byte) manifests.File {
			n++
			write(t, fmt.Sprintf("%s/new%d.yaml", root+name, n), "new")
			return decode(path, data)
		}
		scan := r.Read(t.Context())
		if scan.Complete || strings.Join(scan.Unsettled, " ") != want || n < attempts {
			t.Errorf("%q: after %d changes: %s", name, n, render(scan))
		}
		r.decode = decode
		if scan := r.Read(t.Context()); !scan.Complete || len(scan.Files) != n+1 {
			t.Errorf("%q: when it came to rest: %s", name, render(scan))
		}
	}
}

func TestACancelledReadIsNotComplete(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/a.yaml", "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	expect(t, testReader(root).Read(ctx), "problem "+root+": reading was cut short: context canceled\nincomplete")
}

func BenchmarkReadUnchanged(b *testing.B) {
	root := b.TempDir()
	for i := range 100 {
		file := fmt.Sprintf("%s/realm%d.yaml", root, i)
		if err := os.WriteFile(file, []byte("kind: Realm\nmetadata: {name: a}\nspec: {containers: []}\n"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	r := NewReader(root, WithClock(func() time.Time { return time.Now().Add(time.Hour) }))
	r.Read(b.Context())
	b.ReportAllocs()
	for b.Loop() {
		if scan := r.Read(b.Context()); len(scan.Files) != 100 {
			b.Fatal(render(scan))
		}
	}
}

func TestAFileThatEverybodyCanReadIsSaidToBePublic(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/a.yaml", "a")
	r := testReader(root)
	for _, mode := range []os.FileMode{0o600, 0o644, 0o640} {
		must(t, os.Chmod(root+"/a.yaml", mode))
		if scan := r.Read(t.Context()); len(scan.Files) != 1 || scan.Files[0].Public != (mode == 0o644) {
			t.Errorf("%04o: %+v", mode, scan.Files)
		}
	}
}
