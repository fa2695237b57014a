package testenv

import (
	"bytes"
	"context"
	"crypto/tls"
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
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Registry is an image registry in this process, on 127.0.0.1.
type Registry struct {
	// Host is address and port, the first part of the references of its images.
	Host string

	handler http.Handler
	server  *http.Server
	served  chan struct{}

	mu       sync.Mutex
	requests []string
	guard    Guard
}

// NewRegistry starts an empty registry in plain HTTP that lives until Close or the end of ctx.
func NewRegistry(ctx context.Context) (*Registry, error) { return newRegistry(ctx, nil) }

// newRegistry starts a registry that speaks TLS when there is a configuration for that.
func newRegistry(ctx context.Context, secure *tls.Config) (*Registry, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Registry{Host: listener.Addr().String(), served: make(chan struct{})}
	if secure != nil {
		listener = tls.NewListener(listener, secure)
	}
	r.handler = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	silent := log.New(io.Discard, "", 0) // who tries TLS first, and then plain HTTP, is no news
	r.server = &http.Server{Handler: http.HandlerFunc(r.serve), ErrorLog: silent}
	go func() {
		defer close(r.served)
		_ = r.server.Serve(listener) // ends with ErrServerClosed; a client notices anything else
	}()
	context.AfterFunc(ctx, func() { _ = r.server.Close() })
	return r, nil
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		r.requests = append(r.requests, req.Method+" "+req.URL.Path)
	}
	guard := r.guard
	r.mu.Unlock()
	if guard != nil {
		if w = guard(w, req); w == nil {
			return
		}
	}
	if req.Header.Get("Range") != "" {
		servePart(w, req, r.handler)
		return
	}
	r.handler.ServeHTTP(w, req)
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
	base := "/v2/" + name
	for _, b := range blobs[:manifest] {
		if err := r.store(ctx, http.MethodPost, base+"/blobs/uploads/?digest="+b.digest.String(), "", b.data); err != nil {
			return "", err
		}
	}
	err = r.store(ctx, http.MethodPut, base+"/manifests/"+tag, string(types.OCIManifestSchema1), blobs[manifest].data)
	return r.Host + "/" + ref, err
}

// PushForeign stores an image of several platforms, of which this host is none, under name:tag, and returns the full
// reference.
func (r *Registry) PushForeign(ctx context.Context, ref string) (string, error) {
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: BusyboxImage(), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}},
	})
	raw, err := index.RawManifest()
	if err != nil {
		return "", err
	}
	name, tag, _ := strings.Cut(ref, ":")
	digest, err := BusyboxImage().Digest()
	if err != nil {
		return "", err
	}
	if _, err := r.Push(ctx, name+":"+digest.String(), BusyboxImage()); err != nil {
		return "", err
	}
	return r.Host + "/" + ref, r.store(ctx, http.MethodPut, "/v2/"+name+"/manifests/"+tag, string(types.OCIImageIndex), raw)
}

// store puts something into the registry, past the network and the guard.
func (r *Registry) store(ctx context.Context, method, path, contentType string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	answer := httptest.NewRecorder()
	r.handler.ServeHTTP(answer, req)
	if answer.Code != http.StatusCreated {
		return fmt.Errorf("%s %s: %d: %s", method, path, answer.Code, answer.Body)
	}
	return nil
}
