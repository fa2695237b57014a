package ctrd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/moby/sys/user"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// specURL is the type by which containerd knows an OCI spec in JSON.
const specURL = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// cpuPeriod is the span, in microseconds, over which a CPU limit is enforced: the kernel's default.
const cpuPeriod = 100_000

// capAll stands for all capabilities in lists of them.
const capAll = "ALL"

// blueprint is what an OCI spec is made of. The same blueprint on the same host makes the same bytes.
type blueprint struct {
	ns      state.Namespace
	id      state.ContainerID
	spec    state.Spec
	image   ocispec.ImageConfig
	files   string // directory of our copies of /etc files
	volumes string // directory of the realm's volumes
	// openFiles is the most files that this host lets a process open; runc starts nothing that asks for more.
	openFiles uint64
	// rootFS lends the container's root file system, for looking up users.
	rootFS func(read func(fs.FS) error) error
}

// encode returns the spec as a container record holds it.
func (b blueprint) encode(ctx context.Context) (*anypb.Any, error) {
	s, err := b.build(ctx)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: specURL, Value: data}, nil
}

// build makes the OCI spec: containerd's defaults, then the image, then what the manifest says.
func (b blueprint) build(ctx context.Context) (*specs.Spec, error) {
	s := b.spec
	args, err := b.args()
	if err != nil {
		return nil, err
	}
	env := b.image.Env
	if len(env) == 0 {
		env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	cwd := "/"
	for _, dir := range []string{s.WorkingDir, b.image.WorkingDir} {
		if dir != "" {
			cwd = dir
			break
		}
	}
	opts := []oci.SpecOpts{
		oci.WithDefaultUnixDevices,
		oci.WithProcessArgs(args...),
		oci.WithEnv(env),
		oci.WithEnv(s.Env),
		oci.WithProcessCwd(cwd),
		oci.WithHostname(string(b.id)),
		b.withUser,
		withPropagation,
		b.withOpenFiles,
	}
	opts = append(opts, b.isolation()...)
	opts = append(opts, b.security()...)
	opts = append(opts, withResources(s.Resources), b.withMounts)
	ctx = namespaces.WithNamespace(ctx, string(b.ns))
	return oci.GenerateSpec(ctx, nil, &containers.Container{ID: string(b.id)}, opts...)
}

// withOpenFiles allows as many open files as systemd gives a service, where the host does: few at once for old programs
// that select, and plenty for those that ask for more, as every server does. containerd's default stops at 1024.
func (b blueprint) withOpenFiles(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
	hard := min(serviceOpenFiles, b.openFiles)
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: min(1024, hard), Hard: hard}}
	return nil
}

// serviceOpenFiles is systemd's hard limit of open files for a service.
const serviceOpenFiles = 524288

// args are the image's entrypoint and cmd, unless the manifest says otherwise: a command replaces both.
func (b blueprint) args() ([]string, error) {
	args := append([]string{}, b.spec.Command...)
	if len(args) == 0 {
		args = append(args, b.image.Entrypoint...)
		if len(b.spec.Args) == 0 {
			args = append(args, b.image.Cmd...)
		}
	}
	args = append(args, b.spec.Args...)
	if len(args) == 0 {
		return nil, &outcome.Stalled{
			Why:    "image " + b.spec.Image + " says nothing to run",
			Remedy: "set command in the manifest",
		}
	}
	return args, nil
}

func (b blueprint) isolation() []oci.SpecOpts {
	var opts []oci.SpecOpts
	if b.spec.HostNetwork {
		opts = append(opts, oci.WithHostNamespace(specs.NetworkNamespace))
	}
	if b.spec.HostPID {
		opts = append(opts, oci.WithHostNamespace(specs.PIDNamespace))
	}
	if b.spec.ReadOnlyRootFilesystem {
		opts = append(opts, oci.WithRootFSReadonly())
	}
	return opts
}

// security sets privileges, capabilities, devices and profiles. The seccomp profile comes last: it depends on the
// capabilities.
func (b blueprint) security() []oci.SpecOpts {
	s := b.spec
	var opts []oci.SpecOpts
	if s.Privileged {
		opts = append(opts, oci.WithPrivileged, oci.WithAllDevicesAllowed, oci.WithHostDevices)
	}
	for _, dropped := range s.Capabilities.Drop {
		if isAll(dropped) {
			opts = append(opts, oci.WithCapabilities(nil))
		}
	}
	opts = append(opts, oci.WithDroppedCapabilities(s.Capabilities.Drop))
	for _, added := range s.Capabilities.Add {
		if isAll(added) {
			opts = append(opts, oci.WithCapabilities(cap.Known()))
			continue
		}
		opts = append(opts, oci.WithAddedCapabilities([]string{added}))
	}
	for _, path := range s.Devices {
		opts = append(opts, withDevice(path))
	}
	if s.Security.AllowNewPrivileges || s.Privileged {
		opts = append(opts, oci.WithNewPrivileges)
	}
	if s.Security.AppArmor != "" {
		opts = append(opts, oci.WithApparmorProfile(s.Security.AppArmor))
	}
	switch profile := s.Security.Seccomp; {
	case profile == "unconfined", profile == "" && s.Privileged:
		opts = append(opts, oci.WithSeccompUnconfined)
	case profile == "":
		opts = append(opts, seccomp.WithDefaultProfile())
	default:
		opts = append(opts, withSeccompFile(profile))
	}
	return opts
}

