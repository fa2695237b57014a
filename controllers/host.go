// Package controllers decides when each realm is reconciled and strings the stages together, one worker per
// realm; it declares the Host interface it consumes.
package controllers

import (
	"context"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

// Host is what the controllers need of containerd. Errors are outcome's kinds.
type Host interface {
	// Run keeps the connection and the event stream until ctx ends. wake names a namespace in which something
	// may have changed; connected is told nil when the stream is up and everything is to be looked at anew, and
	// the error when it is lost.
	Run(ctx context.Context, wake func(state.Namespace), connected func(error)) error
	// Owner is the daemon's UUID, which our objects carry.
	Owner(ctx context.Context) (state.Owner, error)
	// Summaries lists all namespaces of the host. Containers are counted in those that carry our owner's stamp, and in
	// the extra ones.
	Summaries(ctx context.Context, extra ...state.Namespace) ([]state.NamespaceSummary, error)
	// Observe says what a namespace holds; what could not be read is marked unknown.
	Observe(ctx context.Context, ns state.Namespace) (state.Observed, error)
	// Resync makes the next Observe of the namespace read everything anew.
	Resync(ns state.Namespace)
	// Recheck makes the next Observe of the namespace ask about each task that runs.
	Recheck(ns state.Namespace)
	// RefreshFiles brings the copies of the host's files that are mounted into a namespace's containers up to date.
	// It makes no call.
	RefreshFiles(ns state.Namespace) error
	// Remedy is the command that brings an image in from another namespace of this host; empty when none has it.
	Remedy(ctx context.Context, realm state.RealmName, ns state.Namespace, ref string) string
	// Do carries one operation out.
	Do(ctx context.Context, ns state.Namespace, realm state.RealmName, op plan.Operation) error
}

// Source is the manifest directory.
type Source interface {
	// Read looks at the whole directory.
	Read(ctx context.Context) manifests.Scan
	// Changed signals that a new look may be worth it. Signals may be lost or doubled.
	Changed() <-chan struct{}
}

// Store keeps what has to survive us. Every write is on disk when it returns.
type Store interface {
	Load() (state.Accepted, error)
	Save(state.Accepted) error
	Completions(realm state.RealmName) map[state.ContainerID]state.Completion
	Complete(realm state.RealmName, id state.ContainerID, c state.Completion) error
	// Imports are the archives that were imported into a realm; SetImports replaces them.
	Imports(realm state.RealmName) []state.Import
	SetImports(realm state.RealmName, imports []state.Import) error
	// Forget drops completions of the ids, or all that is remembered of the realm when none is given.
	Forget(realm state.RealmName, ids ...state.ContainerID) error
	Suspensions() []state.Suspension
	Suspend(s state.Suspension) error
	Resume(realm state.RealmName, container state.ContainerID) error
}
