package tracetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

// look prints all that a namespace holds.
func (s *Side) look(ctx context.Context, ns string) (string, error) {
	var lines []string
	labels, err := s.NamespaceLabels(ctx, ns)
	switch {
	case errdefs.IsNotFound(err):
		lines = append(lines, "namespace "+s.named(ns)+" (none)")
	case err != nil:
		return "", fmt.Errorf("labels: %w", err)
	default:
		lines = append(lines, "namespace "+s.named(ns)+printLabels(labels))
	}
	for _, part := range []func() ([]string, error){
		func() ([]string, error) { return listed(s.Containers(ctx, ns))(s.printContainer) },
		func() ([]string, error) { return listed(s.Tasks(ctx, ns))(printTask) },
		func() ([]string, error) { return listed(s.Images(ctx, ns))(s.printImage) },
		func() ([]string, error) { return listed(s.Snapshots(ctx, ns, overlayfs))(s.printSnapshot) },
		func() ([]string, error) { return listed(s.Leases(ctx, ns))(printLease) },
	} {
		more, err := part()
		if err != nil {
			return "", err
		}
		lines = append(lines, more...)
	}
	return strings.Join(lines, "\n  "), nil
}

// listed prints a list's members in the order of their lines: the order in which containerd lists tasks is none.
func listed[T any](list []T, err error) func(func(T) string) ([]string, error) {
	return func(show func(T) string) ([]string, error) {
		var out []string
		for _, v := range list {
			out = append(out, show(v))
		}
		slices.Sort(out)
		return out, err
	}
}

func printLabels(labels map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, " %s=%q", k, labels[k])
	}
	return b.String()
}

func printBytes(v []byte) string {
	return fmt.Sprintf("%s(%d)", digest.FromBytes(v).Encoded()[:8], len(v))
}

// changed tells a record that was updated since it was made, and one without times.
func changed(created, updated time.Time) string {
	switch {
	case created.IsZero() || updated.IsZero():
		return " without times"
	case updated.After(created):
		return " updated"
	}
	return ""
}

func (s *Side) printContainer(c containers.Container) string {
	spec := "none"
	if c.Spec != nil {
		spec = printBytes(c.Spec.GetValue())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "container %s image=%s snapshot=%s/%s runtime=%s spec=%s%s%s", c.ID, c.Image, c.Snapshotter,
		s.named(c.SnapshotKey), c.Runtime.Name, spec, printLabels(c.Labels), changed(c.CreatedAt, c.UpdatedAt))
	for _, k := range slices.Sorted(maps.Keys(c.Extensions)) {
		fmt.Fprintf(&b, " extension %s=%s", k, printBytes(c.Extensions[k].GetValue()))
	}
	return b.String()
}

func printTask(t ctrd.TaskInfo) string {
	text := fmt.Sprintf("task %s %s", t.ID, t.Status)
	if t.Pid == 0 {
		text += " without pid"
	}
	if t.Status != "stopped" && t.ExitCode == 0 && t.ExitedAt.IsZero() {
		return text
	}
	text += fmt.Sprintf(" exit=%d", t.ExitCode)
	if age := time.Since(t.ExitedAt); age < -time.Minute || age > time.Hour {
		text += " at another time"
	}
	return text
}

func (s *Side) printImage(i images.Image) string {
	return fmt.Sprintf("image %s %s%s%s", i.Name, s.named(i.Target.Digest.String()), printLabels(i.Labels),
		changed(i.CreatedAt, i.UpdatedAt))
}

// printSnapshot leaves out the labels that an unpacker of some version puts on what it makes.
func (s *Side) printSnapshot(i snapshots.Info) string {
	labels := maps.Clone(i.Labels)
	maps.DeleteFunc(labels, func(k, _ string) bool { return strings.HasPrefix(k, "containerd.io/snapshot") })
	return fmt.Sprintf("snapshot %s %s parent=%s%s%s", s.named(i.Name), i.Kind, s.named(i.Parent), printLabels(labels),
		changed(i.Created, i.Updated))
}

// printLease prints when a lease ends as hours from now.
func printLease(l leases.Lease) string {
	labels := maps.Clone(l.Labels)
	if at, err := time.Parse(time.RFC3339, labels["containerd.io/gc.expire"]); err == nil {
		labels["containerd.io/gc.expire"] = time.Until(at).Round(time.Hour).String()
	}
	return fmt.Sprintf("lease %s%s", l.ID, printLabels(labels))
}

// printMounts leaves out the paths, and the options that depend on the kernel.
func printMounts(mounts []mount.Mount) string {
	var out []string
	for _, m := range mounts {
		var options []string
		for _, o := range m.Options {
			key, value, _ := strings.Cut(o, "=")
			switch key {
			case "lowerdir":
				options = append(options, fmt.Sprintf("lowerdir(%d)", strings.Count(value, ":")+1))
			case "index", "userxattr", "xino":
			default:
				options = append(options, key)
			}
		}
		slices.Sort(options)
		out = append(out, m.Type+" "+strings.Join(options, ","))
	}
	return strings.Join(out, "; ")
}

func (s *Side) printConfig(c ocispec.Image, chain string) string {
	return fmt.Sprintf("%s cmd=%q env=%q layers=%d chain=%s", c.OS, c.Config.Cmd, c.Config.Env, len(c.RootFS.DiffIDs),
		s.named(chain))
}