func isAll(capability string) bool { return strings.TrimPrefix(capability, "CAP_") == capAll }

// withDevice gives the container a device of the host, or all below a directory of them.
func withDevice(path string) oci.SpecOpts {
	return func(ctx context.Context, c oci.Client, r *containers.Container, s *specs.Spec) error {
		err := oci.WithDevices(path, "", "rwm")(ctx, c, r, s)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, oci.ErrNotADevice) {
			return &outcome.Stalled{Why: "device " + path, Err: err, Remedy: "name a device that this host has"}
		}
		return err
	}
}

func withSeccompFile(path string) oci.SpecOpts {
	return func(ctx context.Context, c oci.Client, r *containers.Container, s *specs.Spec) error {
		if err := seccomp.WithProfile(path)(ctx, c, r, s); err != nil {
			return &outcome.Stalled{Why: "seccomp profile", Err: err, Remedy: "put a readable profile there"}
		}
		return nil
	}
}

// withPropagation has mounts of the host appear below bind mounts, and never the other way round.
func withPropagation(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
	s.Linux.RootfsPropagation = "rslave"
	return nil
}

func withResources(r state.Resources) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		l := s.Linux.Resources
		if r.MemoryBytes > 0 || r.MemoryReservationBytes > 0 || r.MemorySwapBytes > 0 {
			l.Memory = &specs.LinuxMemory{
				Limit: positive(r.MemoryBytes), Reservation: positive(r.MemoryReservationBytes), Swap: positive(r.MemorySwapBytes),
			}
		}
		if r.CPUShares > 0 || r.CPUMillis > 0 {
			l.CPU = &specs.LinuxCPU{}
			if r.CPUShares > 0 {
				l.CPU.Shares = &r.CPUShares
			}
			if r.CPUMillis > 0 {
				quota, period := r.CPUMillis*cpuPeriod/1000, uint64(cpuPeriod)
				l.CPU.Quota, l.CPU.Period = &quota, &period
			}
		}
		if r.PidsLimit > 0 {
			l.Pids = &specs.LinuxPids{Limit: &r.PidsLimit}
		}
		return nil
	}
}

func positive(n int64) *int64 {
	if n <= 0 {
		return nil
	}
	return &n
}

// withUser sets the user of the manifest, else of the image. Only what the image's own files have to tell is looked up
// there: uid:gid and root need no mount.
func (b blueprint) withUser(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
	name := b.spec.User
	if name == "" {
		name = b.image.User
	}
	switch name {
	case "", "0", "root", "root:root", "0:0":
		return nil
	}
	if uid, gid, ok := numeric(name); ok {
		s.Process.User.UID, s.Process.User.GID = uid, gid
		return nil
	}
	var found *user.ExecUser
	err := b.rootFS(func(root fs.FS) error {
		passwd, err := openOptional(root, "etc/passwd")
		if err != nil {
			return err
		}
		defer passwd.Close()
		group, err := openOptional(root, "etc/group")
		if err != nil {
			return err
		}
		defer group.Close()
		if found, err = user.GetExecUser(name, nil, passwd, group); err != nil {
			return &outcome.Stalled{Why: "user " + name, Err: err, Remedy: "name a user of the image, or uid:gid"}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking up user %s: %w", name, err)
	}
	s.Process.User.UID, s.Process.User.GID = uint32(found.Uid), uint32(found.Gid)
	for _, gid := range found.Sgids {
		s.Process.User.AdditionalGids = append(s.Process.User.AdditionalGids, uint32(gid))
	}
	return nil
}

// numeric reads uid:gid.
func numeric(name string) (uid, gid uint32, ok bool) {
	u, g, both := strings.Cut(name, ":")
	// runc takes no more than 31 bits.
	nu, err1 := strconv.ParseUint(u, 10, 31)
	ng, err2 := strconv.ParseUint(g, 10, 31)
	return uint32(nu), uint32(ng), both && err1 == nil && err2 == nil
}

// openOptional opens a file; one that is missing reads as empty.
func openOptional(root fs.FS, name string) (io.ReadCloser, error) {
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return f, err
}
