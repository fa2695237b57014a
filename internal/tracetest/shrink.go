package tracetest

import (
	"context"
	"slices"
)

// Shrink takes steps out of a trace for as long as the rest still makes a difference, and returns the shortest that it
// came to. It gives up when the context ends.
func Shrink(ctx context.Context, t Trace, differs func(context.Context, Trace) bool) Trace {
	for size := len(t) / 2; size > 0; {
		shorter := false
		for at := 0; at < len(t); {
			if ctx.Err() != nil {
				return t
			}
			rest := slices.Concat(t[:at], t[min(at+size, len(t)):])
			if differs(ctx, rest) {
				t, shorter = rest, true
			} else {
				at += size
			}
		}
		if !shorter || size > len(t) {
			size /= 2
		}
	}
	return t
}
