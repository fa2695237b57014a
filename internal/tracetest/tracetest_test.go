package tracetest_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kukeon.io/kukeon-reconciler/internal/testenv"
	"kukeon.io/kukeon-reconciler/internal/tracetest"
)

var (
	traces   = flag.Uint64("traces", 10, "how many traces to play on each version of containerd")
	seed     = flag.Uint64("seed", 1, "what the traces are drawn from")
	only     = flag.Int64("trace", -1, "the number of the one trace to play")
	shrink   = flag.Duration("shrink", 2*time.Minute, "how long to look for a shorter trace that differs too")
	patience = flag.Duration("patience", tracetest.Patience, "how long the two may take to agree")
	keepOn   = flag.Bool("keep-going", false, "play the other traces too when one differs")
)

func TestTheFakeAnswersLikeContainerd(t *testing.T) {
	versions := []string{testenv.Current, testenv.Debian}
	if v := os.Getenv("CONTAINERD_VERSION"); v != "" {
		versions = strings.Split(v, ",")
	}
	for _, version := range versions {
		t.Run(version, func(t *testing.T) { compare(t, version) })
	}
}

const (
	// enough is how many traces show every kind of result.
	enough = 50
	// plenty is how many show a success of every method: few draw a pause, and what ends it.
	plenty = 250
)

// run compares the fake and one daemon.
type run struct {
	*testing.T
	version string
	real    *realDaemon
	tally   tracetest.Tally
	played  int
}

func compare(t *testing.T, version string) {
	r := &run{T: t, version: version, real: startReal(t, version)}
	first, last := uint64(0), *traces
	if *only >= 0 {
		first, last = uint64(*only), uint64(*only)+1
	}
	began, differ := time.Now(), 0
	for n := first; n < last; n++ {
		differs, err := r.differs(n)
		if err != nil {
			t.Fatalf("trace %d of seed %d on containerd %s: %v\n%s", n, *seed, version, err, tracetest.Draw(*seed, n))
		}
		if !differs {
			continue
		}
		if differ++; !*keepOn {
			break
		}
	}
	took := time.Since(began)
	t.Logf("%d traces of seed %d, %d steps in %v, %d differ; kinds of results: %s\n%s", last-first, *seed, r.tally.Steps(),
		took.Round(time.Millisecond), differ, strings.Join(r.tally.Kinds(), " "), r.tally.String())
	if *only >= 0 || differ > 0 && !*keepOn {
		return
	}
	if missing := r.tally.Missing(); len(missing) > 0 {
		t.Errorf("never called: %s", strings.Join(missing, ", "))
	}
	if fruitless := r.tally.Fruitless(); *traces >= plenty && len(fruitless) > 0 {
		t.Errorf("never succeeded: %s", strings.Join(fruitless, ", "))
	}
	for _, k := range []string{"ok", "plain", "NotFound", "AlreadyExists", "FailedPrecondition", "InvalidArgument", "Unavailable",
		"Deadline", "Canceled"} {
		if *traces >= enough && !slices.Contains(r.tally.Kinds(), k) {
			t.Errorf("no result was %s", k)
		}
	}
}

// differs plays a trace, and shortens it when it shows a difference.
func (r *run) differs(number uint64) (bool, error) {
	trace := tracetest.Draw(*seed, number)
	difference, err := r.play(r.Context(), trace, &r.tally, *patience)
	if difference == nil || err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), *shrink)
	defer cancel()
	short := tracetest.Shrink(ctx, trace[:difference.Step], func(_ context.Context, shorter tracetest.Trace) bool {
		d, err := r.play(r.Context(), shorter, new(tracetest.Tally), min(*patience, 2*time.Second))
		if d != nil {
			difference = d
		}
		return d != nil && err == nil
	})
	r.Errorf("trace %d of seed %d differs on containerd %s; one is the fake, other is real\n%s%s\n"+
		"again: CONTAINERD_VERSION=%s go test ./internal/tracetest -count=1 -args -seed %d -trace %d",
		number, *seed, r.version, short, difference, r.version, *seed, number)
	return true, nil
}

// play plays a trace in namespaces of its own.
func (r *run) play(ctx context.Context, t tracetest.Trace, tally *tracetest.Tally,
	patience time.Duration,
) (*tracetest.Difference, error) {
	r.played++
	one, err := newFake(ctx, r.version, r.real)
	if err != nil {
		return nil, err
	}
	pair := tracetest.Pair{One: one, Other: &r.real.side, Patience: patience}
	return pair.Play(ctx, t, fmt.Sprintf("tr-%s-%d", r.real.suffix, r.played), tally)
}
