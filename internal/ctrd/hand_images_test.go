package ctrd_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/testenv"
)

func TestARealImageIsCopiedBetweenNamespacesWithoutItsBytes(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		client := dialed(t, r.Address)
		other := "kukeon-" + testenv.Suffix()
		ctx := t.Context()
		if _, err := client.CopyImage(ctx, string(r.ns), other, "docker.io/library/nobody:1"); !errdefs.IsNotFound(err) {
			t.Errorf("of nothing: %v", err)
		}
		was, err := client.Image(ctx, string(r.ns), busybox)
		must(t, err)
		b, err := client.CopyImage(ctx, string(r.ns), other, busybox)
		must(t, err)
		if b.Bytes != 0 || b.Unchanged || b.Digest != was.Target.Digest.String() {
			t.Errorf("%+v", b)
		}
		again, err := client.CopyImage(ctx, string(r.ns), other, busybox)
		if must(t, err); again.Bytes != 0 || !again.Unchanged {
			t.Errorf("again: %+v", again)
		}
		if left, err := client.Leases(ctx, other); err != nil || len(left) > 0 {
			t.Errorf("leases: %v %v", left, err)
		}
		// The copy lives on its own.
		must(t, client.DeleteImage(ctx, string(r.ns), busybox))
		must(t, client.Unpack(ctx, other, busybox, "overlayfs"))
		if i, err := client.Image(ctx, other, busybox); err != nil || len(i.Labels) > 0 {
			t.Errorf("%+v %v", i, err)
		}
	})
}

func TestRealArchivesAreImported(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		client := dialed(t, r.Address)
		const name = "docker.io/library/sleeps:1"
		plain := filepath.Join(t.TempDir(), "sleeps.tar")
		must(t, testenv.SaveArchive(testenv.SmallImages()["sleeps"], name, plain))
		data, err := os.ReadFile(plain)
		must(t, err)
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		_, err = w.Write(data)
		must(t, errors.Join(err, w.Close()))
		for _, archive := range []struct {
			kind      string
			content   io.Reader
			unchanged bool
		}{{"compressed", &zipped, false}, {"plain", bytes.NewReader(data), true}} {
			out, err := client.ImportImages(t.Context(), string(r.ns), archive.content)
			must(t, err)
			if len(out) != 1 || out[0].Ref != name || out[0].Bytes == 0 || out[0].Unchanged != archive.unchanged {
				t.Errorf("%s: %+v", archive.kind, out)
			}
		}
		before, err := client.Images(t.Context(), string(r.ns))
		must(t, err)
		for kind, content := range map[string][]byte{"cut short": data[:len(data)/2], "no archive": []byte("hello"), "empty": nil} {
			if out, err := client.ImportImages(t.Context(), string(r.ns), bytes.NewReader(content)); err == nil {
				t.Errorf("%s: %+v", kind, out)
			}
		}
		if after, err := client.Images(t.Context(), string(r.ns)); err != nil || len(after) != len(before) {
			t.Errorf("%v %v", after, err)
		}
		if left, err := client.Leases(t.Context(), string(r.ns)); err != nil || len(left) > 0 {
			t.Errorf("leases: %v %v", left, err)
		}
	})
}

// dialed is a connection for as long as the test runs.
func dialed(t *testing.T, address string) *ctrd.Client {
	client, err := ctrd.Dial(address)
	must(t, err)
	t.Cleanup(func() { must(t, client.Close()) })
	return client
}
