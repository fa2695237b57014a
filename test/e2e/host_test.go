package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/internal/testenv"
	"kukeon.io/kukeon-reconciler/test/proxy"
)

const (
	// exitLimit is how long the reconciler may take to end after SIGTERM.
	exitLimit = 5 * time.Second
	// startLimit is how long it may take until it answers; on a busy machine most of it is waiting for a core.
	startLimit = 10 * time.Second
	// commandLimit bounds every other command of ours.
	commandLimit = 60 * time.Second
)

// host is what one reconciler needs, and nobody else uses.
type host struct {
	suffix string
	dir    string
	// manifests, state, runDir and logs are the directories that the flags name.
	manifests, state, runDir, logs string
	// address is containerd's socket as the reconciler sees it: the proxy's, unless a spec sets it to the daemon's.
	address string
	proxy   *proxy.Proxy

	process *exec.Cmd
	exited  chan struct{} // closed when process has ended and was waited for
}

// newHost makes a host with an empty manifest directory, and ends and sweeps it after the spec.
func newHost() *host {
	GinkgoHelper()
	top, err := os.MkdirTemp(dir, "")
	Expect(err).NotTo(HaveOccurred())
	h := &host{
		suffix: testenv.Suffix(), dir: top, manifests: filepath.Join(top, "realms.d"), state: filepath.Join(top, "state"),
		runDir: filepath.Join(top, "run"), logs: filepath.Join(top, "logs"), address: filepath.Join(top, "proxy.sock"),
	}
	Expect(os.Mkdir(h.manifests, 0o755)).To(Succeed())
	h.proxy, err = proxy.Start(h.address, daemon.Address)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(h.end)
	return h
}

// name is what a realm is called on this host, and namespace what its namespace is called.
func (h *host) name(realm string) string      { return realm + "-" + h.suffix }
func (h *host) namespace(realm string) string { return "kukeon-" + h.name(realm) }

// flags tell a command where this host is.
func (h *host) flags() []string {
	return []string{
		"--config", os.DevNull, "--manifests", h.manifests, "--containerd-address", h.address,
		"--state-dir", h.state, "--run-dir", h.runDir, "--log-dir", h.logs,
	}
}

// launch starts `run` and does not wait for anything. Scans are denser than by default, to save the specs' time; a
// later flag wins.
func (h *host) launch(args ...string) {
	GinkgoHelper()
	Expect(h.alive()).To(BeFalse(), "the reconciler runs already")
	log, err := os.OpenFile(h.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	Expect(err).NotTo(HaveOccurred())
	defer log.Close()
	fmt.Fprintf(log, "--- run %s\n", strings.Join(args, " "))
	h.process = exec.Command(binary, slices.Concat([]string{"run"}, h.flags(),
		[]string{"--rescan", "1s", "--prune-settle", "1s", "--log-level", "debug"}, args)...)
	h.process.Stdout, h.process.Stderr = log, log
	h.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	Expect(h.process.Start()).To(Succeed())
	exited, process := make(chan struct{}), h.process
	h.exited = exited
	go func() {
		_ = process.Wait() // its ProcessState says how it ended
		close(exited)
	}()
}

// start starts `run` and waits until it answers on its socket.
func (h *host) start(args ...string) {
	GinkgoHelper()
	h.launch(args...)
	Eventually(func(g Gomega) {
		if !h.alive() {
			StopTrying("run has ended:\n" + h.logTail()).Now()
		}
		conn, err := net.Dial("unix", filepath.Join(h.runDir, "api.sock"))
		g.Expect(err).NotTo(HaveOccurred())
		conn.Close()
	}).WithTimeout(startLimit).Should(Succeed())
}

// alive reports whether `run` runs.
func (h *host) alive() bool {
	if h.process == nil {
		return false
	}
	select {
	case <-h.exited:
		return false
	default:
		return true
	}
}

// stop ends `run` with SIGTERM, in the time that is promised, and expects a clean exit.
func (h *host) stop() {
	GinkgoHelper()
	Expect(h.process.Process.Signal(syscall.SIGTERM)).To(Succeed())
	Eventually(h.exited).WithTimeout(exitLimit).Should(BeClosed(), "run outlives SIGTERM")
	Expect(h.process.ProcessState.ExitCode()).To(Equal(0), h.logTail())
}

// kill ends `run` with SIGKILL; its logd lives on.
func (h *host) kill() {
	GinkgoHelper()
	Expect(h.process.Process.Kill()).To(Succeed())
	Eventually(h.exited).Should(BeClosed())
}

// result is what a command left.
type result struct {
	stdout, stderr string
	code           int
}

// String is what a failed expectation shows.
func (r result) String() string {
	return fmt.Sprintf("exit %d\nstdout:\n%s\nstderr:\n%s", r.code, r.stdout, r.stderr)
}

// cli runs another command of ours against this host to its end.
func (h *host) cli(args ...string) result {
	GinkgoHelper()
	return h.cliIn("", args...)
}

// cliIn is cli with something on stdin.
func (h *host) cliIn(stdin string, args ...string) result {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(args, h.flags()...)...)
	if at := slices.Index(args, "--"); at >= 0 {
		cmd.Args = append([]string{binary}, slices.Concat(args[:at], h.flags(), args[at:])...)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		Expect(err).NotTo(HaveOccurred())
	}
	Expect(ctx.Err()).NotTo(HaveOccurred(), "%v did not end", args)
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func (h *host) logPath() string { return filepath.Join(h.dir, "reconciler.log") }

// logTail is the end of what `run` said.
func (h *host) logTail() string { return tail(h.logPath()) }

// tail is the end of a file.
func tail(path string) string {
	const lines = 60
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
