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
	w.credentials(r.Spec.RegistryCredentials)
	seen, archives := map[string]int{}, map[string]int{}
	for i, image := range r.Spec.Images {
		field := fmt.Sprintf("spec.images[%d]", i)
		w.unique(field+".image", "image", image.Image, seen)
		w.unique(field+".archive", "archive", image.Archive, archives)
		switch {
		case w.broken[field+".image"], w.broken[field+".archive"]:
		case image.Image == "" && image.Archive == "":
			w.problem(field, "it names nothing; write image, or archive")
		case image.Image != "" && image.Archive != "":
			w.problem(field+".archive", "stands beside image; write two entries")
		}
	}
	var defaults *ContainerSpec
	if r.Spec.Defaults != nil && r.Spec.Defaults.Container != nil {
		defaults = r.Spec.Defaults.Container
		if defaults.ID != "" {
			w.problem("spec.defaults.container.id", "defaults carry no id; remove it")
		}
		w.container("spec.defaults.container", *defaults, defaults.conflicts(false))
	}
	seen = map[string]int{}
	for i, c := range r.Spec.Containers {
		field := fmt.Sprintf("spec.containers[%d]", i)
		w.unique(field+".id", "id", c.ID, seen)
		w.container(field, c, c.WithDefaults(defaults).Conflicts())
	}
}

func validateContainerDocument(w *walker, c *Container) {
	w.labels("metadata.labels", c.Metadata.Labels)
	w.annotations("metadata.annotations", c.Metadata.Annotations, false)
	if id := c.Spec.ID; id != "" && c.Metadata.Name != "" && id != c.Metadata.Name {
		w.problem("spec.id", "%q is not the document's metadata.name %q; write the same in both, or leave the id away", id, c.Metadata.Name)
	}
	w.container("spec", c.Spec.ContainerSpec, c.Spec.conflicts(false)) // the defaults stand in another document
}

// credentials reports what is wrong with a realm's credentials, beyond their fields.
func (w *walker) credentials(all []RegistryCredential) {
	seen := map[string]int{}
	for i, c := range all {
		field := fmt.Sprintf("spec.registryCredentials[%d]", i)
		switch host, err := NormalizeRegistry(c.ServerAddress); {
		case w.broken[field+".serverAddress"]:
		case c.ServerAddress == "":
			w.unique(field, "serverAddress", "(that of each image)", seen)
		case err == nil:
			w.unique(field+".serverAddress", "serverAddress", host, seen)
		}
		switch {
		case w.broken[field+".password"], w.broken[field+".passwordFile"]:
		case c.Password == "" && c.PasswordFile == "":
			w.problem(field, "there is no password; write passwordFile, or password")
		case c.Password != "" && c.PasswordFile != "":
			w.problem(field+".password", "is also in passwordFile; keep one of the two")
		}
	}
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

// container reports what the fields of a container, written at field, contradict.
func (w *walker) container(field string, c ContainerSpec, conflicts []Conflict) {
	w.labels(field+".labels", c.Labels)
	w.annotations(field+".annotations", c.Annotations, false)
	for _, conflict := range conflicts {
		if w.broken[join(field, parentField(conflict.Field)+".kind")] {
			continue // what the other fields of a mount mean depends on its kind
		}
		w.problem(join(field, conflict.Field), "%s", conflict.Message)
	}
}

// Conflict is a contradiction between the fields of one container.
type Conflict struct {
	// Field is relative to the container, such as volumes[0].source.
	Field   string
	Message string
}

// Conflicts returns what is wrong with a container whose defaults are filled in, beyond what its fields tell one by
// one. Decode reports the conflicts of inline containers; for a Container document, whose realm's defaults stand
// elsewhere, whoever fills them in has to ask again.
func (c ContainerSpec) Conflicts() []Conflict { return c.conflicts(true) }

// conflicts of a container that is not complete leave out those which defaults, or a container, may yet resolve.
func (c ContainerSpec) conflicts(complete bool) []Conflict {
	var out conflicts
	if complete && c.Image == "" {
		out.add("image", "required, and missing; write the image, here or in spec.defaults.container")
	}
	if c.RestartMaxRetries != nil && c.RestartPolicy != RestartOnFailure && (complete || c.RestartPolicy != "") {
		out.add("restartMaxRetries", "applies to `restartPolicy: on-failure` only; remove it, or change the policy")
	}
	written := slices.DeleteFunc(slices.Clone(c.SecurityOpts), func(opt string) bool { return opt == "" }) // refused ones are empty
	if _, err := ParseSecurityOpts(written); err != nil {
		out.add("securityOpts", "%s", err)
	}
	if len(c.Command) > 0 && c.Command[0] == "" {
		out.add("command[0]", "the executable is empty; name it, or remove the command")
	}
	if c.Resources != nil {
		out.resources(*c.Resources, complete)
	}
	targets := map[string]string{}
	for i, v := range c.Volumes {
		field := fmt.Sprintf("volumes[%d]", i)
		out.mount(field, v)
		out.target(field+".target", v.Target, targets)
	}
	for i, t := range c.Tmpfs {
		out.target(fmt.Sprintf("tmpfs[%d].path", i), t.Path, targets)
	}
	return out
}

type conflicts []Conflict

func (c *conflicts) add(field, format string, args ...any) {
	*c = append(*c, Conflict{field, fmt.Sprintf(format, args...)})
}

// target reports a second mount over one target. Taken maps targets to the fields that have them.
func (c *conflicts) target(field, target string, taken map[string]string) {
	if target == "" {
		return
	}
	target = path.Clean(target)
	if first, twice := taken[target]; twice {
		c.add(field, "%s is mounted over twice, first by %s; keep one, or choose another path", clip(target), first)
		return
	}
	taken[target] = field
}

func (c *conflicts) mount(field string, v VolumeMount) {
	kind := v.Kind
	if kind == "" {
		kind = MountBind
	}
	switch source := field + ".source"; {
	case kind == MountBind && !cleanAbsolute(v.Source):
		c.add(source, "a bind mount needs an absolute path on the host as its source, without ..; %q is none", clip(v.Source))
	case kind == MountVolume && checkName(v.Source) != nil:
		c.add(source, "the source of a volume is its name: %s", checkName(v.Source))
	case kind == MountTmpfs && v.Source != "":
		c.add(source, "a tmpfs has no source; remove it")
	}
	if kind != MountTmpfs && v.SizeBytes != nil {
		c.add(field+".sizeBytes", "applies to `kind: tmpfs` only; remove it")
	}
	if kind != MountTmpfs && v.Mode != nil {
		c.add(field+".mode", "applies to `kind: tmpfs` only; remove it")
	}
	if kind == MountTmpfs && v.ReadOnly {
		c.add(field+".readOnly", "an empty file system that nobody can write to is of no use; remove it")
	}
	if kind != MountVolume && v.Ensure {
		c.add(field+".ensure", "applies to `kind: volume` only; remove it")
	}
}

func (c *conflicts) resources(r Resources, complete bool) {
	limit := r.MemoryLimit()
	if r.Memory != nil && r.MemoryLimitBytes != nil {
		c.add("resources.memory", "memory and memoryLimitBytes are the same limit; keep one")
	}
	if r.MemoryReservation != nil && limit != nil && *r.MemoryReservation > *limit {
		c.add("resources.memoryReservation", "is more than the memory limit; write at most that")
	}
	if r.MemorySwap != nil && (limit == nil && complete || limit != nil && *r.MemorySwap < *limit) {
		c.add("resources.memorySwap", "is memory and swap together; write memory as well, and at least as much here")
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
