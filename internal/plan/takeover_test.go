package plan_test

import (
	"testing"
	"time"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// ctr deletes the task when the process that it ran ends: then only the mark of a start tells that there was one.
func TestAnAdoptedOneShotThatEndsIsNotRunAgain(t *testing.T) {
	job := containerFixture{ID: "job", Image: "caddy:2", Restart: "never", Owner: "none"}
	want := wantFixture{Containers: []containerFixture{job}}.want()
	have := haveFixture{Containers: []containerFixture{job}, Images: []imageFixture{{Ref: "caddy:2"}}}.have()
	ops := plan.Adopt(want, have, "")
	if len(ops) != 1 {
		t.Fatalf("%v", ops)
	}
	have = plan.Predict(have, ops[0], clock)
	have.Containers[0].Task = state.Task{Status: state.TaskNone, Since: clock}
	got := plan.Diff(want, have, plan.Busy{}, clock.Add(time.Minute)).String()
	if want := "complete job: its task is gone (exit code unknown) (main.yaml:10)\n"; got != want {
		t.Errorf("got %swant %s", got, want)
	}
}
