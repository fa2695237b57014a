// Package compile turns a scan, and the namespaces last observed, into one desired state per realm plus every
// problem found.
package compile

import (
	"cmp"
	"maps"
	"slices"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

// Options are the host's settings.
type Options struct {
	// Template makes a namespace out of a realm's name; empty means DefaultTemplate. See CheckTemplate.
	Template string
}

// Desired is what the files of one scan mean.
type Desired struct {
	// Realms are those that may be accepted as they are, sorted by name.
	Realms []state.Realm
	// Problems are all: the scan's, the files' and those found here, in place order.
	Problems []manifests.Problem
	// Frozen are the realms that have to stay as they were accepted, or unaccepted, each with a reason that
	// names a place. None of them is in Realms.
	Frozen map[state.RealmName]string
	// Observed is false when containerd has not answered yet: then the namespaces given to Compile said nothing.
	Observed bool
}

// Compile says what the files of the scan mean on this host. The namespaces are those last observed, owner is the
// daemon that holds them; an empty owner means that containerd has not answered yet, and realms that are not
// accepted already wait for it. Neither the order of the scan's files nor that of the namespaces matters.
func Compile(scan manifests.Scan, opts Options, namespaces []state.NamespaceSummary, owner state.Owner, prev state.Accepted) Desired {
	c := compiler{
		scan: scan, opts: opts, owner: owner, prev: prev,
		namespaces: map[state.Namespace]state.NamespaceSummary{},
		drafts:     map[state.RealmName]*draft{},
		waits:      map[state.RealmName]string{},
		refs:       map[string]string{},
		files:      map[string]manifests.File{},
		problems:   slices.Clone(scan.Problems),
	}
	for _, n := range namespaces {
		c.namespaces[n.Name] = n
	}
	c.gather()
	for _, name := range c.names() {
		c.build(c.drafts[name])
	}
	c.settleNamespaces()
	manifests.SortProblems(c.problems)
	out := Desired{Problems: c.problems, Frozen: c.freeze(), Observed: owner != ""}
	for _, name := range c.names() {
		d := c.drafts[name]
		if _, frozen := out.Frozen[name]; d.built && !frozen {
			out.Realms = append(out.Realms, d.realm)
		}
	}
	return out
}

// compiler is the state of one Compile.
type compiler struct {
	scan       manifests.Scan
	opts       Options
	owner      state.Owner
	prev       state.Accepted
	namespaces map[state.Namespace]state.NamespaceSummary
	drafts     map[state.RealmName]*draft
	// waits tells why realms are not to be accepted yet although nothing is wrong with them.
	waits    map[state.RealmName]string
	problems []manifests.Problem
	files    map[string]manifests.File // by path
	// refs are image references, completed, by what the manifests write.
	refs map[string]string
}

// draft is one realm in the making: all documents that name it.
type draft struct {
	name  state.RealmName
	heads []manifests.Document // the Realm documents: one, when all is well
	parts []manifests.Document // everything else that names the realm
	paths []string             // of the files of all these, sorted
	realm state.Realm
	built bool // realm holds what the documents say
}

// gather sorts the documents by realm.
func (c *compiler) gather() {
	files := slices.SortedFunc(slices.Values(c.scan.Files), func(a, b manifests.File) int { return cmp.Compare(a.Path, b.Path) })
	for _, f := range files {
		c.problems = append(c.problems, f.Problems...)
		c.files[f.Path] = f
		for _, doc := range f.Documents {
			if doc.RealmName == "" {
				continue // the file is opaque, and says so
			}
			d := c.drafts[state.RealmName(doc.RealmName)]
			if d == nil {
				d = &draft{name: state.RealmName(doc.RealmName)}
				c.drafts[d.name] = d
			}
			if doc.Kind == manifests.KindRealm {
				d.heads = append(d.heads, doc)
			} else {
				d.parts = append(d.parts, doc)
			}
			if !slices.Contains(d.paths, f.Path) {
				d.paths = append(d.paths, f.Path)
			}
		}
	}
}

// names returns the realms that the files name, sorted.
func (c *compiler) names() []state.RealmName { return slices.Sorted(maps.Keys(c.drafts)) }

// refuse reports an error at a field of a document.
func (c *compiler) refuse(doc manifests.Document, field, message string) {
	c.problems = append(c.problems, manifests.Problem{
		Position: doc.At(field), Field: field, Message: message, Severity: manifests.Error,
	})
}

// wait keeps a realm from being accepted for now, without anything being wrong with its manifest.
func (c *compiler) wait(d *draft, why string) {
	head := d.heads[0]
	c.waits[d.name] = head.Position.String() + ": " + why
	c.problems = append(c.problems, manifests.Problem{Position: head.Position, Message: why, Severity: manifests.Warning})
}
