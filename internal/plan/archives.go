package plan

import (
	"fmt"
	"slices"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// archives plans the imports that are due, one after the other: of two archives that give different images the same name,
// the later one gives it.
func (d *differ) archives() {
	for obj, op := range d.busy.Running {
		if _, ok := op.(Import); ok {
			d.importing = obj.Name
		}
	}
	latest := int64(0)
	for _, a := range d.want.Realm.Archives {
		last, _ := Imported(d.want, d.have, a.Path)
		latest = max(latest, last.Seq)
	}
	gave := map[string]int64{} // names to the import of an earlier archive that gave them
	for _, a := range d.want.Realm.Archives {
		obj := Object{ArchiveObject, a.Path}
		last, imported := Imported(d.want, d.have, a.Path)
		whole := imported && !slices.ContainsFunc(last.Refs, d.lacks)
		robbed := slices.ContainsFunc(last.Refs, func(ref string) bool { return gave[ref] > last.Seq })
		for _, ref := range last.Refs {
			gave[ref] = max(gave[ref], last.Seq)
		}
		switch {
		case d.running(obj):
			d.waitIfRunning(obj)
		case robbed && a.Problem == "" && d.importing == "":
			why := Reason{ReasonChanged, "an earlier archive took the name of an image of it", a.Origin}
			if d.do(Import{Path: a.Path, Version: a.Version, Seq: latest + 1, base: base{why}}) {
				d.importing = a.Path
			}
		case whole && (last.Version == a.Version || a.Problem != ""):
			// What it brought is there.
		case d.importing != "":
			d.wait(obj, "the end of import "+d.importing, time.Time{})
		case imported && !whole && d.justNow(last.At):
			d.wait(obj, "a moment: an image that it has just brought is gone", last.At.Add(reimportPause))
		case a.Problem != "":
			d.wait(obj, "the file: "+a.Problem, time.Time{})
			if a.Settling {
				d.importing = a.Path
			}
		default:
			op := Import{Path: a.Path, Version: a.Version, Seq: latest + 1}
			switch {
			case !imported:
				op.Why = Reason{ReasonMissing, "not imported yet", a.Origin}
			case !whole:
				op.Why = Reason{ReasonDrift, "an image of it is missing", a.Origin}
			default:
				op.Why = Reason{ReasonChanged, "the file changed", a.Origin}
				op.Known = last
			}
			if d.do(op) {
				d.importing = a.Path
			}
		}
		if d.importing == a.Path {
			for _, ref := range last.Refs {
				d.renewed[ref] = true
			}
		}
	}
}

// reimportPause is how soon an archive is imported again whose images go as soon as they come: it may be big.
const reimportPause = 5 * time.Second

// justNow reports whether that was less than a pause ago. The clock may have been set since.
func (d *differ) justNow(at time.Time) bool {
	age := d.now.Sub(at)
	return age >= 0 && age < reimportPause
}

// Imported returns the last import of an archive: what this process did, else what is remembered; false when there was none.
func Imported(want Want, have state.Observed, path string) (state.Import, bool) {
	if i, ok := have.Imports[path]; ok {
		return i, true
	}
	for _, i := range want.Imports {
		if i.Path == path {
			return i, true
		}
	}
	return state.Import{}, false
}

// lacks reports whether an image is missing, or its content.
func (d *differ) lacks(ref string) bool {
	i, there := d.have.FindImage(ref)
	return !there || i.Incomplete
}

// awaitImport has an image wait that is missing, or about to be used, and in the archive that is being imported, as far
// as is known; it reports whether it waits.
func (d *differ) awaitImport(ref string, missing, making bool) bool {
	if d.importing == "" || !missing && !(making && d.renewed[ref]) {
		return false
	}
	d.wait(Object{ImageObject, ref}, fmt.Sprintf("the end of import %s, which may bring it", d.importing), time.Time{})
	return true
}
