package api

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Backend that remembers what it was asked and answers as told.
type fake struct {
	mu     sync.Mutex
	realms []status.Realm
	calls  []any
	err    error
	subs   map[chan struct{}]bool
	adopt  func(context.Context) ([]string, error)
}

func (f *fake) call(args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, args...)
	return f.err
}

func (f *fake) Host() status.Host { return status.Host{Daemon: status.Daemon{Version: "v1", Pid: 7}} }

func (f *fake) Realms() []status.Realm {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.realms
}

func (f *fake) set(realms ...status.Realm) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.realms = realms
	for c := range f.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (f *fake) Subscribe() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs[c] = true
	return c, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subs, c)
	}
}

func (f *fake) Reconcile(realm string) error         { return f.call("reconcile", realm) }
func (f *fake) Suspend(s state.Suspension) error     { return f.call("suspend", s) }
func (f *fake) Resume(realm, container string) error { return f.call("resume", realm, container) }
func (f *fake) Confirm(id string) (string, error)    { return "realm main", f.call("confirm", id) }

func (f *fake) Adopt(ctx context.Context, realm, container string) ([]string, error) {
	if f.adopt != nil {
		return f.adopt(ctx)
	}
	return []string{"web"}, f.call("adopt", realm, container)
}

func (f *fake) Release(_ context.Context, realm string) ([]string, error) {
	return []string{"web", "namespace kukeon-main"}, f.call("release", realm)
}

func (f *fake) Events(realm string, since time.Time) []status.Event {
	if err := f.call("events", realm, since); err != nil {
		return nil
	}
	return []status.Event{{Realm: realm, Reason: "Exited", Time: since}}
}

// serve starts a server and returns a client of it, and what ends it.
func serve(t *testing.T, f *fake) (*Client, func()) {
	t.Helper()
	f.subs = map[chan struct{}]bool{}
	path := SocketPath(filepath.Join(t.TempDir(), "run"))
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, f, logr.Discard()) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return NewClient(path), stop
}

func TestEveryCallReachesTheBackendAndItsAnswerComesBack(t *testing.T) {
	since := time.Date(2026, 5, 4, 3, 2, 1, 5, time.UTC)
	suspension := state.Suspension{Realm: "main", Container: "web", Until: since, Reason: "because", By: "root", At: since}
	tests := map[string]struct {
		call   func(context.Context, *Client) (any, error)
		answer any
		asked  []any
	}{
		"host": {func(ctx context.Context, c *Client) (any, error) { return c.Host(ctx) },
			status.Host{Daemon: status.Daemon{Version: "v1", Pid: 7}}, nil},
		"realms": {func(ctx context.Context, c *Client) (any, error) { return c.Realms(ctx) },
			[]status.Realm{{Name: "main"}, {Name: "two"}}, nil},
		"realm": {func(ctx context.Context, c *Client) (any, error) { return c.Realm(ctx, "two") },
			status.Realm{Name: "two"}, nil},
		"events": {func(ctx context.Context, c *Client) (any, error) { return c.Events(ctx, "main", since) },
			[]status.Event{{Realm: "main", Reason: "Exited", Time: since}}, []any{"events", "main", since}},
		"reconcile": {func(ctx context.Context, c *Client) (any, error) { return nil, c.Reconcile(ctx, "main") },
			nil, []any{"reconcile", "main"}},
		"suspend": {func(ctx context.Context, c *Client) (any, error) { return nil, c.Suspend(ctx, suspension) },
			nil, []any{"suspend", suspension}},
		"resume": {func(ctx context.Context, c *Client) (any, error) { return nil, c.Resume(ctx, "main", "web") },
			nil, []any{"resume", "main", "web"}},
		"confirm": {func(ctx context.Context, c *Client) (any, error) { return c.Confirm(ctx, "c0ffee") },
			"realm main", []any{"confirm", "c0ffee"}},
		"adopt": {func(ctx context.Context, c *Client) (any, error) { return c.Adopt(ctx, "main", "web") },
			[]string{"web"}, []any{"adopt", "main", "web"}},
		"release": {func(ctx context.Context, c *Client) (any, error) { return c.Release(ctx, "main") },
			[]string{"web", "namespace kukeon-main"}, []any{"release", "main"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := &fake{realms: []status.Realm{{Name: "main"}, {Name: "two"}}}
			c, _ := serve(t, f)
			answer, err := test.call(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.answer, answer); diff != "" {
				t.Errorf("answer -want +got:\n%s", diff)
			}
			if diff := cmp.Diff(test.asked, f.calls); diff != "" {
				t.Errorf("asked -want +got:\n%s", diff)
			}
		})
	}
}

