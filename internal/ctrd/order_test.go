package ctrd_test

import (
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// containerd answers NotFound for a task whose record is gone, a snapshot is in use as long as there is a task, and what
// lies on the host is found again only as long as there is a record.
func TestARemovalTakesTheTaskThenTheOutputThenTheRecordThenTheSnapshot(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		d := newRegistered("2.4")
		var did order
		cfg := config(t, d)
		cfg.Output = &did
		host := ctrd.New(cfg)
		owner, err := host.Owner(t.Context())
		must(t, err)
		for _, op := range life(owner)[:4] {
			must(t, host.Do(t.Context(), ns, realm, op))
		}
		must(t, host.Do(t.Context(), ns, realm, plan.Stop{ID: "web", Grace: time.Second}))
		d.Hook(func(c fakectrd.Call) fakectrd.Fault {
			if c.Write {
				did = append(did, c.Method)
			}
			return fakectrd.Fault{}
		})
		must(t, host.Do(t.Context(), ns, realm, plan.Remove{ID: "web", SnapshotKey: create(owner, "web").SnapshotKey}))
		if diff := cmp.Diff(order{"DeleteTask", "output of web", "DeleteContainer", "RemoveSnapshot"}, did); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// order notes what is done, the end of an output included.
type order []string

func (o *order) Prepare(state.RealmName, state.Namespace, state.ContainerID, state.Spec, int) (ctrd.Streams, io.Closer, error) {
	return ctrd.Streams{}, nil, nil
}

func (o *order) Remove(_ state.Namespace, id state.ContainerID) error {
	*o = append(*o, "output of "+string(id))
	return nil
}
