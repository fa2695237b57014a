package simulate

import (
	"strings"

	"kukeon.io/kukeon-reconciler/internal/fakectrd"
)

// What people do to the manifests.

func (w *world) edit(a action) {
	doc := document{realm: a.arg(0)}
	for _, word := range a.args[1:] {
		if c, ok := parseContainer(word); ok {
			doc.containers = append(doc.containers, c)
		} else {
			doc.flag(word)
		}
	}
	w.dir.edit(func() {
		path, _, there := w.dir.head(doc.realm)
		if !there {
			path = doc.realm + ".yaml"
		}
		w.dir.files[path] = doc
	})
	w.fired("manifest edited")
}

// change changes the realm's own file, if there is one.
func (w *world) change(realm, kind string, change func(path string, doc document)) {
	w.dir.edit(func() {
		if path, doc, there := w.dir.head(realm); there && !w.dir.missing {
			change(path, doc)
			w.fired(kind)
		}
	})
}

func (w *world) remove(a action) {
	w.change(a.arg(0), "manifest removed", func(path string, _ document) { delete(w.dir.files, path) })
}

func (w *world) tombstone(a action) {
	w.change(a.arg(0), "tombstone", func(path string, doc document) {
		w.dir.files[path] = document{realm: doc.realm, absent: true}
	})
}

func (w *world) damage(a action) {
	kind := "manifest invalid"
	if how := a.arg(1); how == "empty" || how == "cut" {
		kind = "manifest truncated"
	}
	w.change(a.arg(0), kind, func(path string, doc document) {
		doc.broken = a.arg(1)
		if doc.broken == "null" && len(doc.containers) == 0 {
			doc.broken = "cut"
		}
		w.dir.files[path] = doc
	})
}

func (w *world) writing(a action) {
	w.change(a.arg(0), "manifest half written", func(path string, _ document) {
		w.dir.half[path] = true
		w.later(a.duration(1), func() { w.dir.edit(func() { delete(w.dir.half, path) }) })
	})
}

func (w *world) vim(a action) {
	w.change(a.arg(0), "manifest away for a moment", func(path string, doc document) {
		delete(w.dir.files, path)
		w.later(a.duration(1), func() {
			w.dir.edit(func() {
				if _, _, there := w.dir.head(doc.realm); !there {
					w.dir.files[path] = doc
				}
			})
		})
	})
}

func (w *world) rename(a action) {
	w.change(a.arg(0), "manifest renamed", func(path string, doc document) {
		delete(w.dir.files, path)
		w.dir.files[strings.TrimSuffix(path, ".yaml")+"x.yaml"] = doc
	})
}

func (w *world) aside(a action) {
	w.change(a.arg(0), "manifest set aside", func(path string, doc document) {
		delete(w.dir.files, path)
		w.dir.aside[path] = doc
	})
}

func (w *world) part(a action) {
	c, ok := parseContainer(a.arg(1))
	if !ok {
		return
	}
	w.change(a.arg(0), "container document", func(string, document) {
		w.dir.files[a.arg(0)+"-part.yaml"] = document{realm: a.arg(0), part: true, containers: []container{c}}
	})
}

func (w *world) unpart(a action) {
	path := a.arg(0) + "-part.yaml"
	w.dir.edit(func() {
		if _, there := w.dir.files[path]; there {
			delete(w.dir.files, path)
			w.fired("container document removed")
		}
	})
}

func (w *world) comment(a action) {
	w.change(a.arg(0), "comment", func(path string, doc document) {
		doc.comment++
		w.dir.files[path] = doc
	})
}

func (w *world) missing(a action) {
	w.dir.edit(func() { w.dir.missing = true })
	w.fired("directory missing")
	w.later(a.duration(0), func() { w.dir.edit(func() { w.dir.missing = false }) })
}

// replace puts another directory in the place of this one: with the same files, or with none for a while, as when a file
// system is unmounted.
func (w *world) replace(a action) {
	w.fired(map[bool]string{true: "directory swapped", false: "directory unmounted"}[a.arg(0) == "full"])
	w.dir.edit(func() {
		old := w.dir.inode
		w.dir.inode += 2
		if a.arg(0) == "full" {
			return
		}
		files := w.dir.files
		w.dir.files = map[string]document{}
		w.later(a.duration(1), func() { w.dir.edit(func() { w.dir.remount(old, files) }) })
		w.dir.under = files
	})
}

// remount brings the files of an unmounted directory back; what was written meanwhile stands.
func (d *directory) remount(inode uint64, files map[string]document) {
	d.inode = inode
	for path, doc := range files {
		if _, _, there := d.head(doc.realm); !there || doc.part {
			d.files[path] = doc
		}
	}
	d.under = nil
}

func (w *world) deafen(a action) {
	w.dir.edit(func() { w.dir.deaf = true })
	w.fired("file events lost")
	w.later(a.duration(0), func() { w.dir.edit(func() { w.dir.deaf = false }) })
}

// drop puts an archive into a realm's drop directory, in the place of what is there, or takes that away. Nobody is told:
// the next look finds it.
func (w *world) drop(a action) {
	realm, tag := a.arg(0), a.arg(1)
	w.dir.mu.Lock()
	defer w.dir.mu.Unlock()
	w.dir.edits++
	if tag == "none" {
		delete(w.dir.dropped, realm)
		return
	}
	w.dir.dropped[realm] = w.archive(tag, w.dir.edits)
	w.fired("archive dropped")
}

func (w *world) archive(tag string, version int) dropped {
	if tag == badArchive {
		return dropped{tag, version, []byte("no archive")}
	}
	return dropped{tag, version, fakectrd.Archive(map[string]fakectrd.Image{archivedRef(tag): w.image(tag)})}
}

func archivedRef(tag string) string { return "docker.io/library/web:" + tag }
