package manifests

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// This file holds the rules that no single field can tell. They run over what decoded, also when other fields
// did not, so that a person sees every problem at once.

// The annotations that mean something to the reconciler.
const (
	// AnnotationReconcile: "disabled" means observe and report only.
	AnnotationReconcile = "kukeon.io/reconcile"
	// AnnotationPrune: "disabled" means never delete this object because its manifest is gone.
	AnnotationPrune = "kukeon.io/prune"
	// AnnotationTakeOver: "true" allows a realm to take a namespace that already holds containers.
	AnnotationTakeOver = "kukeon.io/take-over"
)

var annotationValues = map[string][]string{
	AnnotationReconcile: {"enabled", "disabled"},
	AnnotationPrune:     {"enabled", "disabled"},
	AnnotationTakeOver:  {"true", "false"},
}

// where tells where a field stands, or the nearest enclosing one that was written.
func (w *walker) where(field string) Position {
	return Document{Position: w.lines[""], Lines: w.lines}.At(field)
}

// problem reports an Error at a field, unless it or something around it has one already.
func (w *walker) problem(field, format string, args ...any) {
	for around := field; around != ""; around = parentField(around) {
		if w.broken[around] {
			return
		}
	}
	w.tell(w.where(field), Error, field, format, args...)
}

func validateRealm(w *walker, r *Realm) {
	_, r.Spec.ContainersDeclared = w.lines["spec.containers"]
	w.labels("metadata.labels", r.Metadata.Labels)
	w.annotations("metadata.annotations", r.Metadata.Annotations, true)
	seen := map[string]int{}
	for i, image := range r.Spec.Images {
		field := fmt.Sprintf("spec.images[%d].image", i)
		w.unique(field, "image", image.Image, seen)
	}
	var defaults *ContainerSpec
	if r.Spec.Defaults != nil && r.Spec.Defaults.Container != nil {
		defaults = r.Spec.Defaults.Container
		if defaults.ID != "" {
			w.problem("spec.defaults.container.id", "defaults carry no id; remove it")
		}
		w.container("spec.defaults.container", *defaults, *defaults)
	}
	seen = map[string]int{}
	for i, c := range r.Spec.Containers {
		field := fmt.Sprintf("spec.containers[%d]", i)
		w.unique(field+".id", "id", c.ID, seen)
		all := c.WithDefaults(defaults)
		if all.Image == "" {
			w.problem(field+".image", "required, and missing; write the image, here or in spec.defaults.container")
		}
		w.container(field, c, all)
	}
}

func validateContainerDocument(w *walker, c *Container) {
	w.labels("metadata.labels", c.Metadata.Labels)
	w.annotations("metadata.annotations", c.Metadata.Annotations, false)
	if id := c.Spec.ID; id != "" && c.Metadata.Name != "" && id != c.Metadata.Name {
		w.problem("spec.id", "%q is not the document's metadata.name %q; write the same in both, or leave the id away", id, c.Metadata.Name)
	}
	// The image may come from the realm's defaults, which another document holds.
	w.container("spec", c.Spec.ContainerSpec, c.Spec.ContainerSpec)
}

// unique reports a value that stood before, naming both places. Seen maps values to lines.
func (w *walker) unique(field, what, value string, seen map[string]int) {
	if value == "" {
		return
	}
	if line, twice := seen[value]; twice {
		w.problem(field, "%s %q is used twice, first at line %d; keep one, or choose another", what, clip(value), line)
		return
	}
	seen[value] = w.where(field).Line
}

// container checks what the fields of a container say together; own is what is written at field, all has the
// defaults filled in.
func (w *walker) container(field string, own, all ContainerSpec) {
	w.labels(field+".labels", own.Labels)
	w.annotations(field+".annotations", own.Annotations, false)
	w.mounts(field, all)
	if own.Resources != nil {
		w.resources(field+".resources", *own.Resources, *all.Resources)
	}
	if all.RestartMaxRetries != nil && all.RestartPolicy != RestartOnFailure && (own.RestartMaxRetries != nil || own.RestartPolicy != "") {
		w.problem(field+".restartMaxRetries", "applies to `restartPolicy: on-failure` only; remove it, or change the policy")
	}
	if _, err := ParseSecurityOpts(own.SecurityOpts); err != nil {
		w.problem(field+".securityOpts", "%s", err)
	}
	if len(own.Command) > 0 && own.Command[0] == "" {
		w.problem(field+".command", "the executable is empty; name it, or remove the command")
	}
}

