package state

// SpecVersion is the version that this release writes. Older ones are read and filled with their defaults, so an
// upgrade re-stamps and never restarts; newer ones are left alone.
const SpecVersion = 1

// Spec is the effective spec of one container: what its manifest means after defaults, short names and units
// are resolved. It is stored on the container beside the OCI spec it describes, and compared field by field.
// Every field's class stands in Fields.
type Spec struct {
	Image      string     `json:"image"` // normalised reference, tag or digest included
	PullPolicy PullPolicy `json:"pullPolicy,omitempty"`
	Command    []string   `json:"command,omitempty"` // replaces the image's entrypoint
	Args       []string   `json:"args,omitempty"`    // replaces the image's cmd
	WorkingDir string     `json:"workingDir,omitempty"`
	User       string     `json:"user,omitempty"` // uid[:gid] or names
	Env        []string   `json:"env,omitempty"`  // K=V, over the image's

	Mounts  []Mount  `json:"mounts,omitempty"`
	Devices []string `json:"devices,omitempty"`

	Privileged             bool         `json:"privileged,omitempty"`
	HostNetwork            bool         `json:"hostNetwork,omitempty"`
	HostPID                bool         `json:"hostPID,omitempty"`
	ReadOnlyRootFilesystem bool         `json:"readOnlyRootFilesystem,omitempty"`
	Capabilities           Capabilities `json:"capabilities,omitzero"`
	Security               Security     `json:"security,omitzero"`
	Resources              Resources    `json:"resources,omitzero"`
	LogDriver              LogDriver    `json:"logDriver,omitempty"`

	Restart Restart           `json:"restart,omitzero"`
	Stop    StopSettings      `json:"stop,omitzero"`
	Labels  map[string]string `json:"labels,omitempty"`
	Log     LogLimits         `json:"log,omitzero"`
}

// PullPolicy says when the registry is asked for an image.
type PullPolicy string

// The pull policies. A local image always suffices to start.
const (
	PullIfNotPresent PullPolicy = "IfNotPresent"
	PullAlways       PullPolicy = "Always"
	PullNever        PullPolicy = "Never"
)

// MountKind tells where a mount's content comes from.
type MountKind string

// The kinds of mounts.
const (
	MountBind   MountKind = "bind"   // Source is an absolute path of the host
	MountTmpfs  MountKind = "tmpfs"  // in memory, SizeBytes and Mode apply
	MountVolume MountKind = "volume" // Source names a directory in our state directory, kept by default
)

// Mount is one mount inside the container.
type Mount struct {
	Kind      MountKind `json:"kind"`
	Source    string    `json:"source,omitempty"`
	Target    string    `json:"target"`
	ReadOnly  bool      `json:"readOnly,omitempty"`
	SizeBytes int64     `json:"sizeBytes,omitempty"`
	Mode      uint32    `json:"mode,omitempty"`    // permission bits of a tmpfs; 0 means 01777
	Options   []string  `json:"options,omitempty"` // further tmpfs options
}

// Capabilities are dropped, then added, relative to containerd's default set. Names carry CAP_; Drop may hold ALL.
type Capabilities struct {
	Drop []string `json:"drop,omitempty"`
	Add  []string `json:"add,omitempty"`
}

// Security are the parsed securityOpts. The zero value is the safe default.
type Security struct {
	AllowNewPrivileges bool `json:"allowNewPrivileges,omitempty"`
	// Seccomp is empty for containerd's default profile, "unconfined", or the path of a profile.
	Seccomp string `json:"seccomp,omitempty"`
	// AppArmor names a profile that is loaded on the host; empty applies none.
	AppArmor string `json:"appArmor,omitempty"`
}

// Resources are limits; zero means none.
type Resources struct {
	MemoryBytes            int64  `json:"memoryBytes,omitempty"`
	MemoryReservationBytes int64  `json:"memoryReservationBytes,omitempty"`
	MemorySwapBytes        int64  `json:"memorySwapBytes,omitempty"` // memory and swap together
	CPUShares              uint64 `json:"cpuShares,omitempty"`
	CPUMillis              int64  `json:"cpuMillis,omitempty"` // thousandths of a core
	PidsLimit              int64  `json:"pidsLimit,omitempty"`
}

// RestartPolicy says what an exit means.
type RestartPolicy string

// The restart policies.
const (
	RestartAlways    RestartPolicy = "always"
	RestartOnFailure RestartPolicy = "on-failure"
	RestartNever     RestartPolicy = "never"
)

// Restart are the restart settings. BackoffSeconds is b of the formula in Backoff.
type Restart struct {
	Policy         RestartPolicy `json:"policy"`
	BackoffSeconds int           `json:"backoffSeconds"`
	// MaxRetries bounds the restarts of an on-failure container; nil means it never gives up.
	MaxRetries *int `json:"maxRetries,omitempty"`
}

// StopSettings say how a container is asked to end.
type StopSettings struct {
	Signal       string `json:"signal,omitempty"` // name such as SIGINT, or a number; empty: the image's, else SIGTERM
	GraceSeconds int    `json:"graceSeconds"`     // then SIGKILL
}

// LogDriver says who carries the container's output.
type LogDriver string

// The log drivers.
const (
	LogFIFO LogDriver = "fifo" // our pump drains FIFOs into rotated files; ctr tasks attach works
	LogFile LogDriver = "file" // the shim writes a file and depends on nobody; attach does not work
	LogNone LogDriver = "none"
)

// LogLimits bound the rotated log files of one container.
type LogLimits struct {
	MaxSizeBytes int64 `json:"maxSizeBytes,omitempty"`
	MaxFiles     int   `json:"maxFiles,omitempty"`
}
