package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// lastWords bounds what is drained of a stream that ends, should somebody still write into it.
const lastWords = 16 << 20

const (
	folderEvents = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_ONLYDIR
	// attachEvents are added once our own opens are over.
	attachEvents = unix.IN_OPEN | unix.IN_CLOSE
)

type key struct{ namespace, id string }

// place is what a watch is about: the tree of containers (no namespace), a namespace (no id), or one container.
type place = key

// container is one container whose output is ours to drain. Its streams are closed when its driver is "file".
type container struct {
	key
	paths   IO
	watch   int32
	cfg     Config
	cfgRead version
	file    *logFile
	streams [2]*stream
	// marked is the run whose start marker stands in the log.
	marked int
	// suspect: somebody opened a FIFO, and we have not looked yet who.
	suspect bool
}

// version tells one log.json from the next. The time alone is too coarse, and numbers of files are used again.
type version struct {
	fileID
	modified time.Time
}

// stream is one FIFO of a container.
type stream struct {
	owner *container
	path  string
	fd    int // -1: closed
	id    fileID
	lines splitter
	// polled: the loop hears of data.
	polled bool
	attachment
}

// maintain does what has no event: the rotation of raw files, the end of a loss, a log file moved away by somebody.
func (l *loop) maintain(c *container) {
	if !l.active {
		return
	}
	var err error
	if c.cfg.raw() {
		err = rotateRaw(c.cfg.Path, c.cfg.MaxSizeBytes, c.cfg.MaxFiles)
	} else if c.file != nil {
		err = c.file.refresh(l.now)
	}
	if err != nil {
		l.complain(c.cfg.Path, err)
	}
	for _, s := range c.streams {
		if s.gap != nil || len(s.ignored) > 0 {
			c.suspect = true // in case a close went unheard
		}
	}
}

// sync brings one container in line with its directory.
func (l *loop) sync(k key) {
	paths := PathsFor(l.opts.RunDir, k.namespace, k.id)
	c := l.containers[k]
	// Watched before it is looked at, so that nothing comes in between.
	wd, err := l.watch.add(paths.Dir, unix.IN_MASK_ADD|folderEvents)
	var st fs.FileInfo
	if err == nil {
		l.places[wd] = k
		st, err = os.Lstat(filepath.Join(paths.Dir, configName))
	}
	if err != nil {
		if !gone(err) {
			l.complain(paths.Dir, err)
		} else if c != nil {
			l.finish(c)
		}
		return
	}
	if c == nil {
		c = newContainer(k, paths)
		l.containers[k] = c
	}
	if c.watch != wd {
		c.watch, c.marked = wd, readMarked(paths.Dir)
	}
	if v := (version{idOf(st), st.ModTime()}); v != c.cfgRead {
		if err := l.configure(c); err != nil {
			l.complain(paths.Dir, err)
			return
		}
		c.cfgRead = v
	}
	for _, s := range c.streams {
		if err := l.syncStream(c, s); err != nil {
			l.complain(s.path, err)
		}
	}
	// From here on opens are those of others. One that came before is found by the look at who is there.
	if _, err := l.watch.add(paths.Dir, unix.IN_MASK_ADD|attachEvents); err != nil && !gone(err) {
		l.complain(paths.Dir, err)
	}
	if l.active {
		l.startDraining(c)
	}
}

func newContainer(k key, paths IO) *container {
	c := &container{key: k, paths: paths, watch: -1}
	for i, path := range []string{paths.Stdout, paths.Stderr} {
		c.streams[i] = &stream{owner: c, path: path, fd: -1, lines: splitter{stream: filepath.Base(path)}}
	}
	return c
}

// configure reads log.json. Output that was written before it changed goes to where it went before.
func (l *loop) configure(c *container) error {
	data, err := os.ReadFile(filepath.Join(c.paths.Dir, configName))
	if err != nil {
		return err
	}
	var cfg Config
	if err := json.Unmarshal(data, &cfg); err != nil {
		return fmt.Errorf("%s: %w", configName, err)
	}
	if !filepath.IsAbs(cfg.Path) {
		return fmt.Errorf("%s: path %q is not absolute", configName, cfg.Path)
	}
	if c.file != nil && l.active {
		l.catchUp(c)
	}
	c.cfg = cfg.withDefaults()
	if c.file == nil || c.file.path != cfg.Path {
		l.closeFile(c)
		c.file = &logFile{path: cfg.Path, out: &l.out, failed: l.complain}
	}
	c.file.maxSize, c.file.maxFiles = c.cfg.MaxSizeBytes, c.cfg.MaxFiles
	if l.active {
		return trim(cfg.Path, c.cfg.MaxFiles)
	}
	return nil
}

