package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		refuse("its archives cannot be listed: " + reason(err))
		return nil
	}
	info, err := os.Stat(dir)
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
	info, err := os.Stat(path)
	if err != nil {
		a.Problem = "it cannot be read: " + reason(err)
		return a
	}
	s := statOf(info)
	if a.Problem = unfitArchive(s, o); a.Problem != "" {
		return a
	}
	// The daemon may look while a file is being copied; a person who names one knows that it is complete. A time that
	// lies ahead was written before the clock was set back, and tells nothing.
	quiet := time.Unix(0, s.ctime).Add(archiveQuiet)
	if age := scan.At.Sub(time.Unix(0, s.ctime)); !r.everyone && age >= 0 && age < archiveQuiet {
		a.Problem, a.Settling = beingWritten, true
		if scan.LookAgain.IsZero() || quiet.Before(scan.LookAgain) {
			scan.LookAgain = quiet
		}
		return a
	}
	a.Version = s.archiveVersion()
	return a
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

// mergeArchives adds what another scan found in drop directories.
func mergeArchives(whole *manifests.Scan, scan manifests.Scan) {
	for realm, all := range scan.Dropped {
		if whole.Dropped == nil {
			whole.Dropped = map[string][]manifests.Archive{}
		}
		same := func(a, b manifests.Archive) bool { return a.Path == b.Path }
		all = slices.SortedFunc(slices.Values(append(slices.Clone(whole.Dropped[realm]), all...)), func(a, b manifests.Archive) int {
			return strings.Compare(a.Path, b.Path)
		})
		whole.Dropped[realm] = slices.CompactFunc(all, same)
	}
}
