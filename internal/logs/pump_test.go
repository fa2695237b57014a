package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestOutputIsLoggedWithTimeAndStream(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	h.pump(Options{})
	mustWrite(t, h.output(paths.Stdout), "hello\n\nworld\r\n")
	h.waitText("web", "hello\n\nworld\r\n")
	mustWrite(t, h.output(paths.Stderr), "oops\n")
	h.waitText("web", "hello\n\nworld\r\noops\n")

	data, err := os.ReadFile(LogPath(h.log, "main", "web"))
	if err != nil {
		t.Fatal(err)
	}
	stamp := `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z`
	want := "^" + stamp + " stdout hello\n" + stamp + " stdout \n" + stamp + " stdout world\r\n" + stamp + " stderr oops\n$"
	if !regexp.MustCompile(want).Match(data) {
		t.Errorf("log file is %q", data)
	}
	if got := h.read("web", ReadOptions{Tail: -1, Timestamps: true}); got != string(data) {
		t.Errorf("with times: %q, want the log file %q", got, data)
	}
	first, err := time.Parse(time.RFC3339Nano, string(data[:stampLen]))
	if err != nil || time.Since(first) > time.Minute {
		t.Errorf("time %v %v", first, err)
	}
}

func TestAnUnfinishedLineIsLoggedSoonAndContinued(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	h.pump(Options{})
	out := h.output(paths.Stdout)
	mustWrite(t, out, "login: ")
	h.waitText("web", "login: ")
	mustWrite(t, out, "root\nnext\n")
	h.waitText("web", "login: root\nnext\n")
}

func TestALineLongerThanARecordKeepsItsText(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	h.pump(Options{})
	text := strings.Repeat("0123456789", 20_000) + "\nshort\n"
	mustWrite(t, h.output(paths.Stdout), text)
	h.waitText("web", text)
}

func TestAContainerIsFoundWhenItComesAndDrainedWhenItGoes(t *testing.T) {
	h := newHost(t)
	h.pump(Options{}, func(p *Pump) { p.rescan = time.Hour })
	for round := range 3 {
		name := fmt.Sprintf("job%d", round)
		paths := h.prepare(name)
		out := h.output(paths.Stdout)
		text := numbered(0, 20_000)
		mustWrite(t, out, text)
		if err := Remove(h.run, "kukeon-main", name); err != nil {
			t.Fatal(err)
		}
		h.waitText(name, text)
		waitFor(t, func() error { return notOpen(paths.Dir, LogPath(h.log, "main", name)) })
	}
	if _, err := os.Stat(filepath.Join(h.run, "io", "kukeon-main")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the namespace's folder is left: %v", err)
	}
}

// notOpen returns an error while this process has a file below dir, or file, open, other than by tests' writers.
func notOpen(dir, file string) error {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err == nil && (strings.HasPrefix(target, dir+"/") && !writeOnly(info) || target == file) {
			return fmt.Errorf("%s is open", target)
		}
	}
	return nil
}

var flagsLine = regexp.MustCompile(`flags:\s*\d*1\n`)

func writeOnly(fdinfo []byte) bool { return flagsLine.Match(fdinfo) }

func TestTheScanFindsWhatNoEventTold(t *testing.T) {
	h := newHost(t)
	// A namespace whose folder is moved into place brings its containers without an event for any of them.
	if _, err := Prepare(h.run, "aside", "web", h.config("web")); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "ns")
	if err := os.Rename(filepath.Join(h.run, "io", "aside"), elsewhere); err != nil {
		t.Fatal(err)
	}
	p, _ := h.pump(Options{}, func(p *Pump) { p.rescan = 20 * time.Millisecond })
	waitFor(t, func() error { return unless(p.Draining(), "not draining") })
	if err := os.Rename(elsewhere, filepath.Join(h.run, "io", "aside")); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, h.output(PathsFor(h.run, "aside", "web").Stdout), "found\n")
	h.waitText("web", "found\n")
}

func unless(ok bool, text string) error {
	if ok {
		return nil
	}
	return errors.New(text)
}

