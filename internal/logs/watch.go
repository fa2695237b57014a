package logs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watcher is an inotify instance. It is our own because fsnotify does not tell of opens, by which we know that
// somebody attaches.
type watcher struct {
	fd  int
	buf []byte
}

// event is one inotify event; name is relative to the watched directory.
type event struct {
	wd   int32
	mask uint32
	name string
}

func newWatcher() (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &watcher{fd: fd, buf: make([]byte, 16<<10)}, nil
}

// add watches path, or changes what is watched there; adding twice is cheap and gives the same number.
func (w *watcher) add(path string, mask uint32) (int32, error) {
	wd, err := unix.InotifyAddWatch(w.fd, path, mask)
	if err != nil {
		return -1, &os.PathError{Op: "watch", Path: path, Err: err}
	}
	return int32(wd), nil
}

// remove ends a watch; that the kernel has ended it before is no matter.
func (w *watcher) remove(wd int32) {
	if wd > 0 {
		_, _ = unix.InotifyRmWatch(w.fd, uint32(wd))
	}
}

// read visits all events that are there.
func (w *watcher) read(visit func(event)) error {
	for {
		n, err := unix.Read(w.fd, w.buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil:
			return fmt.Errorf("inotify: %w", err)
		}
		for data := w.buf[:n]; len(data) >= unix.SizeofInotifyEvent; {
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(data[12:]))
			name, _, _ := bytes.Cut(data[unix.SizeofInotifyEvent:size], []byte{0})
			visit(event{
				wd:   int32(binary.NativeEndian.Uint32(data)),
				mask: binary.NativeEndian.Uint32(data[4:]),
				name: string(name),
			})
			data = data[size:]
		}
	}
}

func (w *watcher) close() error { return unix.Close(w.fd) }

// readEvents does what inotify tells; losing all of it would only cost time, until the next scan.
func (l *loop) readEvents() error {
	var failed error
	err := l.watch.read(func(ev event) {
		if ev.mask&unix.IN_Q_OVERFLOW != 0 {
			l.scanAt = l.now
			for _, c := range l.containers {
				c.suspect = true
			}
			return
		}
		if ev.wd == l.lockWatch {
			failed = errors.Join(failed, l.takeTurn())
			return
		}
		at, ok := l.places[ev.wd]
		switch {
		case !ok:
		case ev.mask&unix.IN_IGNORED != 0:
			delete(l.places, ev.wd)
		case at.namespace == "":
			l.scanAt = l.now
		case at.id == "":
			l.sync(key{at.namespace, ev.name})
		case ev.mask&attachEvents != 0:
			l.opened(at, ev)
		default:
			if c := l.containers[at]; c != nil && ev.name == configName {
				c.cfgRead = version{}
			}
			l.sync(at)
		}
	})
	return errors.Join(err, failed)
}

// opened takes note of an open or close of a FIFO. On an open, reading pauses until it is known who it was.
func (l *loop) opened(at place, ev event) {
	c := l.containers[at]
	if c == nil || !l.active {
		return
	}
	for _, s := range c.streams {
		if filepath.Base(s.path) != ev.name {
			continue
		}
		if ev.mask&unix.IN_OPEN != 0 || s.gap != nil || len(s.ignored) > 0 {
			c.suspect = true
		}
	}
	l.setPolled(c)
}

