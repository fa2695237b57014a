package source

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// errTooMany means that the directory holds more than anybody would call manifests.
var errTooMany = fmt.Errorf("more than %d entries", maxEntries)

// errTooDeep means that directories nest further than anybody would nest them.
var errTooDeep = fmt.Errorf("more than %d directories deep", maxDepth)

// version changes whenever a file's or directory's content may have changed.
type version struct {
	dev, ino           uint64
	size, mtime, ctime int64
}

type stat struct {
	version
	mode     fs.FileMode
	uid, gid uint32
}

func statOf(info fs.FileInfo) stat {
	sys := info.Sys().(*syscall.Stat_t)
	return stat{
		version: version{sys.Dev, sys.Ino, sys.Size, sys.Mtim.Nano(), sys.Ctim.Nano()},
		mode:    info.Mode(), uid: sys.Uid, gid: sys.Gid,
	}
}

// tree is what stands in the manifest directory, names and stats only; each directory is listed and each symlink
// read once, so that a link swapped in mid-scan cannot mix two versions.
type tree struct {
	top *os.Root
	// bases are the absolute paths under which the root is known, for absolute symlinks that stay inside.
	bases []string
	// dirs are the directories listed, by real path below the root; "" is the root.
	dirs map[string]*directory
	// spots are all paths looked at, by real path.
	spots map[string]spot
	// vanished means that a name was gone when it was looked at.
	vanished bool
	entries  int
}

// spot is one path, not followed.
type spot struct {
	stat stat
	// text is a symlink's, "" for anything else.
	text string
}

type directory struct {
	stat    stat
	entries []entry
	// asides are names such as x.yaml.skip.
	asides []string
	// err is why the directory could not be listed.
	err error
}

// entry is a name that matters: a manifest's, a directory's or a symlink's.
type entry struct {
	name string
	link bool
	// own is the symlink's version.
	own version
	// real and stat are those of what a symlink points to.
	real string
	stat stat
	// err is why a symlink cannot be followed.
	err error
}

// explore lists the whole tree. It fails only when the root cannot be listed, or with errTooMany.
func explore(top *os.Root, bases []string) (*tree, error) {
	t := &tree{top: top, bases: bases, dirs: map[string]*directory{}, spots: map[string]spot{}}
	for queue := []string{""}; len(queue) > 0; {
		real := queue[0]
		queue = queue[1:]
		if t.dirs[real] != nil {
			continue
		}
		dir, err := t.list(real)
		if err != nil && (real == "" || errors.Is(err, errTooMany)) {
			return nil, err
		}
		if errors.Is(err, fs.ErrNotExist) {
			t.vanished = true
		}
		dir.err = err
		t.dirs[real] = dir
		for _, e := range dir.entries {
			if e.err == nil && e.stat.mode.IsDir() && (e.link || !isWorktree(e.name)) {
				queue = append(queue, e.real)
			}
		}
	}
	return t, nil
}