func TestFIFOsThatAnAttachDeletedAreOpenedAnewWhenPrepared(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	h.pump(Options{})
	mustWrite(t, h.output(paths.Stdout), "one\n")
	h.waitText("web", "one\n")
	for _, path := range []string{paths.Stdout, paths.Stderr} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	h.prepare("web")
	mustWrite(t, h.output(paths.Stdout), "two\n")
	h.waitText("web", "one\ntwo\n")
}

func TestALogThatSomebodyMovedAwayIsBegunAnew(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	h.pump(Options{}, func(p *Pump) { p.rescan = 5 * time.Millisecond })
	out := h.output(paths.Stdout)
	mustWrite(t, out, "one\n")
	h.waitText("web", "one\n")
	if err := os.Rename(LogPath(h.log, "main", "web"), filepath.Join(t.TempDir(), "elsewhere")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() error {
		mustWrite(t, out, "two\n")
		return unless(strings.HasPrefix(h.text("web"), "two\n"), "not begun anew")
	})
}

func TestPrepareKeepsFIFOsThatAreThere(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	before, err := os.Stat(paths.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	h.prepare("web")
	after, err := os.Stat(paths.Stdout)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("replaced: %v", err)
	}
	var names []string
	entries, err := os.ReadDir(paths.Dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"keep", "log.json", "stderr", "stdout"}, names); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if err := UpdateConfig(h.run, "kukeon-main", "other", h.config("other")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("update of a container that is not prepared: %v", err)
	}
}

func TestNewLimitsHoldAtOnce(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	h.pump(Options{})
	out := h.output(paths.Stdout)
	mustWrite(t, out, numbered(0, 1000))
	h.waitText("web", numbered(0, 1000))
	cfg := h.config("web")
	cfg.MaxSizeBytes, cfg.MaxFiles = 4000, 3
	if err := UpdateConfig(h.run, "kukeon-main", "web", cfg); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() error {
		mustWrite(t, out, numbered(1000, 1200))
		files := logFiles(t, cfg.Path)
		for _, name := range files {
			if st, err := os.Stat(name); err == nil && st.Size() > 4000 {
				return fmt.Errorf("%s has %d bytes", name, st.Size())
			}
		}
		return unless(len(files) == 3, fmt.Sprint(files))
	})
}

func TestAPumpGoesOnWhereTheLastOneStopped(t *testing.T) {
	h := newHost(t)
	paths := h.prepare("web")
	_, stop := h.pump(Options{})
	out := h.output(paths.Stdout)
	_, release := helper(t, "shim", paths.Stdout)
	defer release()
	mustWrite(t, out, "one\ntw")
	h.waitText("web", "one\ntw")
	stop()
	mustWrite(t, out, "o\n"+numbered(0, 50_000)+"thr")
	_, stop = h.pump(Options{})
	mustWrite(t, out, "ee\n")
	h.waitText("web", "one\ntwo\n"+numbered(0, 50_000)+"three\n")
	stop()
	if got := h.markers("web"); got != "" {
		t.Errorf("markers without a reason: %s", got)
	}
}

func TestAFallbackHandsOverAndTakesOverWithoutLosingALine(t *testing.T) {
	h := newHost(t)
	cfg := h.config("web")
	cfg.MaxSizeBytes = 1 << 30
	paths := h.prepareWith(cfg)
	fallback, _ := h.pump(Options{Fallback: true})
	waitFor(t, func() error { return unless(fallback.Draining(), "the fallback does not drain") })
	out := h.output(paths.Stdout)
	written := make(chan int)
	enough := make(chan struct{})
	go func() {
		n := 0
		pace := time.NewTicker(100 * time.Microsecond)
		defer pace.Stop()
		for {
			select {
			case <-enough:
				written <- n
				return
			case <-pace.C:
			}
			// Cut in mid-line, so that the parts of one line come before and after a handover.
			text := numbered(n, n+7)
			_, err := out.WriteString(text[:50])
			_, err2 := out.WriteString(text[50:])
			if err != nil || err2 != nil {
				t.Error(err, err2)
			}
			n += 7
		}
	}()
	for round := range 4 {
		if here, err := LogdPresent(h.run); here || err != nil {
			t.Errorf("logd is present before it came: %v", err)
		}
		logd, stop := helper(t, "pump", h.run)
		waitFor(t, func() error { return unless(!fallback.Draining(), "the fallback still drains") })
		if here, err := LogdPresent(h.run); !here || err != nil {
			t.Errorf("logd is not present: %v", err)
		}
		before := len(h.text("web"))
		waitFor(t, func() error { return unless(len(h.text("web")) > before+10_000, "logd does not drain") })
		if round == 3 { // dies in mid-work, but holds nothing in memory then
			close(enough)
			n := <-written
			h.waitText("web", numbered(0, n))
			_ = logd.Process.Kill()
		}
		stop()
		waitFor(t, func() error { return unless(fallback.Draining(), "the fallback does not take over") })
	}
	mustWrite(t, out, "end\n")
	waitFor(t, func() error { return unless(strings.HasSuffix(h.text("web"), "\nend\n"), "no end") })
	if got := h.markers("web"); got != "" {
		t.Errorf("pumps took each other for readers: %s", got)
	}
}

