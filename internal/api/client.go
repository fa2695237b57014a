package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
)

const (
	// readLimit bounds calls that the daemon answers from memory.
	readLimit = 10 * time.Second
	// silenceLimit is after how many missed heartbeats a watch counts as dead.
	silenceLimit = 3 * heartbeat
)

// Client asks the daemon. Errors are *status.Refusal with the daemon's kind and words, or ErrUnreachable.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client of the daemon behind the socket; it connects with each call.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket, &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Host says how the daemon is.
func (c *Client) Host(ctx context.Context) (status.Host, error) {
	return get[status.Host](ctx, c, "/v1/host")
}

// Realms lists all realms, sorted by name.
func (c *Client) Realms(ctx context.Context) ([]status.Realm, error) {
	list, err := get[realmList](ctx, c, "/v1/realms")
	return list.Items, err
}

// Realm returns one realm; ErrNotFound when the daemon knows none of that name.
func (c *Client) Realm(ctx context.Context, name string) (status.Realm, error) {
	return get[status.Realm](ctx, c, "/v1/realms/"+url.PathEscape(name))
}

// Events lists recent events, oldest first; realm "" means all, the zero time all that are kept.
func (c *Client) Events(ctx context.Context, realm string, since time.Time) ([]status.Event, error) {
	query := url.Values{"realm": {realm}}
	if !since.IsZero() {
		query.Set("since", since.Format(time.RFC3339Nano))
	}
	list, err := get[eventList](ctx, c, "/v1/events?"+query.Encode())
	return list.Items, err
}

// Reconcile asks for a pass now; realm "" means all.
func (c *Client) Reconcile(ctx context.Context, realm string) error {
	_, err := c.post(ctx, "/v1/reconcile", target{Realm: realm})
	return err
}

// Suspend keeps the daemon from writing to a realm or container.
func (c *Client) Suspend(ctx context.Context, s state.Suspension) error {
	_, err := c.post(ctx, "/v1/suspend", s)
	return err
}

// Resume ends a suspension.
func (c *Client) Resume(ctx context.Context, realm, container string) error {
	_, err := c.post(ctx, "/v1/resume", target{realm, container})
	return err
}

// Confirm releases a held removal, or removes an orphan, and returns what it released.
func (c *Client) Confirm(ctx context.Context, id string) (string, error) {
	r, err := c.post(ctx, "/v1/confirm", confirmation{id})
	return r.Released, err
}

// Adopt takes objects over and names them.
func (c *Client) Adopt(ctx context.Context, realm, container string) ([]string, error) {
	r, err := c.post(ctx, "/v1/adopt", target{realm, container})
	return r.Objects, err
}

// Release strips our keys off a realm's objects and names them.
func (c *Client) Release(ctx context.Context, realm string) ([]string, error) {
	r, err := c.post(ctx, "/v1/release", target{Realm: realm})
	return r.Objects, err
}

// Watch hands every realm to each, now and whenever something has changed, until each fails, whose error it
// returns, or ctx ends. ErrUnreachable means that the daemon went away.
func (c *Client) Watch(ctx context.Context, each func([]status.Realm) error) error {
	streaming, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := c.do(streaming, http.MethodGet, "/v1/realms?watch=true", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read from
	silence := time.AfterFunc(silenceLimit, cancel)
	defer silence.Stop()
	d := json.NewDecoder(&alive{resp.Body, silence})
	for {
		var list realmList
		if err := d.Decode(&list); err != nil {
			return c.gone(ctx, err)
		}
		if err := each(list.Items); err != nil {
			return err
		}
	}
}

// alive puts the end by silence off with everything that arrives.
type alive struct {
	r       io.Reader
	silence *time.Timer
}

func (a *alive) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	a.silence.Reset(silenceLimit)
	return n, err
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	return call[T](ctx, c, http.MethodGet, path, nil)
}

func (c *Client) post(ctx context.Context, path string, body any) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	return call[result](ctx, c, http.MethodPost, path, encode(body))
}

func call[T any](ctx context.Context, c *Client, method, path string, body []byte) (T, error) {
	var out T
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read from
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, c.gone(ctx, err)
	}
	return out, nil
}

// do sends a request and turns every refusal into an error.
func (c *Client) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://kukeon-reconciler"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.gone(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read from
	var f failure
	if err := json.NewDecoder(resp.Body).Decode(&f); err != nil {
		return nil, c.gone(ctx, err)
	}
	for _, k := range kinds {
		if k.word == f.Kind {
			return nil, &status.Refusal{Kind: k.err, Message: f.Message}
		}
	}
	return nil, &status.Refusal{Kind: errFailed, Message: f.Message}
}

// gone says why there is no answer.
func (c *Client) gone(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%w in time on %s: %w", ErrUnreachable, c.socket, ctx.Err())
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %s may be used by root only: %w", ErrUnreachable, c.socket, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w on %s: start it with `kukeon-reconciler run`, or say where it is with --run-dir", ErrUnreachable, c.socket)
	}
	return fmt.Errorf("%w any more on %s: %w", ErrUnreachable, c.socket, err)
}
