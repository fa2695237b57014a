package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"kukeon.io/kukeon-reconciler/internal/api"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// containerd's dialer leaves a try under way when its connection is closed; it ends by itself within a second.
const dialer = "github.com/containerd/containerd/v2/pkg/dialer.timeoutDialer"

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(dialer), goleak.IgnoreAnyFunction(dialer+".func1"))
}

var now = time.Date(2026, 5, 4, 3, 0, 0, 0, time.UTC)

// fakeDaemon is a Backend that shows what a test wants, and remembers what it was asked.
type fakeDaemon struct {
	mu     sync.Mutex
	host   status.Host
	realms []status.Realm
	asked  []string
	err    error
	subs   map[chan struct{}]bool
}

func (d *fakeDaemon) ask(format string, args ...any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, fmt.Sprintf(format, args...))
	return d.err
}

func (d *fakeDaemon) Host() status.Host { return d.host }

func (d *fakeDaemon) Realms() []status.Realm {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.realms
}

// set shows other realms, and waits until every watch has been told.
func (d *fakeDaemon) set(realms ...status.Realm) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.realms = realms
	for c := range d.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (d *fakeDaemon) Subscribe() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.subs[c] = true
	return c, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.subs, c)
	}
}

func (d *fakeDaemon) Reconcile(realm string) error { return d.ask("reconcile %q", realm) }
func (d *fakeDaemon) Suspend(s state.Suspension) error {
	return d.ask("suspend %s/%s until %s by %q because %q", s.Realm, s.Container, s.Until.Format(time.RFC3339), s.By, s.Reason)
}
func (d *fakeDaemon) Resume(realm, container string) error {
	return d.ask("resume %s/%s", realm, container)
}
func (d *fakeDaemon) Confirm(id string) (string, error) {
	return "the removal of realm two", d.ask("confirm %s", id)
}
func (d *fakeDaemon) Adopt(_ context.Context, realm, container string) ([]string, error) {
	return []string{"web"}, d.ask("adopt %s/%s", realm, container)
}
func (d *fakeDaemon) Release(_ context.Context, realm string) ([]string, error) {
	return []string{"web", "namespace kukeon-main"}, d.ask("release %s", realm)
}

func (d *fakeDaemon) Events(string, time.Time) []status.Event {
	return []status.Event{
		{Time: now.Add(-time.Hour), Realm: "main", Object: "web", Reason: "Missing", Message: "start web: not running"},
		{Time: now.Add(-time.Minute), Realm: "main", Object: "job", Reason: "Exited", Message: "complete job: exit 0"},
	}
}

// hostOf is a host on which all is well.
func hostOf(realms []status.Realm) status.Host {
	return status.Host{
		Daemon:     status.Daemon{Version: "v1", Pid: 42, Started: now.Add(-3 * time.Hour), Mode: status.ModeRun},
		Containerd: status.Containerd{Address: "/run/containerd/containerd.sock", Version: "2.4.2", Connected: true, Since: now.Add(-2 * time.Hour)},
		Source:     status.Source{Root: "/etc/kukeon/realms.d", Exists: true, Complete: true, Files: 2, Revision: "0123456789abcdef", ScannedAt: now.Add(-2 * time.Second)},
		Logs:       status.Logs{Pump: "logd"}, Realms: status.Count(realms),
	}
}

func mainRealm() status.Realm {
	zero := 0
	container := status.Container{
		Realm: "main", Namespace: "kukeon-main", Name: "web", ContainerID: "web", Image: "docker.io/library/caddy:2", Phase: status.PhaseRunning,
		Health: status.HealthNone, Pid: 4711, InSync: true, Reason: "Running", Source: "main.yaml", Line: 8, Revision: "0123456789abcdef",
		Since: now.Add(-time.Hour), Owner: "uuid-1", RestartPolicy: state.RestartAlways,
	}
	job := container
	job.Name, job.ContainerID, job.Phase, job.Pid, job.Reason, job.Message = "job", "job", status.PhaseCompleted, 0, "Finished", "finished at 2026-05-04T02:59:00Z"
	job.Since, job.ExitCode, job.FinishedAt, job.RestartPolicy = now.Add(-time.Minute), &zero, now.Add(-time.Minute), state.RestartNever
	return status.Realm{
		Name: "main", Namespace: "kukeon-main", State: status.Ready, InSync: true, Ready: true, Desired: 2, Running: 1,
		Generation: 3, ObservedGeneration: 3, Revision: "0123456789abcdef", Reason: "AllRunning", Message: "1 of 2 containers run, 1 completed",
		Conditions: []status.Condition{{Type: status.ConditionReady, Status: status.True, Reason: "AllRunning", Message: "1 of 2 containers run, 1 completed",
			LastTransitionTime: now.Add(-time.Hour), ObservedGeneration: 3}},
		Paths: []string{"main.yaml"}, Containers: []status.Container{job, container},
		Images: []status.Image{
			{Realm: "main", Ref: "docker.io/library/caddy:2", Digest: "sha256:aa", Unpacked: true, Owned: true, UsedBy: []string{"web", "/srv/images/caddy.tar"}},
			{Realm: "main", Ref: "docker.io/library/old:1", Digest: "sha256:bb"},
		},
	}
}

