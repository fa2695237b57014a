package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/internal/status"
)

// maxSocketPath is what a unix socket's address holds (sun_path), less the final zero byte.
const maxSocketPath = 107

// answerLimit is how long a socket found in our place may take to show that somebody is behind it.
const answerLimit = time.Second

// Listen opens the socket, 0600 in a directory that only we can enter. A socket left behind by a daemon that is
// gone is replaced; one behind which somebody answers is an error of kind ErrConflict.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s has %d bytes, and the kernel allows %d: choose a shorter --run-dir",
			path, len(path), maxSocketPath)
	}
	if err := privateDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := clearStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for the status API: %w", err)
	}
	// Until here the directory's mode alone kept others away, and peers are checked on each connection anyway.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect the status API: %w", err), l.Close())
	}
	return l, nil
}

// privateDir makes the directory, or closes one of ours to others. It refuses one that is shared on purpose.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the run directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at the run directory: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) != os.Geteuid() || info.Mode()&fs.ModeSticky != 0 {
		return fmt.Errorf("run directory %s is shared with other users: choose a --run-dir of its own", dir)
	}
	if info.Mode().Perm() == 0o700 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("close the run directory to others: %w", err)
	}
	return nil
}

// clearStale removes a socket behind which nobody is.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at the status API's socket: %w", err)
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s is in the way of the status API's socket and is no socket: remove it", path)
	}
	conn, err := net.DialTimeout("unix", path, answerLimit)
	if err == nil {
		return errors.Join(status.Refuse(ErrConflict, "another daemon answers on %s: stop it, or choose another --run-dir", path), conn.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("find out who is behind %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the stale socket: %w", err)
	}
	return nil
}

// peerKey is the context key under which a connection's peer is kept.
type peerKey struct{}

// withPeer looks up who is at the other end, by SO_PEERCRED: the kernel's word, taken at connect.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	uid, err := peerUID(c)
	if err != nil {
		return ctx // nobody known is nobody allowed
	}
	return context.WithValue(ctx, peerKey{}, uid)
}

func peerUID(c net.Conn) (uint32, error) {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("%T is no unix socket", c)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}

// allowed reports whether the peer of the request's connection may use the API: root, or whoever we run as.
func allowed(ctx context.Context) bool {
	uid, known := ctx.Value(peerKey{}).(uint32)
	return known && (uid == 0 || uid == uint32(os.Geteuid()))
}
