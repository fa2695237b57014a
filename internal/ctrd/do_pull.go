package ctrd

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// pull fetches and unpacks an image; content that is missing of one that is there is fetched again. What was fetched by
// a pull that failed stays under its lease, and the next one goes on from there.
func (h *Host) pull(ctx context.Context, at target, op plan.Pull) error {
	_, err := h.image(ctx, at.ns, op.Ref)
	present := err == nil
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	owner, err := h.Owner(ctx)
	if err != nil {
		return err
	}
	leased, release, err := h.leases.acquire(ctx, at.ns, leaseID(at.realm, "pull", op.Ref), state.PullLease, true)
	if err != nil {
		return err
	}
	asks := !present || op.Refresh
	if asks {
		err = h.fetch(leased, at, op, owner)
		if err != nil && present && ctx.Err() == nil && !outcome.IsUnavailable(err) {
			h.cfg.Log.V(1).Info("tag could not be looked up; the local image serves", "image", op.Ref, "error", err.Error())
			err = nil
		}
		if err == nil {
			h.mirror(at.ns).sawRegistry(op.Ref, h.cfg.Now())
		}
	}
	if err == nil {
		err = h.unpackUnderLease(leased, at.ns, op.Ref)
	}
	if errdefs.IsNotFound(err) && !asks { // the record is there, and content that it leads to is gone
		if err = h.fetch(leased, at, op, owner); err == nil {
			err = h.unpackUnderLease(leased, at.ns, op.Ref)
		}
	}
	h.ended(at.ns, release(err != nil))
	return err
}

// fetch asks the registry. It has no deadline but the lease's: slow links take hours.
func (h *Host) fetch(ctx context.Context, at target, op plan.Pull, owner state.Owner) error {
	// What another realm is fetching just now is found in containerd afterwards.
	done, err := h.pulls.take(ctx, op.Ref)
	if err != nil {
		return err
	}
	defer done()
	release, err := h.acquire(ctx, at.ns, SlotPull)
	if err != nil {
		return err
	}
	defer release()
	bounded, cancel := context.WithTimeout(ctx, state.PullLease)
	defer cancel()
	login := &login{registry: registryOf(op.Ref), credentials: op.Credentials, asked: map[string]string{}}
	_, err = h.svc.Pull(bounded, string(at.ns), op.Ref, PullOptions{
		Labels:   map[string]string{state.LabelOwner: string(owner), state.LabelRealm: string(at.realm)},
		HostsDir: h.cfg.RegistryConfigDir, Login: login.at,
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case bounded.Err() != nil:
		return fmt.Errorf("image %s was not there within %s", op.Ref, state.PullLease)
	case errdefs.IsUnavailable(err):
		return &outcome.Unavailable{Err: err}
	}
	return h.pullError(ctx, at, op.Ref, login, err)
}

// Remedy is the command that brings an image in from another namespace of this host; empty when none has it.
func (h *Host) Remedy(ctx context.Context, realm state.RealmName, ns state.Namespace, ref string) string {
	others, err := h.locate(ctx, ref, ns)
	if err != nil || len(others) == 0 {
		return ""
	}
	return fmt.Sprintf("it is in namespace %s: `kukeon-reconciler images copy --from %[1]s --to %[2]s %[3]s`", others[0], realm, ref)
}

// sawRegistry notes that the registry was asked about a tag.
func (m *mirror) sawRegistry(ref string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lookedUp[ref] = now
}
