// Package manifests defines what a realm manifest is: its Go types, strict decoding with line numbers, defaults,
// validation and JSON Schema.
package manifests

import (
	"maps"
	"slices"
)

// APIVersion is the version that an empty apiVersion means.
const APIVersion = "v1beta1"

// Kind is the sort of object that a document declares.
type Kind string

// The kinds of Kukeon's v1beta1. This release carries out Realm, and Container directly inside a realm.
const (
	KindRealm     Kind = "Realm"
	KindSpace     Kind = "Space"
	KindStack     Kind = "Stack"
	KindCell      Kind = "Cell"
	KindContainer Kind = "Container"
	KindSecret    Kind = "Secret"
	KindVolume    Kind = "Volume"
)

// The tags of the types below are the one home of each field's rule: the decoder, the JSON Schema and the
// reference page all read them. A format names an entry of the formats table.

// Realm is a tenant: one containerd namespace and what runs in it.
type Realm struct {
	APIVersion string    `json:"apiVersion,omitempty" jsonschema:"enum=v1beta1,enum=kukeon.io/v1beta1,default=v1beta1" jsonschema_description:"Version of the format."`
	Kind       Kind      `json:"kind" jsonschema:"required,enum=Realm" jsonschema_description:"Realm."`
	Metadata   Metadata  `json:"metadata" jsonschema:"required" jsonschema_description:"Name, labels, annotations."`
	Spec       RealmSpec `json:"spec,omitzero" jsonschema_description:"What the realm should be."`
}

// Container is a container in a document of its own; it contributes one inline container to the realm it names.
type Container struct {
	APIVersion string                `json:"apiVersion,omitempty" jsonschema:"enum=v1beta1,enum=kukeon.io/v1beta1,default=v1beta1" jsonschema_description:"Version of the format."`
	Kind       Kind                  `json:"kind" jsonschema:"required,enum=Container" jsonschema_description:"Container."`
	Metadata   Metadata              `json:"metadata" jsonschema:"required" jsonschema_description:"Name, labels, annotations; the name is the container's id."`
	Spec       ContainerDocumentSpec `json:"spec" jsonschema:"required" jsonschema_description:"The container and the realm it belongs to."`
}

// Inline returns the container as if it stood in its realm's spec.containers: the id falls back to
// metadata.name, and the metadata's labels and annotations apply under the container's own.
func (c Container) Inline() ContainerSpec {
	out := c.Spec.ContainerSpec
	if out.ID == "" {
		out.ID = c.Metadata.Name
	}
	out.Labels = mergeMaps(c.Metadata.Labels, out.Labels)
	out.Annotations = mergeMaps(c.Metadata.Annotations, out.Annotations)
	return out
}

// Metadata names an object and says things about it.
type Metadata struct {
	Name        string            `json:"name" jsonschema:"required,format=name" jsonschema_description:"Lower-case letters, digits and dashes, at most 63."`
	Labels      map[string]string `json:"labels,omitempty" jsonschema_description:"Go to containerd; reserved prefixes are refused."`
	Annotations map[string]string `json:"annotations,omitempty" jsonschema_description:"kukeon.io/reconcile: disabled (observe and report only), kukeon.io/prune: disabled (never delete by absence), kukeon.io/take-over: \"true\" (realms only)."`
}

// RealmState says whether a realm should exist.
type RealmState string

const (
	// Present is the default.
	Present RealmState = "Present"
	// Absent makes the manifest a tombstone: the realm is removed at once, without the guard's second look.
	Absent RealmState = "Absent"
)

// DeletionPolicy says what the removal of a realm takes along.
type DeletionPolicy string

const (
	// DeletionDelete removes the containers, the images that we own, and the namespace when it is empty then.
	DeletionDelete DeletionPolicy = "Delete"
	// DeletionRetain removes the containers; images and namespace are kept.
	DeletionRetain DeletionPolicy = "Retain"
)

