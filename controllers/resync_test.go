package controllers_test

import (
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"

	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// No call about the tasks, which are asked about more often, tells of a label.
func TestALabelThatIsEditedWithoutAnyEventIsPutBackAtTheNextResync(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.daemon.HookEvents(func(fakectrd.Event) fakectrd.EventFault { return fakectrd.EventFault{Drop: true} })
		edit := containers.Container{ID: "web", Labels: map[string]string{state.LabelSource: "elsewhere"}}
		if err := h.daemon.UpdateContainer(t.Context(), "kukeon-main", edit, "labels."+state.LabelSource); err != nil {
			t.Fatal(err)
		}
		h.idle(time.Minute + settleTime)
		c, err := h.daemon.Container(t.Context(), "kukeon-main", "web")
		if err != nil || c.Labels[state.LabelSource] != "main.yaml" {
			t.Errorf("one resync later web carries %v, %v", c.Labels, err)
		}
	})
}
