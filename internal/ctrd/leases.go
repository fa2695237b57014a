package ctrd

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// leasePrefix begins the ids of all our leases.
const leasePrefix = "kukeon/"

var unsafeInLease = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// leaseID is kukeon/<realm>/<operation>/<object>, the object made safe.
func leaseID(realm state.RealmName, operation, object string) string {
	return strings.Join([]string{"kukeon", string(realm), operation, unsafeInLease.ReplaceAllString(object, "_")}, "/")
}

type leaseKey struct {
	ns state.Namespace
	id string
}

// heldLease is a lease that operations under way share.
type heldLease struct {
	// turn is held through the calls that make and delete the lease. It is a channel and no mutex because these may
	// take long, and simulated time passes only while everybody waits for something that it knows.
	turn  chan struct{}
	users int  // guarded by leaseKeeper.mu
	keep  bool // guarded by turn: what is under it is worth resuming
	made  bool // guarded by turn
}

func (l *heldLease) lock()   { l.turn <- struct{}{} }
func (l *heldLease) unlock() { <-l.turn }

// leaseKeeper makes leases for the first who needs them and deletes them after the last: one lease for a burst of
// creates costs less than one each, and protects as well.
type leaseKeeper struct {
	svc  Services
	mu   sync.Mutex
	held map[leaseKey]*heldLease
}

// acquire returns a context whose writes are under the lease, and a function that ends that. With keep, what the
// last user leaves behind stays protected until the lease expires or is reused.
func (k *leaseKeeper) acquire(
	ctx context.Context, ns state.Namespace, id string, expires time.Duration, resume bool,
) (context.Context, func(keep bool) error, error) {
	key := leaseKey{ns, id}
	l := k.enter(key)

	if err := k.ensure(ctx, key, l, expires, resume); err != nil {
		return nil, nil, errors.Join(err, k.release(ctx, key, l, resume))
	}
	return leases.WithLease(ctx, id), func(keep bool) error { return k.release(ctx, key, l, keep) }, nil
}

// ensure makes the lease. One that an ended process left behind is reused when what it protects is worth resuming, and
// made anew otherwise, since it could expire at any time.
func (k *leaseKeeper) ensure(ctx context.Context, key leaseKey, l *heldLease, expires time.Duration, resume bool) error {
	l.lock()
	defer l.unlock()
	if l.made {
		return nil
	}
	create := func(ctx context.Context) error { return k.svc.CreateLease(ctx, string(key.ns), key.id, expires) }
	err := change(ctx, "making lease "+key.id, create)
	if errdefs.IsAlreadyExists(err) && !resume {
		if err = k.delete(ctx, key); err == nil {
			err = change(ctx, "making lease "+key.id, create)
		}
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	l.made = true
	return nil
}

// release gives the lease up; the last one deletes it.
func (k *leaseKeeper) release(ctx context.Context, key leaseKey, l *heldLease, keep bool) error {
	l.lock()
	defer l.unlock()
	defer k.leave(key, l)
	l.keep = l.keep || keep
	k.mu.Lock()
	last := l.users == 1
	k.mu.Unlock()
	if !last || !l.made {
		return nil
	}
	// Whoever comes now waits for its turn and makes it again.
	l.made = false
	keep, l.keep = l.keep, false
	if keep {
		return nil
	}
	return k.delete(context.WithoutCancel(ctx), key)
}

// enter counts one more user of a lease.
func (k *leaseKeeper) enter(key leaseKey) *heldLease {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.held[key]
	if l == nil {
		l = &heldLease{turn: make(chan struct{}, 1)}
		k.held[key] = l
	}
	l.users++
	return l
}

// leave counts one user less and forgets a lease that has none.
func (k *leaseKeeper) leave(key leaseKey, l *heldLease) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.held, key)
	}
}

func (k *leaseKeeper) delete(ctx context.Context, key leaseKey) error {
	err := change(ctx, "deleting lease "+key.id, func(ctx context.Context) error {
		return k.svc.DeleteLease(ctx, string(key.ns), key.id)
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// sweep deletes a lease that an ended process left behind, unless it is in use again.
func (k *leaseKeeper) sweep(ctx context.Context, ns state.Namespace, id string) error {
	key := leaseKey{ns, id}
	l := k.enter(key)
	defer k.leave(key, l)
	l.lock()
	defer l.unlock()
	if l.made {
		return nil
	}
	return k.delete(ctx, key)
}

// inUse reports whether an operation under way holds the lease.
func (k *leaseKeeper) inUse(ns state.Namespace, id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.held[leaseKey{ns, id}]
	return l != nil && l.users > 0
}