// RealmSpec is what a realm should be. Zero values mean "not written": State, DeletionPolicy and Namespace
// have their defaults filled in by whoever compiles the manifest.
type RealmSpec struct {
	Namespace           string               `json:"namespace,omitempty" jsonschema:"format=namespace" jsonschema_description:"The containerd namespace; unset: made from the realm's name, normally kukeon-NAME."`
	State               RealmState           `json:"state,omitempty" jsonschema:"enum=Present,enum=Absent,default=Present" jsonschema_description:"Absent is a tombstone: the realm is removed at once, also the last one of a host."`
	DeletionPolicy      DeletionPolicy       `json:"deletionPolicy,omitempty" jsonschema:"enum=Delete,enum=Retain,default=Delete" jsonschema_description:"Retain keeps images and namespace when the realm is removed."`
	RegistryCredentials []RegistryCredential `json:"registryCredentials,omitempty" jsonschema_description:"Who we are to private registries when this realm's images are pulled."`
	Images              []ImageSpec          `json:"images,omitempty" jsonschema_description:"Present before containers start and kept; also useful without any container."`
	Defaults            *Defaults            `json:"defaults,omitempty" jsonschema_description:"What containers inherit."`
	Containers          []ContainerSpec      `json:"containers,omitempty" jsonschema_description:"The containers of the realm; write [] to mean none."`

	// ContainersDeclared tells an explicit list, the empty one included, from a key that is not there.
	ContainersDeclared bool `json:"-"`
}

// RegistryCredential is a user and a password for a registry.
type RegistryCredential struct {
	ServerAddress string `json:"serverAddress,omitempty" jsonschema:"format=registry" jsonschema_description:"Host, or host:port, of the registry; unset: that of each image."`
	Username      string `json:"username" jsonschema:"required" jsonschema_description:"The user, or the name of a token."`
	Password      string `json:"password,omitempty" jsonschema:"format=secret" jsonschema_description:"The password; a file keeps it out of the manifest. Warned about when everybody may read the manifest."`
	PasswordFile  string `json:"passwordFile,omitempty" jsonschema:"format=secret-file" jsonschema_description:"File on the host that holds the password; read at each pull, without the white space around it."`
}

// ImageSpec is an image that a realm wants to have, or an archive of some.
type ImageSpec struct {
	Image   string `json:"image,omitempty" jsonschema:"format=image" jsonschema_description:"Image reference; short names are completed as docker does."`
	Archive string `json:"archive,omitempty" jsonschema:"format=archive" jsonschema_description:"In place of image: an OCI or docker archive on the host, whose images are imported; absolute, or relative to the manifest."`
}

// Defaults holds what the objects inside a realm inherit.
type Defaults struct {
	Container *ContainerSpec `json:"container,omitempty" jsonschema_description:"Fields that containers inherit: a container's own win, lists are replaced, maps and objects merged."`
}

// PullPolicy says when a registry is asked for an image.
type PullPolicy string

// RestartPolicy says what to do when a container exits.
type RestartPolicy string

// MountKind is the sort of a mount.
type MountKind string

// LogDriver says where a container's output goes.
type LogDriver string

// The words of the enumerations; the first of each is the default.
const (
	PullIfNotPresent PullPolicy = "IfNotPresent"
	PullAlways       PullPolicy = "Always"
	PullNever        PullPolicy = "Never"

	RestartAlways    RestartPolicy = "always"
	RestartOnFailure RestartPolicy = "on-failure"
	RestartNever     RestartPolicy = "never"

	MountBind   MountKind = "bind"
	MountTmpfs  MountKind = "tmpfs"
	MountVolume MountKind = "volume"

	LogFIFO LogDriver = "fifo"
	LogFile LogDriver = "file"
	LogNone LogDriver = "none"
)

