package tracetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Length is how many steps a trace draws after those that it begins with.
const Length = 20

// turns is how many steps of a trace are not left to chance: each method has its turn.
const turns = 4

// tenants are the namespaces whose content is compared.
var tenants = []string{"a", "b"}

// Trace is a sequence of steps.
type Trace []Step

// String prints the trace, a step a line.
func (t Trace) String() string {
	var b strings.Builder
	for i, s := range t {
		fmt.Fprintf(&b, "  %2d %s\n", i+1, s.Text)
	}
	return b.String()
}

// Draw draws the trace with a number from a seed: always the same one. A few steps of each are not left to chance, so
// that few traces are enough to call every method.
func Draw(seed, number uint64) Trace {
	d := dice{rand.New(rand.NewPCG(seed, number))}
	t := d.opening()
	all := catalogue()
	sum := 0
	for _, k := range all {
		sum += k.weight
	}
	one := func() kind {
		n := d.IntN(sum)
		for _, k := range all {
			if n -= k.weight; n < 0 {
				return k
			}
		}
		panic("weights that do not add up")
	}
	calls := slices.DeleteFunc(slices.Clone(all), func(k kind) bool { return !k.call() })
	down := Length // in most traces nobody restarts the daemon, which takes its time
	if d.one(5) {
		down = d.IntN(Length)
	}
	for i := range Length {
		switch {
		case i == down:
			k := calls[d.IntN(len(calls))]
			// A stream ends by its context or by the daemon's absence, whichever is sooner; a pull goes on trying.
			for k.method == "Subscribe" || k.method == "Pull" {
				k = calls[d.IntN(len(calls))]
			}
			t = append(t, restart(d, k.step(d)))
		case i%(Length/turns) == 0:
			turn := number*turns + uint64(i*turns/Length)
			t = append(t, calls[turn%uint64(len(calls))].step(d))
		default:
			t = append(t, one().step(d))
		}
	}
	return t
}

// opening draws what a trace finds: from nothing to a task that runs. Without it most steps would find nothing.
func (d dice) opening() Trace {
	depth := draw(d, odds[int]{{1, 0}, {1, 1}, {3, 2}, {3, 3}, {3, 4}, {9, 5}})
	image := draw(d, odds[string]{{3, "A"}, {1, "B"}})
	r := record{program: d.program(), image: image, snapshot: "s1"}
	r.ID, r.Snapshotter, r.Runtime.Name = "c1", overlayfs, "io.containerd.runc.v2"
	of := func(method string, frees bool, text string, do action) Step {
		return Step{Method: method, Text: method + " " + text, frees: frees, do: do}
	}
	made := func(method string, frees bool) func(string, action) Step {
		return func(text string, do action) Step { return of(method, frees, text, do) }
	}
	leased := func(s Step) Step { return s.under("l1") }
	top := map[string]string{"A": "A/1", "B": "B/2"}[image]
	steps := []Trace{
		{made("CreateNamespace", false)(createNamespace("a", map[string]string{"k": "1"}))},
		{
			made("CreateLease", false)(createLease("a", "l1", day)),
			leased(made("Pull", true)(pull("a", image, nil))),
			leased(made("Unpack", true)(unpack("a", image, overlayfs))),
		},
		{
			leased(made("PrepareSnapshot", false)(prepare("a", overlayfs, "s1", top, nil))),
			made("CreateContainer", false)(createContainer("a", r)),
		},
		{made("CreateTask", false)(createTask("a", "c1", "s1"))},
		{made("StartTask", false)(startTask("a", "c1"))},
	}
	var t Trace
	for _, part := range steps[:depth] {
		t = append(t, part...)
	}
	return t
}

// Difference is where two sides differ.
type Difference struct {
	// Step counts from 1.
	Step int
	// What was compared, with what the two sides say.
	What, Want, Got string
}

// String prints the difference.
func (d *Difference) String() string {
	return fmt.Sprintf("after step %d: %s\n--- one\n%s\n--- other\n%s", d.Step, d.What, d.Want, d.Got)
}

