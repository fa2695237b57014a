package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

// build makes the realm out of its documents, all but its namespace.
func (c *compiler) build(d *draft) {
	switch {
	case len(d.heads) == 0:
		c.headless(d)
		return
	case len(d.heads) > 1:
		c.twice(d)
		return
	case d.heads[0].Realm == nil: // and its file says why
		c.waits[d.name] = place(d.heads[0], "") + ": the document does not decode"
		return
	}
	head := d.heads[0]
	m := head.Realm
	d.realm = state.Realm{
		Name:       d.name,
		Tombstone:  m.Spec.State == manifests.Absent,
		Deletion:   state.DeletionPolicy(m.Spec.DeletionPolicy),
		TakeOver:   m.Metadata.Annotations[manifests.AnnotationTakeOver] == "true",
		Suspended:  m.Metadata.Annotations[manifests.AnnotationReconcile] == "disabled",
		KeepAlways: m.Metadata.Annotations[manifests.AnnotationPrune] == "disabled",
		Labels:     m.Metadata.Labels,
		Origin:     c.origin(head, ""),
		Paths:      d.paths,
	}
	d.built = true
	if d.realm.Tombstone {
		return // what goes, and how, was accepted before
	}
	d.realm.Deletion = cmp.Or(d.realm.Deletion, state.DeletePolicy)
	c.credentials(d)
	c.images(d)
	c.containers(d)
	c.vanishedContainers(d)
}

// headless refuses documents that add to a realm which no document declares.
func (c *compiler) headless(d *draft) {
	for _, part := range d.parts {
		message := fmt.Sprintf("no document of kind Realm declares %q; add one, or remove this document", d.name)
		switch {
		case slices.ContainsFunc(c.scan.Withheld, func(w manifests.Withheld) bool { return w.Path == c.prev.Realms[d.name].Origin.Path }):
			// Somebody set the realm's own file aside: that suspends the realm, and nothing is wrong.
		case c.scan.Complete:
			c.refuse(part, "", message)
		default: // it may stand in a file that cannot be read just now
			c.waits[d.name] = part.Position.String() + ": " + message
		}
	}
}

// twice refuses several Realm documents of one name, each with the places of the others.
func (c *compiler) twice(d *draft) {
	for i, head := range d.heads {
		var others []string
		for j, other := range d.heads {
			if i != j {
				others = append(others, place(other, ""))
			}
		}
		c.refuse(head, "metadata.name", fmt.Sprintf("realm %q is also declared at %s; keep one", d.name, strings.Join(others, " and ")))
	}
}

// credentials collects who the realm is to registries. A password that everybody can read is warned about.
func (c *compiler) credentials(d *draft) {
	head := d.heads[0]
	for i, from := range head.Realm.Spec.RegistryCredentials {
		field := fmt.Sprintf("spec.registryCredentials[%d].password", i)
		if from.Password != "" && c.files[head.File].Public {
			c.problems = append(c.problems, manifests.Problem{
				Position: head.At(field), Field: field, Severity: manifests.Warning,
				Message: "everybody on this host can read this password; `chmod o-r` the file, or write passwordFile",
			})
		}
		server := from.ServerAddress
		if server != "" {
			var err error
			if server, err = manifests.NormalizeRegistry(server); err != nil {
				c.refuse(head, fmt.Sprintf("spec.registryCredentials[%d].serverAddress", i), err.Error())
			}
		}
		d.realm.Credentials = append(d.realm.Credentials, state.Credential{
			Server: server, Username: from.Username, Password: state.Secret(from.Password), PasswordFile: from.PasswordFile,
		})
	}
}