// ContainerSpec is one container. Nil pointers, nil slices and empty strings mean "not written", so that
// defaults can be merged; an empty list that is not nil was written.
type ContainerSpec struct {
	ID                     string            `json:"id,omitempty" jsonschema:"format=name" jsonschema_description:"Required, unique in its realm; it is the containerd id."`
	Image                  string            `json:"image,omitempty" jsonschema:"format=image" jsonschema_description:"Required here or in the defaults; short names are completed as docker does; a digest pins."`
	ImagePullPolicy        PullPolicy        `json:"imagePullPolicy,omitempty" jsonschema:"enum=IfNotPresent,enum=Always,enum=Never,default=IfNotPresent" jsonschema_description:"Always looks the tag up when the container is created or its spec changes; a local image always suffices to start."`
	Command                Command           `json:"command,omitempty" jsonschema_description:"The executable, alone or with its first arguments; unset: the image's entrypoint."`
	Args                   []string          `json:"args,omitempty" jsonschema_description:"Arguments; unset: the image's, unless command is set."`
	WorkingDir             string            `json:"workingDir,omitempty" jsonschema:"format=path" jsonschema_description:"Unset: the image's."`
	User                   string            `json:"user,omitempty" jsonschema:"format=user" jsonschema_description:"uid[:gid] or names; unset: the image's."`
	Env                    []string          `json:"env,omitempty" jsonschema:"format=env" jsonschema_description:"K=V, over the image's."`
	Volumes                []VolumeMount     `json:"volumes,omitempty" jsonschema_description:"What is mounted."`
	Tmpfs                  []TmpfsMount      `json:"tmpfs,omitempty" jsonschema_description:"In-memory file systems, with mount options."`
	Devices                []string          `json:"devices,omitempty" jsonschema:"format=device" jsonschema_description:"Host devices, such as /dev/ttyUSB0."`
	Privileged             *bool             `json:"privileged,omitempty" jsonschema:"default=false" jsonschema_description:"All capabilities, all devices, no confinement."`
	HostNetwork            *bool             `json:"hostNetwork,omitempty" jsonschema:"default=false" jsonschema_description:"Use the host's network; else the container has a loopback of its own and nothing more."`
	HostPID                *bool             `json:"hostPID,omitempty" jsonschema:"default=false" jsonschema_description:"See the host's processes."`
	ReadOnlyRootFilesystem *bool             `json:"readOnlyRootFilesystem,omitempty" jsonschema:"default=false" jsonschema_description:"Mount the image read-only."`
	Capabilities           *Capabilities     `json:"capabilities,omitempty" jsonschema_description:"Changes to containerd's default set."`
	SecurityOpts           []string          `json:"securityOpts,omitempty" jsonschema:"format=security-option" jsonschema_description:"no-new-privileges[=true|false], seccomp=unconfined or seccomp=/file, apparmor=PROFILE; unset: the default seccomp profile and no-new-privileges."`
	Resources              *Resources        `json:"resources,omitempty" jsonschema_description:"Limits; unset: none."`
	RestartPolicy          RestartPolicy     `json:"restartPolicy,omitempty" jsonschema:"enum=always,enum=on-failure,enum=never,default=always" jsonschema_description:"What to do when the container exits. never and on-failure make one-shots, not run again after success."`
	RestartBackoffSeconds  *int              `json:"restartBackoffSeconds,omitempty" jsonschema:"minimum=0,maximum=86400,default=1" jsonschema_description:"The first restart comes at once, the next after this, doubling to 300 s; 0: no backoff."`
	RestartMaxRetries      *int              `json:"restartMaxRetries,omitempty" jsonschema:"minimum=0" jsonschema_description:"on-failure only: give up after so many; unset: never give up."`
	StopSignal             string            `json:"stopSignal,omitempty" jsonschema:"format=signal" jsonschema_description:"Name or quoted number; unset: the image's, else SIGTERM."`
	StopGracePeriodSeconds *int              `json:"stopGracePeriodSeconds,omitempty" jsonschema:"minimum=0,maximum=3600,default=10" jsonschema_description:"From the stop signal to SIGKILL."`
	Labels                 map[string]string `json:"labels,omitempty" jsonschema_description:"Go to containerd; reserved prefixes are refused."`
	Annotations            map[string]string `json:"annotations,omitempty" jsonschema_description:"kukeon.io/reconcile: disabled, kukeon.io/prune: disabled."`
	Logging                *Logging          `json:"logging,omitempty" jsonschema_description:"Where the output goes, and how much of it is kept."`
}

