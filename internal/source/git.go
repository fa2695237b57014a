package source

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxRefBytes bounds HEAD, a loose ref, commondir and a worktree's .git file: a path or a hash.
	maxRefBytes = 8 << 10
	// maxPackedRefsBytes bounds packed-refs: some 50,000 refs.
	maxPackedRefsBytes = 4 << 20
)

// revision returns the commit of what was read below root: that of the directories read through symlinks when they
// are of one commit, else the root's own. It is empty when that cannot be told, which is no error.
func revision(root string, linked []string) string {
	found := ""
	for _, real := range linked {
		commit := commitOf(filepath.Join(root, real))
		if found != "" && commit != "" && commit != found {
			return ""
		}
		if commit != "" {
			found = commit
		}
	}
	if found != "" {
		return found
	}
	return commitOf(root)
}

// commitOf returns the commit checked out at or above dir, by git's files or by the name that git-sync gives a
// worktree.
func commitOf(dir string) string {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Lstat(filepath.Join(dir, ".git"))
		if err == nil {
			if commit := head(gitDir(dir, info.IsDir())); commit != "" {
				return commit
			}
		}
		if name := strings.TrimPrefix(filepath.Base(dir), "rev-"); isCommit(name) {
			return name
		}
		if err == nil || dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// gitDir returns where git keeps the state of the checkout at dir: .git, or what a file .git names.
func gitDir(dir string, own bool) string {
	dotGit := filepath.Join(dir, ".git")
	if own {
		return dotGit
	}
	to, ok := strings.CutPrefix(firstLine(dotGit), "gitdir: ")
	if !ok {
		return ""
	}
	return join(dir, to)
}

// head returns the commit of HEAD.
func head(gitDir string) string {
	if gitDir == "" {
		return ""
	}
	line := firstLine(filepath.Join(gitDir, "HEAD"))
	if isCommit(line) {
		return line
	}
	ref, ok := strings.CutPrefix(line, "ref: ")
	if !ok || !strings.HasPrefix(ref, "refs/") || !filepath.IsLocal(ref) {
		return ""
	}
	common := gitDir
	if to := firstLine(filepath.Join(gitDir, "commondir")); to != "" {
		common = join(gitDir, to)
	}
	for _, place := range []string{gitDir, common} {
		if commit := firstLine(filepath.Join(place, ref)); isCommit(commit) {
			return commit
		}
	}
	return packed(filepath.Join(common, "packed-refs"), ref)
}

// packed looks a ref up in a packed-refs file.
func packed(file, ref string) string {
	for lines := bufio.NewScanner(bytes.NewReader(readBounded(file, maxPackedRefsBytes))); lines.Scan(); {
		commit, name, ok := strings.Cut(lines.Text(), " ")
		if ok && name == ref && isCommit(commit) {
			return commit
		}
	}
	return ""
}

// isCommit tells a full SHA-1 or SHA-256 in lower case.
func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

func firstLine(file string) string {
	line, _, _ := strings.Cut(string(readBounded(file, maxRefBytes)), "\n")
	return strings.TrimRight(line, "\r ")
}

// readBounded returns the beginning of a regular file, nothing of anything else. It never blocks on a FIFO.
func readBounded(file string, limit int64) []byte {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	return data
}

// join makes a path that git wrote absolute: it is relative to dir, unless it is absolute already.
func join(dir, to string) string {
	if filepath.IsAbs(to) {
		return to
	}
	return filepath.Join(dir, to)
}
