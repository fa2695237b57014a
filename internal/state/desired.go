package state

import "time"

// DeletionPolicy says what goes with a realm when it is removed.
type DeletionPolicy string

// The deletion policies. Containers of ours go in both cases.
const (
	DeletePolicy DeletionPolicy = "Delete" // images of ours and, when nothing is left in it, the namespace
	RetainPolicy DeletionPolicy = "Retain" // images and namespace stay
)

// ManagedBy tells which of our commands answers for a namespace.
type ManagedBy string

// Realm is one realm as its manifests declare it: the output of compile, and once accepted, what is kept true.
type Realm struct {
	Name      RealmName `json:"name"`
	Namespace Namespace `json:"namespace"`
	// NamespaceReason says how the namespace came about when it is not the template's: shown in status.
	NamespaceReason string `json:"namespaceReason,omitempty"`
	// Explicit means that spec.namespace named the namespace; then a take-over of one that already holds
	// containers needs TakeOver.
	Explicit bool `json:"explicit,omitempty"`
	TakeOver bool `json:"takeOver,omitempty"`
	// Tombstone is spec.state: Absent: the realm is removed without the guard's second look.
	Tombstone bool           `json:"tombstone,omitempty"`
	Deletion  DeletionPolicy `json:"deletionPolicy"`
	// Suspended (kukeon.io/reconcile: disabled) means observe and report only.
	Suspended bool `json:"suspended,omitempty"`
	// KeepAlways (kukeon.io/prune: disabled) means that absence of the file never removes it.
	KeepAlways bool              `json:"keepAlways,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"` // of the namespace
	// Images are wanted in the namespace even when no container needs them. Sorted, no reference twice.
	Images []Image `json:"images,omitempty"`
	// Archives are files whose images are wanted in the namespace, in the order in which they are imported; no path twice.
	Archives []Archive `json:"archives,omitempty"`
	// Credentials open private registries to the realm's pulls, in the order of the manifest.
	Credentials []Credential `json:"credentials,omitempty"`
	// Containers are sorted by ID.
	Containers []Container `json:"containers"`
	Origin     Origin      `json:"origin"`
	// Paths are all manifest files that contributed, sorted.
	Paths []string `json:"paths"`
}

// Image is a reference that is to be present in the namespace.
type Image struct {
	Ref    string     `json:"ref"` // normalised
	Policy PullPolicy `json:"policy"`
	Origin Origin     `json:"origin"`
}

// Archive is a file of images, as it stood when the manifests were read.
type Archive struct {
	Path string `json:"path"` // absolute
	// Version is another one whenever the file's content may be; empty when it is not to be imported, and Problem says why.
	Version string `json:"version,omitempty"`
	Problem string `json:"problem,omitempty"`
	// Settling means that it may be still being written.
	Settling bool   `json:"settling,omitempty"`
	Origin   Origin `json:"origin"`
}

// Import is what the last import of an archive brought.
type Import struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Digest  string `json:"digest"` // of the file's bytes
	// Refs are the names of its images, sorted.
	Refs []string `json:"refs"`
	// At is when that was. Seq orders the imports of a realm: of a name that two give, the later one's image has it.
	At  time.Time `json:"at"`
	Seq int64     `json:"seq,omitempty"`
}

// Credential is a user and a password for a registry.
type Credential struct {
	Server   string `json:"server,omitempty"` // host[:port]; empty: the registry of each image
	Username string `json:"username"`
	// Password, or PasswordFile with the absolute path of a file that holds it.
	Password     Secret `json:"password,omitempty"`
	PasswordFile string `json:"passwordFile,omitempty"`
}

// Secret is a text that is stored and never printed.
type Secret string

// String implements fmt.Stringer and tells nothing.
func (Secret) String() string { return "(secret)" }

// GoString implements fmt.GoStringer and tells nothing.
func (Secret) GoString() string { return "(secret)" }

// Container is one container of a realm.
type Container struct {
	ID   ContainerID `json:"id"`
	Name string      `json:"name"` // the id in the manifest; equal to ID for inline containers
	Spec Spec        `json:"spec"`
	// Suspended and KeepAlways are the container's own annotations; the realm's apply as well.
	Suspended  bool `json:"suspended,omitempty"`
	KeepAlways bool `json:"keepAlways,omitempty"`
	// Standalone means that a document of its own declares it. A realm's list that leaves a container out is
	// intent; a document that is gone is absence.
	Standalone bool `json:"standalone,omitempty"`
	// Withheld names the .skip or .bak file beside the missing file that declared it: suspended, not removed.
	Withheld string `json:"withheld,omitempty"`
	Origin   Origin `json:"origin"`
	// Lines tells where each field of the field table stands in the manifest, for reasons.
	Lines map[string]int `json:"lines,omitempty"`
}