func TestErrorsKeepTheirKindAndWords(t *testing.T) {
	for _, kind := range []error{ErrNotFound, ErrConflict, ErrInvalid, ErrNotNow, errFailed} {
		f := &fake{err: status.Refuse(kind, "no: do that first")}
		c, _ := serve(t, f)
		err := c.Reconcile(t.Context(), "main")
		if !errors.Is(err, kind) || err.Error() != "no: do that first" {
			t.Errorf("%v became %v", kind, err)
		}
	}
	f := &fake{err: errors.New("of no kind")}
	c, _ := serve(t, f)
	if err := c.Reconcile(t.Context(), ""); !errors.Is(err, errFailed) || err.Error() != "of no kind" {
		t.Errorf("an error without a kind became %v", err)
	}
	if _, err := c.Realm(t.Context(), "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown realm gives %v", err)
	}
	if _, err := call[result](t.Context(), c, "POST", "/v1/resume", []byte(`{"relm":"main"}`)); !errors.Is(err, ErrInvalid) {
		t.Errorf("an unknown key gives %v", err)
	}
	if _, err := get[result](t.Context(), c, "/v2/host"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an unknown path gives %v", err)
	}
}

func TestAWatchSeesTheLastOfManyChangesAndEndsWithTheDaemon(t *testing.T) {
	f := &fake{realms: []status.Realm{{Name: "main"}}}
	c, stop := serve(t, f)
	got := make(chan []status.Realm)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Watch(t.Context(), func(r []status.Realm) error { got <- r; return nil })
	}()
	if r := <-got; len(r) != 1 {
		t.Fatalf("first document: %v", r)
	}
	for i := range 100 {
		f.set(status.Realm{Name: "main", Generation: int64(i)})
	}
	for r := range got {
		if r[0].Generation == 99 {
			break
		}
	}
	stop()
	if err := <-ended; !errors.Is(err, ErrUnreachable) {
		t.Errorf("the watch ended with %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.subs) != 0 {
		t.Error("the watch is still subscribed")
	}
}

func TestAWatchEndsWhenItsReaderHasEnough(t *testing.T) {
	c, _ := serve(t, &fake{})
	enough := errors.New("enough")
	if err := c.Watch(t.Context(), func([]status.Realm) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("the watch ended with %v", err)
	}
}

func TestARequestUnderWayIsFinishedBeforeTheStop(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	f := &fake{adopt: func(ctx context.Context) ([]string, error) {
		close(begun)
		<-finish
		return []string{"late"}, ctx.Err()
	}}
	c, stop := serve(t, f)
	type reply struct {
		objects []string
		err     error
	}
	replies := make(chan reply, 1)
	go func() {
		objects, err := c.Adopt(t.Context(), "main", "")
		replies <- reply{objects, err}
	}()
	<-begun
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	for { // the listener closes first
		conn, err := net.Dial("unix", c.socket)
		if err != nil {
			break
		}
		_ = conn.Close()
	}
	close(finish)
	if r := <-replies; r.err != nil || len(r.objects) != 1 {
		t.Errorf("got %v, %v", r.objects, r.err)
	}
	<-stopped
}

func TestNobodyThereIsUnreachable(t *testing.T) {
	c := NewClient(filepath.Join(t.TempDir(), "api.sock"))
	if _, err := c.Host(t.Context()); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "--run-dir") {
		t.Errorf("got %v", err)
	}
}

func TestTheSocketIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // a test
	for path, want := range map[string]os.FileMode{dir: 0o700, SocketPath(dir): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestASharedRunDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(SocketPath(dir)); err == nil || !strings.Contains(err.Error(), "--run-dir") {
		t.Errorf("got %v", err)
	}
}

func TestAStaleSocketIsReplacedAndALivingOneIsNot(t *testing.T) {
	path := SocketPath(t.TempDir())
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); !errors.Is(err, ErrConflict) {
		t.Errorf("beside a living daemon: %v", err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false) // as SIGKILL leaves it
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Listen(path)
	if err != nil {
		t.Fatalf("after the daemon's death: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAFileInTheSocketsPlaceIsNotRemoved(t *testing.T) {
	path := SocketPath(t.TempDir())
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("it was")
	}
}

// Peers other than root and our own user are refused even when the modes let them in.
func TestAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test becomes another user and so has to be started by root")
	}
	c, _ := serve(t, &fake{})
	for dir := filepath.Dir(c.socket); dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if dir == os.TempDir() || filepath.Dir(dir) == os.TempDir() {
			break
		}
	}
	if err := os.Chmod(c.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	reply := make(chan string, 1)
	asNobody(t, func() { reply <- rawGet(c.socket) })
	if got := <-reply; !strings.Contains(got, "403") || !strings.Contains(got, "Forbidden") {
		t.Errorf("another user got %q", got)
	}
}

// asNobody runs do with another effective uid, on a thread that nobody else uses after that.
func asNobody(t *testing.T, do func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		defer close(done)
		lockForever()
		const nobody = 65534
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			done <- errno
			return
		}
		do()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
