package logs

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchRate and benchLine are the busiest container that we promise to keep up with, in bytes.
const (
	benchRate = 100_000_000
	benchLine = 200
)

// benchText is 1 MB of numbered lines of benchLine bytes.
func benchText() []byte {
	var b bytes.Buffer
	for i := range 1_000_000 / benchLine {
		line := fmt.Sprintf("%08d ", i)
		b.WriteString(line + strings.Repeat("x", benchLine-1-len(line)) + "\n")
	}
	return b.Bytes()
}

// writeAtRate writes lines at benchRate for a time, in the pieces in which a shim copies; it fails when it falls
// behind by more than a tenth.
func writeAtRate(path, duration string) error {
	d, err := time.ParseDuration(duration)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Println("ready")
	text := benchText()
	total := int(d.Seconds() * benchRate / float64(len(text)))
	start := time.Now()
	for n := range total {
		for part := range slices.Chunk(text, 32<<10) {
			if _, err := f.Write(part); err != nil {
				return err
			}
		}
		due := start.Add(time.Duration(n+1) * time.Duration(len(text)) * time.Second / benchRate)
		time.Sleep(time.Until(due))
	}
	if took := time.Since(start); took > d*11/10 {
		return fmt.Errorf("blocked: %v for %v", took, d)
	}
	return nil
}

// BenchmarkOutputAgainstCat drains 100 MB/s of 200-byte lines, for 10 s each, by a pump and by cat into a file, in turn, and
// reports the ratio of their CPU times. Run it with -benchtime 3x (rounds).
func BenchmarkOutputAgainstCat(b *testing.B) {
	const duration = "10s"
	var ratios, ours, cats, peak []float64
	for b.Loop() {
		h := newHost(b)
		cfg := h.config("web")
		cfg.MaxSizeBytes = 4 << 30
		paths := h.prepareWith(cfg)
		logd, stop := helper(b, "pump", h.run)
		waitFor(b, func() error {
			here, err := LogdPresent(h.run)
			if err == nil && !here {
				err = fmt.Errorf("no logd")
			}
			return err
		})
		runWriter(b, paths.Stdout, duration)
		const bytes = 10 * benchRate
		waitFor(b, func() error { return sizeIs(cfg.Path, bytes/benchLine*(benchLine+int64(stampLen)+8)) })
		peak = append(peak, anonymousMB(b, logd.Process.Pid))
		stop()
		ours = append(ours, cpuSeconds(logd))

		fifo, file := filepath.Join(b.TempDir(), "fifo"), filepath.Join(b.TempDir(), "out")
		cats = append(cats, catCPU(b, fifo, file, duration))
		ratios = append(ratios, ours[len(ours)-1]/cats[len(cats)-1])
		for _, name := range []string{cfg.Path, file} {
			if err := os.Remove(name); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(median(ratios), "cpu-ratio")
	b.ReportMetric(median(ours), "pump-cpu-s")
	b.ReportMetric(median(cats), "cat-cpu-s")
	b.ReportMetric(median(peak), "pump-anon-MB")
}

func runWriter(b *testing.B, path, duration string) {
	b.Helper()
	cmd := exec.Command(os.Args[0], path, duration)
	cmd.Env = append(os.Environ(), helperEnv+"=write")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
}

func catCPU(b *testing.B, fifo, file, duration string) float64 {
	b.Helper()
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		b.Fatal(err)
	}
	keep, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	growPipe(int(keep.Fd()))
	out, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	cat := exec.Command("cat", fifo)
	cat.Stdout = out
	if err := cat.Start(); err != nil {
		b.Fatal(err)
	}
	runWriter(b, fifo, duration)
	if err := keep.Close(); err != nil {
		b.Fatal(err)
	}
	if err := cat.Wait(); err != nil {
		b.Fatal(err)
	}
	return cpuSeconds(cat)
}

func cpuSeconds(cmd *exec.Cmd) float64 {
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
}

func sizeIs(path string, want int64) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Size() != want {
		return fmt.Errorf("%s has %d bytes, want %d", path, st.Size(), want)
	}
	return nil
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func BenchmarkSplitter(b *testing.B) {
	w := newWrittenLog(b, b.TempDir(), 64<<20, 1)
	text := benchText()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		for part := range slices.Chunk(text, chunkSize) {
			w.lines.write(part, w.now, w.file)
			w.file.flush(w.now)
		}
	}
	w.end(&testing.T{})
}

// TestAnIdlePumpCostsNothing starts a pump process on many containers and counts what it does when nobody writes.
func TestAnIdlePumpCostsNothing(t *testing.T) {
	h := newHost(t)
	for i := range 200 {
		h.prepare(fmt.Sprintf("idle%d", i))
	}
	cmd, _ := helper(t, "pump", h.run)
	pid := cmd.Process.Pid
	paths := h.prepare("last")
	mustWrite(t, h.output(paths.Stdout), "it runs\n")
	h.waitText("last", "it runs\n")
	const quiet = 2 * time.Second
	// What the start left behind, such as the last look at who is there, may take a moment.
	var cpu time.Duration
	var switches int
	waitFor(t, func() error {
		beforeCPU, before := spent(t, pid)
		<-time.After(quiet) // what is measured is a time in which nothing happens
		afterCPU, after := spent(t, pid)
		cpu, switches = afterCPU-beforeCPU, after-before
		return unless(cpu <= 10*time.Millisecond && switches <= 20, fmt.Sprintf("%v of CPU, %d switches", cpu, switches))
	})
	t.Logf("in %v: %v of CPU, %d context switches; %.1f MB anonymous", quiet, cpu, switches, anonymousMB(t, pid))
}

func TestAPumpOfTenContainersIsSmall(t *testing.T) {
	h := newHost(t)
	cmd, _ := helper(t, "pump", h.run)
	for i := range 10 {
		name := fmt.Sprintf("web%d", i)
		mustWrite(t, h.output(h.prepare(name).Stdout), numbered(0, 10_000))
		h.waitText(name, numbered(0, 10_000))
	}
	// The race detector's own memory is many times that.
	if mb := anonymousMB(t, cmd.Process.Pid); mb > 10 && !raceEnabled() {
		t.Errorf("%.1f MB of anonymous memory", mb)
	} else {
		t.Logf("%.1f MB of anonymous memory", mb)
	}
}

func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// spent is a process's CPU time and its threads' context switches.
func spent(t testing.TB, pid int) (cpu time.Duration, switches int) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, field := range fields[11:13] {
		ticks, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		switches += statusField(t, thread, "voluntary_ctxt_switches:")
	}
	return cpu, switches
}

func anonymousMB(t testing.TB, pid int) float64 {
	t.Helper()
	return float64(statusField(t, fmt.Sprintf("/proc/%d/status", pid), "RssAnon:")) / 1024
}

func statusField(t testing.TB, path, name string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(bytes.NewReader(data))
	for s.Scan() {
		if rest, ok := strings.CutPrefix(s.Text(), name); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in %s", name, path)
	return 0
}