// Pair are the two sides of a comparison.
type Pair struct {
	One, Other *Side
	// Patience is how long the two may take to agree; 0 means Patience.
	Patience time.Duration
}

// Play plays a trace on both sides in namespaces that begin with the prefix, and cleans up. It returns the first
// difference, if any; the tally counts the steps.
func (p Pair) Play(ctx context.Context, t Trace, prefix string, tally *Tally) (*Difference, error) {
	for _, s := range []*Side{p.One, p.Other} {
		if err := s.begin(ctx, prefix); err != nil {
			return nil, err
		}
	}
	difference, err := p.play(ctx, t, tally)
	for _, s := range []*Side{p.One, p.Other} {
		s.events.stop()
		if cleaning := s.cleanUp(ctx); cleaning != nil && err == nil {
			err = fmt.Errorf("cleaning up: %w", cleaning)
		}
	}
	return difference, err
}

func (p Pair) play(ctx context.Context, t Trace, tally *Tally) (*Difference, error) {
	for i, step := range t {
		at := func(what, want, got string) *Difference { return &Difference{i + 1, what, want, got} }
		if step.Method == "Restart" {
			if want, got, err := p.agree(ctx, (*Side).printEvents); err != nil || want != got {
				return at("events before "+step.Text, want, got), err
			}
		}
		want, got := step.on(ctx, p.One), step.on(ctx, p.Other)
		tally.count(step.Method, want)
		if want.kind != got.kind || want.value != got.value {
			return at(step.Text, want.String(), got.String()), nil
		}
		look := (*Side).lookAll
		if step.frees {
			look = (*Side).collectAndLook
		}
		if want, got, err := p.agree(ctx, look); err != nil || want != got {
			return at("state after "+step.Text, want, got), err
		}
	}
	if want, got, err := p.agree(ctx, (*Side).printEvents); err != nil || want != got {
		return &Difference{len(t), "events", want, got}, err
	}
	return nil, nil
}

// result is what a step answered.
type result struct {
	kind, value string
	err         error
}

func (r result) String() string {
	if r.err != nil {
		return fmt.Sprintf("%s: %v", r.kind, r.err)
	}
	return r.kind + " " + r.value
}

// on carries the step out on a side.
func (s Step) on(ctx context.Context, side *Side) result {
	ctx, cancel := context.WithTimeout(ctx, callDeadline)
	defer cancel()
	value, err := s.do(ctx, side)
	if err != nil {
		value = ""
	}
	return result{Kind(err), value, err}
}

// agree waits until both sides print the same; it returns what they print when that does not come.
func (p Pair) agree(ctx context.Context, show func(*Side, context.Context) (string, error)) (want, got string, err error) {
	limit := p.Patience
	if limit == 0 {
		limit = Patience
	}
	last := awaitFor(ctx, limit, func() (bool, error) {
		if want, err = show(p.One, ctx); err != nil {
			return false, err
		}
		if got, err = show(p.Other, ctx); err != nil {
			return false, err
		}
		return want == got, nil
	})
	if err != nil {
		return "", "", last
	}
	return want, got, ctx.Err()
}

// printEvents prints the events so far.
func (s *Side) printEvents(context.Context) (string, error) { return s.events.print() }

// collectAndLook is lookAll after a garbage collection. It is repeated for as long as the sides differ: containerd
// sometimes leaves something to the next one.
func (s *Side) collectAndLook(ctx context.Context) (string, error) {
	if err := s.World.Collect(ctx); err != nil {
		return "", err
	}
	return s.lookAll(ctx)
}

// lookAll prints what the trace's namespaces hold.
func (s *Side) lookAll(ctx context.Context) (string, error) {
	var out []string
	for _, ns := range tenants {
		text, err := s.look(ctx, s.in(ns))
		if err != nil {
			return "", err
		}
		out = append(out, text)
	}
	return strings.Join(out, "\n"), nil
}
