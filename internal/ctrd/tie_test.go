package ctrd_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

// The client ties an image to its snapshots last. A try that breaks off before that leaves them complete, so that nobody
// unpacks them again; they have to be tied by then, or the next garbage collection takes them.
func TestTheSnapshotsOfARealUnpackThatBrokeOffAreKept(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		var dead atomic.Bool
		client, err := ctrd.Dial(r.Address, grpc.WithUnaryInterceptor(func(
			ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
		) error {
			if dead.Load() {
				return errdefs.ErrUnavailable
			}
			err := invoke(ctx, method, req, reply, cc, opts...)
			dead.Store(strings.HasSuffix(method, "Snapshots/Commit"))
			return err
		}))
		must(t, err)
		defer func() { must(t, client.Close()) }()
		other := string(r.ns) + "-other"
		_, err = r.Ctr(t.Context(), other, "images", "import", "--no-unpack", filepath.Join(r.dir, "busybox.tar"))
		must(t, err)
		if err := client.Unpack(t.Context(), other, busybox, "overlayfs"); !dead.Load() || err == nil {
			t.Fatalf("the unpack did not break off: %v", err)
		}
		if out, err := r.Ctr(t.Context(), other, "content", "ls"); err != nil || !strings.Contains(out, "containerd.io/gc.ref.snapshot.overlayfs") {
			t.Errorf("nothing keeps the snapshots: %v\n%s", err, out)
		}
	})
}
