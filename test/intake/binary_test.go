package intake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/internal/api"
	"kukeon.io/kukeon-reconciler/internal/testenv"
	"kukeon.io/kukeon-reconciler/test/proxy"
)

// waitLimit is more than anything here takes on a busy machine.
const waitLimit = 60 * time.Second

// machine is the compiled daemon on a real containerd, with a proxy between them that counts the writes.
type machine struct {
	t           *testing.T
	daemon      *testenv.Daemon
	proxy       *proxy.Proxy
	client      *api.Client
	binary, dir string
	root        string // the manifest directory
	suffix      string // of the namespaces
	process     *exec.Cmd
	log         bytes.Buffer
	fed         int
}

// build compiles the command as `make build` does.
func build(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(dir, "kukeon-reconciler")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, "kukeon.io/kukeon-reconciler/cmd/kukeon-reconciler")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return out
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, binary: build(t, dir), dir: dir, root: filepath.Join(dir, "realms.d"), suffix: testenv.Suffix()}
	m.daemon = testenv.NewTB(t, testenv.DefaultVersion())
	var err error
	m.proxy, err = proxy.Start(filepath.Join(m.daemon.Dir, "proxy.sock"), m.daemon.Address)
	must(t, err)
	t.Cleanup(func() { must(t, m.proxy.Close()) })
	archive := filepath.Join(dir, "web.tar")
	must(t, testenv.SaveArchive(testenv.SmallImages()["sleeps"], "docker.io/library/web:1", archive))
	for _, realm := range []string{"main", "edge"} {
		_, err := m.daemon.Ctr(t.Context(), m.namespace(realm), "images", "import", archive)
		must(t, err)
	}
	lay(t, m.root)
	m.start()
	m.wait("the good manifests run", func() error {
		if pids, err := m.pids(); err != nil || len(pids) != 4 {
			return fmt.Errorf("%d run: %w", len(pids), err)
		}
		h, err := m.client.Host(t.Context())
		if err == nil && (h.Realms.InSync != 2 || len(m.proxy.Pending()) > 0) {
			err = fmt.Errorf("%+v", h.Realms)
		}
		return err
	})
	return m
}

func (m *machine) namespace(realm string) string { return "kukeon-" + realm + "-" + m.suffix }

// start runs the daemon, and ends it and its log pump after the test.
func (m *machine) start() {
	run := filepath.Join(m.dir, "run")
	m.process = exec.Command(m.binary, "run", "--config", os.DevNull, "--manifests", m.root, "--containerd-address", m.proxy.Address,
		"--state-dir", filepath.Join(m.dir, "state"), "--run-dir", run, "--log-dir", filepath.Join(m.dir, "logs"),
		"--namespace-template", "kukeon-{realm}-"+m.suffix, "--rescan", "1s", "--prune-settle", "100ms")
	m.process.Stdout, m.process.Stderr = &m.log, &m.log
	must(m.t, m.process.Start())
	m.client = api.NewClient(api.SocketPath(run))
	m.t.Cleanup(func() {
		must(m.t, m.process.Process.Signal(syscall.SIGTERM))
		if err := m.process.Wait(); err != nil {
			m.t.Errorf("the daemon: %v\n%s", err, tail(m.log.String()))
		}
		m.wait("the log pump ends", func() error {
			left := processes(run)
			for _, pid := range left {
				_ = syscall.Kill(pid, syscall.SIGTERM) // looked at again until it is gone
			}
			if len(left) > 0 {
				return fmt.Errorf("processes %v are left", left)
			}
			return nil
		})
	})
}

// wait waits for a condition.
func (m *machine) wait(what string, holds func() error) {
	m.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(waitLimit); ; <-tick.C {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("%s: %v\n%s", what, err, tail(m.log.String()))
		}
	}
}

