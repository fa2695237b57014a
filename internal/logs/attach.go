package logs

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// attachLimits bound how we step aside.
type attachLimits struct {
	// checkEvery is how often an attach is looked at while it lasts.
	checkEvery time.Duration
	// stuckAfter is how long a reader may leave a full pipe untouched, with the container blocked, before we go on.
	stuckAfter time.Duration
	// longest is how long anybody may keep a container's output from its log.
	longest time.Duration
}

// lookShare bounds the search of /proc for readers, which takes milliseconds on a busy host, to one part in so many of
// our time: fifty containers that start at once shall not suffer. A container's pipe takes its output meanwhile.
const lookShare = 10

var defaultAttachLimits = attachLimits{
	checkEvery: time.Second,
	stuckAfter: 10 * time.Second,
	longest:    12 * time.Hour,
}

// attachment is what we know of the others who read a stream.
type attachment struct {
	// gap is set while we step aside.
	gap *gap
	// ignored are readers, by pid, to whom we have stopped yielding; forgotten when they close.
	ignored []int
}

// gap is a time in which somebody else gets a stream's output.
type gap struct {
	from, checked time.Time
	readers       []int
	// stuckSince is set while the pipe is full and nothing was written into it, hence nothing read out of it, since.
	stuckSince time.Time
	written    unix.Timespec
}

// lookIfDue finds out who has opened the FIFOs of suspect containers, and acts on it.
func (l *loop) lookIfDue() {
	if l.now.Before(l.lookAt) {
		return
	}
	suspects := map[fileID]*stream{}
	for _, c := range l.containers {
		for _, s := range c.streams {
			if c.suspect && s.fd >= 0 {
				suspects[s.id] = s
			}
		}
		if c.suspect && c.streams[0].fd < 0 && c.streams[1].fd < 0 {
			c.suspect = false
		}
	}
	if len(suspects) == 0 {
		return
	}
	started := time.Now()
	found, err := findReaders(suspects, l.turn.f)
	if err != nil {
		l.complain("/proc", err)
	}
	l.lookAt = time.Now().Add(lookShare * time.Since(started))
	for _, s := range suspects {
		if s.owner.suspect {
			s.owner.suspect = false
			l.judge(s.owner, found)
		}
	}
}

// judge steps aside from, or goes on with, the streams of a container as their readers say.
func (l *loop) judge(c *container, found map[*stream][]int) {
	var over []*stream
	for _, s := range c.streams {
		s.ignored = slices.DeleteFunc(s.ignored, func(pid int) bool { return !slices.Contains(found[s], pid) })
		readers := slices.DeleteFunc(found[s], func(pid int) bool { return slices.Contains(s.ignored, pid) })
		switch {
		case len(readers) == 0 && s.gap != nil:
			over = append(over, s)
		case len(readers) > 0 && s.gap == nil:
			// What we hold of a line belongs before the gap.
			s.lines.flush(l.now, c.file)
			c.file.flush(l.now)
			s.gap = &gap{from: l.now, checked: l.now, readers: readers}
		case len(readers) > 0:
			s.gap.readers = readers
		}
	}
	l.endGaps(c, over, "")
	l.setPolled(c)
}

// checkGaps takes a container's output back from whoever has it for too long or does not read it.
func (l *loop) checkGaps(c *container) {
	var long, stuck []*stream
	for _, s := range c.streams {
		if s.gap == nil || l.now.Sub(s.gap.checked) < l.limits.checkEvery {
			continue
		}
		s.gap.checked = l.now
		if err := s.gap.observe(s.fd, l.now); err != nil {
			l.complain(s.path, err)
		}
		switch {
		case l.now.Sub(s.gap.from) >= l.limits.longest:
			long = append(long, s)
		case !s.gap.stuckSince.IsZero() && l.now.Sub(s.gap.stuckSince) >= l.limits.stuckAfter:
			stuck = append(stuck, s)
		}
	}
	if len(long)+len(stuck) == 0 {
		return
	}
	for _, s := range slices.Concat(long, stuck) {
		s.ignored = append(s.ignored, s.gap.readers...)
	}
	l.endGaps(c, long, "; taken back after "+l.limits.longest.String())
	l.endGaps(c, stuck, "; taken back because nothing was read for "+l.limits.stuckAfter.String())
	l.setPolled(c)
}

