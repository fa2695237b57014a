package logs

import (
	"bytes"
	"time"
)

const (
	streamStdout = "stdout"
	streamStderr = "stderr"
	streamSystem = "system"

	// stampLayout is RFC 3339 of fixed width, so that times compare as text and are cut off without parsing.
	stampLayout = "2006-01-02T15:04:05.000000000Z"
	stampLen    = len(stampLayout)

	// maxText is where a longer line is split: enough for a sensible line, small beside the buffers.
	maxText = 16 << 10

	// openMark follows the stream's name when the record does not end the container's line.
	openMark = '+'

	// startedText begins the marker of a container's start.
	startedText = "started "
)

func appendStamp(dst []byte, t time.Time) []byte { return t.UTC().AppendFormat(dst, stampLayout) }

// record is one line of a log file, cut into its parts.
type record struct {
	stamp, stream, text []byte
	// open: the container's line goes on in the stream's next record.
	open bool
}

// parseRecord cuts a line, without its newline, into parts that alias it. False means that it is no record, such as
// what a crash in mid-write left.
func parseRecord(line []byte) (record, bool) {
	const tagAt = stampLen + 1
	if len(line) < tagAt || line[stampLen] != ' ' || line[stampLen-1] != 'Z' || line[10] != 'T' {
		return record{}, false
	}
	n := bytes.IndexByte(line[tagAt:], ' ')
	if n < 1 {
		return record{}, false
	}
	r := record{stamp: line[:stampLen], stream: line[tagAt : tagAt+n], text: line[tagAt+n+1:]}
	if last := len(r.stream) - 1; r.stream[last] == openMark {
		r.stream, r.open = r.stream[:last], true
	}
	switch string(r.stream) {
	case streamStdout, streamStderr:
		return r, true
	case streamSystem:
		return r, !r.open
	}
	return record{}, false
}

// marker tells whether the record is the pump's own word and not the container's.
func (r record) marker() bool { return string(r.stream) == streamSystem }

// splitter cuts one stream's bytes into records.
type splitter struct {
	stream string
	// held is the beginning of a line whose end has not come yet, since heldSince.
	held      []byte
	heldSince time.Time
	// whole and open begin this chunk's records; the time is formatted once per chunk.
	whole, open []byte
}

// write adds the records of a chunk to f and holds back a line that it does not end.
func (s *splitter) write(chunk []byte, now time.Time, f *logFile) {
	s.setHeads(now)
	for len(chunk) > 0 {
		end := bytes.IndexByte(chunk, '\n')
		if end < 0 {
			break
		}
		line := chunk[:end]
		chunk = chunk[end+1:]
		if len(s.held) > 0 {
			s.held = append(s.held, line...)
			line = s.held
		}
		for len(line) > maxText {
			f.add(now, s.open, line[:maxText])
			line = line[maxText:]
		}
		f.add(now, s.whole, line)
		s.release()
	}
	if len(chunk) == 0 {
		return
	}
	if len(s.held) == 0 {
		s.heldSince = now
	}
	s.hold(chunk, now, f)
}

// hold keeps the beginning of a line, and never more of it than one record takes.
func (s *splitter) hold(text []byte, now time.Time, f *logFile) {
	for len(s.held)+len(text) > maxText {
		n := maxText - len(s.held)
		s.held = append(s.held, text[:n]...)
		text = text[n:]
		f.add(now, s.open, s.held)
		s.held = s.held[:0]
	}
	s.held = append(s.held, text...)
}

// flush writes what is held back, as a record that the next one goes on with.
func (s *splitter) flush(now time.Time, f *logFile) {
	if len(s.held) == 0 {
		return
	}
	s.setHeads(now)
	f.add(now, s.open, s.held)
	s.release()
}

// release forgets the held text; an idle stream shall keep no memory.
func (s *splitter) release() {
	const small = 1 << 10
	if cap(s.held) > small {
		s.held = nil
	}
	s.held = s.held[:0]
}

func (s *splitter) setHeads(now time.Time) {
	s.whole = append(appendStamp(s.whole[:0], now), ' ')
	s.whole = append(s.whole, s.stream...)
	s.open = append(append(s.open[:0], s.whole...), openMark, ' ')
	s.whole = append(s.whole, ' ')
}
