package apply_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kukeon.io/kukeon-reconciler/internal/apply"
	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// bench runs operations against a scripted world.
type bench struct {
	*apply.Executor
	mu      sync.Mutex
	log     []string
	results []apply.Result
}

func newBench(do apply.Do) *bench {
	b := &bench{}
	remember := func(_ state.RealmName, id state.ContainerID, _ state.Completion) error {
		b.note("remember " + string(id))
		return nil
	}
	b.Executor = apply.New(func(ctx context.Context, ns state.Namespace, realm state.RealmName, op plan.Operation) error {
		b.note("begin " + op.String())
		defer b.note("end " + op.String())
		return do(ctx, ns, realm, op)
	}, remember, func(r apply.Result) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.results = append(b.results, r)
	}, time.Now)
	return b
}

func (b *bench) note(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = append(b.log, s)
}

// did is what was noted so far.
func (b *bench) did() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.log)
}

// ended are the results so far.
func (b *bench) ended() []apply.Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.results)
}

func (b *bench) apply(t *testing.T, ops ...plan.Operation) {
	b.Apply(t.Context(), "kukeon-main", "main", plan.Plan{Operations: ops})
}

func TestAnObjectHasOneOperationAtATimeAndNobodyWaitsForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(func(_ context.Context, _ state.Namespace, _ state.RealmName, op plan.Operation) error {
			if op.Object().Name == "slow" {
				time.Sleep(30 * time.Second) // fake time: how long it takes
			}
			return nil
		})
		b.apply(t, plan.Stop{ID: "slow", Grace: 30 * time.Second}, plan.Create{ID: "web"})
		time.Sleep(time.Second) // fake time: well before slow ends
		synctest.Wait()
		if !slices.Contains(b.did(), "end create web") {
			t.Errorf("web waited for slow: %v", b.did())
		}
		if _, running := b.Busy("main").Running[plan.Object{Kind: plan.ContainerObject, Name: "slow"}]; !running {
			t.Error("slow is not shown as busy")
		}
		b.apply(t, plan.Remove{ID: "slow"}) // planned from an older look
		if err := b.Do(t.Context(), "kukeon-main", "main", plan.Remove{ID: "slow"}); !errors.As(err, new(*outcome.Waiting)) {
			t.Errorf("a person's operation did not wait its turn: %v", err)
		}
		b.Wait()
		if slices.Contains(b.did(), "begin remove slow") {
			t.Errorf("two operations on one object: %v", b.did())
		}
	})
}

func TestAFailureBacksOffAndASuccessForgetsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := true
		b := newBench(func(context.Context, state.Namespace, state.RealmName, plan.Operation) error {
			if fail {
				return errors.New("no route to host")
			}
			return nil
		})
		pull := plan.Pull{Ref: "caddy:2"}
		var last time.Duration
		for n := 1; n <= 8; n++ {
			b.apply(t, pull)
			b.Wait()
			retry := b.Busy("main").RetryAt[pull.Object()]
			delay := time.Until(retry.At)
			if retry.Error != "no route to host" || retry.Operation != pull.String() || delay <= 0 || delay > state.RetryCap*6/5 {
				t.Fatalf("failure %d: %+v in %s", n, retry, delay)
			}
			if delay < last && delay < state.RetryCap {
				t.Errorf("failure %d waits %s, less than %s before", n, delay, last)
			}
			last = delay
			time.Sleep(delay)
		}
		fail = false
		b.apply(t, pull)
		b.Wait()
		if len(b.Busy("main").RetryAt) != 0 {
			t.Error("a success left the failure standing")
		}
	})
}

