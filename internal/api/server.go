package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-logr/logr"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
)

const (
	// maxBody bounds a request; the longest is a suspension with a reason.
	maxBody = 64 << 10
	// headerLimit and writeLimit bound a peer that stops reading or writing; adopt and release of a big realm
	// take their time in between.
	headerLimit = 5 * time.Second
	writeLimit  = 2 * time.Minute
	// watchInterval is the least time between two documents of a watch: many changes come at once.
	watchInterval = 50 * time.Millisecond
	// heartbeat is how often a silent watch sends white space, so that both ends notice when the other is gone.
	heartbeat = 15 * time.Second
	// stopLimit is how long requests under way may take when the daemon ends.
	stopLimit = time.Second
)

// Serve answers on the listener until ctx ends, then lets requests under way finish within a second; watches end at
// once. It closes the listener. The error is nil after a stop by ctx.
func Serve(ctx context.Context, l net.Listener, b Backend, log logr.Logger) error {
	h := &handler{b, log, ctx.Done()}
	srv := &http.Server{
		Handler: h.routes(), ConnContext: withPeer,
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ReadHeaderTimeout: headerLimit, WriteTimeout: writeLimit, ErrorLog: stdlog.New(errorWriter{log}, "", 0),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve the status API: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	err := srv.Shutdown(stop)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests to the status API were cut off: %w", err), srv.Close())
	}
	if end := <-served; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return err
}

// errorWriter carries net/http's own complaints to the log.
type errorWriter struct{ log logr.Logger }

func (w errorWriter) Write(p []byte) (int, error) {
	w.log.V(1).Info("status API", "message", strings.TrimSpace(string(p)))
	return len(p), nil
}

type handler struct {
	backend Backend
	log     logr.Logger
	stop    <-chan struct{} // closed when the daemon ends
}

func (h *handler) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/host", func(w http.ResponseWriter, _ *http.Request) { h.answer(w, h.backend.Host(), nil) })
	mux.HandleFunc("GET /v1/realms", h.realms)
	mux.HandleFunc("GET /v1/realms/{name}", h.realm)
	mux.HandleFunc("GET /v1/events", h.events)
	mux.HandleFunc("POST /v1/reconcile", post(h, func(_ context.Context, t target) (result, error) {
		return result{}, h.backend.Reconcile(t.Realm)
	}))
	mux.HandleFunc("POST /v1/suspend", post(h, func(_ context.Context, s state.Suspension) (result, error) {
		return result{}, h.backend.Suspend(s)
	}))
	mux.HandleFunc("POST /v1/resume", post(h, func(_ context.Context, t target) (result, error) {
		return result{}, h.backend.Resume(t.Realm, t.Container)
	}))
	mux.HandleFunc("POST /v1/confirm", post(h, func(_ context.Context, c confirmation) (result, error) {
		released, err := h.backend.Confirm(c.ID)
		return result{Released: released}, err
	}))
	mux.HandleFunc("POST /v1/adopt", post(h, func(ctx context.Context, t target) (result, error) {
		objects, err := h.backend.Adopt(ctx, t.Realm, t.Container)
		return result{Objects: objects}, err
	}))
	mux.HandleFunc("POST /v1/release", post(h, func(ctx context.Context, t target) (result, error) {
		objects, err := h.backend.Release(ctx, t.Realm)
		return result{Objects: objects}, err
	}))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, status.Refuse(ErrNotFound, "%s %s is no part of this release's API", r.Method, r.URL.Path))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !allowed(r.Context()) {
			h.fail(w, status.Refuse(errForbidden, "only root and the daemon's own user may ask"))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// post decodes a request's body, strictly, and answers with what do returns.
func post[T any](h *handler, do func(context.Context, T) (result, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body T
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
		d.DisallowUnknownFields()
		if err := d.Decode(&body); err != nil {
			h.fail(w, status.Refuse(ErrInvalid, "the request's body cannot be read: %v", err))
			return
		}
		done, err := do(r.Context(), body)
		h.answer(w, done, err)
	}
}

func (h *handler) realm(w http.ResponseWriter, r *http.Request) {
	for _, realm := range h.backend.Realms() {
		if string(realm.Name) == r.PathValue("name") {
			h.answer(w, realm, nil)
			return
		}
	}
	h.fail(w, noRealm(r.PathValue("name")))
}

func noRealm(name string) error {
	return status.Refuse(ErrNotFound, "there is no realm %q: `kukeon-reconciler get realms` lists them", name)
}

func (h *handler) events(w http.ResponseWriter, r *http.Request) {
	var since time.Time
	if v := r.URL.Query().Get("since"); v != "" {
		var err error
		if since, err = time.Parse(time.RFC3339Nano, v); err != nil {
			h.fail(w, status.Refuse(ErrInvalid, "since: %v", err))
			return
		}
	}
	h.answer(w, eventList{h.backend.Events(r.URL.Query().Get("realm"), since)}, nil)
}

func (h *handler) realms(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") == "true" {
		h.watch(w, r)
		return
	}
	h.answer(w, realmList{h.backend.Realms()}, nil)
}

// watch sends the whole list, one document a line, now and whenever it has changed, until the peer goes or we do. A
// peer that stops reading is cut off.
func (h *handler) watch(w http.ResponseWriter, r *http.Request) {
	changed, unsubscribe := h.backend.Subscribe()
	defer unsubscribe()
	w.Header().Set("Content-Type", "application/json")
	control := http.NewResponseController(w)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	var last []byte
	for {
		line := []byte("\n")
		if now := encode(realmList{h.backend.Realms()}); !bytes.Equal(now, last) {
			line, last = now, now
		}
		if err := errors.Join(control.SetWriteDeadline(time.Now().Add(heartbeat)), write(w, line), control.Flush()); err != nil {
			h.log.V(1).Info("a watch has ended", "error", err.Error())
			return
		}
		select {
		case <-h.stop:
			return
		case <-r.Context().Done():
			return
		case <-time.After(watchInterval):
		}
		select {
		case <-h.stop:
			return
		case <-r.Context().Done():
			return
		case <-changed:
		case <-beat.C:
		}
	}
}

func write(w http.ResponseWriter, b []byte) error {
	_, err := w.Write(b)
	return err
}

// answer sends the value, or the error.
func (h *handler) answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		h.fail(w, err)
		return
	}
	h.send(w, http.StatusOK, v)
}

func (h *handler) fail(w http.ResponseWriter, err error) {
	code, f := http.StatusInternalServerError, failure{wordFailed, err.Error()}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			code, f.Kind = k.code, k.word
			break
		}
	}
	h.send(w, code, f)
}

func (h *handler) send(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := write(w, encode(v)); err != nil {
		h.log.V(1).Info("an answer was not read", "error", err.Error())
	}
}

// encode prints plain data on one line.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("api: an answer cannot be encoded: %v", err)) // plain data: cannot happen
	}
	return append(b, '\n')
}
