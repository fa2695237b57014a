package status

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	owner = state.Owner("uuid-1")
	boot  = "boot-1"
)

var t0 = time.Date(2026, 5, 4, 3, 0, 0, 0, time.UTC)

// world is a realm with the container web, and a one-shot migrate, as each case changes it.
type world struct {
	Pass
	prev Realm
	diff bool // let plan.Diff make the plan of what is wanted and seen
}

func webSpec() state.Spec {
	return state.Spec{
		Image:   "docker.io/library/caddy:2",
		Restart: state.Restart{Policy: state.RestartAlways, BackoffSeconds: 1},
		Stop:    state.StopSettings{GraceSeconds: 10},
	}
}

func jobSpec() state.Spec {
	s := webSpec()
	s.Restart.Policy = state.RestartNever
	return s
}

func newWorld() *world {
	realm := state.Realm{
		Name: "main", Namespace: "kukeon-main", Origin: state.Origin{Path: "main.yaml", Line: 1},
		Containers: []state.Container{{ID: "web", Name: "web", Spec: webSpec(), Origin: state.Origin{Path: "main.yaml", Line: 8}}},
		Paths:      []string{"main.yaml"},
	}
	w := &world{Pass: Pass{
		Accepted: state.AcceptedRealm{Realm: realm, Generation: 3},
		Want:     plan.Want{Realm: realm, ManagedBy: state.ManagedByDaemon},
		Seen:     true, Now: t0,
	}, diff: true}
	w.Have = state.Observed{
		Namespace: "kukeon-main", Exists: true, Owner: owner, Boot: boot,
		Labels: map[string]string{state.LabelOwner: string(owner), state.LabelRealm: "main", state.LabelManagedBy: state.ManagedByDaemon},
		Images: []state.ObservedImage{{Ref: "docker.io/library/caddy:2", Digest: "sha256:aa", Owner: owner, Unpacked: true}},
	}
	w.observe("web", webSpec(), state.Task{Status: state.TaskRunning, Pid: 4711, Since: t0.Add(-time.Hour)})
	return w
}

func (w *world) declare(id state.ContainerID, spec state.Spec) {
	c := state.Container{ID: id, Name: string(id), Spec: spec, Origin: state.Origin{Path: "main.yaml", Line: 20}}
	w.Accepted.Containers = append(w.Accepted.Containers, c)
	w.Want.Realm = w.Accepted.Realm
}

// observe puts a container of ours into the namespace, in place of one of that id.
func (w *world) observe(id state.ContainerID, spec state.Spec, task state.Task) *state.ObservedContainer {
	c, declared := w.Accepted.Find(id)
	if !declared {
		c = state.Container{ID: id, Name: string(id), Origin: state.Origin{Path: "main.yaml"}}
	}
	labels := plan.ContainerLabels(state.Realm{Name: "main"}, c, owner)
	labels[state.LabelStarted] = state.Started{Digest: spec.Digest().Short(), At: t0.Add(-time.Hour), Boot: boot}.String()
	o := state.ObservedContainer{
		ID: id, Recorded: true, Image: spec.Image, Labels: labels, Task: task,
		Record: &state.Record{Version: 1, Owner: owner, Realm: "main", Spec: spec},
	}
	for i := range w.Have.Containers {
		if w.Have.Containers[i].ID == id {
			w.Have.Containers[i] = o
			return &w.Have.Containers[i]
		}
	}
	w.Have.Containers = append(w.Have.Containers, o)
	return &w.Have.Containers[len(w.Have.Containers)-1]
}

func (w *world) summarize() Realm {
	if w.diff && w.Seen {
		w.Plan = plan.Diff(w.Want, w.Have, w.Busy, w.Now)
	}
	return Summarize(w.prev, w.Pass)
}

func (w *world) gone() { w.Have.Containers = nil }

func (w *world) wasReady() { w.prev = newWorld().summarize() }

func stopped(code int, ago time.Duration) state.Task {
	return state.Task{Status: state.TaskStopped, ExitCode: code, ExitedAt: t0.Add(-ago), Since: t0.Add(-ago), Ran: time.Second}
}