// observe notes whether the readers let the container block. A pipe that is full can be written into only after it was
// read from, and each write sets the FIFO's modification time: so a full pipe with an old time is one that nobody reads.
func (g *gap) observe(fd int, now time.Time) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	room := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if _, err := unix.Poll(room, 0); err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	full := room[0].Revents&unix.POLLOUT == 0
	if !full || st.Mtim != g.written {
		g.stuckSince = time.Time{}
	}
	if full && g.stuckSince.IsZero() {
		g.stuckSince = now
	}
	g.written = st.Mtim
	return nil
}

// endGaps goes on with streams and marks, once for all of them, what is missing in the log.
func (l *loop) endGaps(c *container, streams []*stream, how string) {
	var names []string
	var from time.Time
	for _, s := range streams {
		if s.gap == nil {
			continue
		}
		if from.IsZero() || s.gap.from.Before(from) {
			from = s.gap.from
		}
		names = append(names, s.lines.stream)
		s.gap = nil
	}
	if len(names) == 0 {
		return
	}
	c.file.mark(l.now, fmt.Sprintf("%s attached elsewhere from %s to %s; output in between went there%s",
		strings.Join(names, " and "), appendStamp(nil, from), appendStamp(nil, l.now), how))
	c.file.flush(l.now)
}

// shimName is how /proc calls a shim, of whatever runtime; a name is cut off at 15 bytes there.
const shimName = "containerd-shim"

// findReaders searches /proc for processes that have one of the FIFOs open for reading: not ourselves, not the shims,
// which hold both ends of theirs, and not the other pumps, which hold the lock file open.
func findReaders(fifos map[fileID]*stream, lock *os.File) (map[*stream][]int, error) {
	found := map[*stream][]int{}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return found, err
	}
	lockStat, err := lock.Stat()
	if err != nil {
		return found, err
	}
	for _, proc := range procs {
		pid, err := strconv.Atoi(proc.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		read, isPump := fifosReadBy(pid, fifos, idOf(lockStat))
		if len(read) == 0 || isPump || isShim(pid) {
			continue
		}
		for _, s := range read {
			if !slices.Contains(found[s], pid) {
				found[s] = append(found[s], pid)
			}
		}
	}
	return found, nil
}

// fifosReadBy lists what a process reads. One that ended meanwhile, or that we may not look into, reads nothing.
func fifosReadBy(pid int, fifos map[fileID]*stream, lock fileID) (read []*stream, isPump bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return nil, false
	}
	for _, fd := range fds {
		path := filepath.Join(dir, "fd", fd.Name())
		target, err := os.Readlink(path)
		if err != nil || !interesting(target) {
			continue
		}
		st, err := os.Stat(path)
		if err != nil {
			continue
		}
		if idOf(st) == lock {
			return nil, true
		}
		if s := fifos[idOf(st)]; s != nil && st.Mode().Type() == fs.ModeNamedPipe && opensForReading(dir, fd.Name()) {
			read = append(read, s)
		}
	}
	return read, false
}

// interesting spares us a stat of every file on the host, some of which may hang.
func interesting(target string) bool {
	switch strings.TrimSuffix(filepath.Base(target), " (deleted)") {
	case streamStdout, streamStderr, lockName:
		return true
	}
	return false
}

func opensForReading(procDir, fd string) bool {
	info, err := os.ReadFile(filepath.Join(procDir, "fdinfo", fd))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(info, []byte("flags:"))
	digits, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte("\n"))
	flags, err := strconv.ParseInt(string(digits), 8, 64)
	return err == nil && flags&unix.O_PATH == 0 && flags&unix.O_ACCMODE != unix.O_WRONLY
}

func isShim(pid int) bool {
	comm, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	return err == nil && strings.HasPrefix(string(comm), shimName)
}
