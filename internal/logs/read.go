package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"
	"time"
)

var (
	// ErrNoLog means that nothing was ever written for the container, or that Sweep has deleted it.
	ErrNoLog = errors.New("no log")
	// ErrNoPreviousRun means that the log holds no output of a run before the last one, or that it is raw.
	ErrNoPreviousRun = errors.New("no output of a previous run")
)

// ReadOptions choose what Read prints.
type ReadOptions struct {
	// Tail is the number of last lines, -1 for everything kept.
	Tail int
	// Since leaves out what is older, unless it is zero. A raw log has no times: there it has no effect.
	Since time.Time
	// Follow goes on with what is written from now on, until ctx ends. No line is missed over rotations, save of a raw
	// log that is cut and outgrows what was printed of it before the reader looks again.
	Follow bool
	// Previous prints the run before the last one, and never follows.
	Previous bool
	// Timestamps begins each line with its time and its stream; a raw log has neither.
	Timestamps bool
	// Notices gets the pump's markers, which are not the container's text; nil drops them.
	Notices io.Writer
}

// Read prints the log of a container, exactly the text it wrote, oldest first. Of a raw log and a drained one it takes
// that which was written last. The error is ErrNoLog, ErrNoPreviousRun, ctx's, or that of reading and writing; the end
// of ctx while following is none.
func Read(ctx context.Context, logDir, realm, container string, opts ReadOptions, out io.Writer) (err error) {
	path, raw := currentPath(logDir, realm, container)
	segments, err := openSegments(path)
	if err != nil {
		return fmt.Errorf("read log of %s/%s: %w", realm, container, err)
	}
	f := &follower{path: path, segments: segments}
	defer func() { err = errors.Join(err, f.close()) }()
	if len(f.segments) == 0 {
		return fmt.Errorf("%s/%s: %w", realm, container, ErrNoLog)
	}
	p := &printer{out: bufio.NewWriterSize(out, 64<<10), opts: opts, raw: raw}
	if !opts.Since.IsZero() {
		p.since = appendStamp(nil, opts.Since)
	}
	if opts.Previous {
		opts.Follow = false
		if raw || !cutPrevious(f.segments) {
			return fmt.Errorf("%s/%s: %w", realm, container, ErrNoPreviousRun)
		}
	}
	if opts.Tail == 0 {
		for _, s := range f.segments {
			s.from = s.to
		}
	} else if opts.Tail > 0 {
		cutTail(f.segments, opts.Tail, p)
	}
	if opts.Follow {
		err := f.follow(ctx, p)
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil
		}
		return err
	}
	for _, s := range f.segments {
		if err := p.copy(ctx, s.lines()); err != nil {
			return err
		}
	}
	return p.flush()
}

// currentPath is the file that a container's output goes to, the raw one when that was written last.
func currentPath(logDir, realm, container string) (path string, raw bool) {
	path, rawPath := LogPath(logDir, realm, container), RawLogPath(logDir, realm, container)
	st, err := os.Stat(path)
	if rawStat, rawErr := os.Stat(rawPath); rawErr == nil && (err != nil || rawStat.ModTime().After(st.ModTime())) {
		return rawPath, true
	}
	return path, false
}

// segment is a part of one log file. Its file stays the same while the names move on.
type segment struct {
	file     *os.File
	id       fileID
	from, to int64
}

// lines begins to read the segment's lines.
func (s *segment) lines() *lines {
	return &lines{r: bufio.NewReaderSize(io.NewSectionReader(s.file, s.from, s.to-s.from), 64<<10), next: s.from}
}

// openSegments opens all files of a log as they are now, oldest first. It goes from the newest to the oldest: a rotation
// meanwhile can only show a file twice, which is seen by its number.
func openSegments(path string) (segments []*segment, err error) {
	defer func() {
		if err != nil {
			for _, s := range segments {
				err = errors.Join(err, s.file.Close())
			}
			segments = nil
		}
	}()
	seen := map[fileID]bool{}
	for n, missing := 0, 0; ; n++ {
		name := path
		if n > 0 {
			name = rotated(path, n)
		}
		file, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			// In mid-rotation one name is free.
			if missing++; missing > 1 {
				return segments, nil
			}
			continue
		}
		missing = 0
		if err != nil {
			return segments, err
		}
		st, err := file.Stat()
		if err != nil || seen[idOf(st)] {
			if err := errors.Join(err, file.Close()); err != nil {
				return segments, err
			}
			continue
		}
		seen[idOf(st)] = true
		segments = append([]*segment{{file: file, id: idOf(st), to: st.Size()}}, segments...)
	}
}

// lines reads a log file line by line, also one that grows.
type lines struct {
	r *bufio.Reader
	// held is the beginning of a line of which the file has no more yet.
	held []byte
	// at is where the line last returned begins, next where the one after it does.
	at, next int64
}

