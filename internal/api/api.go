// Package api serves and consumes the status API on the unix socket.
//
// It is HTTP with JSON bodies under /v1/, so that `curl --unix-socket` works. Keys and paths never change meaning;
// new ones may appear.
package api

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
)

// SocketPath is where the daemon with that run directory answers.
func SocketPath(runDir string) string { return filepath.Join(runDir, "api.sock") }

// Backend is the daemon behind the API. Errors whose kind is one of status's keep it over the wire.
type Backend interface {
	// Host says how the daemon is.
	Host() status.Host
	// Realms are all realms, sorted by name, with their containers.
	Realms() []status.Realm
	// Subscribe returns a slot of one that is filled whenever something may have changed, and its end.
	Subscribe() (<-chan struct{}, func())
	// Reconcile asks for a pass now, and returns before it ends; "" means every realm and the files.
	Reconcile(realm string) error
	Suspend(s state.Suspension) error
	// Resume ends a suspension; an empty container means the realm's own.
	Resume(realm, container string) error
	// Confirm releases a held removal, or removes an orphan, and says in words what it released.
	Confirm(id string) (string, error)
	// Adopt takes objects over and names them; an empty container means all of the realm.
	Adopt(ctx context.Context, realm, container string) ([]string, error)
	// Release strips our keys off a realm's objects, leaves everything running, and names the objects.
	Release(ctx context.Context, realm string) ([]string, error)
	// Events are recent ones, oldest first; realm "" means all.
	Events(realm string, since time.Time) []status.Event
}

// The kinds of errors that travel over the wire are status's: whoever implements Backend need not know this package.
var (
	ErrNotFound = status.ErrNotFound
	ErrConflict = status.ErrConflict
	ErrInvalid  = status.ErrInvalid
	ErrNotNow   = status.ErrNotNow
)

// ErrUnreachable means that no daemon answers on the socket.
var ErrUnreachable = errors.New("no daemon answers")

// kinds maps each kind of error to its word on the wire and its HTTP status.
var kinds = []struct {
	err  error
	word string
	code int
}{
	{ErrNotFound, "NotFound", 404},
	{ErrConflict, "Conflict", 409},
	{ErrInvalid, "Invalid", 400},
	{ErrNotNow, "NotNow", 503},
	{errForbidden, "Forbidden", 403},
}

// wordFailed is the word of errors that have no kind; their status is 500.
const wordFailed = "Failed"

var (
	errForbidden = errors.New("forbidden")
	errFailed    = errors.New("failed")
)

// The bodies of requests and answers.
type (
	realmList struct {
		Items []status.Realm `json:"items"`
	}
	eventList struct {
		Items []status.Event `json:"items"`
	}
	target struct {
		Realm     string `json:"realm,omitempty"`
		Container string `json:"container,omitempty"`
	}
	confirmation struct {
		ID string `json:"id"`
	}
	result struct {
		Released string   `json:"released,omitempty"` // by confirm
		Objects  []string `json:"objects,omitempty"`  // of adopt and release
	}
	failure struct {
		Kind    string `json:"kind"`
		Message string `json:"message"`
	}
)