// FieldOrigin is where a field of the field table stands; the container itself when the field is not written.
func (c Container) FieldOrigin(field string) Origin {
	o := c.Origin
	if line, ok := c.Lines[field]; ok {
		o.Line = line
	}
	return o
}

// Find returns the container with the id.
func (r Realm) Find(id ContainerID) (Container, bool) {
	for _, c := range r.Containers {
		if c.ID == id {
			return c, true
		}
	}
	return Container{}, false
}

// Accepted is what holds now: the last files that were accepted, and what they took away that is not gone yet.
// It is a value; accept makes the next one, store keeps it.
type Accepted struct {
	Realms map[RealmName]AcceptedRealm `json:"realms"`
	// Removals lists what was accepted for removal and is not gone yet.
	Removals []Removal `json:"removals,omitempty"`
	// Guard is the history of the guard's window.
	Guard []GuardEntry `json:"guard,omitempty"`
	// Absences are disappearances seen once, waiting for a second scan that agrees.
	Absences []Absence `json:"absences,omitempty"`
	// Holds are removals that wait for a person.
	Holds []Hold `json:"holds,omitempty"`
	// LastGeneration is the highest generation ever given to a realm.
	LastGeneration int64 `json:"lastGeneration,omitempty"`
	// Scanned reports whether a complete scan was ever accepted.
	Scanned bool `json:"scanned"`
}

// AcceptedRealm is a realm as accepted.
type AcceptedRealm struct {
	Realm
	// Generation counts accepted changes of meaning; it never falls, not even over the loss of the store.
	Generation int64     `json:"generation"`
	AcceptedAt time.Time `json:"acceptedAt"`
	// Since is when the realm was accepted first, MissingSince since when no manifest declares it; zero while one
	// does.
	Since        time.Time `json:"since,omitzero"`
	MissingSince time.Time `json:"missingSince,omitzero"`
	// Frozen tells why newer files are not accepted; empty when they are. It names file:line.
	Frozen string `json:"frozen,omitempty"`
	// Withheld names the .skip or .bak file beside the realm's missing manifest: suspended, nothing is removed.
	Withheld string `json:"withheld,omitempty"`
	// Root is the manifest directory in which the realm was declared last with nothing of it missing. What is missing from
	// another one proves nothing.
	Root RootIdentity `json:"root,omitzero"`
}

// Removal is one entry of the removal list. It leaves the list only when containerd answers NotFound or a manifest
// declares the object again.
type Removal struct {
	Realm     RealmName `json:"realm"`
	Namespace Namespace `json:"namespace"`
	// Container is the object; empty means the whole realm: everything of ours in the namespace, then the
	// namespace itself.
	Container ContainerID    `json:"container,omitempty"`
	Deletion  DeletionPolicy `json:"deletionPolicy"`
	At        time.Time      `json:"at"`
	Why       string         `json:"why"` // shown as the reason of the operations
	// Spec is the last accepted spec, for its stop settings; nil for realms.
	Spec *Spec `json:"spec,omitempty"`
}

// GuardEntry is one scan inside the guard's window.
type GuardEntry struct {
	At      time.Time   `json:"at"`
	Before  int         `json:"before"` // realms accepted before that scan
	Removed []RealmName `json:"removed,omitempty"`
}

// Absence is something that vanished from the files and waits for a second scan that agrees.
type Absence struct {
	Realm     RealmName   `json:"realm"`
	Container ContainerID `json:"container,omitempty"`
	Since     time.Time   `json:"since"`
	// Fingerprint of the directory when it was first seen missing.
	Fingerprint string `json:"fingerprint"`
	// Counted means that a second scan agreed: what is still there is held.
	Counted bool `json:"counted,omitempty"`
	// Empty means that the realm held no container of ours then.
	Empty bool `json:"empty,omitempty"`
}

// Hold is a set of removals that waits for `confirm ID`.
type Hold struct {
	ID     string      `json:"id"`
	Realms []RealmName `json:"realms"`
	Since  time.Time   `json:"since"`
	Why    string      `json:"why"`
	// RootChanged means that the directory itself was replaced: only a person or the files' return ends it.
	RootChanged bool `json:"rootChanged,omitempty"`
}

// RootIdentity tells one manifest directory from another put in its place.
type RootIdentity struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	// Links are the symlinks on the path and their text: when these changed with the directory, somebody
	// pointed us elsewhere on purpose.
	Links []string `json:"links,omitempty"`
}

// Suspension is a person's `suspend`: no write to the object until it ends.
type Suspension struct {
	Realm     RealmName   `json:"realm"`
	Container ContainerID `json:"container,omitempty"` // empty: the whole realm
	Until     time.Time   `json:"until,omitzero"`      // zero: until resumed
	Reason    string      `json:"reason,omitempty"`
	By        string      `json:"by,omitempty"`
	At        time.Time   `json:"at"`
}

// Active reports whether the suspension holds at the time.
func (s Suspension) Active(now time.Time) bool { return s.Until.IsZero() || now.Before(s.Until) }
