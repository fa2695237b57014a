package tracetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

type action = func(ctx context.Context, s *Side) (string, error)

var namespaceKinds = []kind{
	{"Namespaces", 3, false, func(dice) (string, action) {
		return "", func(ctx context.Context, s *Side) (string, error) {
			all, err := s.Namespaces(ctx)
			ours := slices.DeleteFunc(all, func(ns string) bool { return !strings.HasPrefix(ns, s.prefix) })
			return joined(ours, err)(s.named)
		}
	}},
	{"NamespaceLabels", 4, false, func(d dice) (string, action) {
		ns := d.ns()
		return ns, func(ctx context.Context, s *Side) (string, error) {
			return shown(s.NamespaceLabels(ctx, s.in(ns)))(printLabels)
		}
	}},
	{"CreateNamespace", 8, false, func(d dice) (string, action) { return createNamespace(d.ns(), d.labels()) }},
	{"SetNamespaceLabel", 8, false, func(d dice) (string, action) {
		ns, label, value := draw(d, odds[string]{{90, "a"}, {10, "b"}}), d.label(), d.value()
		return ns + brief(map[string]string{label: value}), quiet(func(ctx context.Context, s *Side) error {
			return s.SetNamespaceLabel(ctx, s.in(ns), label, value)
		})
	}},
	{"DeleteNamespace", 8, true, func(d dice) (string, action) {
		ns := d.ns()
		return ns, quiet(func(ctx context.Context, s *Side) error { return s.DeleteNamespace(ctx, s.in(ns)) })
	}},
}

func createNamespace(ns string, labels map[string]string) (string, action) {
	return ns + brief(labels), quiet(func(ctx context.Context, s *Side) error {
		return s.CreateNamespace(ctx, s.in(ns), labels)
	})
}

// record is a container as a step draws it. Its spec names its namespace and so is made when that is known.
type record struct {
	containers.Container
	program  Program
	specless bool
	image    string
	snapshot string
}

func (d dice) record(id string) record {
	r := record{program: d.program(), specless: d.one(40)}
	r.ID, r.Labels = id, d.labels()
	r.Runtime.Name = draw(d, odds[string]{{97, "io.containerd.runc.v2"}, {3, ""}})
	r.image = draw(d, odds[string]{{85, "A"}, {10, "B"}, {5, ""}})
	r.Snapshotter = draw(d, odds[string]{{97, overlayfs}, {3, ""}})
	r.snapshot = draw(d, odds[string]{{90, d.snapshotOf(id)}, {10, ""}})
	if !d.one(3) {
		r.Extensions = map[string]typeurl.Any{d.label(): &anypb.Any{TypeUrl: "kukeon.io/test", Value: []byte(d.value())}}
	}
	return r
}

func (r record) String() string {
	text := fmt.Sprintf("%s (%s) image %s snapshot %s/%s%s", r.ID, r.program, r.image, r.Snapshotter, r.snapshot, brief(r.Labels))
	if r.specless {
		text += " without a spec"
	}
	if r.Runtime.Name == "" {
		text += " without a runtime"
	}
	for k, v := range r.Extensions {
		text += fmt.Sprintf(" extension %s(%d)", k, len(v.GetValue()))
	}
	return text
}

// in returns the record as it is sent.
func (r record) in(ctx context.Context, s *Side, ns string) (containers.Container, error) {
	c := r.Container
	c.Image, c.SnapshotKey = s.Refs[r.image], s.digest(r.snapshot)
	if r.specless {
		return c, nil
	}
	spec, err := oci.GenerateSpec(namespaces.WithNamespace(ctx, ns), nil, &containers.Container{ID: c.ID},
		oci.WithDefaultPathEnv, oci.WithProcessArgs(r.program.Args()...))
	if err != nil {
		return c, err
	}
	c.Spec, err = typeurl.MarshalAny(spec)
	return c, err
}

// programIn tells which program a record's spec runs.
func programIn(c containers.Container) Program {
	var spec specs.Spec
	if c.Spec == nil || typeurl.UnmarshalTo(c.Spec, &spec) != nil || spec.Process == nil {
		return ""
	}
	return programOf(spec.Process.Args)
}

