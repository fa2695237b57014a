package logs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// attached is a process that reads a FIFO, as ctr tasks attach does.
type attached struct {
	mu  sync.Mutex
	got bytes.Buffer
	cmd *exec.Cmd
}

func (a *attached) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.got.Write(p)
}

func (a *attached) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.got.String()
}

func attach(t *testing.T, paths ...string) *attached {
	t.Helper()
	a := &attached{cmd: exec.Command("cat", paths...)}
	a.cmd.Stdout = a
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.detach)
	return a
}

func (a *attached) detach() {
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait() // killed
}

// attachedTo waits until the process has the FIFO open.
func (a *attached) waitOpen(t *testing.T, path string) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{id: idOf(st)}
	waitFor(t, func() error {
		read, _ := fifosReadBy(a.cmd.Process.Pid, map[fileID]*stream{s.id: s}, fileID{})
		return unless(len(read) == 1, "not attached")
	})
}

func TestOutputGoesToWhoeverAttachesAndTheGapIsMarked(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	h.pump(Options{})
	out, other := h.output(paths.Stdout), h.output(paths.Stderr)
	logged := ""
	for round := range 2 {
		first := 1000 * round
		mustWrite(t, out, numbered(first, first+100))
		logged += numbered(first, first+100)
		h.waitText("web", logged)

		a := attach(t, paths.Stdout)
		a.waitOpen(t, paths.Stdout)
		// The pump reads no stream of the container until it knows who came.
		mustWrite(t, other, "it knows\n")
		logged += "it knows\n"
		h.waitText("web", logged)
		shown := numbered(first+500, first+900)
		mustWrite(t, out, shown)
		waitFor(t, func() error {
			return unless(a.text() == shown, fmt.Sprintf("shown %d bytes of %d", len(a.text()), len(shown)))
		})
		if got := h.text("web"); got != logged {
			t.Errorf("the log got %d bytes while somebody was attached", len(got)-len(logged))
		}
		a.detach()
		waitFor(t, func() error {
			n := strings.Count(h.markers("web"), " stdout attached elsewhere from ")
			return unless(n == round+1, fmt.Sprintf("%d markers", n))
		})
	}
	mustWrite(t, out, "back\n")
	h.waitText("web", logged+"back\n")
}

func TestOnlyTheStreamThatIsReadIsLeftAlone(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	h.pump(Options{})
	a := attach(t, paths.Stdout)
	a.waitOpen(t, paths.Stdout)
	mustWrite(t, h.output(paths.Stderr), "trouble\n")
	h.waitText("web", "trouble\n")
}

func TestWhoeverWasAttachedBeforeThePumpStartedIsLeftAlone(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	keep, err := os.OpenFile(paths.Stdout, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer keep.Close()
	a := attach(t, paths.Stdout)
	a.waitOpen(t, paths.Stdout)
	p, stop := h.pump(Options{})
	waitFor(t, func() error { return unless(p.Draining(), "not draining") })
	mustWrite(t, keep, numbered(0, 1000))
	waitFor(t, func() error { return unless(a.text() == numbered(0, 1000), "not shown") })
	stop()
	if got := h.markers("web"); strings.Count(got, "attached elsewhere") != 1 {
		t.Errorf("a pump that stops during an attach marks the gap so far: %q", got)
	}
}

func TestAShimIsNoReader(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	h.pump(Options{})
	out := h.output(paths.Stdout)
	_, stop := helper(t, "shim", paths.Stdout)
	mustWrite(t, out, numbered(0, 100))
	h.waitText("web", numbered(0, 100))
	stop()
	if got := h.markers("web"); got != "" {
		t.Errorf("markers %q", got)
	}
}

func quick(p *Pump) {
	p.limits = attachLimits{
		checkEvery: 5 * time.Millisecond, stuckAfter: 100 * time.Millisecond, longest: time.Hour,
	}
}

func TestAReaderThatNeverReadsDoesNotBlockTheContainer(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	h.pump(Options{}, quick)
	out := h.output(paths.Stdout)
	_, stop := helper(t, "hold", paths.Stdout)
	text := numbered(0, 300_000)
	mustWrite(t, out, text) // three pipes full
	h.waitText("web", text)
	h.waitMarker("web", "taken back because nothing was read for 100ms")
	stop()

	// The next one is yielded to again.
	a := attach(t, paths.Stdout)
	a.waitOpen(t, paths.Stdout)
	waitFor(t, func() error {
		mustWrite(t, out, "probe\n")
		return unless(a.text() != "", "not shown")
	})
}

func TestASlowReaderKeepsAFullPipe(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	h.pump(Options{}, quick)
	out := h.output(paths.Stdout)
	cmd, stop := helper(t, "hold", paths.Stdout)
	// We read in its place, through its own descriptor; little, but within each 100 ms.
	slow, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", cmd.Process.Pid, fdOf(t, cmd.Process.Pid, paths.Stdout)), os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	blocked := make(chan error, 1)
	text := numbered(0, 300_000)
	go func() {
		_, err := out.WriteString(text)
		blocked <- err
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, 16<<10)
	got := 0
	for range 30 { // six times the limit
		<-tick.C
		n, err := slow.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	if m := h.markers("web"); m != "" {
		t.Errorf("taken for stuck: %s", m)
	}
	stop()
	if err := <-blocked; err != nil {
		t.Error(err)
	}
	waitFor(t, func() error {
		return unless(len(h.text("web"))+got >= len(text), "the rest is not logged")
	})
}

func fdOf(t *testing.T, pid int, path string) int {
	t.Helper()
	for fd := range 256 {
		if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); err == nil && target == path {
			return fd
		}
	}
	t.Fatal("not open")
	return -1
}

func TestNobodyKeepsTheOutputForEver(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	h.pump(Options{}, quick, func(p *Pump) { p.limits.longest = 50 * time.Millisecond })
	_, stop := helper(t, "hold", paths.Stdout)
	defer stop()
	h.waitMarker("web", "taken back after 50ms")
	mustWrite(t, h.output(paths.Stdout), "ours\n")
	h.waitText("web", "ours\n")
}

func TestARunIsMarkedOnceAndPreviousReadsTheOneBefore(t *testing.T) {
	h := newHost(t)
	cfg := h.config("web")
	text := func(run int) string { return fmt.Sprintf("this is run %d\nhalf a line", run) }
	_, stop := h.pump(Options{})
	for run := 1; run <= 3; run++ {
		cfg.Run = run
		paths := h.prepareWith(cfg)
		h.waitMarker("web", fmt.Sprintf("started %d\n", run))
		mustWrite(t, h.output(paths.Stdout), text(run))
		if run == 2 { // a new pump, and a new config without a new run, mark nothing
			waitFor(t, func() error { return unless(strings.HasSuffix(h.text("web"), text(2)), "not logged") })
			stop()
			_, stop = h.pump(Options{})
			cfg.MaxFiles = 4
			h.prepareWith(cfg)
		}
		waitFor(t, func() error { return unless(strings.HasSuffix(h.text("web"), text(run)), "not logged") })
		var out bytes.Buffer
		err := Read(t.Context(), h.log, "main", "web", ReadOptions{Tail: -1, Previous: true}, &out)
		if run == 1 {
			if !errors.Is(err, ErrNoPreviousRun) {
				t.Errorf("previous of the first run: %v", err)
			}
			continue
		}
		if diff := cmp.Diff(text(run-1), out.String()); diff != "" || err != nil {
			t.Errorf("previous of run %d: %v %s", run, err, diff)
		}
	}
	if n := strings.Count(h.markers("web"), "started"); n != 3 {
		t.Errorf("%d markers", n)
	}
}
