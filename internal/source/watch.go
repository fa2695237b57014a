package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/fsnotify/fsnotify"

	"kukeon.io/kukeon-reconciler/manifests"
)

// Watcher signals that a new scan may be worth it. It says less than the truth, never more than "look again": the
// kernel tells nothing when a watched directory is unmounted, mounted over or reached through another symlink, when
// a writer closes its file, and when a network or overlay file system is changed from elsewhere. Only a rescan finds
// those; the Update after it watches the right directories again.
type Watcher struct {
	signal  chan struct{}
	running sync.WaitGroup

	mu     sync.Mutex
	inner  *fsnotify.Watcher
	closed bool
	// armed are the directories watched, and what stood there then.
	armed map[string]stat
}

// NewWatcher returns a watcher that watches nothing yet.
func NewWatcher() *Watcher {
	return &Watcher{signal: make(chan struct{}, 1), armed: map[string]stat{}}
}

// C delivers one value for any number of changes since the last was received. It is never closed.
func (w *Watcher) C() <-chan struct{} { return w.signal }

// Start begins to listen. It fails when the host has no inotify instance left; Update tries again then.
func (w *Watcher) Start() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.start()
}

func (w *Watcher) start() error {
	if w.inner != nil {
		return nil
	}
	if w.closed {
		return fsnotify.ErrClosed
	}
	inner, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch manifests: %w", err)
	}
	w.inner = inner
	w.running.Go(func() { w.forward(inner) })
	return nil
}

// forward turns everything into the one signal. An error is a signal too: it means that events were lost.
func (w *Watcher) forward(inner *fsnotify.Watcher) {
	for {
		select {
		case _, ok := <-inner.Events:
			if !ok {
				return
			}
		case _, ok := <-inner.Errors:
			if !ok {
				return
			}
		}
		w.wake()
	}
}

func (w *Watcher) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// Update makes the watched directories those of the last scan. It signals when it began to watch one, because
// nobody saw what happened there between the scan and now. An error means that some directory is not watched; the
// others are, and a rescan covers the rest.
func (w *Watcher) Update(dirs []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.start(); err != nil {
		return err
	}
	wanted := make(map[string]bool, len(dirs))
	for _, dir := range dirs {
		wanted[dir] = true
	}
	for dir := range w.armed {
		if !wanted[dir] {
			w.disarm(dir)
		}
	}
	alive := w.inner.WatchList()
	var failed []error
	began := false
	here := map[[2]uint64]bool{}
	for _, dir := range slices.Sorted(maps.Keys(wanted)) {
		info, err := os.Stat(dir)
		if err != nil {
			w.disarm(dir)
			continue // its parent's event, or the next scan, says so
		}
		// inotify has one watch for a directory however it is reached, as through a bind mount.
		now := statOf(info)
		id := [2]uint64{now.dev, now.ino}
		if here[id] {
			continue
		}
		here[id] = true
		fresh, err := w.arm(dir, now, slices.Contains(alive, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, fmt.Errorf("watch %s: %w", dir, err))
		}
		began = began || fresh
	}
	if began {
		w.wake()
	}
	return errors.Join(failed...)
}

// arm watches dir, where now stands; fresh is false when that was watched already.
func (w *Watcher) arm(dir string, now stat, alive bool) (fresh bool, err error) {
	was, ok := w.armed[dir]
	same := ok && alive && was.dev == now.dev && was.ino == now.ino
	if !same {
		w.disarm(dir)
	}
	// Also when it is the same: an inode number may have been given away again, and this costs one system call.
	if err := w.inner.Add(dir); err != nil {
		return false, err
	}
	w.armed[dir] = now
	return !same, nil
}

// disarm forgets a directory. That the kernel dropped the watch before us is no error.
func (w *Watcher) disarm(dir string) {
	_ = w.inner.Remove(dir)
	delete(w.armed, dir)
}

// Close stops listening and waits until nothing of the watcher runs any more.
func (w *Watcher) Close() error {
	w.mu.Lock()
	inner := w.inner
	w.inner, w.closed = nil, true
	w.mu.Unlock()
	if inner == nil {
		return nil
	}
	err := inner.Close()
	w.running.Wait()
	return err
}

// Directory is a manifest directory that is read and watched.
type Directory struct {
	reader  *Reader
	watcher *Watcher
}

// NewDirectory returns the directory at root, which need not exist. It is watched from the first Read until Close.
func NewDirectory(root string, opts ...Option) *Directory {
	return &Directory{NewReader(root, opts...), NewWatcher()}
}

// Read is Reader.Read; from then on Changed tells of changes to what was read. That some of it cannot be watched is
// a Warning in the scan.
func (d *Directory) Read(ctx context.Context) manifests.Scan {
	scan := d.reader.Read(ctx)
	if err := d.watcher.Update(scan.Directories); err != nil {
		p := problemAt(scan.Root, "changes are found by the periodic rescan only: "+err.Error())
		p.Severity = manifests.Warning
		scan.Problems = append(scan.Problems, p)
		manifests.SortProblems(scan.Problems)
	}
	return scan
}

// Changed is Watcher.C.
func (d *Directory) Changed() <-chan struct{} { return d.watcher.C() }

// Close stops watching and waits until nothing of the watcher runs any more.
func (d *Directory) Close() error { return d.watcher.Close() }
