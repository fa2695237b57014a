package compile

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

// What a container has when its manifest says nothing.
const (
	defaultBackoffSeconds = 1
	defaultGraceSeconds   = 10       // docker's, too
	defaultLogBytes       = 10 << 20 // five of these: enough for a bad night, little on the smallest disk
	defaultLogFiles       = 5
)

// declared is one container as a document declares it.
type declared struct {
	spec       manifests.ContainerSpec
	doc        manifests.Document
	field      string // where in doc
	standalone bool   // it is the document
}

// container makes the effective container: the realm's defaults filled in, names completed, units resolved.
func (c *compiler) container(own declared, head manifests.Document) state.Container {
	var defaults *manifests.ContainerSpec
	if d := head.Realm.Spec.Defaults; d != nil {
		defaults = d.Container
	}
	m := own.spec.WithDefaults(defaults)
	place := own.field
	if own.standalone {
		place = "" // the document as a whole
	}
	return state.Container{
		ID:         state.ContainerID(m.ID),
		Name:       m.ID,
		Spec:       c.spec(m, own),
		Suspended:  m.Annotations[manifests.AnnotationReconcile] == "disabled",
		KeepAlways: m.Annotations[manifests.AnnotationPrune] == "disabled",
		Standalone: own.standalone,
		Origin:     c.origin(own.doc, place),
		Lines:      lines(own, head),
	}
}

// spec translates a container's fields into our nouns. What decoding let through but has no meaning is a problem.
func (c *compiler) spec(m manifests.ContainerSpec, own declared) state.Spec {
	s := state.Spec{
		PullPolicy:             state.PullPolicy(cmp.Or(m.ImagePullPolicy, manifests.PullIfNotPresent)),
		Command:                m.Command,
		Args:                   m.Args,
		WorkingDir:             m.WorkingDir,
		User:                   m.User,
		Env:                    m.Env,
		Mounts:                 mounts(m),
		Devices:                m.Devices,
		Privileged:             value(m.Privileged, false),
		HostNetwork:            value(m.HostNetwork, false),
		HostPID:                value(m.HostPID, false),
		ReadOnlyRootFilesystem: value(m.ReadOnlyRootFilesystem, false),
		Resources:              resources(m.Resources),
		LogDriver:              state.LogFIFO,
		Restart: state.Restart{
			Policy:         state.RestartPolicy(cmp.Or(m.RestartPolicy, manifests.RestartAlways)),
			BackoffSeconds: value(m.RestartBackoffSeconds, defaultBackoffSeconds),
			MaxRetries:     m.RestartMaxRetries,
		},
		Stop:   state.StopSettings{Signal: signal(m.StopSignal), GraceSeconds: value(m.StopGracePeriodSeconds, defaultGraceSeconds)},
		Labels: m.Labels,
		Log:    state.LogLimits{MaxSizeBytes: defaultLogBytes, MaxFiles: defaultLogFiles},
	}
	if l := m.Logging; l != nil {
		s.LogDriver = state.LogDriver(cmp.Or(l.Driver, manifests.LogFIFO))
		s.Log.MaxSizeBytes = int64(value(l.MaxSizeBytes, defaultLogBytes))
		s.Log.MaxFiles = value(l.MaxFiles, defaultLogFiles)
	}
	check := func(field string, err error) {
		if err != nil {
			c.refuse(own.doc, own.field+"."+field, err.Error())
		}
	}
	if own.standalone { // decoding did not know the realm's defaults, and could not hold the fields against each other
		for _, conflict := range m.Conflicts() {
			c.refuse(own.doc, own.field+"."+conflict.Field, conflict.Message)
		}
	}
	var err error
	if m.Image != "" {
		s.Image, err = c.normalize(m.Image)
		check("image", err)
	}
	s.Security, err = security(m.SecurityOpts)
	check("securityOpts", err)
	s.Capabilities, err = capabilities(m.Capabilities)
	check("capabilities", err)
	return s
}

