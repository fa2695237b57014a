package plan

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// Step is one operation of a foreseen course, with what its object waited for before.
type Step struct {
	Operation Operation
	After     string
}

// String prints the step as `plan` shows it.
func (s Step) String() string {
	line := fmt.Sprintf("%s: %s", s.Operation, s.Operation.Because())
	if s.After != "" {
		line += "; waits for " + s.After
	}
	return line
}

// Course is what would be done from here on if every operation succeeded and nothing else happened.
type Course struct {
	Steps []Step
	// Waits and LeftAlone are what is still waited for, and left alone, at the end.
	Waits     []Wait
	LeftAlone []LeftAlone
	// Settled is false when the course did not end within its bound; that is a bug of the planner.
	Settled bool
}

// Empty reports whether there is nothing to do.
func (c Course) Empty() bool { return len(c.Steps) == 0 && len(c.Waits) == 0 }

// String prints one line per step, wait and object left alone.
func (c Course) String() string {
	var b strings.Builder
	for _, s := range c.Steps {
		fmt.Fprintln(&b, s)
	}
	b.WriteString(Plan{Waits: c.Waits, LeftAlone: c.LeftAlone}.String())
	return b.String()
}

// passBound is more passes than any course takes: each object needs at most five operations one after the other,
// and a removal's stages follow each other.
const passBound = 32

// Foresee iterates Diff over Predict until nothing is left to do. What waits for a time, such as a backoff, is
// done when that time has come; what waits for the world is left as a wait.
func Foresee(want Want, have state.Observed, now time.Time) Course {
	var c Course
	want.Completions = maps.Clone(want.Completions)
	after := map[Object]string{}
	for range passBound + len(want.Realm.Archives) { // one archive at a time
		p := Diff(want, have, Busy{}, now)
		if len(p.Operations) == 0 && p.NextWake.IsZero() {
			c.Waits, c.LeftAlone, c.Settled = p.Waits, p.LeftAlone, true
			return c
		}
		if len(p.Operations) == 0 {
			now = p.NextWake
		}
		for _, w := range p.Waits {
			after[w.Object] = w.For
		}
		for _, op := range p.Operations {
			have = Predict(have, op, now)
			if done, ok := op.(Complete); ok {
				if want.Completions == nil {
					want.Completions = map[state.ContainerID]state.Completion{}
				}
				want.Completions[done.ID] = done.Completion
			}
			c.Steps = append(c.Steps, Step{op, after[op.Object()]})
			delete(after, op.Object())
		}
	}
	return c
}