var cases = map[string]func(w *world){
	"a realm whose containers run is ready and in sync": func(*world) {},
	"a container that was restarted tells its last exit": func(w *world) {
		o := w.observe("web", webSpec(), state.Task{Status: state.TaskRunning, Pid: 4712})
		o.Labels[state.LabelRestarts], o.Labels[state.LabelExit] = "2", state.Exit{Code: 137, At: t0.Add(-time.Minute)}.String()
	},
	"a realm that was never observed is unknown":      func(w *world) { w.Seen, w.Have = false, state.Observed{} },
	"while containerd is away everything is unknown":  func(w *world) { w.wasReady(); w.Unavailable = "containerd is unavailable: connection refused" },
	"a new realm is creating":                         func(w *world) { w.Have.Exists, w.Have.Labels = false, nil; w.gone() },
	"a container that misses its image says it pulls": func(w *world) { w.gone(); w.Have.Images = nil; w.busy(plan.Pull{Ref: "docker.io/library/caddy:2"}) },
	"a failing pull names the error and the next try": func(w *world) {
		w.gone()
		w.Have.Images = nil
		w.fails(plan.Pull{Ref: "docker.io/library/caddy:2"}, "no such image on the registry")
	},
	"containers with one trouble are told of together": func(w *world) {
		for _, id := range []state.ContainerID{"a", "b", "c"} {
			w.declare(id, webSpec())
		}
		w.gone()
		w.Have.Images = nil
		w.fails(plan.Pull{Ref: "docker.io/library/caddy:2"}, "no such image on the registry")
	},
	"a failure that the world has overtaken is no news": func(w *world) { w.fails(plan.Pull{Ref: "docker.io/library/caddy:2"}, "no such image on the registry") },
	"an image that is never pulled waits for an import": func(w *world) {
		w.gone()
		w.Have.Images = nil
		w.Accepted.Containers[0].Spec.PullPolicy = state.PullNever
	},
	"a container that is being stopped is stopping": func(w *world) {
		w.wasReady()
		w.busy(plan.Stop{ID: "web", Grace: 10 * time.Second})
	},
	"a realm that loses a container is degraded": func(w *world) { w.wasReady(); w.observe("web", webSpec(), stopped(1, time.Second)) },
	"a crash loop waits and shows where to look": func(w *world) {
		o := w.observe("web", webSpec(), stopped(1, time.Second))
		o.Labels[state.LabelFailures], o.Labels[state.LabelRestarts] = "5", "5"
	},
	"a one-shot that finished counts as ready": func(w *world) {
		w.declare("migrate", jobSpec())
		w.observe("migrate", jobSpec(), state.Task{Status: state.TaskNone})
		w.Want.Completions = map[state.ContainerID]state.Completion{"migrate": {Digest: jobSpec().Digest(), Time: t0.Add(-time.Hour)}}
	},
	"a one-shot that failed needs a person": func(w *world) {
		w.declare("migrate", jobSpec())
		w.observe("migrate", jobSpec(), state.Task{Status: state.TaskNone})
		w.Want.Completions = map[state.ContainerID]state.Completion{"migrate": {Digest: jobSpec().Digest(), Code: 3, Time: t0.Add(-time.Hour)}}
	},
	"a hung shim makes one container unknown": func(w *world) {
		w.observe("web", webSpec(), state.Task{Status: state.TaskUnknown, Since: t0.Add(-time.Second)})
	},
	"a container unknown for long is stuck": func(w *world) {
		w.observe("web", webSpec(), state.Task{Status: state.TaskUnknown, Since: t0.Add(-state.StuckAfter)})
	},
	"a container that is not ours is a conflict": func(w *world) {
		w.Have.Containers = []state.ObservedContainer{{ID: "web", Recorded: true, Task: state.Task{Status: state.TaskRunning, Pid: 9}}}
	},
	"a namespace of another containerd is left alone": func(w *world) {
		w.gone()
		w.Have.Labels[state.LabelOwner] = "uuid-2"
	},
	"a container that nobody declares is orphaned and counts for nothing": func(w *world) {
		w.observe("old", webSpec(), state.Task{Status: state.TaskRunning, Pid: 77})
	},
	"a container under removal is stopping": func(w *world) {
		w.observe("old", webSpec(), state.Task{Status: state.TaskRunning, Pid: 77})
		w.Want.Removals = map[state.ContainerID]state.Removal{"old": {Container: "old", Why: "removed from main.yaml"}}
	},
	"a realm under removal is deleting": func(w *world) {
		w.prev = newWorld().summarize()
		w.Accepted = state.AcceptedRealm{}
		w.Want = plan.Want{Realm: state.Realm{Name: "main", Namespace: "kukeon-main"}, Removing: true, Why: "main.yaml is gone"}
	},
	"a frozen realm is degraded although it runs": func(w *world) { w.Accepted.Frozen = "main.yaml:9:7: spec.containers[0].imgae: unknown field" },
	"a realm refused from the start has failed": func(w *world) {
		w.Accepted = state.AcceptedRealm{Realm: state.Realm{Name: "main"}, Frozen: "main.yaml:2: a realm called system is refused"}
		w.Want = plan.Want{Realm: w.Accepted.Realm}
		w.Seen, w.Have = false, state.Observed{}
	},
	"a held removal shows how to release it": func(w *world) {
		w.Holds = []state.Hold{
			{ID: "c0ffee", Realms: []state.RealmName{"main", "two"}, Why: "2 of 2 realms are gone from the files"},
			{ID: "other", Realms: []state.RealmName{"three"}},
		}
	},
	"an absence seen once is not in sync": func(w *world) { w.Unaccepted = "main.yaml is gone; it counts when a second look agrees" },
	"a manifest set aside suspends and is not in sync": func(w *world) {
		w.Accepted.Withheld, w.Want.Suspended = "main.yaml.skip", "main.yaml.skip stands in place of main.yaml"
	},
	"a suspended realm is as ready as the rest of it": func(w *world) {
		w.Want.Suspended = "suspended by root until 2026-05-04T05:00:00Z: maintenance"
		w.observe("web", webSpec(), stopped(1, time.Hour))
	},
	"a suspended container counts for nothing": func(w *world) {
		w.declare("debug", webSpec())
		w.Want.SuspendedContainers = map[state.ContainerID]string{"debug": "annotation kukeon.io/reconcile: disabled (main.yaml:20)"}
	},
	"a changed image runs on until the new one is there": func(w *world) {
		w.wasReady()
		w.Accepted.Generation = 4
		w.Accepted.Containers[0].Spec.Image = "docker.io/library/caddy:3"
		w.fails(plan.Pull{Ref: "docker.io/library/caddy:3"}, "the registry does not answer")
	},
	"observing only says what it would do": func(w *world) { w.gone(); w.ObserveOnly = true },
	"a realm without containers is ready when its namespace is there": func(w *world) {
		w.Accepted.Containers, w.Want.Realm.Containers = nil, nil
		w.gone()
	},
	"a task without a container does not run for us": func(w *world) {
		w.Have.Containers[0].Recorded = false
	},
}

