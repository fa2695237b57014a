package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
)

const (
	// rescanEvery is how often the pump looks at everything, whatever inotify told it; the only wake-up of an idle pump.
	rescanEvery = 10 * time.Second
	// holdFor bounds how long the beginning of a line waits for its end: long enough for a writer that is at it, short
	// enough for a person who waits for a prompt.
	holdFor = 250 * time.Millisecond
	// gatherFor is the pause after a read that did not fill the buffer: a busy writer is read in few large pieces, and
	// at 100 MB/s no more than a fifth of the pipe fills meanwhile.
	gatherFor = 2 * time.Millisecond
	// chunkSize is the shared read buffer: a quarter of the pipe.
	chunkSize = 256 << 10
	// pipeSize is what we ask of a FIFO: what a container may write while nobody reads, and the most that a user who is
	// not privileged gets.
	pipeSize = 1 << 20
	// complainEvery bounds how often the same trouble is logged.
	complainEvery = time.Minute
)

// Options are what a Pump needs to know.
type Options struct {
	// RunDir holds the containers' FIFOs, see PathsFor.
	RunDir string
	// Fallback makes a pump that drains only while no logd is there: it yields to one that comes and takes over when it
	// goes. In the meantime it holds the FIFOs open, so that nothing is lost between the two.
	Fallback bool
	// Log hears of trouble, each at most once a minute.
	Log logr.Logger
}

// Pump drains the output of all containers of a run directory. Of several pumps one drains at a time.
type Pump struct {
	opts     Options
	draining atomic.Bool
	limits   attachLimits
	rescan   time.Duration
}

// NewPump makes a pump; nothing happens before Run.
func NewPump(opts Options) *Pump {
	return &Pump{opts: opts, limits: defaultAttachLimits, rescan: rescanEvery}
}

// Draining reports whether this pump is the one that drains now.
func (p *Pump) Draining() bool { return p.draining.Load() }

