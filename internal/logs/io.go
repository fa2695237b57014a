// Package logs drains the containers' output into rotated files and steps aside for whoever attaches.
//
// Every container has a directory <run-dir>/io/<namespace>/<id> with the two FIFOs that its shim writes into and a
// log.json that says where the output belongs; Prepare makes it, Remove ends it. A Pump drains all of them into
// <log-dir>/<realm>/<container>.log, which Read prints.
//
// A line of a log file is a record: "<RFC 3339 time, nine decimals, UTC> <stream> <text>". The stream is stdout or
// stderr; with a + behind it the container had not ended the line yet, and the stream's next record goes on with it.
// Records of the stream "system" are the pump's own markers: a start of the container, a gap, a loss.
//
// Logging driver "file" writes raw text without us, into <container>.raw.log; the pump only rotates that, by copying
// and truncating.
package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	configName = "log.json"
	// keepName is in the way when ctr, at the end of an attach, removes the FIFOs and then their directory if empty.
	keepName = "keep"
	// runName holds the number of the run whose start marker was written last.
	runName = "run"

	logSuffix = ".log"
	rawSuffix = ".raw.log"

	// defaultMaxSize and defaultMaxFiles are the defaults of a manifest's logging field.
	defaultMaxSize  = 10 << 20
	defaultMaxFiles = 5
)

// IO names the places of one container's output.
type IO struct {
	Dir, Stdout, Stderr string
}

// Config is what log.json says: where a container's output goes.
type Config struct {
	Realm     string `json:"realm"`
	Container string `json:"container"`
	// Path is the current log file, from LogPath or RawLogPath; the latter means logging driver "file".
	Path string `json:"path"`
	// MaxSizeBytes is the size at which the file is rotated; 0 means 10 MiB.
	MaxSizeBytes int64 `json:"maxSizeBytes"`
	// MaxFiles counts all files of the container, the current one included; 0 means 5.
	MaxFiles int `json:"maxFiles"`
	// Run is the number of the container's run, changed at each start; a new number is marked in the log, which is
	// what Read's Previous goes by. 0 marks nothing.
	Run int `json:"run,omitempty"`
}

func (c Config) raw() bool { return strings.HasSuffix(c.Path, rawSuffix) }

func (c Config) withDefaults() Config {
	if c.MaxSizeBytes <= 0 {
		c.MaxSizeBytes = defaultMaxSize
	}
	if c.MaxFiles <= 0 {
		c.MaxFiles = defaultMaxFiles
	}
	return c
}

// LogPath is the current log file of a container whose output the pump drains.
func LogPath(logDir, realm, container string) string {
	return filepath.Join(logDir, realm, container+logSuffix)
}

// RawLogPath is the current log file of a container with logging driver "file". Names of containers have no dot, so
// that it is never the log of another one.
func RawLogPath(logDir, realm, container string) string {
	return filepath.Join(logDir, realm, container+rawSuffix)
}

// PathsFor names the places of a container's output; it looks at nothing.
func PathsFor(runDir, namespace, id string) IO {
	dir := filepath.Join(ioDir(runDir), namespace, id)
	return IO{Dir: dir, Stdout: filepath.Join(dir, streamStdout), Stderr: filepath.Join(dir, streamStderr)}
}

func ioDir(runDir string) string { return filepath.Join(runDir, "io") }

// Prepare makes the places of a container's output, before its task is created, and asks the pump to drain them.
// What is there already is kept: a running shim may hold the FIFOs. With a raw Path no FIFOs are made.
func Prepare(runDir, namespace, id string, cfg Config) (IO, error) {
	paths := PathsFor(runDir, namespace, id)
	if err := makeDir(paths.Dir); err != nil {
		return IO{}, fmt.Errorf("prepare output: %w", err)
	}
	if err := os.WriteFile(filepath.Join(paths.Dir, keepName), nil, 0o600); err != nil {
		return IO{}, fmt.Errorf("prepare output: %w", err)
	}
	if cfg.raw() {
		// Older shims do not make the folder of the file that they are to write.
		if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o750); err != nil {
			return IO{}, fmt.Errorf("prepare output: %w", err)
		}
		return paths, UpdateConfig(runDir, namespace, id, cfg)
	}
	for _, path := range []string{paths.Stdout, paths.Stderr} {
		if err := makeFIFO(path); err != nil {
			return IO{}, fmt.Errorf("prepare output: %w", err)
		}
	}
	return paths, UpdateConfig(runDir, namespace, id, cfg)
}

// makeDir is MkdirAll that outlasts a Remove of the last other container, which takes the namespace's folder along.
func makeDir(dir string) error {
	var err error
	for range 5 {
		if err = os.MkdirAll(dir, 0o700); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return err
}

func makeFIFO(path string) error {
	st, err := os.Lstat(path)
	if err == nil && st.Mode().Type() == fs.ModeNamedPipe {
		return nil
	}
	if err == nil {
		err = os.RemoveAll(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return &fs.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return nil
}

// UpdateConfig gives the pump new limits, or a new run, of a prepared container. The error is fs.ErrNotExist when the
// container is not prepared. It writes nothing when nothing changes.
func UpdateConfig(runDir, namespace, id string, cfg Config) error {
	data, err := json.Marshal(cfg)
	if err != nil {
		return fmt.Errorf("encode output config: %w", err)
	}
	path := filepath.Join(PathsFor(runDir, namespace, id).Dir, configName)
	if was, err := os.ReadFile(path); err == nil && string(was) == string(data) {
		return nil
	}
	// Renamed into place, so that the pump never reads half of it; not synced, since no FIFO outlives a boot.
	temp := path + ".new"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return fmt.Errorf("update output config: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("update output config: %w", errors.Join(err, os.Remove(temp)))
	}
	return nil
}

// Remove ends a container's output: the pump drains what is left and closes. The log files stay, for Sweep. Removing
// what is not there is no error.
func Remove(runDir, namespace, id string) error {
	dir := PathsFor(runDir, namespace, id).Dir
	err := os.RemoveAll(dir)
	for try := 0; errors.Is(err, unix.ENOTEMPTY) && try < 5; try++ {
		err = os.RemoveAll(dir) // the pump has put its note of the run there meanwhile
	}
	if err != nil {
		return fmt.Errorf("remove output: %w", err)
	}
	err = os.Remove(filepath.Dir(dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// fileID tells files apart, whatever their names.
type fileID struct{ dev, ino uint64 }

func idOf(st fs.FileInfo) fileID {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	return fileID{sys.Dev, sys.Ino}
}
