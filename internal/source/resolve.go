package source

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// errEscapes means that a symlink leaves the manifest root.
var errEscapes = errors.New("the symlink leads out of the manifest directory")

// resolver follows symlinks one component at a time, so that the caller decides how a link is read: the tree reads
// each link once in a scan, and all files behind it come from the same place.
type resolver struct {
	// readlink returns the text of a symlink, and "" for anything else that exists.
	readlink func(real string) (string, error)
	// bases are the absolute paths of the directory that all paths are relative to.
	bases []string
}

// resolve returns the path without symlinks of name below the base. Paths are relative to the base and have no
// leading slash; the base itself is "". When readlink fails, the path is the one it failed at.
func (r resolver) resolve(name string) (string, error) {
	rest, real := strings.Split(name, "/"), ""
	for links := 0; len(rest) > 0; {
		step := rest[0]
		rest = rest[1:]
		switch step {
		case "", ".":
			continue
		case "..":
			if real == "" && !r.atTop() {
				return "", errEscapes
			}
			real = parent(real)
			continue
		}
		next := path.Join(real, step)
		text, err := r.readlink(next)
		if err != nil {
			return next, err
		}
		if text == "" {
			real = next
			continue
		}
		if links++; links > maxLinks {
			return "", unix.ELOOP
		}
		if path.IsAbs(text) {
			if text, err = r.rebase(text); err != nil {
				return "", err
			}
			real = ""
		}
		rest = append(strings.Split(text, "/"), rest...)
	}
	return real, nil
}

// atTop reports whether the base is the file system's own root, where ".." leads nowhere.
func (r resolver) atTop() bool { return len(r.bases) == 1 && r.bases[0] == "/" }

// rebase turns an absolute path into one relative to the base.
func (r resolver) rebase(absolute string) (string, error) {
	for _, base := range r.bases {
		if absolute == base {
			return "", nil
		}
		if below, ok := strings.CutPrefix(absolute, strings.TrimSuffix(base, "/")+"/"); ok {
			return below, nil
		}
	}
	return "", errEscapes
}

// parent is path.Dir with "" for the base.
func parent(real string) string {
	if i := strings.LastIndexByte(real, '/'); i >= 0 {
		return real[:i]
	}
	return ""
}

// within reports whether a path is dir or lies below it.
func within(real, dir string) bool {
	return dir == "" || real == dir || strings.HasPrefix(real, dir+"/")
}

// place is where the manifest root really is at one moment.
type place struct {
	// real is the root's absolute path without symlinks.
	real string
	// links are the symlinks met on the way, one "path -> text" each.
	links []string
	// parents are the directories that hold these symlinks.
	parents []string
}

// locate follows the symlinks on the root's path. On an error the place holds the symlinks up to there, and real
// is the first path that could not be followed.
func locate(root string) (place, error) {
	var p place
	absolute, err := filepath.Abs(root)
	if err != nil {
		return p, err
	}
	host := resolver{bases: []string{"/"}, readlink: func(real string) (string, error) {
		text, err := os.Readlink("/" + real)
		if errors.Is(err, unix.EINVAL) {
			return "", nil
		}
		if err == nil {
			p.links = append(p.links, "/"+real+" -> "+text)
			p.parents = append(p.parents, "/"+parent(real))
		}
		return text, err
	}}
	real, err := host.resolve(absolute)
	p.real = "/" + real
	return p, err
}

// left reports whether the root's path leads elsewhere by now. What was opened may then have been emptied since, like
// the old worktree after a swap.
func (p place) left(root string, was stat) bool {
	now, err := locate(root)
	if err != nil || now.real != p.real || !slices.Equal(now.links, p.links) {
		return true
	}
	info, err := os.Stat(now.real)
	return err != nil || statOf(info).dev != was.dev || statOf(info).ino != was.ino
}

// nearest returns the closest ancestor that is a directory, where the creation of a missing path will show.
func nearest(missing string) string {
	dir := filepath.Dir(missing)
	for dir != "/" {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}