// ContainerDocumentSpec is a ContainerSpec that also says which realm it belongs to.
type ContainerDocumentSpec struct {
	RealmID       string `json:"realmId" jsonschema:"required,format=name" jsonschema_description:"The realm that the container belongs to."`
	ContainerSpec `json:",inline"`
}

// VolumeMount mounts a host path, memory, or a directory that the reconciler keeps.
type VolumeMount struct {
	Kind      MountKind `json:"kind,omitempty" jsonschema:"enum=bind,enum=tmpfs,enum=volume,default=bind" jsonschema_description:"bind: a host path; tmpfs: memory; volume: a directory that the reconciler keeps for the realm."`
	Source    string    `json:"source,omitempty" jsonschema_description:"bind: an absolute host path; volume: its name; tmpfs: none."`
	Target    string    `json:"target" jsonschema:"required,format=target" jsonschema_description:"Absolute path in the container."`
	ReadOnly  bool      `json:"readOnly,omitempty" jsonschema:"default=false" jsonschema_description:"bind and volume only."`
	SizeBytes *Bytes    `json:"sizeBytes,omitempty" jsonschema_description:"tmpfs only: its limit."`
	Mode      *Mode     `json:"mode,omitempty" jsonschema_description:"tmpfs only: octal permissions, such as \"1777\"."`
	Ensure    bool      `json:"ensure,omitempty" jsonschema:"default=false" jsonschema_description:"volume only, and without effect: a volume is always made when it does not exist."`
}

// TmpfsMount is an in-memory file system with mount options.
type TmpfsMount struct {
	Path      string   `json:"path" jsonschema:"required,format=target" jsonschema_description:"Absolute path in the container."`
	SizeBytes *Bytes   `json:"sizeBytes,omitempty" jsonschema_description:"Its limit."`
	Options   []string `json:"options,omitempty" jsonschema:"format=tmpfs-option" jsonschema_description:"Mount options, such as noexec or mode=1777."`
}

// Capabilities are changes to the default set of Linux capabilities.
type Capabilities struct {
	Drop []string `json:"drop,omitempty" jsonschema:"format=capability-or-all" jsonschema_description:"Taken away; ALL takes all. CAP_ is optional."`
	Add  []string `json:"add,omitempty" jsonschema:"format=capability" jsonschema_description:"Given, after drop. CAP_ is optional."`
}

// Resources are a container's limits.
type Resources struct {
	MemoryLimitBytes  *Bytes    `json:"memoryLimitBytes,omitempty" jsonschema_description:"Kukeon's name of memory."`
	Memory            *Bytes    `json:"memory,omitempty" jsonschema_description:"Limit, such as 256Mi."`
	MemoryReservation *Bytes    `json:"memoryReservation,omitempty" jsonschema_description:"What is left to the container when the host runs short; at most memory."`
	MemorySwap        *Bytes    `json:"memorySwap,omitempty" jsonschema_description:"Limit of memory and swap together; needs memory, and at least as much."`
	CPUs              *MilliCPU `json:"cpus,omitempty" jsonschema_description:"Limit in cores, such as \"0.5\" or 500m."`
	CPUShares         *int64    `json:"cpuShares,omitempty" jsonschema:"minimum=2,maximum=262144" jsonschema_description:"Weight among containers that compete; 1024 is the usual one."`
	PidsLimit         *int64    `json:"pidsLimit,omitempty" jsonschema:"minimum=1" jsonschema_description:"Processes and threads."`
}

// MemoryLimit returns the memory limit in bytes, under whichever of its two names it was written; nil: none.
func (r Resources) MemoryLimit() *Bytes {
	if r.Memory != nil {
		return r.Memory
	}
	return r.MemoryLimitBytes
}

// Logging says where a container's output goes, and how much of it is kept.
type Logging struct {
	Driver       LogDriver `json:"driver,omitempty" jsonschema:"enum=fifo,enum=file,enum=none,default=fifo" jsonschema_description:"fifo: rotated files, and ctr tasks attach works; file: written by containerd's shim, depends on nobody; none: dropped."`
	MaxSizeBytes *Bytes    `json:"maxSizeBytes,omitempty" jsonschema_extras:"default=10Mi" jsonschema_description:"Size at which a file is rotated."`
	MaxFiles     *int      `json:"maxFiles,omitempty" jsonschema:"minimum=1,maximum=100,default=5" jsonschema_description:"Files kept, the current one included."`
}

