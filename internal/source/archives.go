package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/manifests"
)

const (
	// dropDirectory stands beside a manifest directory and holds a directory of archives for each realm.
	dropDirectory = "images.d"
	// archiveQuiet is how long an archive must stand unchanged before it counts as whole: big files are copied slowly.
	archiveQuiet = 2 * time.Second
	// clockDoubt is how far the clock of a file system may be ahead of ours.
	clockDoubt = time.Minute
	// maxUnquiet is how long an archive that is being written keeps others waiting, and images that may be in it.
	maxUnquiet = 5 * time.Minute
	// answerLimit is how long a look waits for the file system on which an archive is.
	answerLimit = 2 * time.Second
	// maxDropped bounds the archives in one drop directory.
	maxDropped = 1000
)

// beingWritten is what is wrong with an archive that has just changed.
const beingWritten = "it is still being written"

// findArchives looks at the archives that the scan's files name, relative to where dirOf says that a file stands, and at
// what lies in the drop directories of their realms below dropped. They are only looked at: a change of one is a change
// of what the manifests declare, and says nothing about what is absent.
func (r *Reader) findArchives(scan *manifests.Scan, o owners, dirOf func(path string) string, dropped string) {
	realms := map[string]bool{}
	for i := range scan.Files {
		f := &scan.Files[i]
		for _, doc := range f.Documents {
			if doc.Realm == nil {
				continue
			}
			realms[doc.RealmName] = true
			for _, image := range doc.Realm.Spec.Images {
				if image.Archive == "" {
					continue
				}
				path := image.Archive
				if !filepath.IsAbs(path) {
					path = filepath.Join(dirOf(f.Path), path)
				}
				if f.Archives == nil {
					f.Archives = map[string]manifests.Archive{}
				}
				f.Archives[image.Archive] = r.archive(path, o, scan)
			}
		}
	}
	if dropped == "" {
		return
	}
	for realm := range realms {
		if all := r.drops(filepath.Join(dropped, realm), o, scan); len(all) > 0 {
			if scan.Dropped == nil {
				scan.Dropped = map[string][]manifests.Archive{}
			}
			scan.Dropped[realm] = all
		}
	}
}

// drops lists the archives in a realm's drop directory. Hidden files and directories are passed over, as files are that
// a copy names so until it is complete.
func (r *Reader) drops(dir string, o owners, scan *manifests.Scan) (out []manifests.Archive) {
	refuse := func(message string) {
		p := problemAt(dir, message)
		p.Severity = manifests.Warning
		scan.Problems = append(scan.Problems, p)
	}
	entries, err := ask(r, dir+"/", func() ([]fs.DirEntry, error) { return os.ReadDir(dir) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		refuse("its archives cannot be listed: " + reason(err))
		return nil
	}
	info, err := ask(r, dir, func() (fs.FileInfo, error) { return os.Stat(dir) })
	if err != nil {
		refuse("its archives cannot be listed: " + reason(err))
		return nil
	}
	if why := o.refuse(statOf(info)); why != "" {
		refuse("its archives are not imported: the directory is " + why)
		return nil
	}
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") {
			continue
		}
		if len(out) == maxDropped {
			refuse(fmt.Sprintf("more than %d archives; those after %s are not imported", maxDropped, out[maxDropped-1].Path))
			break
		}
		if !manifests.Printable(name) {
			refuse(fmt.Sprintf("the name of %q is no printable text; it is not imported", name))
			continue
		}
		out = append(out, r.archive(filepath.Join(dir, name), o, scan))
	}
	return out
}

// archive looks at one file of images.
func (r *Reader) archive(path string, o owners, scan *manifests.Scan) manifests.Archive {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	a := manifests.Archive{Path: path}
	info, err := ask(r, path, func() (fs.FileInfo, error) { return os.Stat(path) })
	if err != nil {
		a.Problem = "it cannot be read: " + reason(err)
		return a
	}
	s, now := statOf(info), r.now()
	if a.Problem = unfitArchive(s, o); a.Problem != "" {
		return a
	}
	// The daemon may look while a file is being copied; a person who names one knows that it is complete. A time that
	// lies far ahead was written before the clock was set back, and tells nothing.
	age := now.Sub(time.Unix(0, s.ctime))
	if r.everyone || age >= archiveQuiet || age < -clockDoubt {
		delete(r.unquiet, path)
		a.Version = s.archiveVersion()
		return a
	}
	since, known := r.unquiet[path]
	if !known || since.After(now) {
		since = now
		r.unquiet[path] = now
	}
	a.Problem, a.Settling = beingWritten, now.Sub(since) < maxUnquiet
	if again := now.Add(archiveQuiet); scan.LookAgain.IsZero() || again.Before(scan.LookAgain) {
		scan.LookAgain = again
	}
	return a
}

// errNoAnswer is the error of a file system that says nothing.
var errNoAnswer = errors.New("the file system does not answer")

// ask puts a question about a path to the file system, and does not wait long: what hangs, such as a file server that is
// away, is asked no second time until it has answered.
func ask[T any](r *Reader, path string, question func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	if hung, ok := r.hung[path]; ok {
		select {
		case a := <-hung.(chan answer):
			delete(r.hung, path)
			return a.value, a.err
		default:
			return none, errNoAnswer
		}
	}
	answers := make(chan answer, 1)
	go func() {
		v, err := question()
		answers <- answer{v, err}
	}()
	limit := time.NewTimer(answerLimit)
	defer limit.Stop()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-limit.C:
		r.hung[path] = answers
		return none, errNoAnswer
	}
}

// unfitArchive returns why a file cannot serve as an archive, or "".
func unfitArchive(s stat, o owners) string {
	switch {
	case s.mode.IsDir():
		return "it is a directory"
	case !s.mode.IsRegular():
		return "it is not a regular file but " + kindOf(s.mode)
	case s.size == 0:
		return "it is empty"
	}
	if why := o.refuse(s); why != "" {
		return "refused: " + why
	}
	return ""
}

// archiveVersion leaves the device out: its number may change at a reboot, and the file is not another one for that.
func (s stat) archiveVersion() string {
	return fmt.Sprintf("%x-%x-%x-%x", s.size, s.mtime, s.ctime, s.ino)
}

// ArchiveFile is an archive that is being read.
type ArchiveFile struct{ *os.File }

// OpenArchive opens a file that a scan found to be an archive. It never waits for a writer, as a FIFO would.
func OpenArchive(path string) (*ArchiveFile, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return &ArchiveFile{f}, nil
}

// Version is that of the open file as it is now; see manifests.Archive.
func (f *ArchiveFile) Version() (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	s := statOf(info)
	if why := unfitArchive(s, owners{}); why != "" {
		return "", errors.New(why)
	}
	return s.archiveVersion(), nil
}

// dropsBeside is the drop directory that belongs to a manifest directory.
func dropsBeside(root string) string {
	if abs, err := filepath.Abs(root); err == nil {
		root = abs
	}
	return filepath.Join(filepath.Dir(root), dropDirectory)
}
