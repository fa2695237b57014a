package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// outSize is how much is written at once: large enough that the call costs nothing beside the copying.
	outSize = 256 << 10
	// lossRetry is how soon after a failed write the next one is tried: often enough that little is lost, and seldom
	// enough that a full disk costs no CPU.
	lossRetry = time.Second
)

// logFile is the current log file of one container, and its rotation. What cannot be written is dropped and counted,
// and a marker says so as soon as writing works again: a full disk must not block the container.
type logFile struct {
	path     string
	maxSize  int64
	maxFiles int
	// out gathers records until flush; all files share it, since each is flushed before the next one's turn.
	out *[]byte
	// failed hears of the first error of each loss.
	failed func(path string, err error)

	f    *os.File // nil until the first write
	size int64
	loss loss
}

// loss is what could not be written since a write failed.
type loss struct {
	records int
	since   time.Time
	err     error
	retryAt time.Time
}

// add takes one record: a head, which ends with a space, and a text without newline.
func (f *logFile) add(now time.Time, head, text []byte) {
	n := int64(len(head) + len(text) + 1)
	if !f.ready(now) || !f.makeRoom(now, n) {
		f.loss.records++
		return
	}
	*f.out = append(*f.out, head...)
	*f.out = append(*f.out, text...)
	*f.out = append(*f.out, '\n')
}

// mark adds a marker of the pump's own.
func (f *logFile) mark(now time.Time, text string) {
	f.add(now, append(appendStamp(nil, now), " "+streamSystem+" "...), []byte(text))
}

// makeRoom flushes and rotates as the next n bytes need it.
func (f *logFile) makeRoom(now time.Time, n int64) bool {
	pending := int64(len(*f.out))
	if f.f == nil {
		if err := f.open(); err != nil {
			f.fail(now, 0, err)
			return false
		}
	}
	if full := f.size + pending; full > 0 && full+n > f.maxSize {
		f.flush(now)
		if f.loss.err == nil {
			if err := f.rotate(); err != nil {
				f.fail(now, 0, err)
			}
		}
	} else if pending+n > outSize {
		f.flush(now)
	}
	return f.loss.err == nil
}

// flush writes what add gathered.
func (f *logFile) flush(now time.Time) {
	data := *f.out
	*f.out = data[:0]
	if len(data) == 0 {
		return
	}
	if rest, err := f.write(data); err != nil {
		f.fail(now, bytes.Count(rest, []byte{'\n'}), err)
	}
}

// write appends whole records; on an error it returns those that are not in the file.
func (f *logFile) write(data []byte) (rest []byte, err error) {
	if f.f == nil {
		if err := f.open(); err != nil {
			return data, err
		}
	}
	n, err := f.f.Write(data)
	if err != nil {
		// A torn record would swallow the next one.
		whole := bytes.LastIndexByte(data[:n], '\n') + 1
		err = errors.Join(err, f.f.Truncate(f.size+int64(whole)))
		n = whole
	}
	f.size += int64(n)
	return data[n:], err
}

func (f *logFile) fail(now time.Time, records int, err error) {
	if f.loss.err == nil {
		f.loss.since, f.loss.err = now, err
		f.failed(f.path, err)
	}
	f.loss.records += records
	f.loss.retryAt = now.Add(lossRetry)
}

// ready reports whether writing works; after a loss, by writing the marker of it when a retry is due.
func (f *logFile) ready(now time.Time) bool {
	if f.loss.err == nil {
		return true
	}
	if now.Before(f.loss.retryAt) {
		return false
	}
	was := f.loss
	f.loss = loss{}
	text := fmt.Sprintf("%d records lost from %s to %s: %v", was.records, appendStamp(nil, was.since), appendStamp(nil, now), cause(was.err))
	line := append(appendStamp(nil, now), " "+streamSystem+" "+text+"\n"...)
	err := f.openAndRotate(int64(len(line)))
	if err == nil {
		_, err = f.write(line)
	}
	if err != nil {
		f.loss = was
		f.loss.retryAt = now.Add(lossRetry)
		return false
	}
	return true
}

// cause is the innermost word on why a write failed, without names of files.
func cause(err error) error {
	var number unix.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}

func (f *logFile) openAndRotate(n int64) error {
	if f.f == nil {
		if err := f.open(); err != nil {
			return err
		}
	}
	if f.size > 0 && f.size+n > f.maxSize {
		return f.rotate()
	}
	return nil
}

func (f *logFile) open() error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o750); err != nil {
		return err
	}
	file, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	size, err := endLastRecord(file)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.f, f.size = file, size
	return nil
}

// endLastRecord ends a record that a crash tore, so that the next one stands on a line of its own.
func endLastRecord(file *os.File) (size int64, err error) {
	st, err := file.Stat()
	if err != nil || st.Size() == 0 {
		return 0, err
	}
	var last [1]byte
	if _, err := file.ReadAt(last[:], st.Size()-1); err != nil || last[0] == '\n' {
		return st.Size(), err
	}
	n, err := file.Write([]byte{'\n'})
	return st.Size() + int64(n), err
}

// rotate moves the current file on and begins a new one; with room for one file only, it is emptied.
func (f *logFile) rotate() error {
	if f.maxFiles == 1 {
		if err := f.f.Truncate(0); err != nil {
			return err
		}
		f.size = 0
		return nil
	}
	if err := shift(f.path, f.maxFiles); err != nil {
		return err
	}
	if err := os.Rename(f.path, rotated(f.path, 1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := f.close(); err != nil {
		return err
	}
	return f.open()
}

// refresh lets go of a file that somebody else has moved away or deleted, and writes the marker of a loss that is over.
func (f *logFile) refresh(now time.Time) error {
	f.ready(now)
	if f.f == nil {
		return nil
	}
	mine, err := f.f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(f.path)
	if err == nil && os.SameFile(mine, there) {
		f.size = mine.Size()
		return nil
	}
	return f.close()
}

func (f *logFile) close() error {
	if f.f == nil {
		return nil
	}
	err := f.f.Close()
	f.f, f.size = nil, 0
	return err
}

func rotated(path string, n int) string { return path + "." + strconv.Itoa(n) }

// shift frees the name path.1: the rotated files move up by one, to the first number that is free; the last one and any
// beyond the limit go.
func shift(path string, maxFiles int) error {
	if err := trim(path, maxFiles); err != nil {
		return err
	}
	free := 1
	for ; free < maxFiles-1; free++ {
		if _, err := os.Lstat(rotated(path, free)); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return err
		}
	}
	for n := free - 1; n >= 1; n-- {
		if err := os.Rename(rotated(path, n), rotated(path, n+1)); err != nil {
			return err
		}
	}
	return nil
}

// trim deletes the rotated files from number first on, to the end of an unbroken row.
func trim(path string, first int) error {
	for n := max(first, 1); ; n++ {
		err := os.Remove(rotated(path, n))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// rotateRaw rotates a file that somebody else appends to and keeps open: by copying it and cutting it to nothing. What
// is written between the last look at its size and the cut is lost; that is the price of driver "file".
func rotateRaw(path string, maxSize int64, maxFiles int) (err error) {
	src, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	st, err := src.Stat()
	if err != nil || st.Size() < maxSize {
		return err
	}
	if maxFiles == 1 {
		return src.Truncate(0)
	}
	if err := shift(path, maxFiles); err != nil {
		return err
	}
	dst, err := os.OpenFile(rotated(path, 1), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		// Without room for the copy nothing is cut; half a copy would only take more room.
		return errors.Join(err, dst.Close(), os.Remove(dst.Name()))
	}
	return errors.Join(dst.Close(), src.Truncate(0))
}
