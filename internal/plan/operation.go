package plan

import (
	"fmt"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// ObjectKind is what an operation works on. At most one operation per object is ever under way.
type ObjectKind string

// The kinds of objects.
const (
	NamespaceObject ObjectKind = "namespace"
	ContainerObject ObjectKind = "container"
	ImageObject     ObjectKind = "image"
	ArchiveObject   ObjectKind = "archive"
	SnapshotObject  ObjectKind = "snapshot"
	LeaseObject     ObjectKind = "lease"
)

// Object names one thing inside one namespace.
type Object struct {
	Kind ObjectKind
	Name string
}

// String prints containers by their name alone, as people think of them, and everything else with its kind.
func (o Object) String() string {
	if o.Kind == ContainerObject {
		return o.Name
	}
	return string(o.Kind) + " " + o.Name
}

// Operation is one thing to do, runnable now. The set of operations is sealed: ctrd.Do and Predict know them all.
type Operation interface {
	// Object is what it works on.
	Object() Object
	// Because is why it is needed, told to a person.
	Because() Reason
	// String prints the operation without its reason.
	String() string

	sealed()
}

// base carries what every operation has.
type base struct{ Why Reason }

// Because implements Operation.
func (b base) Because() Reason { return b.Why }
func (base) sealed()           {}

// EnsureNamespace creates the namespace, or stamps one that exists (TakeOver), or mends its labels.
type EnsureNamespace struct {
	base
	Namespace state.Namespace
	// Drop are keys that go, Labels are set one by one after that; others on the namespace stay.
	Labels   map[string]string
	Drop     []string
	TakeOver bool
}

// Object implements Operation.
func (o EnsureNamespace) Object() Object { return Object{NamespaceObject, string(o.Namespace)} }

func (o EnsureNamespace) String() string {
	if o.TakeOver {
		return "take over namespace " + string(o.Namespace)
	}
	return "ensure namespace " + string(o.Namespace)
}

// Pull fetches and unpacks an image; with Refresh it looks the tag up although the image is there, and a failure
// of that is no failure as long as the local image stays.
type Pull struct {
	base
	Ref     string
	Refresh bool
	// Credentials are the realm's, for whichever registry serves the image.
	Credentials []state.Credential
}

// Object implements Operation.
func (o Pull) Object() Object { return Object{ImageObject, o.Ref} }

func (o Pull) String() string {
	if o.Refresh {
		return "refresh " + o.Ref
	}
	return "pull " + o.Ref
}

// Import brings the images of an archive in, without unpacking them. Records of images that are there stay whose they are.
type Import struct {
	base
	// Path is the archive, Version what it has to be still.
	Path, Version string
	Seq           int64 // see state.Import
	// Known is the last import of this path when all its images are still there: a file whose bytes are the same brings
	// nothing new. Zero: there is none.
	Known state.Import
}

// Object implements Operation.
func (o Import) Object() Object { return Object{ArchiveObject, o.Path} }
func (o Import) String() string { return "import " + o.Path }

// Unpack makes an image that is present usable: somebody imported it without unpacking. It never stamps it.
type Unpack struct {
	base
	Ref string
}

// Object implements Operation.
func (o Unpack) Object() Object { return Object{ImageObject, o.Ref} }
func (o Unpack) String() string { return "unpack " + o.Ref }

// Create prepares the snapshot and writes the container record with its OCI spec, our extension and Labels.
type Create struct {
	base
	ID          state.ContainerID
	Realm       state.RealmName
	Spec        state.Spec
	SnapshotKey string
	Labels      map[string]string
}

// Object implements Operation.
func (o Create) Object() Object { return Object{ContainerObject, string(o.ID)} }
func (o Create) String() string { return "create " + string(o.ID) }

// Start writes Labels, deletes a stopped task if there is one, makes the task and starts it. A task that is
// already created is only started.
type Start struct {
	base
	ID state.ContainerID
	// Spec is what runs: its log driver and limits decide where the output goes.
	Spec state.Spec
	// Labels hold the restart counts and the last exit, written before the process starts. Do adds LabelStarted.
	Labels map[string]string
	// Digest goes into LabelStarted.
	Digest state.Digest
	// First is true when this spec was never started before.
	First bool
}

// Object implements Operation.
func (o Start) Object() Object { return Object{ContainerObject, string(o.ID)} }

func (o Start) String() string {
	if o.First {
		return "start " + string(o.ID)
	}
	return "restart " + string(o.ID)
}

// Update writes metadata only: labels, our extension. The process is not touched.
type Update struct {
	base
	ID state.ContainerID
	// Set and Drop are label changes; nothing else among the labels is touched.
	Set  map[string]string
	Drop []string
	// Record replaces our extension when not nil; DropRecord removes it.
	Record     *state.Record
	DropRecord bool
	// Adopt allows it on a container that is not ours: a person asked to take it over.
	Adopt bool
}

// Object implements Operation.
func (o Update) Object() Object { return Object{ContainerObject, string(o.ID)} }
func (o Update) String() string { return "update " + string(o.ID) }

// Stop sends Signal, waits Grace for the exit, then sends SIGKILL. It is irreversible once the signal is sent.
type Stop struct {
	base
	ID     state.ContainerID
	Signal string // empty: the image's, else SIGTERM
	Grace  time.Duration
	// Unmark takes LabelStarted off, so that the exit is ours and not the container's own last one: brought back
	// meanwhile, it starts again.
	Unmark bool
}

// Object implements Operation.
func (o Stop) Object() Object { return Object{ContainerObject, string(o.ID)} }

func (o Stop) String() string { return fmt.Sprintf("stop %s (grace %s)", o.ID, o.Grace) }

// Remove deletes the stopped task, the container record, its snapshot and its files of ours.
type Remove struct {
	base
	ID          state.ContainerID
	SnapshotKey string
}

// Object implements Operation.
func (o Remove) Object() Object { return Object{ContainerObject, string(o.ID)} }
func (o Remove) String() string { return "remove " + string(o.ID) }

// Clean kills and deletes a task that has no container record.
type Clean struct {
	base
	ID state.ContainerID
}

// Object implements Operation.
func (o Clean) Object() Object { return Object{ContainerObject, string(o.ID)} }
func (o Clean) String() string { return "clean up task " + string(o.ID) }

// Resume wakes a paused task.
type Resume struct {
	base
	ID state.ContainerID
}

// Object implements Operation.
func (o Resume) Object() Object { return Object{ContainerObject, string(o.ID)} }
func (o Resume) String() string { return "resume " + string(o.ID) }

// Complete remembers the end of a container that is not run again, in the store first, then as Labels on the
// container, and then deletes the stopped task.
type Complete struct {
	base
	ID         state.ContainerID
	Completion state.Completion
	Labels     map[string]string
}

// Object implements Operation.
func (o Complete) Object() Object { return Object{ContainerObject, string(o.ID)} }

func (o Complete) String() string { return "complete " + string(o.ID) }

// DeleteImage deletes an image record of ours.
type DeleteImage struct {
	base
	Ref string
}

// Object implements Operation.
func (o DeleteImage) Object() Object { return Object{ImageObject, o.Ref} }
func (o DeleteImage) String() string { return "delete image " + o.Ref }

// ReleaseImage strips our keys off an image record of ours, which stays.
type ReleaseImage struct {
	base
	Ref string
}

// Object implements Operation.
func (o ReleaseImage) Object() Object { return Object{ImageObject, o.Ref} }
func (o ReleaseImage) String() string { return "release image " + o.Ref }

// RemoveSnapshot removes a snapshot of ours that no container names.
type RemoveSnapshot struct {
	base
	Key string
}

// Object implements Operation.
func (o RemoveSnapshot) Object() Object { return Object{SnapshotObject, o.Key} }
func (o RemoveSnapshot) String() string { return "remove snapshot " + o.Key }

// DeleteLease deletes a lease of ours that nobody wants any more.
type DeleteLease struct {
	base
	ID string
}

// Object implements Operation.
func (o DeleteLease) Object() Object { return Object{LeaseObject, o.ID} }
func (o DeleteLease) String() string { return "delete lease " + o.ID }

// DeleteNamespace deletes an empty namespace of ours.
type DeleteNamespace struct {
	base
	Namespace state.Namespace
}

// Object implements Operation.
func (o DeleteNamespace) Object() Object { return Object{NamespaceObject, string(o.Namespace)} }
func (o DeleteNamespace) String() string { return "delete namespace " + string(o.Namespace) }

// ReleaseNamespace strips our keys off a namespace that stays, with what it holds.
type ReleaseNamespace struct {
	base
	Namespace state.Namespace
	Drop      []string // label keys
}

// Object implements Operation.
func (o ReleaseNamespace) Object() Object { return Object{NamespaceObject, string(o.Namespace)} }
func (o ReleaseNamespace) String() string { return "release namespace " + string(o.Namespace) }
