// Package store keeps the accepted state, finished one-shots and suspensions on disk, atomically.
package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
)

// The files of a state directory. Volumes, which are not ours to write, stand beside them.
const (
	lockFile        = "lock"
	acceptedFile    = "accepted.json"
	suspensionsFile = "suspensions.json"
	completionsDir  = "completions" // a file per realm, with what was imported into it, too
)

// formatVersion is what this release writes. A file of another version is read as far as it is understood.
const formatVersion = 1

// ErrReadOnly is the answer to every write to a store that was opened for reading.
var ErrReadOnly = errors.New("the state directory was opened for reading only")

// LockedError means that another instance uses the state directory.
type LockedError struct {
	Path string // of the lock file
	Pid  int    // of the other instance; 0 when it is not known
}

func (e *LockedError) Error() string {
	if e.Pid == 0 {
		return fmt.Sprintf("another instance holds %s", e.Path)
	}
	return fmt.Sprintf("another instance, process %d, holds %s", e.Pid, e.Path)
}

// DamagedError means that a file could not be understood and counts as lost. It was moved to Aside, unless the store
// is for reading only. It is to be told to a person, and is no reason to stop.
type DamagedError struct {
	Path, Aside string
	Err         error
}

func (e *DamagedError) Error() string {
	if e.Aside == "" {
		return fmt.Sprintf("%s is damaged and counts as lost: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%s is damaged and counts as lost; it was kept as %s: %v", e.Path, e.Aside, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// Store is an open state directory. It is safe for concurrent use. What a method wrote is on the disk when it
// returns nil; after an error the old content stands, or the new one, and never a part of it.
type Store struct {
	dir      string
	lock     *flock.Flock
	readOnly bool

	mu       sync.Mutex
	records  records
	lastSave []byte // what accepted.json holds; nil when that is not known
}

// Open takes the state directory for this instance alone, making it when needed. The error is a *LockedError when
// another instance has it. Damaged records are set aside; the returned store works, and the *DamagedError says what
// was lost.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, completionsDir), 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	path := filepath.Join(dir, lockFile)
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	taken, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if !taken {
		return nil, errors.Join(&LockedError{Path: path, Pid: holder(path)}, lock.Close())
	}
	// The pid is for people. That it cannot be written, on a full disk, say, changes nothing about the lock.
	_ = os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600)
	s := &Store{dir: dir, lock: lock}
	err = s.sweep()
	if err == nil {
		err = s.loadRecords()
	}
	if err != nil && !errors.As(err, new(*DamagedError)) {
		return nil, errors.Join(err, lock.Close())
	}
	return s, err
}

// sweep removes what writes left behind that were cut off, for it may hold secrets.
func (s *Store) sweep() error {
	for _, left := range []struct{ dir, prefix string }{
		{s.dir, "." + acceptedFile}, {s.dir, "." + suspensionsFile}, {filepath.Join(s.dir, completionsDir), "."},
	} {
		entries, err := os.ReadDir(left.dir)
		if err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), left.prefix) {
				continue
			}
			if err := os.Remove(filepath.Join(left.dir, e.Name())); err != nil {
				return fmt.Errorf("state directory: %w", err)
			}
		}
	}
	return nil
}

// OpenReadOnly opens a state directory that another instance may be using. Nothing in it is made or changed.
func OpenReadOnly(dir string) (*Store, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	s := &Store{dir: dir, readOnly: true}
	err := s.loadRecords()
	if err != nil && !errors.As(err, new(*DamagedError)) {
		return nil, err
	}
	return s, err
}

// Close gives the state directory back.
func (s *Store) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

// holder reads who has the lock; 0 when that is not told.
func holder(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// read returns a file's content; nil and no error when there is none.
func (s *Store) read(name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// write replaces a file as a whole: the reader sees the old content or the new one, also after a power cut.
func (s *Store) write(name string, data []byte) error {
	if s.readOnly {
		return ErrReadOnly
	}
	path := filepath.Join(s.dir, name)
	if err := replace(path, data); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// replace puts a synced file, readable by us alone, in the place of another. The temporary file stands beside it:
// elsewhere the rename would not be atomic.
func replace(path string, data []byte) error {
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(0o600), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Cleanup())
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return errors.Join(err, f.Cleanup())
	}
	return nil
}

// remove deletes a file for good; that there is none is fine.
func (s *Store) remove(name string) error {
	if s.readOnly {
		return ErrReadOnly
	}
	path := filepath.Join(s.dir, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename or a removal last: the file's own fsync does not cover its name.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// setAside keeps a damaged file under another name and says so.
func (s *Store) setAside(name string, cause error) error {
	e := &DamagedError{Path: filepath.Join(s.dir, name), Err: cause}
	if s.readOnly {
		return e
	}
	aside := e.Path + ".damaged-" + now().UTC().Format("20060102T150405.000000000Z")
	if err := os.Rename(e.Path, aside); err != nil {
		return errors.Join(e, err)
	}
	e.Aside = aside
	return errors.Join(e, syncDir(filepath.Dir(e.Path)))
}

// blank reports whether a file holds nothing, as one does whose content never reached the disk.
func blank(data []byte) bool { return len(bytes.Trim(data, "\x00 \t\r\n")) == 0 }
