package ctrd_test

import (
	"testing"
	"testing/synctest"

	"github.com/containerd/containerd/v2/core/containers"
	"google.golang.org/protobuf/types/known/anypb"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

func TestLabelsOfOurNamespaceAreMendedWithoutNamingItsOwnerAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		must(t, r.SetNamespaceLabel(t.Context(), string(ns), state.LabelRealm, ""))
		r.do(plan.EnsureNamespace{Namespace: ns, Labels: map[string]string{state.LabelRealm: string(realm)}})
		if labels, err := r.NamespaceLabels(t.Context(), string(ns)); err != nil || labels[state.LabelRealm] != string(realm) {
			t.Errorf("%v %v", labels, err)
		}
	})
}

// While a shim of the namespace hangs, nobody lists its tasks, and nothing else tells that a task without a record has
// gone when the event of that was lost.
func TestACleanedUpTaskIsNotSeenAgainWhileAnotherShimHangs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("hung")
		stray := containers.Container{
			ID: "stray", Image: ref, Spec: &anypb.Any{TypeUrl: "spec"}, Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"},
		}
		must(t, r.CreateContainer(t.Context(), string(ns), stray))
		_, err := r.CreateTask(t.Context(), string(ns), ctrd.TaskRequest{ID: "stray"})
		must(t, err)
		must(t, r.DeleteContainer(t.Context(), string(ns), "stray"))
		must(t, r.HangShim(string(ns), "hung"))
		r.host.Resync(ns)
		if _, there := r.observe().Find("stray"); !there {
			t.Fatal("the task without a record is not seen")
		}
		r.HookEvents(func(e fakectrd.Event) fakectrd.EventFault {
			return fakectrd.EventFault{Drop: e.Topic == "/tasks/delete"}
		})
		r.do(plan.Clean{ID: "stray"})
		synctest.Wait()
		if o, there := r.observe().Find("stray"); there {
			t.Errorf("still there: %+v", o)
		}
	})
}
