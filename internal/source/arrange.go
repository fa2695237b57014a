package source

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"kukeon.io/kukeon-reconciler/manifests"
)

// candidate is a name that should be a manifest file.
type candidate struct {
	// path is before symlinks, real after them.
	path, real string
	stat       stat
	// refused is why what leads to the file is not trusted, or "".
	refused string
}

// arrangement says which files of a tree are read under which path. What a symlink points to is read only through
// it, and through one symlink only.
type arrangement struct {
	files    []candidate
	withheld []manifests.Withheld
	problems []manifests.Problem
	// linked are the directories read through a symlink: the symlink's path and where it leads.
	linked map[string]string
	// shown are the paths under which directories were read, by real path.
	shown map[string]string
	// unsettled are symlinks that may be about to replace another.
	unsettled []string
}

// shownAt returns the path that files at or below a directory or symlink have in the scan: that of the whole root
// when the way to them is hidden, as with the ..data of a ConfigMap.
func (a arrangement) shownAt(real string) string {
	if at, ok := a.shown[real]; ok {
		return at
	}
	if at, ok := a.shown[parent(real)]; ok && !isIgnored(path.Base(real)) {
		return path.Join(at, path.Base(real))
	}
	return a.shown[""]
}

type arranger struct {
	arrangement
	tree   *tree
	owners owners
	// targets are what symlinks point to, by real path; true once it was read.
	targets map[string]bool
	ripe    func(path string, own version) bool
}

// arrange lays the tree out. The paths begin with prefix. ripe says of a symlink to a directory, beside another one,
// that it has been there long enough not to be a step of a swap.
func arrange(t *tree, o owners, prefix string, ripe func(path string, own version) bool) arrangement {
	a := &arranger{tree: t, owners: o, ripe: ripe, targets: map[string]bool{}}
	a.linked, a.shown = map[string]string{}, map[string]string{}
	for real, dir := range t.dirs {
		for _, e := range dir.entries {
			if e.link && e.err == nil && isTarget(real, e) {
				a.targets[e.real] = false
			}
		}
	}
	a.walk(prefix, "")
	for target, read := range a.targets {
		if !read && len(a.unsettled) == 0 {
			a.refuse(path.Join(prefix, target), "not read: it is reached only through a symlink that is not read itself")
		}
	}
	slices.SortFunc(a.files, func(x, y candidate) int { return strings.Compare(x.path, y.path) })
	slices.SortFunc(a.withheld, func(x, y manifests.Withheld) int { return strings.Compare(x.Path, y.Path) })
	return a.arrangement
}

// isTarget reports whether a symlink in dir leads to something to be read through it.
func isTarget(dir string, e entry) bool {
	if e.stat.mode.IsDir() {
		return !isManifest(e.name) && !within(path.Join(dir, e.name), e.real)
	}
	return isManifest(e.name)
}

func (a *arranger) refuse(where, message string) {
	a.problems = append(a.problems, problemAt(where, message))
}

// walk reads the directory at real under the path at.
func (a *arranger) walk(at, real string) {
	dir := a.tree.dirs[real]
	if dir == nil || dir.err != nil {
		if dir == nil || !errors.Is(dir.err, fs.ErrNotExist) {
			a.refuse(cmp.Or(at, "."), fmt.Sprintf("the directory cannot be read: %v", dir.err))
		}
		return
	}
	if reason := a.owners.refuse(dir.stat); reason != "" && real != "" {
		a.refuse(at, "the directory is "+reason)
	}
	a.shown[real] = cmp.Or(at, ".")
	rival := a.rival(dir, real)
	for _, e := range dir.entries {
		where := path.Join(at, e.name)
		_, target := a.targets[e.real]
		switch {
		case e.link && a.swapping(dir, real, e) && !a.ripe(where, e.own):
			a.unsettled = append(a.unsettled, where)
		case e.link:
			a.follow(where, real, e)
		case target:
		case !e.stat.mode.IsDir() || isManifest(e.name):
			a.file(where, e)
		case isWorktree(e.name):
			if !a.selected(dir, real) {
				a.refuse(where, "not read: a worktree of git-sync that no symlink points to")
			}
		case rival != "":
			a.refuse(where, "not read: it may be another version of what the symlink "+rival+
				" beside it points to; keep versions in a directory whose name begins with a dot")
		default:
			a.walk(where, e.real)
		}
	}
	a.setAside(at, dir)
}

// follow reads what a symlink in the directory dir points to.
func (a *arranger) follow(where, dir string, e entry) {
	switch {
	case errors.Is(e.err, fs.ErrNotExist):
		a.refuse(where, "the symlink leads to nothing")
	case e.err != nil:
		a.refuse(where, e.err.Error())
	case !isTarget(dir, e):
		if e.stat.mode.IsDir() && !isManifest(e.name) {
			a.refuse(where, "the symlink leads to a directory that contains it")
		} else if isManifest(e.name) {
			a.file(where, e)
		}
	case a.targets[e.real]:
		// An earlier symlink has it.
	case e.stat.mode.IsDir():
		a.targets[e.real] = true
		a.linked[where] = e.real
		a.walk(where, e.real)
	default:
		a.targets[e.real] = true
		a.file(where, e)
	}
}

func (a *arranger) file(where string, e entry) {
	a.files = append(a.files, candidate{path: where, real: e.real, stat: e.stat, refused: a.mistrust(e.real)})
}

// mistrust says which directory between the root and a file is not trusted, or "".
func (a *arranger) mistrust(real string) string {
	for dir := parent(real); dir != ""; dir = parent(dir) {
		if reason := a.owners.refuse(a.tree.spots[dir].stat); reason != "" {
			return "its directory " + dir + " is " + reason
		}
	}
	return ""
}

// rival names a symlink to a directory that lies beside it. The other directories there may be other versions, made
// ready or left behind; to read them as well would mix them. git-sync's can be told by their names.
func (a *arranger) rival(dir *directory, real string) string {
	for _, e := range dir.entries {
		name := path.Base(e.real)
		if leadsToDirectory(real, e) && parent(e.real) == real && !isWorktree(name) && !isIgnored(name) {
			return e.name
		}
	}
	return ""
}

// swapping reports whether a symlink to a directory stands beside another one. To swap a symlink is to make a new
// one under any name and to rename it over the old; between the two steps both are there.
func (a *arranger) swapping(dir *directory, real string, e entry) bool {
	if !leadsToDirectory(real, e) {
		return false
	}
	return slices.ContainsFunc(dir.entries, func(other entry) bool {
		return other.name != e.name && leadsToDirectory(real, other)
	})
}

// leadsToDirectory reports whether an entry of dir is a symlink to a directory to be read through it.
func leadsToDirectory(dir string, e entry) bool {
	return e.link && e.err == nil && e.stat.mode.IsDir() && isTarget(dir, e)
}

// selected reports whether a symlink points to one of the directory's worktrees.
func (a *arranger) selected(dir *directory, real string) bool {
	return slices.ContainsFunc(dir.entries, func(e entry) bool {
		_, target := a.targets[path.Join(real, e.name)]
		return target && isWorktree(e.name)
	})
}

// setAside finds x.yaml.skip and x.yaml.bak beside a missing x.yaml.
func (a *arranger) setAside(at string, dir *directory) {
	by := map[string]string{}
	for _, name := range dir.asides {
		base := asideOf(name)
		if !slices.ContainsFunc(dir.entries, func(e entry) bool { return e.name == base }) {
			by[base] = name
		}
	}
	for base, name := range by {
		a.withheld = append(a.withheld, manifests.Withheld{Path: path.Join(at, base), By: path.Join(at, name)})
	}
}
