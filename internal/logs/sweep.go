package logs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Sweep deletes the logs of containers that keep does not want, once nothing was written into any of their files for
// the retention. Files that are no logs of ours stay. It goes on after an error and returns all of them.
func Sweep(logDir string, keep func(realm, container string) bool, retention time.Duration, now time.Time) error {
	realms, err := os.ReadDir(logDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, realm := range realms {
		if realm.IsDir() {
			err = errors.Join(err, sweepRealm(logDir, realm.Name(), keep, now.Add(-retention)))
		}
	}
	return err
}

func sweepRealm(logDir, realm string, keep func(realm, container string) bool, before time.Time) error {
	dir := filepath.Join(logDir, realm)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	files := map[string][]string{}
	written := map[string]time.Time{}
	for _, entry := range entries {
		container, ok := containerOf(entry.Name())
		if !ok || !entry.Type().IsRegular() {
			continue
		}
		st, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // rotated meanwhile
		}
		if err != nil {
			return err
		}
		files[container] = append(files[container], entry.Name())
		if st.ModTime().After(written[container]) {
			written[container] = st.ModTime()
		}
	}
	for container, names := range files {
		if !written[container].Before(before) || keep(realm, container) {
			continue
		}
		for _, name := range names {
			if rmErr := os.Remove(filepath.Join(dir, name)); !errors.Is(rmErr, fs.ErrNotExist) {
				err = errors.Join(err, rmErr)
			}
		}
	}
	// Only an empty folder goes.
	if rmErr := os.Remove(dir); !errors.Is(rmErr, unix.ENOTEMPTY) && !errors.Is(rmErr, unix.EEXIST) {
		err = errors.Join(err, rmErr)
	}
	return err
}

// containerOf tells whose log a file is: <container>.log or <container>.raw.log, with or without a rotation's number.
func containerOf(name string) (container string, ok bool) {
	if ext := filepath.Ext(name); ext != logSuffix {
		if _, err := strconv.ParseUint(strings.TrimPrefix(ext, "."), 10, 32); err != nil {
			return "", false
		}
		name = strings.TrimSuffix(name, ext)
	}
	container, ok = strings.CutSuffix(name, logSuffix)
	return strings.TrimSuffix(container, ".raw"), ok && container != ""
}