// pids are the running processes of both realms, as ctr sees them.
func (m *machine) pids() (map[string]int, error) {
	out := map[string]int{}
	for _, realm := range []string{"main", "edge"} {
		text, err := m.daemon.Ctr(m.t.Context(), m.namespace(realm), "tasks", "ls")
		if err != nil {
			return nil, err
		}
		for _, line := range strings.Split(strings.TrimSpace(text), "\n")[1:] {
			if f := strings.Fields(line); len(f) == 3 && f[2] == "RUNNING" {
				pid, err := strconv.Atoi(f[1])
				if err != nil {
					return nil, err
				}
				out[realm+"/"+f[0]] = pid
			}
		}
	}
	return out, nil
}

// looked waits until the daemon has read the directory twice more, and returns what it says is wrong.
func (m *machine) looked() []string {
	var problems []string
	for range 2 {
		since := time.Now()
		must(m.t, m.client.Reconcile(m.t.Context(), ""))
		m.wait("the directory is read", func() error {
			h, err := m.client.Host(m.t.Context())
			if err == nil && h.Source.ScannedAt.Before(since) {
				err = errors.New("not yet")
			}
			problems = h.Source.Problems
			return err
		})
	}
	return problems
}

// feedBinary takes a fortieth of the bad files through the daemon, at least ten.
func feedBinary(t *testing.T, g *generator, refused []int) {
	if len(refused) == 0 {
		return
	}
	m, began := newMachine(t), time.Now()
	pids, err := m.pids()
	must(t, err)
	share := max(min(10, len(refused)), len(refused)/40)
	for i := range share {
		s := g.specimen(refused[i*len(refused)/share])
		if why := m.feed(s, pids); why != "" {
			figures.fail(t, s, "the daemon: "+why)
		}
	}
	figures.note(t, fmt.Sprintf(
		"%d through the compiled daemon on containerd %s in %s: %s of CPU for each with four looks, at most %s of memory",
		m.fed, m.daemon.Version, time.Since(began).Round(time.Second), (m.cpu()/time.Duration(max(1, m.fed))).Round(time.Millisecond), m.peak()))
}

// feed puts one bad file in place and says what it changed.
func (m *machine) feed(s specimen, pids map[string]int) string {
	m.fed++
	m.proxy.Reset()
	put(m.t, m.root, s.path, s.data)
	problems := m.looked()
	why := m.changed(s, pids, problems)
	restore(m.t, m.root, s.path)
	if left := m.looked(); len(left) > 0 && why == "" {
		why = fmt.Sprintf("problems that stay: %q", left)
	}
	return why
}

func (m *machine) changed(s specimen, pids map[string]int, problems []string) string {
	now, err := m.pids()
	switch {
	case err != nil:
		return err.Error()
	case !maps.Equal(pids, now):
		return cmp.Diff(pids, now)
	case len(m.proxy.Writes()) > 0:
		return fmt.Sprintf("writes to containerd: %v", m.proxy.Writes())
	case !slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, s.path+":") }):
		return fmt.Sprintf("no problem with a line of %s: %q", s.path, problems)
	}
	return m.validated(s)
}

// validated runs `validate` on the directory, as people do before they push.
func (m *machine) validated(s specimen) string {
	ctx, cancel := context.WithTimeout(m.t.Context(), waitLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, m.binary, "validate", m.root).Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		return fmt.Sprintf("validate: %v", err)
	}
	if !strings.Contains(string(out), s.path+":") {
		return fmt.Sprintf("validate names no line of %s: %q", s.path, out)
	}
	return ""
}

// cpu is what the daemon has used since its start.
func (m *machine) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.process.Process.Pid))
	must(m.t, err)
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const perTick = time.Second / 100
	user, err := strconv.Atoi(f[11])
	must(m.t, err)
	system, err := strconv.Atoi(f[12])
	must(m.t, err)
	return time.Duration(user+system) * perTick
}

// peak is the most memory that the daemon ever had.
func (m *machine) peak() string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.process.Process.Pid))
	must(m.t, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// processes are the living processes with this argument on their command line.
func processes(argument string) []int {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is a good one
	var pids []int
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil || !slices.Contains(strings.Split(string(line), "\x00"), argument) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func tail(log string) string {
	lines := strings.Split(log, "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}
