package ctrd

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// ensureNamespace creates the namespace, or sets those of its labels that differ.
func (h *Host) ensureNamespace(ctx context.Context, op plan.EnsureNamespace) error {
	if err := refuseLabels(op.Labels); err != nil {
		return err
	}
	ns := string(op.Namespace)
	err := change(ctx, "creating namespace "+ns, func(ctx context.Context) error {
		return h.svc.CreateNamespace(ctx, ns, op.Labels)
	})
	if !errdefs.IsAlreadyExists(err) {
		return err
	}
	have, err := h.readLabels(ctx, op.Namespace)
	if err != nil {
		return err
	}
	if owner := have[state.LabelOwner]; owner != "" && !op.TakeOver {
		if err := h.ours(ctx, "namespace "+ns, state.Owner(owner)); err != nil {
			return err
		}
	}
	for _, k := range op.Drop { // first: the label that tells of them goes with the others
		if have[k] == "" {
			continue
		}
		if err := h.setNamespaceLabel(ctx, op.Namespace, k, ""); err != nil {
			return err
		}
	}
	for _, k := range ownerLast(slices.Collect(maps.Keys(op.Labels))) {
		if have[k] == op.Labels[k] {
			continue
		}
		if err := h.setNamespaceLabel(ctx, op.Namespace, k, op.Labels[k]); err != nil {
			return err
		}
	}
	return nil
}

// ownerLast sorts label keys so that the owner comes last: a namespace that carries it carries the rest as well.
func ownerLast(keys []string) []string {
	rank := func(k string) int {
		if k == state.LabelOwner {
			return 1
		}
		return 0
	}
	return slices.SortedFunc(slices.Values(keys), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
}

// deleteNamespace deletes a namespace of ours; one that still holds something is waited for, since content and
// snapshots go with the garbage collection.
func (h *Host) deleteNamespace(ctx context.Context, op plan.DeleteNamespace) error {
	have, err := h.readLabels(ctx, op.Namespace)
	if err != nil {
		return absent(err)
	}
	if len(have) > 0 {
		if err := h.ours(ctx, "namespace "+string(op.Namespace), state.Owner(have[state.LabelOwner])); err != nil {
			return err
		}
	}
	h.removeEmptied(op.Namespace)
	err = absent(change(ctx, "deleting namespace "+string(op.Namespace), func(ctx context.Context) error {
		return h.svc.DeleteNamespace(ctx, string(op.Namespace))
	}))
	if errdefs.IsFailedPrecondition(err) {
		return &outcome.Waiting{For: "namespace " + string(op.Namespace) + " to become empty"}
	}
	return err
}

// removeEmptied removes the directories on the host that a namespace's last container has left empty. It comes before
// the last write, since nobody would look for them after it; and a failure is no reason to keep the namespace.
func (h *Host) removeEmptied(ns state.Namespace) {
	err := os.Remove(filepath.Join(h.cfg.FilesDir, string(ns)))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		err = nil
	}
	if err = errors.Join(err, h.cfg.Machine.Forget(ns)); err != nil {
		h.cfg.Log.V(1).Info("directories of a removed namespace stay behind", "namespace", ns, "error", err.Error())
	}
}

// releaseNamespace strips our keys, the owner last.
func (h *Host) releaseNamespace(ctx context.Context, op plan.ReleaseNamespace) error {
	have, err := h.readLabels(ctx, op.Namespace)
	if err != nil {
		return absent(err)
	}
	h.removeEmptied(op.Namespace)
	for _, k := range ownerLast(op.Drop) {
		if have[k] == "" {
			continue
		}
		if err := absent(h.setNamespaceLabel(ctx, op.Namespace, k, "")); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) readLabels(ctx context.Context, ns state.Namespace) (map[string]string, error) {
	return look(ctx, "reading namespace "+string(ns), func(ctx context.Context) (map[string]string, error) {
		return h.svc.NamespaceLabels(ctx, string(ns))
	})
}

func (h *Host) setNamespaceLabel(ctx context.Context, ns state.Namespace, k, v string) error {
	return change(ctx, "labelling namespace "+string(ns), func(ctx context.Context) error {
		return h.svc.SetNamespaceLabel(ctx, string(ns), k, v)
	})
}