// Run drains until ctx ends, then writes what it holds and returns nil; what the containers write from then on waits
// in their pipes for the next pump. It returns an error only when it cannot work at all. It must not run twice at once.
func (p *Pump) Run(ctx context.Context) (err error) {
	l, err := newLoop(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	wake, release, err := wakeWhenDone(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := l.poll(unix.EPOLL_CTL_ADD, wake, true); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := l.step(); err != nil {
			return err
		}
	}
	return nil
}

// loop is a running pump. Everything in it belongs to the one goroutine of Run.
type loop struct {
	*Pump
	epoll int
	watch *watcher
	turn  *turn
	// lockWatch is the watch on the lock; places tells what the other watches are about.
	lockWatch  int32
	places     map[int32]place
	containers map[key]*container
	streams    map[int32]*stream

	active   bool
	now      time.Time
	scanAt   time.Time
	lookAt   time.Time
	events   []unix.EpollEvent
	in, out  []byte
	troubles map[string]time.Time
}

func newLoop(p *Pump) (_ *loop, err error) {
	l := &loop{
		Pump: p, epoll: -1,
		places: map[int32]place{}, containers: map[key]*container{}, streams: map[int32]*stream{},
		events: make([]unix.EpollEvent, 64), in: make([]byte, chunkSize), out: make([]byte, 0, outSize),
		troubles: map[string]time.Time{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	if err := os.MkdirAll(ioDir(p.opts.RunDir), 0o700); err != nil {
		return nil, err
	}
	if l.turn, err = openTurn(p.opts.RunDir); err != nil {
		return nil, err
	}
	if l.watch, err = newWatcher(); err != nil {
		return nil, err
	}
	if l.lockWatch, err = l.watch.add(l.turn.f.Name(), lockEvents); err != nil {
		return nil, err
	}
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	err = l.poll(unix.EPOLL_CTL_ADD, l.watch.fd, true)
	return l, err
}

// close stands down and closes everything.
func (l *loop) close() error {
	var err error
	if l.turn != nil {
		l.now = time.Now()
		err = l.standDown()
	}
	for _, c := range l.containers {
		l.drop(c)
	}
	if l.turn != nil {
		err = errors.Join(err, l.turn.close())
	}
	if l.watch != nil {
		err = errors.Join(err, l.watch.close())
	}
	if l.epoll >= 0 {
		err = errors.Join(err, unix.Close(l.epoll))
	}
	return err
}

// poll sets whether the loop hears of data on a descriptor.
func (l *loop) poll(op int, fd int, want bool) error {
	ev := unix.EpollEvent{Fd: int32(fd)}
	if want {
		ev.Events = unix.EPOLLIN
	}
	if err := unix.EpollCtl(l.epoll, op, fd, &ev); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// step waits for something to do and does it: events, what is due by time, and one chunk of each stream that has data.
func (l *loop) step() error {
	n, err := unix.EpollWait(l.epoll, l.events, l.timeout())
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("epoll: %w", err)
	}
	l.now = time.Now()
	for _, ev := range l.events[:max(n, 0)] {
		if int(ev.Fd) == l.watch.fd {
			if err := l.readEvents(); err != nil {
				return err
			}
		}
	}
	if !l.now.Before(l.scanAt) {
		if err := l.scan(); err != nil {
			l.complain("scan", err)
		}
		if err := l.takeTurn(); err != nil {
			return err
		}
	}
	l.attend()
	most := 0
	for _, ev := range l.events[:max(n, 0)] {
		// A stream may have been closed, or be held back, since epoll named it.
		if s := l.streams[ev.Fd]; s != nil && s.polled {
			most = max(most, l.read(s))
		}
	}
	if 0 < most && most < chunkSize/2 {
		time.Sleep(gatherFor)
	}
	return nil
}

// timeout is how long epoll may wait, in milliseconds.
func (l *loop) timeout() int {
	now := time.Now()
	next := l.scanAt
	sooner := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	for _, c := range l.containers {
		if c.suspect && l.active {
			sooner(l.lookAt)
		}
		for _, s := range c.streams {
			if len(s.lines.held) > 0 {
				sooner(s.lines.heldSince.Add(holdFor))
			}
			if s.gap != nil {
				sooner(s.gap.checked.Add(l.limits.checkEvery))
			}
		}
	}
	return int(max(0, (next.Sub(now)+time.Millisecond-1)/time.Millisecond))
}

// attend does what is due by time, besides the scan: looks for readers, long attaches, lines without end.
func (l *loop) attend() {
	if !l.active {
		return
	}
	l.lookIfDue()
	for _, c := range l.containers {
		l.checkGaps(c)
		for _, s := range c.streams {
			if len(s.lines.held) > 0 && l.now.Sub(s.lines.heldSince) >= holdFor {
				s.lines.flush(l.now, c.file)
				c.file.flush(l.now)
			}
		}
	}
}

// takeTurn decides anew whether this pump drains.
func (l *loop) takeTurn() error {
	if l.opts.Fallback {
		yield, err := l.turn.taken(logdLock)
		if err != nil {
			return err
		}
		if yield {
			return l.standDown()
		}
	} else if _, err := l.turn.try(logdLock); err != nil {
		return err
	}
	if l.active {
		return nil
	}
	mine, err := l.turn.try(drainLock)
	if err != nil || !mine {
		return err
	}
	l.active = true
	l.draining.Store(true)
	for _, c := range l.containers {
		// The pump before us may have marked a start since we looked.
		c.suspect, c.marked = true, readMarked(c.paths.Dir)
		l.startDraining(c)
	}
	return nil
}

// standDown writes all that this pump has read and leaves the rest to another one. The log itself says where the next
// one goes on: a line without end is there as an open record.
func (l *loop) standDown() error {
	if l.active {
		for _, c := range l.containers {
			l.stopDraining(c)
		}
	}
	l.active = false
	l.draining.Store(false)
	return l.turn.release(drainLock)
}

// complain logs trouble that the pump works around, at most once a minute for the same thing.
func (l *loop) complain(about string, err error) {
	if last, ok := l.troubles[about]; ok && l.now.Sub(last) < complainEvery {
		return
	}
	for what, when := range l.troubles {
		if l.now.Sub(when) >= complainEvery {
			delete(l.troubles, what)
		}
	}
	l.troubles[about] = l.now
	l.opts.Log.Error(err, "output of a container is in trouble", "at", about)
}