// syncStream opens, closes or replaces our end of a FIFO as its path says.
func (l *loop) syncStream(c *container, s *stream) error {
	st, err := os.Lstat(s.path)
	if err != nil && !gone(err) {
		return err
	}
	want := err == nil && st.Mode().Type() == fs.ModeNamedPipe && !c.cfg.raw()
	if s.fd >= 0 && want && idOf(st) == s.id {
		return nil
	}
	if s.fd >= 0 {
		l.endStream(c, s)
	}
	if !want {
		return nil
	}
	// Reading and writing: never an end of file, and the open does not wait for a writer.
	fd, err := unix.Open(s.path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: s.path, Err: err}
	}
	growPipe(fd)
	if err := l.poll(unix.EPOLL_CTL_ADD, fd, false); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	s.fd, s.id, s.polled = fd, idOf(st), false
	l.streams[int32(fd)] = s
	c.suspect = true
	return nil
}

// growPipe asks for as much room as the kernel grants.
func growPipe(fd int) {
	for size := pipeSize; size > 64<<10; size /= 2 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size); err == nil {
			return
		}
	}
}

// startDraining marks a new run and lets the loop hear of data.
func (l *loop) startDraining(c *container) {
	if c.file != nil && !c.cfg.raw() && c.cfg.Run != c.marked {
		c.file.mark(l.now, startedText+strconv.Itoa(c.cfg.Run))
		c.file.flush(l.now)
		c.marked = c.cfg.Run
		if err := writeMarked(c.paths.Dir, c.marked); err != nil && !gone(err) {
			l.complain(c.paths.Dir, err)
		}
	}
	l.setPolled(c)
}

// stopDraining writes what is held and closes the log file.
func (l *loop) stopDraining(c *container) {
	l.endGaps(c, c.streams[:], "")
	for _, s := range c.streams {
		s.lines.flush(l.now, c.file)
		s.attachment = attachment{}
		l.setStreamPolled(s, false)
	}
	l.closeFile(c)
}

func (l *loop) closeFile(c *container) {
	if c.file == nil {
		return
	}
	c.file.flush(l.now)
	if err := c.file.close(); err != nil {
		l.complain(c.file.path, err)
	}
}

// setPolled lets the loop hear of a container's data, unless somebody else reads it or may do so.
func (l *loop) setPolled(c *container) {
	for _, s := range c.streams {
		l.setStreamPolled(s, l.active && !c.suspect && s.gap == nil)
	}
}

func (l *loop) setStreamPolled(s *stream, want bool) {
	if s.fd < 0 || s.polled == want {
		return
	}
	if err := l.poll(unix.EPOLL_CTL_MOD, s.fd, want); err != nil {
		l.complain(s.path, err)
		return
	}
	s.polled = want
}

// read drains one chunk into the log and returns its size; 0 when there is nothing.
func (l *loop) read(s *stream) int {
	n, err := unix.Read(s.fd, l.in)
	if err != nil || n <= 0 {
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			l.complain(s.path, err)
		}
		return 0
	}
	file := s.owner.file
	s.lines.write(l.in[:n], l.now, file)
	file.flush(l.now)
	return n
}

// catchUp drains what is in a container's pipes now, and ends its open lines.
func (l *loop) catchUp(c *container) {
	for _, s := range c.streams {
		if s.fd < 0 || s.gap != nil {
			continue
		}
		for total := 0; total < lastWords; {
			n := l.read(s)
			if n == 0 {
				break
			}
			total += n
		}
		s.lines.flush(l.now, c.file)
		c.file.flush(l.now)
	}
}

// endStream drains the last words of a FIFO that is gone, and closes it.
func (l *loop) endStream(c *container, s *stream) {
	if l.active {
		l.endGaps(c, []*stream{s}, "")
		l.catchUp(c)
	}
	delete(l.streams, int32(s.fd))
	if err := unix.Close(s.fd); err != nil {
		l.complain(s.path, err)
	}
	s.fd, s.polled, s.attachment = -1, false, attachment{}
}

// finish ends a container whose directory is gone.
func (l *loop) finish(c *container) {
	for _, s := range c.streams {
		if s.fd >= 0 {
			l.endStream(c, s)
		}
	}
	l.drop(c)
}

// drop closes a container without another look at its output.
func (l *loop) drop(c *container) {
	for _, s := range c.streams {
		if s.fd >= 0 {
			delete(l.streams, int32(s.fd))
			_ = unix.Close(s.fd) // a FIFO has nothing to flush that could fail
		}
	}
	l.closeFile(c)
	delete(l.containers, c.key)
}

func readMarked(dir string) int {
	data, err := os.ReadFile(filepath.Join(dir, runName))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(string(data))
	if err != nil {
		return 0
	}
	return n
}

func writeMarked(dir string, run int) error {
	return os.WriteFile(filepath.Join(dir, runName), []byte(strconv.Itoa(run)), 0o600)
}
