package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// bootFile is the marker in the run directory, which is empty after a boot.
const bootFile = "boot"

// Boot returns what identifies this boot of the host: the same until the marker in the run directory is gone or
// bootID, the kernel's, is another; then it makes a new one. Containers share the kernel's boot id with the host
// they run on, and a run directory may survive a boot: each catches what the other does not.
func Boot(runDir, bootID string) (string, error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return "", fmt.Errorf("run directory: %w", err)
	}
	path := filepath.Join(runDir, bootFile)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("boot marker: %w", err)
	}
	if lines := strings.Split(string(data), "\n"); len(lines) == 3 && lines[0] != "" && lines[1] == bootID {
		return lines[0], nil
	}
	marker := rand.Text()
	if err := replace(path, []byte(marker+"\n"+bootID+"\n")); err != nil {
		return "", fmt.Errorf("boot marker: %w", err)
	}
	return marker, nil
}
