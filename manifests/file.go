package manifests

// File is what one manifest file decoded to. A file with Error problems still carries the documents that
// could be told apart, so that the realms they name can be frozen rather than removed.
type File struct {
	// Path is the file's path as the caller gave it to Decode: relative to the manifest root, before symlinks
	// are resolved.
	Path string
	// Documents are the non-empty documents in file order.
	Documents []Document
	// Problems of the file and of all its documents, in place order.
	Problems []Problem
	// Archives are the archives of images that its documents name, by what they write.
	Archives map[string]Archive
	// Public means that everybody on the host may read the file.
	Public bool
	// Opaque means that the file may declare anything: it does not parse, or it holds a document whose kind or
	// realm cannot be told. While such a file exists, absence proves nothing.
	Opaque bool
}

// Document is one manifest. Exactly one of the typed pointers is set when the document decoded; none is when
// it did not (then the file has an Error problem inside the document).
type Document struct {
	Position
	Kind Kind
	// Name is metadata.name.
	Name string
	// RealmName is the realm that this document declares or contributes to: metadata.name of a Realm,
	// spec.realmId of the other kinds. Empty only when it cannot be told (the file is Opaque then).
	RealmName string
	Realm     *Realm
	Container *Container
	// Lines maps a field's path inside the document, such as spec.containers[0].image, to where its value stands.
	Lines map[string]Position
}

// At returns where a field stands, falling back to the nearest enclosing field that is known, and at last to
// the document itself.
func (d Document) At(field string) Position {
	for path := field; path != ""; path = parentField(path) {
		if p, ok := d.Lines[path]; ok {
			return p
		}
	}
	return d.Position
}

// parentField cuts the last step off a field path: a.b[0] -> a.b -> a -> "".
func parentField(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '.' || path[i] == '[' {
			return path[:i]
		}
	}
	return ""
}
