package ctrd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// change makes one mutating call. It is bounded and, once begun, never cancelled: the next pass decides what follows.
func change(ctx context.Context, what string, call func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), state.RPCDeadline)
	defer cancel()
	err := call(ctx)
	switch {
	case err == nil:
		return nil
	case errdefs.IsUnavailable(err):
		return &outcome.Unavailable{Err: fmt.Errorf("%s: %w", what, err)}
	case ctx.Err() != nil, isDeadline(err), errdefs.IsCanceled(err):
		return &outcome.Unknown{Err: fmt.Errorf("%s: %w", what, err)}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// look makes one reading call on one object. Its error keeps the errdefs kind; a deadline is outcome.Unknown.
func look[T any](ctx context.Context, what string, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, state.ObserveDeadline)
	defer cancel()
	v, err := call(ctx)
	if err != nil {
		err = readError(what, err)
	}
	return v, err
}

// readError names the kind of a failed read.
func readError(what string, err error) error {
	err = fmt.Errorf("%s: %w", what, err)
	switch {
	case errdefs.IsUnavailable(err):
		return &outcome.Unavailable{Err: err}
	case isDeadline(err):
		return &outcome.Unknown{Err: err}
	}
	return err
}

func isDeadline(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errdefs.IsDeadlineExceeded(err)
}

// definite reports whether the daemon answered, so that the call is known to have failed without effect.
func definite(err error) bool {
	var unknown *outcome.Unknown
	return err != nil && !errors.As(err, &unknown) && !outcome.IsUnavailable(err)
}