// images collects what the realm wants besides its containers' images: references and archives, those of its drop
// directory last.
func (c *compiler) images(d *draft) {
	head := d.heads[0]
	for i, image := range head.Realm.Spec.Images {
		if image.Archive != "" {
			field := fmt.Sprintf("spec.images[%d].archive", i)
			c.archive(d, c.files[head.File].Archives[image.Archive], head.At(field), field)
			continue
		}
		field := fmt.Sprintf("spec.images[%d].image", i)
		ref, err := manifests.NormalizeImage(image.Image)
		if err != nil {
			c.refuse(head, field, err.Error())
			continue
		}
		same := func(i state.Image) bool { return i.Ref == ref }
		if !slices.ContainsFunc(d.realm.Images, same) {
			d.realm.Images = append(d.realm.Images, state.Image{Ref: ref, Policy: state.PullIfNotPresent, Origin: c.origin(head, field)})
		}
	}
	for _, a := range c.scan.Dropped[string(d.name)] {
		c.archive(d, a, manifests.Position{File: a.Path}, "")
	}
	slices.SortFunc(d.realm.Images, func(a, b state.Image) int { return cmp.Compare(a.Ref, b.Ref) })
}

// archive adds an archive to the realm. One that cannot be imported may come later: it is told of, unless it is just
// coming, and keeps nothing else of the realm from being accepted.
func (c *compiler) archive(d *draft, a manifests.Archive, at manifests.Position, field string) {
	if slices.ContainsFunc(d.realm.Archives, func(other state.Archive) bool { return other.Path == a.Path }) {
		return
	}
	if a.Problem != "" && !a.Settling {
		c.problems = append(c.problems, manifests.Problem{
			Position: at, Field: field, Severity: manifests.Warning, Message: fmt.Sprintf("archive %s is not imported: %s", a.Path, a.Problem),
		})
	}
	origin := state.Origin{Path: at.File, Line: at.Line}
	if field != "" {
		origin.Revision = c.scan.Revision
	}
	d.realm.Archives = append(d.realm.Archives, state.Archive{Path: a.Path, Version: a.Version, Problem: a.Problem, Settling: a.Settling, Origin: origin})
}

// containers collects the realm's own and those of other documents.
func (c *compiler) containers(d *draft) {
	head := d.heads[0]
	var all []declared
	for i, spec := range head.Realm.Spec.Containers {
		all = append(all, declared{spec: spec, doc: head, field: fmt.Sprintf("spec.containers[%d]", i)})
	}
	for _, part := range d.parts {
		if part.Container != nil {
			all = append(all, declared{spec: part.Container.Inline(), doc: part, field: "spec", standalone: true})
		}
	}
	c.sameID(d, all)
	d.realm.Containers = make([]state.Container, 0, len(all))
	for _, one := range all {
		d.realm.Containers = append(d.realm.Containers, c.container(one, head))
	}
	slices.SortStableFunc(d.realm.Containers, func(a, b state.Container) int { return cmp.Compare(a.ID, b.ID) })
}

// sameID refuses containers of one id that stand in different documents; inside a document decoding does.
func (c *compiler) sameID(d *draft, all []declared) {
	byID := map[string][]declared{}
	for _, one := range all {
		byID[one.spec.ID] = append(byID[one.spec.ID], one)
	}
	for _, one := range all {
		for _, other := range byID[one.spec.ID] {
			if one.doc.Position != other.doc.Position {
				c.refuse(one.doc, one.field+".id", fmt.Sprintf("container %q of realm %q is also declared at %s; keep one",
					one.spec.ID, d.name, place(other.doc, other.field+".id")))
				break
			}
		}
	}
}

// vanishedContainers refuses a Realm document that says nothing about containers where there were some: most
// likely it was cut short.
func (c *compiler) vanishedContainers(d *draft) {
	head, inline := d.heads[0], 0
	for _, was := range c.prev.Realms[d.name].Containers {
		if !was.Standalone {
			inline++
		}
	}
	if inline > 0 && !head.Realm.Spec.ContainersDeclared {
		c.refuse(head, "spec", fmt.Sprintf("`containers` is gone, where %d were accepted before; write `containers: []` to mean none", inline))
	}
}

// origin is where a field of a document stands, as of this scan.
func (c *compiler) origin(doc manifests.Document, field string) state.Origin {
	at := doc.At(field)
	return state.Origin{Path: at.File, Line: at.Line, Revision: c.scan.Revision}
}

// place prints where a field of a document stands, as file:line.
func place(doc manifests.Document, field string) string {
	at := doc.At(field)
	at.Column = 0
	return at.String()
}