// WithDefaults returns c with the fields it does not set taken from d: lists are replaced as a whole, maps and
// objects are merged, and c's own win. Nil d changes nothing. Neither is modified.
func (c ContainerSpec) WithDefaults(d *ContainerSpec) ContainerSpec {
	if d == nil {
		return c
	}
	setString(&c.Image, d.Image)
	setString(&c.ImagePullPolicy, d.ImagePullPolicy)
	setString(&c.WorkingDir, d.WorkingDir)
	setString(&c.User, d.User)
	setString(&c.RestartPolicy, d.RestartPolicy)
	setString(&c.StopSignal, d.StopSignal)
	if c.Command == nil {
		setSlice(&c.Args, d.Args) // the defaults' args belong to the defaults' command or to the image
	}
	setSlice(&c.Command, d.Command)
	setSlice(&c.Env, d.Env)
	setSlice(&c.Volumes, d.Volumes)
	setSlice(&c.Tmpfs, d.Tmpfs)
	setSlice(&c.Devices, d.Devices)
	setSlice(&c.SecurityOpts, d.SecurityOpts)
	setPointer(&c.Privileged, d.Privileged)
	setPointer(&c.HostNetwork, d.HostNetwork)
	setPointer(&c.HostPID, d.HostPID)
	setPointer(&c.ReadOnlyRootFilesystem, d.ReadOnlyRootFilesystem)
	setPointer(&c.RestartBackoffSeconds, d.RestartBackoffSeconds)
	if c.RestartPolicy == RestartOnFailure { // means nothing to a container with another policy
		setPointer(&c.RestartMaxRetries, d.RestartMaxRetries)
	}
	setPointer(&c.StopGracePeriodSeconds, d.StopGracePeriodSeconds)
	c.Labels = mergeMaps(d.Labels, c.Labels)
	c.Annotations = mergeMaps(d.Annotations, c.Annotations)
	c.Capabilities = merge(c.Capabilities, d.Capabilities, func(own *Capabilities, d Capabilities) {
		setSlice(&own.Drop, d.Drop)
		setSlice(&own.Add, d.Add)
	})
	c.Resources = merge(c.Resources, d.Resources, mergeResources)
	c.Logging = merge(c.Logging, d.Logging, func(own *Logging, d Logging) {
		setString(&own.Driver, d.Driver)
		setPointer(&own.MaxSizeBytes, d.MaxSizeBytes)
		setPointer(&own.MaxFiles, d.MaxFiles)
	})
	return c
}

func mergeResources(own *Resources, d Resources) {
	if own.MemoryLimit() == nil { // the two names of one limit are one field
		own.Memory, own.MemoryLimitBytes = d.Memory, d.MemoryLimitBytes
	}
	setPointer(&own.MemoryReservation, d.MemoryReservation)
	setPointer(&own.MemorySwap, d.MemorySwap)
	setPointer(&own.CPUs, d.CPUs)
	setPointer(&own.CPUShares, d.CPUShares)
	setPointer(&own.PidsLimit, d.PidsLimit)
}

func setString[S ~string](own *S, d S) {
	if *own == "" {
		*own = d
	}
}

func setSlice[S ~[]E, E any](own *S, d S) {
	if *own == nil {
		*own = slices.Clone(d)
	}
}

func setPointer[T any](own **T, d *T) {
	if *own == nil {
		*own = d
	}
}

// merge returns a copy of own with the fields it lacks taken from d by fill.
func merge[T any](own, d *T, fill func(own *T, d T)) *T {
	if own == nil || d == nil {
		if own == nil {
			return d
		}
		return own
	}
	out := *own
	fill(&out, *d)
	return &out
}

// mergeMaps returns base with own over it; nil when both are.
func mergeMaps(base, own map[string]string) map[string]string {
	if base == nil {
		return own
	}
	out := maps.Clone(base)
	maps.Copy(out, own)
	return out
}
