package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Registry is an image registry in this process, in plain HTTP on 127.0.0.1.
type Registry struct {
	// Host is address and port, the first part of the references of its images.
	Host string

	server *http.Server
	served chan struct{}

	mu       sync.Mutex
	requests []string
}

// NewRegistry starts an empty registry that lives until Close or the end of ctx.
func NewRegistry(ctx context.Context) (*Registry, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Registry{Host: listener.Addr().String(), served: make(chan struct{})}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet || req.Method == http.MethodHead {
			r.mu.Lock()
			r.requests = append(r.requests, req.Method+" "+req.URL.Path)
			r.mu.Unlock()
		}
		if req.Header.Get("Range") != "" {
			servePart(w, req, handler)
			return
		}
		handler.ServeHTTP(w, req)
	})}
	go func() {
		defer close(r.served)
		_ = r.server.Serve(listener) // ends with ErrServerClosed; a client notices anything else
	}()
	context.AfterFunc(ctx, func() { _ = r.server.Close() })
	return r, nil
}

// servePart answers for a part of a blob, as registries do. The handler itself does not know ranges without an end, by
// which a pull that broke off goes on.
func servePart(w http.ResponseWriter, req *http.Request, handler http.Handler) {
	whole := req.Clone(req.Context())
	whole.Header.Del("Range")
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, whole)
	maps.Copy(w.Header(), answer.Header())
	w.Header().Del("Content-Length") // that of the part differs
	if answer.Code != http.StatusOK {
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()) // the client is gone otherwise
		return
	}
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(answer.Body.Bytes()))
}

// Close ends the registry, and all requests under way.
func (r *Registry) Close() error {
	err := r.server.Close()
	<-r.served
	return err
}

// Requests returns what was read so far, such as "GET /v2/busybox/manifests/1.36", in order. Pushes do not count.
func (r *Registry) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Push stores an image under name:tag and returns the full reference, Host/name:tag.
func (r *Registry) Push(ctx context.Context, ref string, img v1.Image) (string, error) {
	name, tag, ok := strings.Cut(ref, ":")
	if !ok {
		return "", fmt.Errorf("%q is not name:tag", ref)
	}
	blobs, err := imageBlobs(img)
	if err != nil {
		return "", err
	}
	manifest := len(blobs) - 1
	base := "http://" + r.Host + "/v2/" + name
	for _, b := range blobs[:manifest] {
		if err := send(ctx, http.MethodPost, base+"/blobs/uploads/?digest="+b.digest.String(), "", b.data); err != nil {
			return "", err
		}
	}
	err = send(ctx, http.MethodPut, base+"/manifests/"+tag, string(types.OCIManifestSchema1), blobs[manifest].data)
	return r.Host + "/" + ref, err
}

func send(ctx context.Context, method, url, contentType string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Close = true // leaves no idle connection, and no goroutine, behind
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, err := io.ReadAll(resp.Body)
		return errors.Join(fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text), err)
	}
	return nil
}