func (t *tree) list(real string) (*directory, error) {
	dir := &directory{}
	if strings.Count(real, "/") >= maxDepth {
		return dir, errTooDeep
	}
	root, err := t.top.OpenRoot(cmp.Or(real, "."))
	if err != nil {
		return dir, err
	}
	defer root.Close()
	// The stat comes first: whatever happens during the listing then shows as a difference.
	info, err := root.Stat(".")
	if err != nil {
		return dir, err
	}
	dir.stat = statOf(info)
	if real == "" {
		t.spots[""] = spot{stat: dir.stat} // a symlink may lead here as well
	}
	f, err := root.Open(".")
	if err != nil {
		return dir, err
	}
	defer f.Close()
	for {
		batch, err := f.ReadDir(512)
		if t.entries += len(batch); t.entries > maxEntries {
			return dir, errTooMany
		}
		for _, found := range batch {
			if err := t.add(dir, root, real, found); err != nil {
				return dir, err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return dir, err
		}
	}
	slices.SortFunc(dir.entries, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	slices.Sort(dir.asides)
	return dir, nil
}

// add takes one name of a directory in, if it matters.
func (t *tree) add(dir *directory, root *os.Root, real string, found fs.DirEntry) error {
	name := found.Name()
	if asideOf(name) != "" {
		dir.asides = append(dir.asides, name)
	}
	if isIgnored(name) || (!isManifest(name) && !found.IsDir() && found.Type()&fs.ModeSymlink == 0) {
		return nil
	}
	at := path.Join(real, name)
	here, err := t.look(at, root, name)
	if errors.Is(err, fs.ErrNotExist) {
		t.vanished = true
		return nil
	}
	if err != nil {
		return err
	}
	e := entry{name: name, real: at, stat: here.stat}
	if here.text != "" {
		e.link, e.own = true, here.stat.version
		if e.real, e.err = t.resolver().resolve(at); e.err == nil {
			e.stat = t.spots[e.real].stat
		}
		if errors.Is(e.err, errEscapes) && !isManifest(name) && t.pointsToFile(at) {
			return nil
		}
	}
	dir.entries = append(dir.entries, e)
	return nil
}

// look stats a path once in a scan, without following it. The path is also known as name below root.
func (t *tree) look(real string, root *os.Root, name string) (spot, error) {
	if s, ok := t.spots[real]; ok {
		return s, nil
	}
	info, err := root.Lstat(name)
	if err != nil {
		return spot{}, err
	}
	s := spot{stat: statOf(info)}
	if info.Mode()&fs.ModeSymlink != 0 {
		if s.text, err = root.Readlink(name); err != nil {
			return spot{}, err
		}
	}
	t.spots[real] = s
	return s, nil
}

func (t *tree) resolver() resolver {
	return resolver{bases: t.bases, readlink: func(real string) (string, error) {
		s, err := t.look(real, t.top, real)
		return s.text, err
	}}
}

// pointsToFile reports whether a symlink that leads out, and is not named like a manifest, ends at a plain file,
// such as README.md -> ../README.md: that is nothing to complain about.
func (t *tree) pointsToFile(real string) bool {
	info, err := os.Stat(path.Join(t.top.Name(), real))
	return err == nil && info.Mode().IsRegular()
}

// changed returns the directories, and symlinks, that are not any more what they were when they were looked at, by
// real path.
func (t *tree) changed() []string {
	var changed []string
	for real, dir := range t.dirs {
		info, err := t.top.Lstat(cmp.Or(real, "."))
		if dir.err == nil && (err != nil || statOf(info).version != dir.stat.version) {
			changed = append(changed, real)
		}
	}
	for real, s := range t.spots {
		if s.text == "" {
			continue
		}
		if text, err := t.top.Readlink(real); err != nil || text != s.text {
			changed = append(changed, real)
		}
	}
	return changed
}

// watched returns the directories, below the root, whose events may change the next scan.
func (t *tree) watched() []string {
	dirs := map[string]bool{}
	for real, dir := range t.dirs {
		dirs[real] = true
		for _, e := range dir.entries {
			if e.link && e.err == nil {
				dirs[parent(e.real)] = true
			}
		}
	}
	for real, s := range t.spots {
		if s.text != "" {
			dirs[parent(real)] = true
		}
	}
	list := make([]string, 0, len(dirs))
	for real := range dirs {
		list = append(list, real)
	}
	return list
}

// isManifest tells manifests by their names.
func isManifest(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !isIgnored(name)
	}
	return false
}

// isIgnored tells the names of editors, packagers and of people who set a file aside.
func isIgnored(name string) bool {
	if strings.HasPrefix(name, ".") {
		return true
	}
	return slices.ContainsFunc([]string{"~", ".bak", ".swp", ".skip"}, func(end string) bool {
		return strings.HasSuffix(name, end)
	})
}

// asideOf returns x.yaml for x.yaml.skip and x.yaml.bak, and "" for any other name.
func asideOf(name string) string {
	for _, end := range []string{".bak", ".skip"} {
		if base, ok := strings.CutSuffix(name, end); ok && isManifest(base) {
			return base
		}
	}
	return ""
}

// isWorktree tells the directories that git-sync makes, <commit> or rev-<commit>. They come before and go after
// the symlink that selects one of them, so that they are read only through it.
func isWorktree(name string) bool { return isCommit(strings.TrimPrefix(name, "rev-")) }
