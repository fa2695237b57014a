package compile

import (
	"path"
	"slices"
	"strings"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

// freeze says which realms have to stay as they were accepted: those that a file with an error names or
// contributed to, those of which a file is just being written, and those that wait.
func (c *compiler) freeze() map[state.RealmName]string {
	errors := map[string]string{} // by file or directory: its first error
	for _, problem := range c.problems {
		if _, known := errors[problem.File]; !known && problem.Severity == manifests.Error {
			errors[problem.File] = problem.String()
		}
	}
	out := map[state.RealmName]string{}
	freeze := func(name state.RealmName, why string) {
		if _, known := out[name]; !known && why != "" {
			out[name] = why
		}
	}
	for name, d := range c.drafts {
		for _, p := range slices.Sorted(slices.Values(append(slices.Clone(d.paths), c.prev.Realms[name].Paths...))) {
			freeze(name, errorOf(errors, p))
		}
		freeze(name, c.waits[name])
	}
	for name, r := range c.prev.Realms {
		for _, p := range r.Paths {
			freeze(name, errorOf(errors, p))
		}
		for _, p := range r.Paths {
			freeze(name, c.beingWritten(p))
		}
	}
	return out
}

// errorOf finds the error of a file, or of a directory above it.
func errorOf(errors map[string]string, file string) string {
	for p := file; p != "." && p != "/"; p = path.Dir(p) {
		if why := errors[p]; why != "" {
			return why
		}
	}
	return ""
}

// beingWritten tells that a path which is missing from the scan's files may come back the next moment.
func (c *compiler) beingWritten(file string) string {
	if slices.ContainsFunc(c.scan.Files, func(f manifests.File) bool { return f.Path == file }) {
		return ""
	}
	for _, u := range c.scan.Unsettled {
		if u == file {
			return file + ": the file is still being written"
		}
		if u == "." || strings.HasPrefix(file, u+"/") {
			return file + ": its directory changed while it was being read"
		}
	}
	return ""
}
