package status

import (
	"errors"
	"fmt"
)

// The kinds of errors with which a person's request is refused. Match them with errors.Is.
var (
	ErrNotFound = errors.New("not found")        // nothing of that name
	ErrConflict = errors.New("conflict")         // the state of things does not allow it; the message says what to do first
	ErrInvalid  = errors.New("invalid request")  // the request itself makes no sense
	ErrNotNow   = errors.New("not possible now") // something that is needed is away; try again later
)

// Refusal is an error of one of these kinds whose text is for a person: what is wrong, and what to do next.
type Refusal struct {
	Kind    error
	Message string
}

// Refuse makes a Refusal.
func Refuse(kind error, format string, args ...any) *Refusal {
	return &Refusal{kind, fmt.Sprintf(format, args...)}
}

func (r *Refusal) Error() string { return r.Message }

// Unwrap returns the kind.
func (r *Refusal) Unwrap() error { return r.Kind }
