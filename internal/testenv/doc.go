// Package testenv starts a private containerd for tests, benchmarks and the demo, and removes every trace.
//
// A private daemon has its own root, state and socket below one directory, but some things belong to the host: the
// shims' sockets, runc's state and the cgroups are shared by all containerds. Two daemons that run the same
// namespace and id at the same time would collide there, so namespaces of tests end in a [Suffix].
package testenv

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// The versions that Start knows, by the names that Options and CONTAINERD_VERSION use.
const (
	Current = "2.4" // from hack/tools
	LTS     = "1.7" // from hack/tools/containerd17, built by `make tools-1.7`
	Debian  = "1.6" // Debian 12's, unpacked by `hack/install-deps.sh test`
)

// DefaultVersion is what CONTAINERD_VERSION says, or else Current.
func DefaultVersion() string {
	if v := os.Getenv("CONTAINERD_VERSION"); v != "" {
		return v
	}
	return Current
}

// Suffix returns six random hexadecimal digits that make a namespace's name unique on this host.
func Suffix() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}

// binaries returns the directory that holds containerd, its shim and ctr of a version.
func binaries(version string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir, remedy := filepath.Join(root, "bin", "tools"), "make tools"
	switch version {
	case Current:
	case LTS:
		dir, remedy = filepath.Join(dir, LTS), "make tools-1.7"
	case Debian:
		dir, remedy = filepath.Join(dir, Debian), "hack/install-deps.sh test"
	default:
		return "", fmt.Errorf("containerd %q is not one of %s, %s, %s", version, Current, LTS, Debian)
	}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("containerd %s is not here, please run `%s`: %w", version, remedy, err)
		}
	}
	return dir, nil
}

// Root returns the top of the source tree that the working directory is in, which is where bin/ is.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the source tree: no go.mod above the working directory")
		}
		dir = parent
	}
}