// mounts checks every mount, and that no two have one target.
func (w *walker) mounts(field string, c ContainerSpec) {
	targets := map[string]int{}
	for i, v := range c.Volumes {
		place := fmt.Sprintf("%s.volumes[%d]", field, i)
		w.mount(place, v)
		w.unique(place+".target", "target", cleanTarget(v.Target), targets)
	}
	for i, t := range c.Tmpfs {
		w.unique(fmt.Sprintf("%s.tmpfs[%d].path", field, i), "target", cleanTarget(t.Path), targets)
	}
}

func cleanTarget(target string) string {
	if target == "" {
		return ""
	}
	return path.Clean(target)
}

func (w *walker) mount(field string, v VolumeMount) {
	kind := v.Kind
	if kind == "" {
		kind = MountBind
	}
	switch source := field + ".source"; {
	case w.broken[field+".kind"]:
		return // what its other fields mean depends on it
	case kind == MountBind && !cleanAbsolute(v.Source):
		w.problem(source, "a bind mount needs an absolute path on the host as its source, without ..; %q is none", clip(v.Source))
	case kind == MountVolume && checkName(v.Source) != nil:
		w.problem(source, "the source of a volume is its name: %s", checkName(v.Source))
	case kind == MountTmpfs && v.Source != "":
		w.problem(source, "a tmpfs has no source; remove it")
	}
	if kind != MountTmpfs && v.SizeBytes != nil {
		w.problem(field+".sizeBytes", "applies to `kind: tmpfs` only; remove it")
	}
	if kind != MountTmpfs && v.Mode != nil {
		w.problem(field+".mode", "applies to `kind: tmpfs` only; remove it")
	}
	if kind == MountTmpfs && v.ReadOnly {
		w.problem(field+".readOnly", "an empty file system that nobody can write to is of no use; remove it")
	}
	if kind != MountVolume && v.Ensure {
		w.problem(field+".ensure", "applies to `kind: volume` only; remove it")
	}
}

func (w *walker) resources(field string, own, all Resources) {
	limit := all.MemoryLimit()
	if own.Memory != nil && own.MemoryLimitBytes != nil {
		w.problem(field+".memory", "memory and memoryLimitBytes are the same limit; keep one")
	}
	if own.MemoryReservation != nil && limit != nil && *own.MemoryReservation > *limit {
		w.problem(field+".memoryReservation", "is more than the memory limit; write at most that")
	}
	if own.MemorySwap != nil && (limit == nil || *own.MemorySwap < *limit) {
		w.problem(field+".memorySwap", "is memory and swap together; write memory as well, and at least as much here")
	}
}

func (w *walker) labels(field string, labels map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		switch place := join(field, key); {
		case key == "":
			w.problem(place, "a label needs a key")
		case RefusedLabel(key):
			w.problem(place, "labels that begin with %s are reserved; choose another key", strings.Join(RefusedLabelPrefixes, ", "))
		case strings.ContainsRune(key, 0):
			w.problem(place, "a zero byte cannot be part of a label; remove it")
		case len(key)+len(labels[key]) > MaxLabelBytes:
			w.problem(place, "key and value have %d bytes; containerd takes at most %d", len(key)+len(labels[key]), MaxLabelBytes)
		}
	}
}

// annotations checks those that are ours; others may say what they like.
func (w *walker) annotations(field string, annotations map[string]string, realm bool) {
	known := []string{AnnotationReconcile, AnnotationPrune}
	if realm {
		known = append(known, AnnotationTakeOver)
	}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		place, value := join(field, key), annotations[key]
		switch {
		case strings.HasPrefix(key, "reconciler.kukeon.io/"):
			w.problem(place, "annotations that begin with reconciler.kukeon.io/ are reserved; remove it")
		case !strings.HasPrefix(key, "kukeon.io/"):
		case key == AnnotationTakeOver && !realm:
			w.problem(place, "belongs on a realm; move it there")
		case !slices.Contains(known, key):
			w.problem(place, "unknown annotation%s", didYouMean(key, known))
		case !slices.Contains(annotationValues[key], value):
			w.problem(place, "%q is not one of %s", clip(value), strings.Join(annotationValues[key], ", "))
		}
	}
}
