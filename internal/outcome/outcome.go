// Package outcome names the ways an operation can fall short, so that retry is decided by type and never by
// text.
package outcome

import (
	"errors"
	"fmt"
)

// Waiting means that nothing is wrong but something is not there yet; the wake-up that brings it is expected.
// It is retried like any failure, without being counted as one.
type Waiting struct{ For string }

func (e *Waiting) Error() string { return "waiting for " + e.For }

// Stalled means that no retry helps until a person changes something; Remedy says what. It is still retried at
// the slowest pace, because the world changes without telling us.
type Stalled struct {
	Why    string
	Remedy string
	Err    error
}

func (e *Stalled) Error() string {
	s := e.Why
	if e.Err != nil {
		s = fmt.Sprintf("%s: %v", s, e.Err)
	}
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

func (e *Stalled) Unwrap() error { return e.Err }

// Conflict means that an object under our name is not ours. It is never touched.
type Conflict struct{ Object, Owner string }

func (e *Conflict) Error() string {
	if e.Owner == "" {
		return e.Object + " exists and is not ours"
	}
	return fmt.Sprintf("%s exists and belongs to %s", e.Object, e.Owner)
}

// Unknown means that a deadline passed or the connection broke after the request was sent: it may or may not
// have been carried out. The object is observed again before anything else is decided about it.
type Unknown struct{ Err error }

func (e *Unknown) Error() string { return fmt.Sprintf("outcome unknown: %v", e.Err) }

func (e *Unknown) Unwrap() error { return e.Err }

// Unavailable means that containerd cannot be reached; everything is retried when it is back.
type Unavailable struct{ Err error }

func (e *Unavailable) Error() string { return fmt.Sprintf("containerd is unavailable: %v", e.Err) }

func (e *Unavailable) Unwrap() error { return e.Err }

// IsStalled reports whether err says that a person has to change something first.
func IsStalled(err error) bool { return errors.As(err, new(*Stalled)) }

// IsUnavailable reports whether err says that containerd cannot be reached.
func IsUnavailable(err error) bool { return errors.As(err, new(*Unavailable)) }
