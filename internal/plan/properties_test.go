package plan_test

import (
	"math/rand"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// situation is any realm against any namespace: declared and undeclared containers, ours and strangers, in every
// state that containerd can show.
type situation struct {
	want plan.Want
	have state.Observed
}

var ids = []string{"a", "b", "c", "d"}

func drawContainer(t *rapid.T, id string) containerFixture {
	return containerFixture{
		ID:      id,
		Image:   rapid.SampledFrom([]string{"caddy:1", "caddy:2"}).Draw(t, "image"),
		Args:    rapid.SampledFrom([][]string{nil, {"x"}}).Draw(t, "args"),
		Pull:    rapid.SampledFrom([]string{"IfNotPresent", "Always"}).Draw(t, "pull"),
		Restart: rapid.SampledFrom([]string{"always", "on-failure", "never"}).Draw(t, "restart"),
		Labels:  rapid.SampledFrom([]map[string]string{nil, {"tier": "front"}}).Draw(t, "labels"),
	}
}

func drawSituation(t *rapid.T) situation {
	var w wantFixture
	var h haveFixture
	h.Missing = rapid.Bool().Draw(t, "namespace missing")
	h.Owner = rapid.SampledFrom([]string{"ours", "none"}).Draw(t, "namespace owner")
	if rapid.Bool().Draw(t, "removing") {
		w.Removing = "main.yaml is gone"
	}
	w.Deletion = rapid.SampledFrom([]string{"Delete", "Retain"}).Draw(t, "policy")
	for _, id := range ids {
		if rapid.Bool().Draw(t, "declared") && w.Removing == "" {
			w.Containers = append(w.Containers, drawContainer(t, id))
		} else if rapid.Bool().Draw(t, "removal") {
			w.Removals = append(w.Removals, id)
		}
		if !h.Missing && rapid.Bool().Draw(t, "there") {
			h.Containers = append(h.Containers, drawObserved(t, id))
		}
	}
	for _, ref := range []string{"caddy:1", "caddy:2"} {
		if !h.Missing && rapid.Bool().Draw(t, "image") {
			h.Images = append(h.Images, imageFixture{
				Ref: ref, Owner: rapid.SampledFrom([]string{"ours", "none"}).Draw(t, "image owner"),
				Packed: rapid.Bool().Draw(t, "packed"), Incomplete: rapid.Bool().Draw(t, "incomplete"),
			})
		}
	}
	if !h.Missing && rapid.Bool().Draw(t, "leftovers") {
		h.Snapshots, h.Leases = []string{"a-0123456789ab"}, []string{"kukeon/main/create/containers"}
	}
	s := situation{w.want(), h.have()}
	for _, c := range s.want.Realm.Containers {
		if rapid.Bool().Draw(t, "completed") {
			s.want.Completions[c.ID] = state.Completion{Digest: c.Spec.Digest(), Code: rapid.IntRange(0, 1).Draw(t, "code"), Time: clock}
		}
	}
	return s
}

func drawObserved(t *rapid.T, id string) containerFixture {
	f := drawContainer(t, id)
	f.Owner = rapid.SampledFrom([]string{"ours", "ours", "ours", "none", "other", "kukeond"}).Draw(t, "owner")
	f.Task = rapid.SampledFrom([]string{"none", "created", "running", "paused", "stopped", "unknown"}).Draw(t, "task")
	f.Record = rapid.SampledFrom([]string{"ok", "ok", "none", "newer"}).Draw(t, "record")
	f.Started = rapid.SampledFrom([]string{"yes", "no", "earlier-boot"}).Draw(t, "started")
	f.NoContainer = rapid.IntRange(0, 9).Draw(t, "container missing") == 0
	f.NoSnapshot = rapid.IntRange(0, 9).Draw(t, "snapshot missing") == 0
	f.LosesOwnerLabel = rapid.IntRange(0, 9).Draw(t, "label lost") == 0 && f.Record == "ok"
	f.Code = rapid.IntRange(0, 1).Draw(t, "exit code")
	f.Failures = rapid.IntRange(0, 5).Draw(t, "failures")
	f.Age = rapid.SampledFrom([]string{"0s", "1s", "1h"}).Draw(t, "age")
	return f
}

// walk follows the plan to its end, carrying out a chosen part of the operations at each pass, and returns what is
// there at the end. It fails the test when there is no end.
func walk(t *rapid.T, s situation, choose func([]plan.Operation) []plan.Operation) situation {
	now := clock
	for range 400 {
		p := plan.Diff(s.want, s.have, plan.Busy{}, now)
		if len(p.Operations) == 0 {
			if p.NextWake.IsZero() {
				return s
			}
			now = p.NextWake
			continue
		}
		for _, op := range choose(p.Operations) {
			s.have = plan.Predict(s.have, op, now)
			if done, ok := op.(plan.Complete); ok {
				s.want.Completions[done.ID] = done.Completion
			}
		}
		now = now.Add(time.Millisecond)
	}
	t.Fatalf("no end in sight:\n%s", plan.Diff(s.want, s.have, plan.Busy{}, now))
	return s
}

func all(ops []plan.Operation) []plan.Operation { return ops }

// settled prints what matters of an end: times and counters differ with the way it was reached.
func settled(s situation) string {
	var b strings.Builder
	for _, c := range s.have.Containers {
		b.WriteString(string(c.ID) + " " + string(c.Task.Status) + " " + string(c.Owner()))
		if c.Record != nil {
			b.WriteString(" " + c.Record.Spec.Digest().Short())
		}
		b.WriteString("\n")
	}
	for _, i := range s.have.Images {
		b.WriteString(i.Ref + " " + string(i.Owner) + "\n")
	}
	return b.String()
}

func TestEveryCourseEndsInAMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := walk(t, drawSituation(t), all)
		for _, c := range s.want.Realm.Containers {
			o, there := s.have.Find(c.ID)
			done, remembered := s.want.Completions[c.ID]
			switch {
			case there && (o.Owner() != ours && o.Recorded || o.Task.Status == state.TaskUnknown || o.RecordProblem != ""):
				// left alone
			case remembered && done.Digest == c.Spec.Digest() && c.Spec.Restart.Policy != state.RestartAlways:
				// finished; whether its container is still there does not matter
			case !there || o.Task.Status != state.TaskRunning || len(o.Record.Spec.Changes(c.Spec)) > 0:
				t.Fatalf("%s is not as declared: %+v", c.ID, o)
			}
		}
	})
}

func TestAMatchNeedsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := walk(t, drawSituation(t), all)
		// An hour and our own restart later there is still nothing to do.
		if p := plan.Diff(s.want, s.have, plan.Busy{}, clock.Add(time.Hour)); len(p.Operations) > 0 {
			t.Fatalf("a match is planned anew:\n%s", p)
		}
	})
}

func TestCutAnywhereItReplansToTheSameEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSituation(t)
		whole := walk(t, clone(s), all)
		r := rand.New(rand.NewSource(rapid.Int64().Draw(t, "order")))
		parts := walk(t, clone(s), func(ops []plan.Operation) []plan.Operation {
			r.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
			return ops[:1+r.Intn(len(ops))] // at least one: nothing happening for ever is no course
		})
		if diff := cmp.Diff(settled(whole), settled(parts)); diff != "" {
			t.Fatalf("-whole +in parts:\n%s", diff)
		}
	})
}

func TestNothingThatIsNotOursIsNamed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSituation(t)
		p := plan.Diff(s.want, s.have, plan.Busy{}, clock)
		for _, op := range p.Operations {
			obj := op.Object()
			switch obj.Kind {
			case plan.ContainerObject:
				o, there := s.have.Find(state.ContainerID(obj.Name))
				if there && o.Recorded && o.Owner() != ours {
					t.Fatalf("%s: not ours", op)
				}
			case plan.ImageObject:
				i, _ := s.have.FindImage(obj.Name)
				if _, deletes := op.(plan.DeleteImage); deletes && i.Owner != ours {
					t.Fatalf("%s: not ours", op)
				}
			}
		}
	})
}

func TestNothingIsEndedThatWasNotOmittedOrChanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSituation(t)
		for _, op := range plan.Diff(s.want, s.have, plan.Busy{}, clock).Operations {
			switch op.(type) {
			case plan.Stop, plan.Remove:
			default:
				continue
			}
			id := state.ContainerID(op.Object().Name)
			o, _ := s.have.Find(id)
			c, declared := s.want.Realm.Find(id)
			_, listed := s.want.Removals[id]
			replaced := declared && (o.Record == nil || o.SnapshotMissing || o.Record.Spec.Digest() != c.Spec.Digest())
			if !replaced && (declared || !listed && !s.want.Removing) {
				t.Fatalf("%s: nothing asks for it", op)
			}
		}
	})
}

func TestOneOperationPerObject(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSituation(t)
		seen := map[plan.Object]bool{}
		for _, op := range plan.Diff(s.want, s.have, plan.Busy{}, clock).Operations {
			if seen[op.Object()] {
				t.Fatalf("two operations on %s", op.Object())
			}
			seen[op.Object()] = true
		}
	})
}

func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSituation(t)
		lines := func(s situation) []string {
			text := plan.Diff(s.want, s.have, plan.Busy{}, clock).String()
			// An image that several containers need is told with the place of the first.
			l := strings.Split(regexp.MustCompile(`\(main.yaml:\d+\)`).ReplaceAllString(text, ""), "\n")
			slices.Sort(l)
			return l
		}
		before := lines(s)
		turned := clone(s)
		slices.Reverse(turned.want.Realm.Containers)
		slices.Reverse(turned.have.Containers)
		if diff := cmp.Diff(before, lines(turned)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func clone(s situation) situation {
	s.want.Realm.Containers = slices.Clone(s.want.Realm.Containers)
	s.have.Containers = slices.Clone(s.have.Containers)
	done := map[state.ContainerID]state.Completion{}
	for k, v := range s.want.Completions {
		done[k] = v
	}
	s.want.Completions = done
	return s
}