// normalize is manifests.NormalizeImage, once for each reference: it is what a container costs most, and many have the
// same.
func (c *compiler) normalize(image string) (string, error) {
	if ref, known := c.refs[image]; known {
		return ref, nil
	}
	ref, err := manifests.NormalizeImage(image)
	if err == nil {
		c.refs[image] = ref
	}
	return ref, err
}

// mounts joins both ways to write a mount. They are sorted, so that a mount stands after those it lies below and
// the order in the manifest means nothing.
func mounts(m manifests.ContainerSpec) []state.Mount {
	var out []state.Mount
	for _, v := range m.Volumes {
		out = append(out, state.Mount{
			Kind: state.MountKind(cmp.Or(v.Kind, manifests.MountBind)), Source: v.Source, Target: path.Clean(v.Target),
			ReadOnly: v.ReadOnly, SizeBytes: int64(value(v.SizeBytes, 0)), Mode: uint32(value(v.Mode, 0)),
		})
	}
	for _, t := range m.Tmpfs {
		out = append(out, state.Mount{
			Kind: state.MountTmpfs, Target: path.Clean(t.Path), SizeBytes: int64(value(t.SizeBytes, 0)), Options: t.Options,
		})
	}
	slices.SortStableFunc(out, func(a, b state.Mount) int { return cmp.Compare(a.Target, b.Target) })
	return out
}

func resources(r *manifests.Resources) state.Resources {
	if r == nil {
		return state.Resources{}
	}
	return state.Resources{
		MemoryBytes:            int64(value(r.MemoryLimit(), 0)),
		MemoryReservationBytes: int64(value(r.MemoryReservation, 0)),
		MemorySwapBytes:        int64(value(r.MemorySwap, 0)),
		CPUShares:              uint64(max(0, value(r.CPUShares, 0))),
		CPUMillis:              int64(value(r.CPUs, 0)),
		PidsLimit:              value(r.PidsLimit, 0),
	}
}

func security(opts []string) (state.Security, error) {
	o, err := manifests.ParseSecurityOpts(opts)
	return state.Security{AllowNewPrivileges: !value(o.NoNewPrivileges, true), Seccomp: o.Seccomp, AppArmor: o.AppArmor}, err
}

func capabilities(m *manifests.Capabilities) (out state.Capabilities, err error) {
	if m == nil {
		return out, nil
	}
	if out.Drop, err = capabilityNames(m.Drop); err != nil {
		return out, err
	}
	out.Add, err = capabilityNames(m.Add)
	return out, err
}

// capabilityNames returns full names, sorted, none twice.
func capabilityNames(names []string) ([]string, error) {
	var out []string
	for _, name := range names {
		if strings.EqualFold(name, "ALL") {
			out = append(out, "ALL")
			continue
		}
		full, err := manifests.ParseCapability(name)
		if err != nil {
			return nil, err
		}
		out = append(out, full)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// signal spells a signal's name in the one way that compares: int, SIGINT and sigint are the same.
func signal(s string) string {
	if s == "" || strings.Trim(s, "0123456789") == "" {
		return s
	}
	return "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
}

// lines tells where each field of the field table stands: in the container, or in the defaults when these are in
// the same file.
func lines(own declared, head manifests.Document) map[string]int {
	out := map[string]int{}
	for _, f := range state.Fields {
		names := []string{f.Name}
		if f.Name == "volumes" {
			names = append(names, "tmpfs")
		}
		for _, name := range names {
			if at, ok := own.doc.Lines[own.field+"."+name]; ok {
				out[f.Name] = at.Line
				break
			}
			if at, ok := head.Lines["spec.defaults.container."+name]; ok && at.File == own.doc.File {
				out[f.Name] = at.Line
				break
			}
		}
	}
	return out
}

// value returns what p points to, or the default.
func value[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