func (w *world) busy(op plan.Operation) {
	w.Busy.Running = map[plan.Object]plan.Operation{op.Object(): op}
}

func (w *world) fails(op plan.Operation, why string) {
	w.Busy.RetryAt = map[plan.Object]plan.Retry{op.Object(): {At: w.Now.Add(8 * time.Second), Operation: op.String(), Error: why}}
}

func TestWhatPeopleAreTold(t *testing.T) {
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			change(w)
			w.Want.Realm.Containers = w.Accepted.Containers
			golden(t, name, describe(w.summarize()))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func describe(r Realm) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s ready=%v inSync=%v %d/%d generation=%d/%d\n", r.Name, r.State, r.Ready, r.InSync, r.Running, r.Desired,
		r.ObservedGeneration, r.Generation)
	fmt.Fprintf(&b, "headline %s: %s\n", r.Reason, r.Message)
	for _, c := range r.Conditions {
		fmt.Fprintf(&b, "%s=%s %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
	}
	for _, c := range r.Containers {
		fmt.Fprintf(&b, "container %s: %s inSync=%v restarts=%d pid=%d since=%s %s: %s\n", c.Name, c.Phase, c.InSync, c.Restarts, c.Pid,
			stamp(c.Since), c.Reason, c.Message)
	}
	for _, i := range r.Images {
		if i.Message != "" {
			fmt.Fprintf(&b, "image %s: %s\n", i.Ref, i.Message)
		}
	}
	for _, l := range r.LeftAlone {
		fmt.Fprintf(&b, "left alone %s: %s\n", l.Object, l.Message)
	}
	for _, h := range r.Hints {
		fmt.Fprintf(&b, "$ %s\n", h)
	}
	return b.String()
}

func TestTransitionTimesStayWhileAStatusIsUnchanged(t *testing.T) {
	w := newWorld()
	first := w.summarize()
	w.Now = t0.Add(time.Minute)
	w.prev = first
	second := w.summarize()
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("a pass that found the same says the same; -first +second:\n%s", diff)
	}
	w.prev, w.Accepted.Frozen = second, "main.yaml:9: broken"
	third := w.summarize()
	if got := third.Condition(ConditionReady).LastTransitionTime; !got.Equal(t0) {
		t.Errorf("Ready did not change, and its time is %s", got)
	}
	if got := third.Condition(ConditionStalled).LastTransitionTime; !got.Equal(w.Now) {
		t.Errorf("Stalled changed, and its time is %s", got)
	}
}

func TestGenerationsNeverFall(t *testing.T) {
	w := newWorld()
	w.prev = Realm{Generation: 9, ObservedGeneration: 8}
	r := w.summarize()
	if r.Generation != 9 || r.ObservedGeneration != 8 {
		t.Errorf("got generation %d, observed %d", r.Generation, r.ObservedGeneration)
	}
}

func TestAGenerationIsObservedOnlyWhenTheNamespaceWas(t *testing.T) {
	w := newWorld()
	w.Unavailable = "away"
	if r := w.summarize(); r.ObservedGeneration != 0 || r.Generation != 3 {
		t.Errorf("got generation %d, observed %d", r.Generation, r.ObservedGeneration)
	}
}