func TestASecondLogdWaitsForTheFirst(t *testing.T) {
	h := newHost(t)
	first, stop := h.pump(Options{})
	waitFor(t, func() error { return unless(first.Draining(), "first") })
	second, _ := h.pump(Options{}, func(p *Pump) { p.rescan = time.Hour })
	stop()
	waitFor(t, func() error { return unless(second.Draining(), "second") })
}

func TestAFullDiskDropsAndSaysSoAndNeverBlocks(t *testing.T) {
	h := newHost(t)
	if err := unix.Mount("tmpfs", h.log, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	paths := h.prepare("web")
	_, stop := h.pump(Options{})
	defer func() {
		stop()
		if err := unix.Unmount(h.log, 0); err != nil {
			t.Error(err)
		}
	}()
	out := h.output(paths.Stdout)
	ballast := filepath.Join(h.log, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 200<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	const lines = 400_000 // more than any pipe holds: a pump that does not read would block us
	mustWrite(t, out, numbered(0, lines))
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() error {
		mustWrite(t, out, "again\n")
		return unless(strings.Contains(h.markers("web"), "no space left"), "no marker of the loss")
	})
	waitFor(t, func() error { return unless(strings.HasSuffix(h.text("web"), "\nagain\n"), "does not log again") })

	kept, lost := 0, 0
	for line := range strings.Lines(h.text("web")) {
		if strings.HasPrefix(line, "line ") {
			kept++
		} else if line != "again\n" {
			t.Errorf("torn line %q", line)
		}
	}
	for marker := range strings.Lines(h.markers("web")) {
		var n int
		_, text, _ := strings.Cut(marker, " ")
		if _, err := fmt.Sscanf(text, "%d records lost", &n); err != nil {
			t.Errorf("marker %q: %v", marker, err)
		}
		lost += n
	}
	if kept+lost < lines || kept == 0 {
		t.Errorf("kept %d + lost %d, of %d", kept, lost, lines)
	}
}

func TestRawFilesAreRotatedByCopyingAndCutting(t *testing.T) {
	h := newHost(t)
	cfg := h.config("web")
	cfg.Path, cfg.MaxSizeBytes, cfg.MaxFiles = RawLogPath(h.log, "main", "web"), 1000, 3
	paths := h.prepareWith(cfg)
	if _, err := os.Stat(paths.Stdout); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a FIFO was made: %v", err)
	}
	h.pump(Options{}, func(p *Pump) { p.rescan = 5 * time.Millisecond })
	f, err := os.OpenFile(cfg.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for round := range 2 {
		mustWrite(t, f, numbered(100*round, 100*round+100))
		waitFor(t, func() error {
			st, err := f.Stat()
			return errors.Join(err, unless(err == nil && st.Size() == 0, "not rotated"))
		})
	}
	mustWrite(t, f, "an unfinished line")
	if got := h.text("web"); got != numbered(0, 200)+"an unfinished line" {
		t.Errorf("got %q", got)
	}
	if got := h.read("web", ReadOptions{Tail: 2}); got != numbered(199, 200)+"an unfinished line" {
		t.Errorf("last two lines: %q", got)
	}
	if files := logFiles(t, cfg.Path); len(files) != 3 {
		t.Error(files)
	}
}
