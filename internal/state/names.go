package state

import (
	"fmt"
	"time"
)

// RealmName is a realm's metadata.name. It is unique on a host.
type RealmName string

// Namespace is a containerd namespace. Only compile makes one out of a realm's name.
type Namespace string

// ContainerID is the id of a containerd container inside its namespace.
type ContainerID string

// Owner is the server UUID of the containerd daemon that holds an object. It lives and dies with what it
// protects: a copy of the objects under another daemon is not ours.
type Owner string

// Digest identifies the meaning of a container's spec: the hex SHA-256 over its recreate-class fields. Two specs
// with one digest never need a restart to become each other.
type Digest string

// Short is what names snapshots and is shown to people: the first 12 characters.
func (d Digest) Short() string { return string(d[:min(12, len(d))]) }

// The realm and the namespaces that belong to Kukeon itself.
const (
	SystemRealm        RealmName = "kukeon-system"
	SystemNamespace    Namespace = "kukeon-system"
	OldSystemNamespace Namespace = "kuke-system.kukeon.io"
)

// Origin is where in the manifests something was declared.
type Origin struct {
	// Path is relative to the manifest directory, before symlinks are resolved.
	Path string `json:"path,omitempty"`
	// Line counts from 1; 0 means the file as a whole.
	Line int `json:"line,omitempty"`
	// Revision is the git commit that last changed the meaning of the object; empty outside git.
	Revision string `json:"revision,omitempty"`
}

// String prints path:line, and the first 8 characters of the revision when there is one.
func (o Origin) String() string {
	s := o.Path
	if o.Line > 0 {
		s = fmt.Sprintf("%s:%d", s, o.Line)
	}
	if o.Revision != "" {
		s += "@" + o.Revision[:min(8, len(o.Revision))]
	}
	return s
}

// Completion is the remembered end of a container that is not run again: a one-shot that finished, or one that
// used up its retries. It holds while the container's digest stays the same.
type Completion struct {
	Digest Digest    `json:"digest"`
	Code   int       `json:"code"` // exit code; -1 when nobody saw it
	Time   time.Time `json:"time"`
	// Policy and MaxRetries are what was declared then; a failure is no end any more when they change. Empty when
	// they are not known, as for an end that was read off the container.
	Policy     RestartPolicy `json:"policy,omitempty"`
	MaxRetries *int          `json:"maxRetries,omitempty"`
}

// ExitUnknown is the code of a Completion whose exit nobody saw.
const ExitUnknown = -1

// Failed reports whether the container ended in any other way than by exit code 0.
func (c Completion) Failed() bool { return c.Code != 0 }

// Holds reports whether the container is still over now that spec is declared: a success for as long as it means
// the same, a failure for as long as it is also to be tried no more often.
func (c Completion) Holds(spec Spec) bool {
	switch {
	case spec.Restart.Policy == RestartAlways, c.Digest != spec.Digest():
		return false
	case !c.Failed(), c.Policy == "":
		return true
	}
	return c.Policy == spec.Restart.Policy && same(c.MaxRetries, spec.Restart.MaxRetries)
}
