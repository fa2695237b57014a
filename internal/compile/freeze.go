package compile

import (
	"slices"
	"strings"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

// freeze says which realms have to stay as they were accepted: those that a file with an error names or
// contributed to, those of which a file is just being written, and those that wait.
func (c *compiler) freeze() map[state.RealmName]string {
	errors := map[string]string{} // by file: its first error
	for _, p := range c.problems {
		if _, known := errors[p.File]; !known && p.Severity == manifests.Error {
			errors[p.File] = p.String()
		}
	}
	out := map[state.RealmName]string{}
	freeze := func(name state.RealmName, why string) {
		if _, known := out[name]; !known && why != "" {
			out[name] = why
		}
	}
	for name, d := range c.drafts {
		for _, path := range slices.Sorted(slices.Values(append(slices.Clone(d.paths), c.prev.Realms[name].Paths...))) {
			freeze(name, errors[path])
		}
		freeze(name, c.waits[name])
	}
	for name, r := range c.prev.Realms {
		for _, path := range r.Paths {
			freeze(name, errors[path])
		}
		for _, path := range r.Paths {
			freeze(name, c.beingWritten(path))
		}
	}
	return out
}

// beingWritten tells that a path which is missing from the scan's files may come back the next moment.
func (c *compiler) beingWritten(path string) string {
	if slices.ContainsFunc(c.scan.Files, func(f manifests.File) bool { return f.Path == path }) {
		return ""
	}
	for _, u := range c.scan.Unsettled {
		if u == path {
			return path + ": the file is still being written"
		}
		if u == "." || strings.HasPrefix(path, u+"/") {
			return path + ": its directory changed while it was being read"
		}
	}
	return ""
}
