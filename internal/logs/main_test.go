package logs

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// helperEnv makes the test binary one of the other processes of a host.
const helperEnv = "KR_LOGS_HELPER"

func TestMain(m *testing.M) {
	if role := os.Getenv(helperEnv); role != "" {
		if err := help(role, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, role, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func help(role string, args []string) error {
	switch role {
	case "pump":
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
		defer stop()
		fmt.Println("ready")
		return NewPump(Options{RunDir: args[0]}).Run(ctx)
	case "shim": // holds both ends, as containerd's shims do
		if err := os.WriteFile("/proc/self/comm", []byte("containerd-shim-runc-v2"), 0); err != nil {
			return err
		}
		return hold(args[0], os.O_RDONLY)
	case "hold":
		return hold(args[0], os.O_RDONLY)
	case "write":
		return writeAtRate(args[0], args[1])
	}
	return fmt.Errorf("no such role")
}

// hold keeps a FIFO open, without a read, until stdin ends.
func hold(path string, flag int) error {
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// helper starts a process of the host and waits until it is ready; stop ends it.
func helper(t testing.TB, role string, args ...string) (cmd *exec.Cmd, stop func()) {
	t.Helper()
	cmd = exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), helperEnv+"="+role)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%s is not ready: %q %v", role, line, err)
	}
	done := false
	stop = func() {
		if done {
			return
		}
		done = true
		_ = stdin.Close()
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait() // ends by our signal
	}
	t.Cleanup(stop)
	return cmd, stop
}

// host is a run directory and a log directory.
type host struct {
	t        testing.TB
	run, log string
}

func newHost(t testing.TB) *host {
	return &host{t: t, run: t.TempDir(), log: t.TempDir()}
}

func (h *host) config(container string) Config {
	return Config{Realm: "main", Container: container, Path: LogPath(h.log, "main", container)}
}

func (h *host) prepare(container string) IO { return h.prepareWith(h.config(container)) }

func (h *host) prepareWith(cfg Config) IO {
	h.t.Helper()
	paths, err := Prepare(h.run, "kukeon-main", cfg.Container, cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	return paths
}

// pump runs a pump until stop or the end of the test. Changes are made before it runs.
func (h *host) pump(opts Options, changes ...func(*Pump)) (p *Pump, stop func()) {
	h.t.Helper()
	opts.RunDir = h.run
	if t, ok := h.t.(*testing.T); ok {
		opts.Log = testr.New(t)
	}
	p = NewPump(opts)
	for _, change := range changes {
		change(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	done := false
	stop = func() {
		if done {
			return
		}
		done = true
		cancel()
		if err := <-ended; err != nil {
			h.t.Errorf("pump: %v", err)
		}
	}
	h.t.Cleanup(stop)
	return p, stop
}

// output opens a FIFO as a container's end of it; it waits for a pump as a shim does.
func (h *host) output(path string) *os.File {
	h.t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (h *host) read(container string, opts ReadOptions) string {
	h.t.Helper()
	var out strings.Builder
	if err := Read(h.t.Context(), h.log, "main", container, opts, &out); err != nil {
		h.t.Fatal(err)
	}
	return out.String()
}

// text is all that the log has of the container's own text; nothing when there is no log yet.
func (h *host) text(container string) string {
	var out bytes.Buffer
	_ = Read(h.t.Context(), h.log, "main", container, ReadOptions{Tail: -1}, &out)
	return out.String()
}

func (h *host) markers(container string) string {
	var notices bytes.Buffer
	_ = Read(h.t.Context(), h.log, "main", container, ReadOptions{Tail: -1, Notices: &notices}, io.Discard)
	return notices.String()
}

func (h *host) waitText(container, want string) {
	h.t.Helper()
	waitFor(h.t, func() error {
		if got := h.text(container); got != want {
			return fmt.Errorf("the log of %s has %d bytes, want %d: %.200q", container, len(got), len(want), got)
		}
		return nil
	})
}

func (h *host) waitMarker(container, part string) {
	h.t.Helper()
	waitFor(h.t, func() error {
		if got := h.markers(container); !strings.Contains(got, part) {
			return fmt.Errorf("no marker %q in %q", part, got)
		}
		return nil
	})
}

// waitFor waits until check has nothing to say.
func waitFor(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

func mustWrite(t testing.TB, f *os.File, text string) {
	t.Helper()
	if _, err := io.WriteString(f, text); err != nil {
		t.Fatal(err)
	}
}

// numbered is lines with the numbers from first to before end.
func numbered(first, end int) string {
	var b strings.Builder
	for i := first; i < end; i++ {
		fmt.Fprintf(&b, "line %07d\n", i)
	}
	return b.String()
}

func logFiles(t testing.TB, path string) []string {
	t.Helper()
	files, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}
