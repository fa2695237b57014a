package plan_test

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// The text of a plan does not show what a start writes on its container: the counts that the next backoff goes by.
func TestAStartCountsTheExitsBeforeIt(t *testing.T) {
	for name, c := range map[string]struct {
		exited             containerFixture
		restarts, failures string
	}{
		"the first":                         {containerFixture{}, "1", "1"},
		"one more in a row":                 {containerFixture{Restarts: 6, Failures: 2}, "7", "3"},
		"one after ten minutes of running":  {containerFixture{Restarts: 6, Failures: 2, Ran: "10m"}, "7", "1"},
		"the end of the host's last boot":   {containerFixture{Restarts: 6, Failures: 2, Started: "earlier-boot"}, "6", "0"},
		"one of a task that is gone by now": {containerFixture{Restarts: 6, Failures: 2, Task: "none"}, "7", "3"},
	} {
		t.Run(name, func(t *testing.T) {
			c.exited.ID, c.exited.Image, c.exited.Code, c.exited.Age = "web", "caddy:2", 1, "1h"
			c.exited.Task = orElse(c.exited.Task, "stopped")
			all := []containerFixture{c.exited}
			p := plan.Diff(wantFixture{Containers: all}.want(), haveFixture{Containers: all, Images: []imageFixture{{Ref: "caddy:2"}}}.have(), plan.Busy{}, clock)
			if len(p.Operations) != 1 {
				t.Fatalf("%s", p)
			}
			start, ok := p.Operations[0].(plan.Start)
			if !ok {
				t.Fatalf("%s", p)
			}
			got := maps.Clone(start.Labels)
			delete(got, state.LabelExit)
			if diff := cmp.Diff(map[string]string{state.LabelRestarts: c.restarts, state.LabelFailures: c.failures}, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// A start writes the counts, and takes the mark of the former start off, in one request before it does anything else.
// When it is cut off after that, its next try must not count the same exit again.
func TestAStartThatWasCutOffHasCountedTheExit(t *testing.T) {
	all := []containerFixture{{ID: "web", Image: "caddy:2", Task: "stopped", Code: 1, Age: "1h", Restarts: 1, Failures: 1, Started: "no"}}
	p := plan.Diff(wantFixture{Containers: all}.want(), haveFixture{Containers: all, Images: []imageFixture{{Ref: "caddy:2"}}}.have(), plan.Busy{}, clock)
	if len(p.Operations) != 1 {
		t.Fatalf("%s", p)
	}
	if start, ok := p.Operations[0].(plan.Start); !ok || len(start.Labels) > 0 {
		t.Errorf("%s, with %v", p, start.Labels)
	}
}
