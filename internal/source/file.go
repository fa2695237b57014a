package source

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/manifests"
)

// errUnsettled means that somebody is writing the file, or was a moment ago.
var errUnsettled = errors.New("still being written")

// errNoLease means that leases cannot tell whether a file is being written: the file system has none, or the file
// is somebody else's and we are not privileged.
var errNoLease = errors.New("no leases here")

// refusal is why a file is not read, told to a person.
type refusal string

func (r refusal) Error() string { return string(r) }

// tooLarge is the size of a file that is not read for it.
type tooLarge int64

func (s tooLarge) Error() string {
	return fmt.Sprintf("%d bytes; a manifest has at most %d", int64(s), maxFileBytes)
}

// owners says who may write manifests. The zero value lets everybody.
type owners struct {
	judged bool
	uids   [3]uint32
	gid    uint32
}

// ownersOf trusts root, ourselves and the owner of the manifest directory; and its group, where that may write.
func ownersOf(root stat) owners {
	return owners{judged: true, uids: [3]uint32{0, uint32(os.Geteuid()), root.uid}, gid: root.gid}
}

// refuse returns why what has this stat is not trusted, or "".
func (o owners) refuse(s stat) string {
	switch {
	case !o.judged:
	case s.uid != o.uids[0] && s.uid != o.uids[1] && s.uid != o.uids[2]:
		return fmt.Sprintf("owned by uid %d, who is neither root nor the owner of the manifest directory", s.uid)
	case s.mode&0o002 != 0:
		return fmt.Sprintf("writable by everybody (mode %04o)", s.mode.Perm())
	case s.mode&0o020 != 0 && s.gid != o.gid:
		return fmt.Sprintf("writable by gid %d, which is not the manifest directory's group (mode %04o)", s.gid, s.mode.Perm())
	}
	return ""
}

// admit returns a refusal for what is no file of ours to read.
func (o owners) admit(s stat) error {
	switch {
	case s.mode.IsDir():
		return refusal("a directory is named like a manifest")
	case !s.mode.IsRegular():
		return refusal("not a regular file but " + kindOf(s.mode))
	case o.refuse(s) != "":
		return refusal("refused: " + o.refuse(s))
	case s.size > maxFileBytes:
		return tooLarge(s.size)
	}
	return nil
}

// kindOf names what is no regular file.
func kindOf(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "a special file"
}

// cached is a decoded file as it was last read.
type cached struct {
	version version
	digest  [sha256.Size]byte
	file    manifests.File
	// doubtful means that the file was so young when it was read that an equal version proves nothing.
	doubtful bool
}

// load returns the decoded file, from the cache when its version is known. The error is a refusal, errUnsettled,
// fs.ErrNotExist, or what the file system says.
func (r *Reader) load(top *os.Root, c candidate, o owners) (cached, error) {
	if c.refused != "" {
		return cached{}, refusal("refused: " + c.refused)
	}
	if strings.ContainsFunc(c.path, func(r rune) bool { return r == utf8.RuneError || !strconv.IsPrint(r) }) {
		// It could not be stored, nor written into a label, nor shown without harm.
		return cached{}, refusal("refused: its path holds more than printable UTF-8; rename it")
	}
	if err := o.admit(c.stat); err != nil {
		return cached{}, err
	}
	known, ok := r.cache[c.path]
	if ok && known.version == c.stat.version && !known.doubtful {
		return known, nil
	}
	// O_NONBLOCK: the name may have become a FIFO since it was looked at.
	f, err := top.OpenFile(c.real, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EAGAIN) {
		return cached{}, errUnsettled // somebody holds a write lease
	}
	if err != nil {
		return cached{}, err
	}
	defer f.Close()
	data, now, err := r.readSettled(f, c.path, o)
	if err != nil {
		return cached{}, err
	}
	fresh := cached{version: now.version, digest: sha256.Sum256(data), doubtful: r.age(now.version) < timestampDoubt}
	if ok && known.digest == fresh.digest {
		fresh.file = known.file
	} else {
		fresh.file = r.decode(c.path, data)
	}
	fresh.file.Public = now.mode.Perm()&0o004 != 0
	return fresh, nil
}

// readSettled reads an open file between two equal stats, while nobody has it open for writing.
func (r *Reader) readSettled(f *os.File, path string, o owners) ([]byte, stat, error) {
	before, err := f.Stat()
	if err != nil {
		return nil, stat{}, err
	}
	was := statOf(before)
	if err := o.admit(was); err != nil {
		return nil, was, err
	}
	switch err := r.lease(f); {
	case errors.Is(err, errNoLease):
		if !r.quiet(path, was.version) {
			return nil, was, errUnsettled
		}
	case err != nil:
		return nil, was, err
	default:
		defer release(f)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, was, err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, was, err
	}
	if statOf(after).version != was.version || int64(len(data)) != was.size {
		return nil, was, errUnsettled
	}
	return data, was, nil
}

// age is how long ago a version came to be, by the wall clock; negative when that lies in the future.
func (r *Reader) age(v version) time.Duration {
	return r.now().Sub(time.Unix(0, max(v.mtime, v.ctime)))
}

// quiet stands in where there is no lease: it reports whether a file has not changed for a while, by its timestamps,
// or (as the wall clock may say anything after a boot) by our own watching.
func (r *Reader) quiet(path string, v version) bool {
	if r.cache[path].version == v {
		return true
	}
	w := r.waiting[path]
	if w.version != v {
		w.version, w.unchanged = v, r.now()
		r.waiting[path] = w
	}
	return r.age(v) >= leaselessQuiet || r.now().Sub(w.unchanged) >= leaselessQuiet
}

// ripe reports whether a symlink was followed before, or is old enough to be.
func (r *Reader) ripe(path string, own version) bool {
	_, known := r.linked[path]
	return known || r.quiet(path, own)
}

// takeLease takes a read lease, which the kernel grants only while nobody has the file open for writing, and which
// holds a writer's open back until release. It returns errUnsettled or errNoLease.
func takeLease(f *os.File) error {
	return control(f, func(fd uintptr) error {
		// A broken lease is told by SIGIO, whose default is to kill. SIGURG is ignored by default, and the Go
		// runtime, which uses it itself, expects strays.
		if _, err := unix.FcntlInt(fd, unix.F_SETSIG, int(syscall.SIGURG)); err != nil {
			return errNoLease
		}
		switch _, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK); {
		case err == nil:
			return nil
		case errors.Is(err, unix.EAGAIN):
			return errUnsettled
		}
		return errNoLease
	})
}

// release gives the lease back; closing the file would too, but a little later. An error means there was none.
func release(f *os.File) {
	_ = control(f, func(fd uintptr) error {
		_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
		return err
	})
}

// control runs a system call on a file's descriptor.
func control(f *os.File, do func(fd uintptr) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = do(fd) }); err != nil {
		return err
	}
	return failed
}

// unread tells a person why a file was not read. What is wrong with its content is told at its first line.
func unread(file string, err error) manifests.Problem {
	if size := tooLarge(0); errors.As(err, &size) {
		p := problemAt(file, err.Error())
		p.Line = 1
		return p
	}
	if r := refusal(""); errors.As(err, &r) {
		return problemAt(file, err.Error())
	}
	return problemAt(file, "cannot be read: "+reason(err))
}

// reason is an error's text without the path, which the Problem has already.
func reason(err error) string {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err.Error()
	}
	return err.Error()
}