func TestWaitingIsNoFailureAndStalledIsTriedRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var err error
		b := newBench(func(context.Context, state.Namespace, state.RealmName, plan.Operation) error { return err })
		create := plan.Create{ID: "web"}
		for kind, want := range map[error]struct {
			count int
			delay time.Duration
		}{
			&outcome.Waiting{For: "image"}: {0, 500 * time.Millisecond},
			&outcome.Stalled{Why: "bad"}:   {1, state.RetryCap},
		} {
			err = kind
			b.apply(t, create)
			b.Wait()
			got := b.ended()[len(b.ended())-1]
			if got.Failures != want.count || time.Until(b.Busy("main").RetryAt[create.Object()].At) != want.delay {
				t.Errorf("%T: %d failures, next in %s", kind, got.Failures, time.Until(b.Busy("main").RetryAt[create.Object()].At))
			}
			b.Retry("main")
			if len(b.Busy("main").RetryAt) != 0 {
				t.Error("Retry forgot nothing")
			}
		}
	})
}

func TestAnEndIsRememberedBeforeItsTaskIsDeleted(t *testing.T) {
	b := newBench(func(context.Context, state.Namespace, state.RealmName, plan.Operation) error { return nil })
	b.apply(t, plan.Complete{ID: "job"})
	b.Wait()
	if want := []string{"remember job", "begin complete job", "end complete job"}; !slices.Equal(b.did(), want) {
		t.Errorf("%v", b.did())
	}
}

func TestAnEndThatCannotBeRememberedDeletesNothing(t *testing.T) {
	full := errors.New("no space left on device")
	var did []string
	e := apply.New(func(_ context.Context, _ state.Namespace, _ state.RealmName, op plan.Operation) error {
		did = append(did, op.String())
		return nil
	}, func(state.RealmName, state.ContainerID, state.Completion) error { return full }, func(r apply.Result) {
		if !errors.Is(r.Err, full) {
			t.Errorf("ended with %v", r.Err)
		}
	}, time.Now)
	e.Apply(t.Context(), "ns", "main", plan.Plan{Operations: []plan.Operation{plan.Complete{ID: "job"}}})
	e.Wait()
	if len(did) != 0 {
		t.Errorf("did %v", did)
	}
}

func TestOnlyAPullThatNobodyWantsIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(func(ctx context.Context, _ state.Namespace, _ state.RealmName, _ plan.Operation) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Hour):
				return nil
			}
		})
		b.apply(t, plan.Pull{Ref: "old:1"}, plan.Pull{Ref: "new:1"}, plan.Stop{ID: "web", Grace: time.Hour})
		b.CancelFetches("main", func(o plan.Object) bool { return o.Name == "new:1" })
		synctest.Wait()
		if ended := b.ended(); len(ended) != 1 || ended[0].Operation.String() != "pull old:1" || ended[0].Failures != 0 {
			t.Errorf("%+v", ended)
		}
		b.Wait()
	})
}

func TestSlotsAreSharedHalfAndHalfAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := apply.NewSlots(4)
		var mu sync.Mutex
		var order []string
		hold := func(ns state.Namespace, n int) {
			for range n {
				go func() {
					release, err := s.Acquire(t.Context(), ns)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					order = append(order, string(ns))
					mu.Unlock()
					time.Sleep(time.Second)
					release()
				}()
			}
		}
		hold("loud", 20)
		synctest.Wait()
		if len(order) != 4 {
			t.Fatalf("alone, loud holds %d of 4 slots", len(order))
		}
		hold("quiet", 2)
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		mu.Lock()
		second := slices.Clone(order[4:])
		mu.Unlock()
		if len(second) != 4 || !slices.Contains(second, "quiet") || len(slices.DeleteFunc(second, func(ns string) bool { return ns == "loud" })) != 2 {
			t.Errorf("while quiet waits: %v", order[4:])
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(order) != 22 {
			t.Errorf("%d of 22 had a slot", len(order))
		}
	})
}

func TestAWaiterThatGivesUpLosesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := apply.NewSlots(1)
		release, err := s.Acquire(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Acquire(ctx, "b"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		release()
		again, err := s.Acquire(t.Context(), "c")
		if err != nil {
			t.Fatal(err)
		}
		again()
	})
}
