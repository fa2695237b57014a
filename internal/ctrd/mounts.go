package ctrd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// withMounts adds our copies of files below /etc and the manifest's mounts. A mount of the manifest replaces whatever
// containerd or we would put at the same place.
func (b blueprint) withMounts(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
	var own []specs.Mount
	for _, f := range etcFiles(b.id, b.spec) {
		own = append(own, specs.Mount{
			Destination: f.target, Type: "bind", Source: filepath.Join(b.files, f.name), Options: []string{"rbind", "rprivate", "rw"},
		})
	}
	var declared []specs.Mount
	for _, m := range b.spec.Mounts {
		declared = append(declared, b.mount(m))
	}
	replaced := func(m specs.Mount) bool {
		return slices.ContainsFunc(declared, func(d specs.Mount) bool { return d.Destination == m.Destination })
	}
	s.Mounts = slices.DeleteFunc(append(s.Mounts, own...), replaced)
	s.Mounts = append(s.Mounts, declared...)
	return nil
}

func (b blueprint) mount(m state.Mount) specs.Mount {
	access := "rw"
	if m.ReadOnly {
		access = "ro"
	}
	target := filepath.Clean(m.Target)
	if m.Kind == state.MountTmpfs {
		options := []string{"noexec", "nosuid", "nodev", access}
		if m.SizeBytes > 0 {
			options = append(options, fmt.Sprintf("size=%d", m.SizeBytes))
		}
		mode := m.Mode
		if mode == 0 {
			mode = 0o1777
		}
		options = append(options, fmt.Sprintf("mode=%o", mode))
		return specs.Mount{Destination: target, Type: "tmpfs", Source: "tmpfs", Options: append(options, m.Options...)}
	}
	source := m.Source
	if m.Kind == state.MountVolume {
		source = filepath.Join(b.volumes, m.Source)
	}
	return specs.Mount{Destination: target, Type: "bind", Source: source, Options: []string{"rbind", access}}
}

// prepareSources makes the directories of volumes. A bind mount without its source
// is Stalled: the engine's own message would not name the way out.
func (h *Host) prepareSources(realm state.RealmName, spec state.Spec) error {
	for _, m := range spec.Mounts {
		switch m.Kind {
		case state.MountVolume:
			if err := os.MkdirAll(filepath.Join(h.volumes(realm), m.Source), 0o755); err != nil {
				return fmt.Errorf("making volume %s: %w", m.Source, err)
			}
		case state.MountBind:
			switch _, err := os.Stat(m.Source); {
			case errors.Is(err, fs.ErrNotExist):
				return &outcome.Stalled{
					Why:    fmt.Sprintf("%s, to be mounted at %s, does not exist on the host", m.Source, m.Target),
					Remedy: "make it, or use a volume of `kind: volume`",
				}
			case err != nil:
				return fmt.Errorf("mount at %s: %w", m.Target, err)
			}
		}
	}
	return nil
}

func (h *Host) volumes(realm state.RealmName) string {
	return filepath.Join(h.cfg.VolumesDir, string(realm))
}

func (h *Host) files(ns state.Namespace, id state.ContainerID) string {
	return filepath.Join(h.cfg.FilesDir, string(ns), string(id))
}

// etcFile is a file of ours that is mounted into a container.
type etcFile struct {
	name, target string
	content      func() ([]byte, error)
}

// etcFiles lists our files: the host's copies for a container with the host's network, and else the least that a
// program expects.
func etcFiles(id state.ContainerID, spec state.Spec) []etcFile {
	fixed := func(text string) func() ([]byte, error) {
		return func() ([]byte, error) { return []byte(text), nil }
	}
	self := fmt.Sprintf("127.0.0.1 %s\n", id)
	out := []etcFile{
		{"hostname", "/etc/hostname", fixed(string(id) + "\n")},
		{"hosts", "/etc/hosts", fixed("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n" + self)},
	}
	if spec.HostNetwork {
		out[1].content = func() ([]byte, error) {
			host, err := hostFile("/etc/hosts")
			if len(host) > 0 && host[len(host)-1] != '\n' {
				host = append(host, '\n')
			}
			return append(host, self...), err
		}
		out = append(out, etcFile{"resolv.conf", "/etc/resolv.conf", func() ([]byte, error) { return hostFile("/etc/resolv.conf") }})
	}
	return out
}

// hostFile reads a file of the host; one that is missing reads as empty.
func hostFile(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// refreshFiles writes our files of a container where they are missing or differ. They are written in place: a running
// container has the file itself mounted and would not see another one in its stead.
func (h *Host) refreshFiles(ns state.Namespace, id state.ContainerID, spec state.Spec) error {
	dir := h.files(ns, id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range etcFiles(id, spec) {
		want, err := f.content()
		if err != nil {
			return fmt.Errorf("%s of %s: %w", f.target, id, err)
		}
		path := filepath.Join(dir, f.name)
		if have, err := os.ReadFile(path); err == nil && slices.Equal(have, want) {
			continue
		}
		if err := os.WriteFile(path, want, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// RefreshFiles brings our copies of the host's files up to date in a namespace's containers, running ones included. It
// looks at the containers as last observed and makes no call.
func (h *Host) RefreshFiles(ns state.Namespace) error {
	var errs []error
	for id, spec := range h.mirror(ns).specs() {
		if !spec.HostNetwork {
			continue // none of its files is the host's
		}
		if _, err := os.Stat(h.files(ns, id)); err != nil {
			continue // never started since the host came up: its start writes them
		}
		errs = append(errs, h.refreshFiles(ns, id, spec))
	}
	return errors.Join(errs...)
}

// specs returns the recorded specs.
func (m *mirror) specs() map[state.ContainerID]state.Spec {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[state.ContainerID]state.Spec{}
	for id, e := range m.entries {
		if e.decoded != nil {
			out[id] = e.decoded.Spec
		}
	}
	return out
}