func brokenRealm() status.Realm {
	return status.Realm{
		Name: "two", Namespace: "kukeon-two", State: status.Degraded, Desired: 1, Generation: 7, ObservedGeneration: 7,
		Reason: "RemovalHeld", Message: "2 of 2 realms are gone from the files",
		Conditions: []status.Condition{{Type: status.ConditionStalled, Status: status.True, Reason: "RemovalHeld", LastTransitionTime: now}},
		Containers: []status.Container{{Realm: "two", Namespace: "kukeon-two", Name: "db", ContainerID: "db", Image: "db:1", Phase: status.PhaseBackoff,
			Health: status.HealthNone, Restarts: 5, Reason: "CrashLoop", Message: "backoff after exit 1", Source: "two.yaml", Since: now}},
		Plan:      []string{"restart db: exit 1 (two.yaml)"},
		Waits:     []string{"db waits for backoff after exit 1"},
		LeftAlone: []status.LeftAlone{{Object: "nerdctl-7f3a", Reason: "NotOurs", Message: "not ours"}},
		Hints:     []string{"kukeon-reconciler confirm c0ffee"},
	}
}

// harness runs command lines in process against a daemon behind a socket of its own.
type harness struct {
	*fakeDaemon
	dir string
	env map[string]string
	in  string
}

func newHarness(t *testing.T, realms ...status.Realm) *harness {
	t.Helper()
	h := &harness{fakeDaemon: &fakeDaemon{realms: realms, host: hostOf(realms), subs: map[chan struct{}]bool{}}, dir: t.TempDir()}
	h.env = map[string]string{
		"KUKEON_RUN_DIR": filepath.Join(h.dir, "run"), "KUKEON_LOG_DIR": filepath.Join(h.dir, "log"),
		"KUKEON_STATE_DIR": filepath.Join(h.dir, "state"), "KUKEON_CONTAINERD_ADDRESS": filepath.Join(h.dir, "containerd.sock"),
		"USER": "root",
	}
	return h
}

// serve starts the daemon's API and returns what ends it.
func (h *harness) serve(t *testing.T) func() {
	t.Helper()
	l, err := api.Listen(api.SocketPath(h.env["KUKEON_RUN_DIR"]))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- api.Serve(ctx, l, h.fakeDaemon, logr.Discard()) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

type streamsOf struct {
	out, err *safeBuffer
	code     int
}

// safeBuffer can be looked at while a command writes.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (h *harness) run(ctx context.Context, args ...string) streamsOf {
	s := streamsOf{out: &safeBuffer{}, err: &safeBuffer{}}
	h.runInto(ctx, &s, args...)
	return s
}

func (h *harness) runInto(ctx context.Context, s *streamsOf, args ...string) {
	env := maps.Clone(h.env)
	if _, set := env["KUKEON_CONFIG"]; !set {
		env["KUKEON_CONFIG"] = os.DevNull
	}
	a := &app{in: strings.NewReader(h.in), out: s.out, err: s.err, now: func() time.Time { return now },
		getenv: func(name string) string { return env[name] }}
	s.code = a.execute(ctx, args)
}

// transcript is what a person would see of a command line, with this test's directory written as DIR.
func (h *harness) transcript(t *testing.T, args ...string) string {
	t.Helper()
	s := h.run(t.Context(), args...)
	var b strings.Builder
	fmt.Fprintf(&b, "$ kukeon-reconciler %s\n%s", strings.Join(args, " "), s.out)
	for _, line := range strings.Split(strings.TrimSuffix(s.err.String(), "\n"), "\n") {
		if line != "" {
			fmt.Fprintf(&b, "stderr: %s\n", line)
		}
	}
	fmt.Fprintf(&b, "exit status %d\n", s.code)
	return strings.ReplaceAll(b.String(), h.dir, "DIR")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
