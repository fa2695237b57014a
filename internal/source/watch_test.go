package source

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/manifests"
)

// open begins to watch root. The watcher is closed before anything that was mounted earlier is unmounted.
func open(t *testing.T, root string) *Directory {
	t.Helper()
	d := &Directory{testReader(root), NewWatcher()}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	rest(t, d)
	return d
}

// rest scans until the watcher has nothing more to say about what happened so far.
func rest(t *testing.T, d *Directory) manifests.Scan {
	t.Helper()
	for range 100 {
		scan := d.Read(t.Context())
		select {
		case <-d.Changed():
		default:
			return scan
		}
	}
	t.Fatal("the watcher signals for ever")
	return manifests.Scan{}
}

// until scans at each signal until the scan reads as wanted.
func until(t *testing.T, d *Directory, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	got := ""
	for {
		select {
		case <-d.Changed():
		case <-deadline:
			t.Fatalf("no signal led to %q; the last scan had %q", want, got)
		}
		if got = names(d.Read(t.Context())); got == want {
			return
		}
	}
}

func TestWhatIsSignalled(t *testing.T) {
	dir := t.TempDir()
	root := dir + "/a/b/realms.d"
	d := open(t, root)

	// Created later, with all its parents.
	mkdir(t, root)
	put(t, root+"/main.yaml", "one")
	until(t, d, "main.yaml=one")
	rest(t, d)

	put(t, root+"/main.yaml", "two")
	until(t, d, "main.yaml=two")
	rest(t, d)

	put(t, root+"/new/deep/x.yaml", "x")
	until(t, d, "main.yaml=two new/deep/x.yaml=x")
	rest(t, d)

	put(t, root+"/new/deep/x.yaml", "y")
	until(t, d, "main.yaml=two new/deep/x.yaml=y")
	rest(t, d)

	must(t, os.RemoveAll(root+"/new"))
	until(t, d, "main.yaml=two")
	rest(t, d)

	// Replaced as a whole.
	put(t, dir+"/other/main.yaml", "three")
	must(t, os.Rename(root, dir+"/old"))
	must(t, os.Rename(dir+"/other", root))
	until(t, d, "main.yaml=three")
	rest(t, d)

	must(t, os.RemoveAll(root))
	until(t, d, "")
	put(t, root+"/main.yaml", "four")
	until(t, d, "main.yaml=four")
}

func TestSwapsOfSymlinksAreSignalled(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/git/.v/1/main.yaml", "one")
	put(t, dir+"/git/.v/2/main.yaml", "two")
	put(t, dir+"/git/.v/3/main.yaml", "three")
	symlink(t, ".v/1", dir+"/git/current")
	symlink(t, "git", dir+"/link")

	inside, path := open(t, dir+"/git"), open(t, dir+"/link/current")
	symlink(t, ".v/2", dir+"/git/current")
	until(t, inside, "current/main.yaml=two")
	until(t, path, "main.yaml=two")
	rest(t, inside)
	rest(t, path)
	put(t, dir+"/git/.v/2/main.yaml", "edited")
	until(t, inside, "current/main.yaml=edited")
	until(t, path, "main.yaml=edited")
	put(t, dir+"/git2/current/main.yaml", "elsewhere")
	symlink(t, "git2", dir+"/link")
	until(t, path, "main.yaml=elsewhere")
}

func TestARescanFindsWhatTheKernelDoesNotTell(t *testing.T) {
	root := t.TempDir()
	put(t, root+"/main.yaml", "below")
	d := open(t, root)
	mount(t, root)
	if got := names(rest(t, d)); got != "" {
		t.Fatalf("an empty file system holds %s", got)
	}
	put(t, root+"/main.yaml", "above")
	until(t, d, "main.yaml=above")
	rest(t, d)
	must(t, unix.Unmount(root, unix.MNT_DETACH))
	rest(t, d)
	put(t, root+"/main.yaml", "below again")
	until(t, d, "main.yaml=below again")
}

func TestADirectoryReachedTwiceIsWatchedOnce(t *testing.T) {
	root := t.TempDir()
	put(t, root+"/a/x.yaml", "x")
	mkdir(t, root+"/b")
	must(t, unix.Mount(root+"/a", root+"/b", "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(root+"/b", unix.MNT_DETACH) })
	rest(t, open(t, root))
}

func TestThousandsOfFilesAreOneSignalAndTheWatcherLivesOn(t *testing.T) {
	root := t.TempDir()
	mount(t, root) // for speed
	d := open(t, root)
	for i := range 10_000 {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d.yaml", root, i), nil, 0o644))
	}
	<-d.Changed()
	scan := d.Read(t.Context())
	if scan.Complete || len(scan.Files) != 0 || len(scan.Problems) != 1 {
		t.Errorf("10,000 files were not refused: %.200s", render(scan))
	}
	for i := range 10_000 {
		must(t, os.Remove(fmt.Sprintf("%s/%d.yaml", root, i)))
	}
	put(t, root+"/main.yaml", "main")
	until(t, d, "main.yaml=main")
}

func TestAClosedWatcherWatchesNothing(t *testing.T) {
	w := NewWatcher()
	must(t, w.Update([]string{t.TempDir()})) // starts it
	must(t, w.Close())
	must(t, w.Close())
	if w.Start() == nil || w.Update(nil) == nil {
		t.Error("a closed watcher starts again")
	}
}

func TestWhatCannotBeWatchedIsWarnedAbout(t *testing.T) {
	root := t.TempDir()
	d := open(t, root)
	must(t, d.Close())
	scan := d.Read(t.Context())
	if !scan.Complete || len(scan.Problems) != 1 || scan.Problems[0].Severity != manifests.Warning {
		t.Error(render(scan))
	}
}

// put writes a file as a careful writer does, so that the last event of it comes when it is whole.
func put(t *testing.T, file, content string) {
	t.Helper()
	write(t, file+".tmp", content)
	must(t, os.Rename(file+".tmp", file))
}