// scan brings everything in line with the tree of prepared containers.
func (l *loop) scan() error {
	l.scanAt = l.now.Add(l.rescan)
	root := ioDir(l.opts.RunDir)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	if err := l.watchFolder(root, place{}); err != nil {
		return err
	}
	namespaces, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	there := map[key]bool{}
	for _, ns := range namespaces {
		dir := filepath.Join(root, ns.Name())
		err := l.watchFolder(dir, place{namespace: ns.Name()})
		var ids []fs.DirEntry
		if err == nil {
			ids, err = os.ReadDir(dir)
		}
		if err != nil && !gone(err) {
			l.complain(dir, err)
		}
		for _, id := range ids {
			k := key{ns.Name(), id.Name()}
			there[k] = true
			l.sync(k)
		}
	}
	for k, c := range l.containers {
		if !there[k] {
			l.finish(c)
			continue
		}
		l.maintain(c)
	}
	return nil
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

func (l *loop) watchFolder(dir string, at place) error {
	wd, err := l.watch.add(dir, folderEvents)
	if err == nil {
		l.places[wd] = at
	}
	return err
}

// wakeWhenDone returns a descriptor that becomes readable when ctx ends, and the call that gives it up.
func wakeWhenDone(ctx context.Context) (fd int, release func() error, err error) {
	fd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return -1, nil, fmt.Errorf("eventfd: %w", err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		one := binary.NativeEndian.AppendUint64(nil, 1)
		_, _ = unix.Write(fd, one) // cannot fail: the counter is far from full
	})
	return fd, func() error {
		if !stop() {
			<-woken
		}
		return unix.Close(fd)
	}, nil
}

// turn decides which of several pumps drains, by locks on two bytes of <run-dir>/logd.lock. They belong to the open
// file, so that they end with the process however it dies, and can be asked about without being taken.
type turn struct {
	f *os.File
	// held tells which of the two locks are ours.
	held [2]bool
}

const (
	// drainLock is held by the one pump that drains.
	drainLock = 0
	// logdLock is held by a logd as long as it lives: a fallback pump yields to it.
	logdLock = 1

	lockName = "logd.lock"
	// lockEvents tell of a pump that came (it touches the file), stood down (likewise) or died.
	lockEvents = unix.IN_ATTRIB | unix.IN_CLOSE_WRITE
)

func openTurn(runDir string) (*turn, error) {
	f, err := os.OpenFile(filepath.Join(runDir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the pump's lock: %w", err)
	}
	return &turn{f: f}, nil
}

func lockRange(kind int16, which int) *unix.Flock_t {
	return &unix.Flock_t{Type: kind, Start: int64(which), Len: 1}
}

// try takes a lock unless somebody else has it, and tells the others when it did.
func (t *turn) try(which int) (bool, error) {
	if t.held[which] {
		return true, nil
	}
	err := unix.FcntlFlock(t.f.Fd(), unix.F_OFD_SETLK, lockRange(unix.F_WRLCK, which))
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("take the pump's lock: %w", err)
	}
	t.held[which] = true
	return true, t.announce()
}

// taken tells whether somebody else holds a lock.
func (t *turn) taken(which int) (bool, error) {
	ask := lockRange(unix.F_WRLCK, which)
	if err := unix.FcntlFlock(t.f.Fd(), unix.F_OFD_GETLK, ask); err != nil {
		return false, fmt.Errorf("look at the pump's lock: %w", err)
	}
	return ask.Type != unix.F_UNLCK, nil
}

func (t *turn) release(which int) error {
	if !t.held[which] {
		return nil
	}
	if err := unix.FcntlFlock(t.f.Fd(), unix.F_OFD_SETLK, lockRange(unix.F_UNLCK, which)); err != nil {
		return fmt.Errorf("release the pump's lock: %w", err)
	}
	t.held[which] = false
	return t.announce()
}

// announce wakes the other pumps: they watch the file for a change of its times.
func (t *turn) announce() error {
	if err := unix.Futimes(int(t.f.Fd()), nil); err != nil {
		return fmt.Errorf("touch the pump's lock: %w", err)
	}
	return nil
}

// close gives up all locks.
func (t *turn) close() error { return t.f.Close() }

// LogdPresent reports whether a logd lives on this run directory, so that none has to be started.
func LogdPresent(runDir string) (bool, error) {
	f, err := os.Open(filepath.Join(runDir, lockName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the pump's lock: %w", err)
	}
	taken, err := (&turn{f: f}).taken(logdLock)
	return taken, errors.Join(err, f.Close())
}
