package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// follower reads a log across its rotations. The last of its segments is the file it reads.
type follower struct {
	path     string
	segments []*segment
	watch    *watcher
	modified int32
}

func (f *follower) close() error {
	var err error
	for _, s := range f.segments {
		err = errors.Join(err, s.file.Close())
	}
	if f.watch != nil {
		err = errors.Join(err, f.watch.close())
	}
	return err
}

// follow prints the segments and then what comes, until ctx ends, whose error it returns.
func (f *follower) follow(ctx context.Context, p *printer) (err error) {
	wake, release, err := wakeWhenDone(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if f.watch, err = newWatcher(); err != nil {
		return err
	}
	if _, err := f.watch.add(filepath.Dir(f.path), unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		return err
	}
	for _, s := range f.segments[:len(f.segments)-1] {
		if err := p.copy(ctx, s.lines()); err != nil {
			return err
		}
	}
	current, err := f.begin()
	if err != nil {
		return err
	}
	for {
		if err := p.copy(ctx, current); err != nil {
			return err
		}
		next, err := f.next(ctx, p, current)
		if err != nil {
			return err
		}
		if next != nil {
			current = next
			continue
		}
		if err := p.flush(); err != nil {
			return err
		}
		if err := f.wait(wake); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// begin starts on the last segment, to whatever end it grows.
func (f *follower) begin() (*lines, error) {
	s := f.segments[len(f.segments)-1]
	s.to = math.MaxInt64
	// Through /proc the watch is on the file that is open, whatever its name is by now.
	wd, err := f.watch.add(fmt.Sprintf("/proc/self/fd/%d", s.file.Fd()), unix.IN_MODIFY)
	if err != nil {
		return nil, err
	}
	if wd != f.modified {
		f.watch.remove(f.modified)
	}
	f.modified = wd
	return s.lines(), nil
}

// next goes on to the file after the current one, or back to the beginning of one that was cut; nil means that there
// is neither. The current file is printed to its end first: nobody writes into it once another one has its name.
func (f *follower) next(ctx context.Context, p *printer, current *lines) (*lines, error) {
	old := f.segments[len(f.segments)-1]
	st, err := old.file.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < current.next {
		if err := f.copyCut(ctx, p, current.next); err != nil {
			return nil, err
		}
		old.from = 0
		return f.begin()
	}
	there, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && idOf(there) == old.id) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := p.copy(ctx, current); err != nil {
		return nil, err
	}
	if moved, err := f.advance(p, old); err != nil || !moved {
		return nil, err
	}
	for _, s := range f.segments[:len(f.segments)-1] {
		if err := p.copy(ctx, s.lines()); err != nil {
			return nil, err
		}
	}
	return f.begin()
}

// advance replaces the segments by those newer than old, if there are any.
func (f *follower) advance(p *printer, old *segment) (bool, error) {
	segments, err := openSegments(f.path)
	if err != nil {
		return false, err
	}
	newer := slices.IndexFunc(segments, func(s *segment) bool { return s.id == old.id }) + 1
	done := segments[:newer]
	moved := newer < len(segments)
	if moved {
		done = append(f.segments, done...)
		f.segments = segments[newer:]
	}
	for _, s := range done {
		err = errors.Join(err, s.file.Close())
	}
	if err == nil && moved && newer == 0 {
		err = p.say("output was rotated away before it was printed")
	}
	return moved, err
}

// copyCut prints what a raw log had beyond what we have read when it was copied and cut.
func (f *follower) copyCut(ctx context.Context, p *printer, from int64) (err error) {
	file, err := os.Open(rotated(f.path, 1))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	st, err := file.Stat()
	if err != nil {
		return err
	}
	return p.copy(ctx, (&segment{file: file, from: min(from, st.Size()), to: st.Size()}).lines())
}

// wait blocks until something happens to the log, or wake becomes readable.
func (f *follower) wait(wake int) error {
	fds := []unix.PollFd{{Fd: int32(f.watch.fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("poll: %w", err)
	}
	return f.watch.read(func(event) {})
}
