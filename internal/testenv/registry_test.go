package testenv

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"testing"
)

// A pull that broke off asks for the rest of a blob, from where it was on and without an end.
func TestTheRegistryServesTheRestOfABlob(t *testing.T) {
	r, err := NewRegistry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	img := BusyboxImage()
	if _, err := r.Push(t.Context(), "busybox:1.36", img); err != nil {
		t.Fatal(err)
	}
	blobs, err := imageBlobs(img)
	if err != nil {
		t.Fatal(err)
	}
	blob := blobs[0]
	for _, test := range []struct {
		from, status int
		rest         []byte
	}{
		{from: 0, status: http.StatusPartialContent, rest: blob.data},
		{from: 100, status: http.StatusPartialContent, rest: blob.data[100:]},
		{from: len(blob.data), status: http.StatusRequestedRangeNotSatisfiable},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.Host+"/v2/busybox/blobs/"+blob.digest.String(), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Close = true // leaves no idle connection, and no goroutine, behind
		req.Header.Set("Range", "bytes="+strconv.Itoa(test.from)+"-")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		if err != nil || resp.StatusCode != test.status || test.rest != nil && !bytes.Equal(body, test.rest) {
			t.Errorf("from byte %d: %s with %d bytes (%v), wanted status %d and %d bytes", test.from, resp.Status, len(body), err, test.status, len(test.rest))
		}
	}
}
