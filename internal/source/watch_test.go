package source

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// eye is a reader and a watcher as a controller strings them together.
type eye struct {
	*Reader
	*Watcher
}

// open begins to watch root. The watcher is closed before anything that was mounted earlier is unmounted.
func open(t *testing.T, root string) eye {
	t.Helper()
	e := eye{testReader(root), NewWatcher()}
	must(t, e.Start())
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	e.rest(t)
	return e
}

// rest scans until the watcher has nothing more to say about what happened so far.
func (e eye) rest(t *testing.T) Scan {
	t.Helper()
	for range 100 {
		scan := e.Read(t.Context())
		must(t, e.Update(scan.Directories))
		select {
		case <-e.C():
		default:
			return scan
		}
	}
	t.Fatal("the watcher signals for ever")
	return Scan{}
}

// until scans at each signal until the scan reads as wanted.
func (e eye) until(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	got := ""
	for {
		select {
		case <-e.C():
		case <-deadline:
			t.Fatalf("no signal led to %q; the last scan had %q", want, got)
		}
		scan := e.Read(t.Context())
		must(t, e.Update(scan.Directories))
		if got = names(scan); got == want {
			return
		}
	}
}

func TestWhatIsSignalled(t *testing.T) {
	dir := t.TempDir()
	root := dir + "/a/b/realms.d"
	e := open(t, root)

	// Created later, with all its parents.
	mkdir(t, root)
	put(t, root+"/main.yaml", "one")
	e.until(t, "main.yaml=one")
	e.rest(t)

	put(t, root+"/main.yaml", "two")
	e.until(t, "main.yaml=two")
	e.rest(t)

	put(t, root+"/new/deep/x.yaml", "x")
	e.until(t, "main.yaml=two new/deep/x.yaml=x")
	e.rest(t)

	put(t, root+"/new/deep/x.yaml", "y")
	e.until(t, "main.yaml=two new/deep/x.yaml=y")
	e.rest(t)

	must(t, os.RemoveAll(root+"/new"))
	e.until(t, "main.yaml=two")
	e.rest(t)

	// Replaced as a whole.
	put(t, dir+"/other/main.yaml", "three")
	must(t, os.Rename(root, dir+"/old"))
	must(t, os.Rename(dir+"/other", root))
	e.until(t, "main.yaml=three")
	e.rest(t)

	must(t, os.RemoveAll(root))
	e.until(t, "")
	put(t, root+"/main.yaml", "four")
	e.until(t, "main.yaml=four")
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
	inside.until(t, "current/main.yaml=two")
	path.until(t, "main.yaml=two")
	inside.rest(t)
	path.rest(t)
	put(t, dir+"/git/.v/2/main.yaml", "edited")
	inside.until(t, "current/main.yaml=edited")
	path.until(t, "main.yaml=edited")
	put(t, dir+"/git2/current/main.yaml", "elsewhere")
	symlink(t, "git2", dir+"/link")
	path.until(t, "main.yaml=elsewhere")
}

func TestARescanFindsWhatTheKernelDoesNotTell(t *testing.T) {
	root := t.TempDir()
	put(t, root+"/main.yaml", "below")
	e := open(t, root)
	mount(t, root)
	if got := names(e.rest(t)); got != "" {
		t.Fatalf("an empty file system holds %s", got)
	}
	put(t, root+"/main.yaml", "above")
	e.until(t, "main.yaml=above")
	e.rest(t)
	must(t, unix.Unmount(root, unix.MNT_DETACH))
	e.rest(t)
	put(t, root+"/main.yaml", "below again")
	e.until(t, "main.yaml=below again")
}

func TestADirectoryReachedTwiceIsWatchedOnce(t *testing.T) {
	root := t.TempDir()
	put(t, root+"/a/x.yaml", "x")
	mkdir(t, root+"/b")
	must(t, unix.Mount(root+"/a", root+"/b", "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(root+"/b", unix.MNT_DETACH) })
	open(t, root).rest(t)
}

func TestThousandsOfFilesAreOneSignalAndTheWatcherLivesOn(t *testing.T) {
	root := t.TempDir()
	mount(t, root) // for speed
	e := open(t, root)
	for i := range 10_000 {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d.yaml", root, i), nil, 0o644))
	}
	<-e.C()
	scan := e.Read(t.Context())
	if scan.Complete || len(scan.Files) != 0 || len(scan.Problems) != 1 {
		t.Errorf("10,000 files were not refused: %.200s", render(scan))
	}
	for i := range 10_000 {
		must(t, os.Remove(fmt.Sprintf("%s/%d.yaml", root, i)))
	}
	put(t, root+"/main.yaml", "main")
	e.until(t, "main.yaml=main")
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

// put writes a file as a careful writer does, so that the last event of it comes when it is whole.
func put(t *testing.T, file, content string) {
	t.Helper()
	write(t, file+".tmp", content)
	must(t, os.Rename(file+".tmp", file))
}
