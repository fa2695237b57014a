package ctrd

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// Summaries returns every namespace of the host, sorted. Containers are counted in those that carry our owner's label
// or are asked for; the counts of the others are zero and say nothing. One that is asked for is looked up even when no event
// has told of it yet. Between changes it makes no call for the
// namespaces that are observed.
func (h *Host) Summaries(ctx context.Context, extra ...state.Namespace) ([]state.NamespaceSummary, error) {
	owner, err := h.Owner(ctx)
	if err != nil {
		return nil, err
	}
	spaces, err := h.readSpaces(ctx)
	if err != nil {
		return nil, err
	}
	if spaces, err = h.withExtra(ctx, spaces, extra); err != nil {
		return nil, err
	}
	out := make([]state.NamespaceSummary, 0, len(spaces))
	for ns, labels := range spaces {
		out = append(out, state.NamespaceSummary{Name: ns, Labels: labels, Incomplete: labels == nil})
	}
	slices.SortFunc(out, func(a, b state.NamespaceSummary) int { return cmp.Compare(a.Name, b.Name) })
	for i := range out {
		s := &out[i]
		if s.Incomplete || s.Labels[state.LabelOwner] == "" && !slices.Contains(extra, s.Name) {
			continue
		}
		all, err := h.records(ctx, s.Name)
		switch {
		case outcome.IsUnavailable(err):
			return nil, err
		case err != nil:
			h.cfg.Log.V(1).Info("containers could not be counted", "namespace", s.Name, "error", err.Error())
			s.Incomplete = true
			continue
		}
		s.Containers = len(all)
		for _, c := range all {
			if ownerOf(c) == owner {
				s.Ours++
			}
		}
	}
	return out, nil
}

// readSpaces returns the labels of every namespace; nil for one that could not be read. They are read again after an
// event about any namespace.
func (h *Host) readSpaces(ctx context.Context) (map[state.Namespace]map[string]string, error) {
	h.mu.Lock()
	cached := h.spaces
	if len(cached) == 0 && h.streaming {
		h.spaces = map[state.Namespace]map[string]string{} // an event meanwhile takes it away again
	}
	h.mu.Unlock()
	if len(cached) > 0 {
		return cached, nil
	}
	complete := true
	names, err := list(ctx, "namespaces", h.svc.Namespaces)
	if err != nil {
		return nil, err
	}
	spaces := map[state.Namespace]map[string]string{}
	for _, ns := range names {
		labels, err := look(ctx, "reading namespace "+ns, func(ctx context.Context) (map[string]string, error) {
			return h.svc.NamespaceLabels(ctx, ns)
		})
		switch {
		case outcome.IsUnavailable(err):
			return nil, err
		case errdefs.IsNotFound(err):
			continue // gone meanwhile
		case err != nil:
			spaces[state.Namespace(ns)] = nil
			complete = false
		default:
			spaces[state.Namespace(ns)] = maps.Clone(labels)
			if labels == nil {
				spaces[state.Namespace(ns)] = map[string]string{}
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.spaces != nil && complete {
		h.spaces = spaces
	}
	return spaces, nil
}

// withExtra asks for those namespaces that are known by no event yet: the caller is about to decide on what they hold.
func (h *Host) withExtra(
	ctx context.Context, spaces map[state.Namespace]map[string]string, extra []state.Namespace,
) (map[state.Namespace]map[string]string, error) {
	found := map[state.Namespace]map[string]string{}
	for _, ns := range extra {
		if _, known := spaces[ns]; known {
			continue
		}
		labels, err := h.readLabels(ctx, ns)
		switch {
		case outcome.IsUnavailable(err):
			return nil, err
		case errdefs.IsNotFound(err), errdefs.IsInvalidArgument(err): // a name that cannot be is not there either
		case err != nil:
			found[ns] = nil
		default:
			found[ns] = map[string]string{}
			maps.Copy(found[ns], labels)
		}
	}
	if len(found) == 0 {
		return spaces, nil
	}
	h.forgetSpaces()
	maps.Copy(found, spaces)
	return found, nil
}

// forgetSpaces has the namespaces listed anew.
func (h *Host) forgetSpaces() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spaces = nil
}

// records returns the container records of a namespace, from the mirror when that is clean.
func (h *Host) records(ctx context.Context, ns state.Namespace) ([]containers.Container, error) {
	h.mu.Lock()
	m, streaming := h.mirrors[ns], h.streaming
	h.mu.Unlock()
	if m != nil && streaming {
		if all, clean := m.cleanRecords(); clean {
			return all, nil
		}
	}
	return list(ctx, "containers of "+string(ns), func(ctx context.Context) ([]containers.Container, error) {
		return h.svc.Containers(ctx, string(ns))
	})
}

func (m *mirror) cleanRecords() ([]containers.Container, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clean := m.exists && !m.stale().records
	var all []containers.Container
	for _, e := range m.entries {
		clean = clean && !e.record.stale() && e.record.reading == 0
		if e.recorded {
			all = append(all, e.container)
		}
	}
	return all, clean
}

// ownerOf is who owns a container: its label or, when somebody removed that, our extension's copy.
func ownerOf(c containers.Container) state.Owner {
	o := state.ObservedContainer{Labels: c.Labels}
	if owner := o.Owner(); owner != "" {
		return owner // by far the most: the copy costs a decoding
	}
	if ext := c.Extensions[state.ExtensionSpec]; ext != nil {
		if r, err := state.DecodeRecord(ext.GetValue()); err == nil {
			o.Record = &r
		}
	}
	return o.Owner()
}

// locate returns the other namespaces of the host that have an image, sorted. What cannot be read counts as not having
// it; it fails only when nothing can be read at all.
func (h *Host) locate(ctx context.Context, ref string, except state.Namespace) ([]state.Namespace, error) {
	spaces, err := h.readSpaces(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking for image %s: %w", ref, err)
	}
	all := slices.Sorted(maps.Keys(spaces))
	has := make([]bool, len(all))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(imageReads)
	for i, ns := range all {
		if ns == except {
			continue
		}
		g.Go(func() error {
			_, err := look(ctx, "reading image "+ref, func(ctx context.Context) (images.Image, error) {
				return h.svc.Image(ctx, string(ns), ref)
			})
			has[i] = err == nil
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []state.Namespace
	for i, ns := range all {
		if has[i] {
			out = append(out, ns)
		}
	}
	return out, nil
}