// read returns the next line with its newline; a line too long for the buffer comes in pieces. io.EOF means that there
// is no whole line now; later there may be.
func (l *lines) read() ([]byte, error) {
	data, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		err = nil
	}
	if len(l.held) > 0 {
		data = append(l.held, data...)
		l.held = nil
	}
	if err != nil {
		l.held = bytes.Clone(data)
		return nil, err
	}
	l.at, l.next = l.next, l.next+int64(len(data))
	return data, nil
}

// printer writes the container's own text.
type printer struct {
	out   *bufio.Writer
	opts  ReadOptions
	raw   bool
	since []byte
	// open is the stream whose line the output stands in the middle of.
	open string
}

// wants reports whether a line of the log file is text to be printed, and whether it ends the container's line.
func (p *printer) wants(line []byte) (r record, text, ends bool) {
	if p.raw {
		return record{text: line}, true, line[len(line)-1] == '\n'
	}
	r, ok := parseRecord(bytes.TrimSuffix(line, []byte{'\n'}))
	if !ok || (p.since != nil && bytes.Compare(r.stamp, p.since) < 0) {
		return record{}, false, false
	}
	return r, !r.marker(), !r.open
}

func (p *printer) print(line []byte) error {
	r, text, ends := p.wants(line)
	var err error
	switch {
	case r.marker():
		err = p.notice(r)
	case !text:
	case p.raw:
		_, err = p.out.Write(line)
	default:
		err = p.text(r, ends)
	}
	return err
}

func (p *printer) text(r record, ends bool) error {
	if p.opts.Timestamps && p.open != string(r.stream) {
		if err := p.endLine(); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(p.out, "%s %s ", r.stamp, r.stream); err != nil {
			return err
		}
	}
	if _, err := p.out.Write(r.text); err != nil {
		return err
	}
	if !ends {
		p.open = string(r.stream)
		return nil
	}
	p.open = ""
	return p.out.WriteByte('\n')
}

func (p *printer) endLine() error {
	if p.open == "" {
		return nil
	}
	p.open = ""
	return p.out.WriteByte('\n')
}

// notice passes a marker on. It ends an open line: what comes after a gap or a start is another line.
func (p *printer) notice(r record) error {
	if err := p.endLine(); err != nil {
		return err
	}
	return p.say(fmt.Sprintf("%s %s", r.stamp, r.text))
}

func (p *printer) say(text string) error {
	if p.opts.Notices == nil {
		return nil
	}
	if err := p.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(p.opts.Notices, text)
	return err
}

// copy prints all whole lines that there are; of a raw log also the beginning of the last one.
func (p *printer) copy(ctx context.Context, l *lines) error {
	for {
		line, err := l.read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := p.print(line); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if p.raw && len(l.held) > 0 {
		rest := l.held
		l.held, l.next = nil, l.next+int64(len(rest))
		return p.print(rest)
	}
	return nil
}

func (p *printer) flush() error { return p.out.Flush() }

// cutTail moves the beginning of the segments to the last n lines; an unfinished last one counts as well.
func cutTail(segments []*segment, n int, p *printer) {
	seen := false
	for i := len(segments) - 1; i >= 0; i-- {
		s := segments[i]
		ends, open := countLines(s, p, math.MaxInt)
		if open && !seen && n > 0 {
			n--
		}
		seen = seen || open || ends.count > 0
		if ends.count > n {
			ends, _ = countLines(s, p, ends.count-n)
			s.from = ends.after
			for _, older := range segments[:i] {
				older.from = older.to
			}
			return
		}
		n -= ends.count
	}
}

// lineEnds counts lines that end; after is where the last of them does.
type lineEnds struct {
	count int
	after int64
}

// countLines counts up to most ends of wanted lines; open tells that text comes after the last one.
func countLines(s *segment, p *printer, most int) (ends lineEnds, open bool) {
	ends.after = s.from
	if most <= 0 {
		return ends, false
	}
	l := s.lines()
	for {
		line, err := l.read()
		if err != nil {
			return ends, open || (p.raw && len(l.held) > 0)
		}
		_, text, end := p.wants(line)
		if !text {
			continue
		}
		open = !end
		if end {
			ends.count++
			ends.after = l.next
		}
		if ends.count >= most {
			return ends, false
		}
	}
}

// cutPrevious narrows the segments to the text between the last two starts, and reports whether there is any.
func cutPrevious(segments []*segment) bool {
	type position struct {
		segment  int
		at, next int64
	}
	var before, last *position
	var text, textBefore bool
	for i, s := range segments {
		l := s.lines()
		for {
			line, err := l.read()
			if err != nil {
				break
			}
			r, ok := parseRecord(bytes.TrimSuffix(line, []byte{'\n'}))
			if !ok {
				continue
			}
			if r.marker() && strings.HasPrefix(string(r.text), startedText) {
				before, last = last, &position{i, l.at, l.next}
				text, textBefore = false, text
			} else if !r.marker() {
				text = true
			}
		}
	}
	if last == nil || (before == nil && !textBefore) {
		return false
	}
	for i, s := range segments {
		if before != nil && i < before.segment || i > last.segment {
			s.from = s.to
		}
		if before != nil && i == before.segment {
			s.from = before.next
		}
		if i == last.segment {
			s.to = last.at
		}
	}
	return true
}
