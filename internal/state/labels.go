package state

// Prefix begins every key of ours in containerd. Upstream Kukeon writes kukeon.io/*: never confuse the two.
const Prefix = "reconciler.kukeon.io/"

// Labels on containers, images, snapshots and namespaces.
const (
	LabelOwner     = Prefix + "owner"     // Owner of the object
	LabelRealm     = Prefix + "realm"     // RealmName
	LabelContainer = Prefix + "container" // the name in the manifest
	LabelSource    = Prefix + "source"    // path of the manifest, relative to the manifest directory
	LabelRevision  = Prefix + "revision"  // commit that last changed this container's meaning
	LabelStarted   = Prefix + "started"   // Started, written before a start
	LabelRestarts  = Prefix + "restarts"  // how often it was started again since its spec changed
	LabelFailures  = Prefix + "failures"  // consecutive exits, as the backoff counts them
	LabelExit      = Prefix + "exit"      // last exit: code@RFC3339
	LabelManagedBy = Prefix + "managed-by"
	LabelLabels    = Prefix + "labels" // on namespaces: the keys of the realm's own labels, sorted, with commas between
	LabelKeep      = Prefix + "keep"   // the container's last declaration said kukeon.io/prune: disabled
)

// ExtensionSpec is the key of the container extension that holds the Record.
const ExtensionSpec = Prefix + "spec"

// Values of LabelManagedBy on a namespace.
const (
	ManagedByDaemon = "daemon"
	ManagedByApply  = "apply"
)

// KukeondSpecHash is on containers that upstream's kukeond made; we only name it, never write it.
const KukeondSpecHash = "kukeon.io/spec-hash"

// RestartMonitorPrefix begins the labels on which containerd's own restart monitor acts, every 10 s, as root, on
// host binaries of their choice. They are never written, and removed when a container is adopted.
const RestartMonitorPrefix = "containerd.io/restart."