var containerKinds = []kind{
	{"Containers", 4, false, func(d dice) (string, action) {
		ns := d.ns()
		return ns, func(ctx context.Context, s *Side) (string, error) {
			return joined(s.Containers(ctx, s.in(ns)))(s.printContainer)
		}
	}},
	{"Container", 4, false, func(d dice) (string, action) {
		ns, id := d.ns(), d.container()
		return ns + " " + id, func(ctx context.Context, s *Side) (string, error) {
			return shown(s.Container(ctx, s.in(ns), id))(s.printContainer)
		}
	}},
	{"CreateContainer", 22, false, func(d dice) (string, action) { return createContainer(d.ns(), d.record(d.container())) }},
	{"UpdateContainer", 14, true, func(d dice) (string, action) {
		ns, r := d.ns(), d.record(d.container())
		var paths []string
		for range d.IntN(4) {
			paths = append(paths, draw(d, odds[string]{{20, "labels"}, {20, "labels." + d.label()}, {15, "spec"},
				{10, "extensions"}, {20, "extensions." + d.label()}, {6, "image"}, {6, "snapshotkey"}, {2, "runtime"}, {1, "id"}}))
		}
		return fmt.Sprintf("%s %s fields %q", ns, r, paths), quiet(func(ctx context.Context, s *Side) error {
			c, err := r.in(ctx, s, s.in(ns))
			if err != nil {
				return err
			}
			return s.UpdateContainer(ctx, s.in(ns), c, paths...)
		})
	}},
	{"DeleteContainer", 10, true, func(d dice) (string, action) {
		ns, id := d.ns(), d.container()
		return ns + " " + id, quiet(func(ctx context.Context, s *Side) error { return s.DeleteContainer(ctx, s.in(ns), id) })
	}},
}

func createContainer(ns string, r record) (string, action) {
	return ns + " " + r.String(), quiet(func(ctx context.Context, s *Side) error {
		c, err := r.in(ctx, s, s.in(ns))
		if err != nil {
			return err
		}
		return s.CreateContainer(ctx, s.in(ns), c)
	})
}

var imageKinds = []kind{
	{"Images", 4, false, func(d dice) (string, action) {
		ns := d.ns()
		return ns, func(ctx context.Context, s *Side) (string, error) {
			return joined(s.Images(ctx, s.in(ns)))(s.printImage)
		}
	}},
	{"Image", 4, false, func(d dice) (string, action) {
		ns, ref := d.ns(), d.stored()
		return ns + " " + ref, func(ctx context.Context, s *Side) (string, error) {
			return shown(s.Image(ctx, s.in(ns), s.Refs[ref]))(s.printImage)
		}
	}},
	{"UpdateImageLabels", 7, false, func(d dice) (string, action) {
		ns, ref, labels := d.ns(), d.stored(), d.labels()
		return ns + " " + ref + brief(labels), quiet(func(ctx context.Context, s *Side) error {
			return s.UpdateImageLabels(ctx, s.in(ns), s.Refs[ref], labels)
		})
	}},
	{"DeleteImage", 8, true, func(d dice) (string, action) {
		ns, ref := d.ns(), d.stored()
		return ns + " " + ref, quiet(func(ctx context.Context, s *Side) error { return s.DeleteImage(ctx, s.in(ns), s.Refs[ref]) })
	}},
	{"ImageConfig", 6, false, func(d dice) (string, action) {
		ns, ref := d.ns(), d.stored()
		return ns + " " + ref, func(ctx context.Context, s *Side) (string, error) {
			config, chain, err := s.ImageConfig(ctx, s.in(ns), s.Refs[ref])
			if err != nil {
				return "", err
			}
			return s.printConfig(config, chain), nil
		}
	}},
	{"Pull", 16, true, func(d dice) (string, action) { return pull(d.ns(), d.pulled(), d.labels()) }},
	{"ImportArchive", 8, true, func(d dice) (string, action) {
		ns, labels, whole := d.ns(), d.labels(), !d.one(4)
		return fmt.Sprintf("%s whole=%v%s", ns, whole, brief(labels)), func(ctx context.Context, s *Side) (string, error) {
			file := s.Archive
			if !whole {
				file = file[:len(file)/2]
			}
			return joined(s.ImportArchive(ctx, s.in(ns), bytes.NewReader(file), labels))(s.printImage)
		}
	}},
	{"Unpack", 10, true, func(d dice) (string, action) { return unpack(d.ns(), d.stored(), d.snapshotter()) }},
}

func pull(ns, ref string, labels map[string]string) (string, action) {
	return ns + " " + ref + brief(labels), func(ctx context.Context, s *Side) (string, error) {
		return shown(s.Pull(ctx, s.in(ns), s.Refs[ref], ctrd.PullOptions{Labels: labels}))(s.printImage)
	}
}

func unpack(ns, ref, by string) (string, action) {
	return ns + " " + ref + " into " + by, quiet(func(ctx context.Context, s *Side) error {
		return s.Unpack(ctx, s.in(ns), s.Refs[ref], by)
	})
}
