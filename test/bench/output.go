package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/internal/logs"
)

const (
	// outputRate, in bytes a second, and outputLine are the busiest container that we promise to keep up with.
	outputRate    = 100_000_000
	outputLine    = 200
	outputSeconds = 10
	outputLines   = outputRate * outputSeconds / outputLine
	// textLines are the lines of 1 MB, after which the numbers begin anew.
	textLines = 1_000_000 / outputLine
	// shimPiece is what a shim copies at once.
	shimPiece = 32 << 10
	// pipeMiB is the kernel memory of a container's pipe when it is full.
	pipeMiB = 1
)

// output measures logd against cat: a writer like a shim writes numbered lines into a FIFO, and both put them into a
// file.
func (b *bench) output(ctx context.Context) (_ []figure, err error) {
	dir, err := os.MkdirTemp("", "kr-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	lost := figure{what: "output of 100 MB/s for 10 s: lines lost", most: atMost(0)}
	cpu := figure{what: "its CPU (floor: cat FIFO > file)", unit: "ms", times: 2.5}
	memory := figure{what: "its memory, the pipe included", unit: "MiB", most: atMost(2)}
	for round := range b.rounds {
		missing, spent, grown, err := b.drainByLogd(ctx, filepath.Join(dir, strconv.Itoa(round)))
		if err != nil {
			return nil, fmt.Errorf("logd: %w", err)
		}
		cat, err := drainByCat(ctx, dir)
		if err != nil {
			return nil, fmt.Errorf("cat: %w", err)
		}
		b.say("output, round %d: %d lines lost, %v of CPU, cat %v, %.2f MiB", round+1, missing, spent, cat, grown)
		lost.ours = append(lost.ours, float64(missing))
		cpu.ours, cpu.floor = append(cpu.ours, ms(spent)), append(cpu.floor, ms(cat))
		memory.ours = append(memory.ours, grown+pipeMiB)
	}
	lost.ours = []float64{lost.highest()} // no round may lose any
	return []figure{lost, cpu, memory}, nil
}

// drainByLogd returns how many lines are not in the log as they should be, logd's CPU time, and by how many MiB its
// anonymous memory was at most above that before the first line.
func (b *bench) drainByLogd(ctx context.Context, dir string) (missing int, spent time.Duration, grown float64, err error) {
	runDir, log := filepath.Join(dir, "run"), filepath.Join(dir, "log", "bench", "busy.log")
	defer os.RemoveAll(dir) //nolint:errcheck // the caller's directory goes as well, and tells
	paths, err := logs.Prepare(runDir, "bench", "busy", logs.Config{
		Realm: "bench", Container: "busy", Path: log, MaxSizeBytes: 4 << 30,
	})
	if err != nil {
		return 0, 0, 0, err
	}
	logd, err := startProcess(filepath.Join(dir, "logd.out"), b.binary, "logd", "--config", os.DevNull,
		"--run-dir", runDir, "--log-dir", filepath.Join(dir, "log"))
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, logd.stop()) }()
	for here := false; !here && err == nil; here, err = logs.LogdPresent(runDir) {
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, 0, 0, err
		}
	}
	if err := errors.Join(err, pause(ctx, 2*time.Second)); err != nil { // its own start is over then
		return 0, 0, 0, err
	}
	idle, err := logd.anonymous()
	if err != nil {
		return 0, 0, 0, err
	}
	before, err := logd.cpu()
	if err != nil {
		return 0, 0, 0, err
	}
	peak, err := writeAndWatch(ctx, paths.Stdout, logd)
	if err != nil {
		return 0, 0, 0, err
	}
	if err := awaitQuiet(ctx, log); err != nil {
		return 0, 0, 0, err
	}
	after, err := logd.cpu()
	if err != nil {
		return 0, 0, 0, err
	}
	missing, err = missingLines(log)
	return missing, after - before, max(0, peak-idle), err
}

// writeAndWatch writes the output and returns the peak of logd's anonymous memory meanwhile.
func writeAndWatch(ctx context.Context, fifo string, logd *process) (peak float64, err error) {
	written := make(chan error, 1)
	go func() { written <- writeAtRate(ctx, fifo) }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-written:
			return peak, err
		case <-tick.C:
		}
		now, err := logd.anonymous()
		if err != nil {
			return 0, errors.Join(err, <-written)
		}
		peak = max(peak, now)
	}
}

// awaitQuiet waits until a file does not grow any more.
func awaitQuiet(ctx context.Context, path string) error {
	for last := int64(-1); ; {
		st, err := os.Stat(path)
		if err != nil || st.Size() == last {
			return err
		}
		last = st.Size()
		if err := pause(ctx, quiet); err != nil {
			return err
		}
	}
}

// drainByCat returns the CPU time of cat.
func drainByCat(ctx context.Context, dir string) (spent time.Duration, err error) {
	fifo, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "out")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return 0, err
	}
	out, err := os.Create(file)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close(), os.Remove(fifo), os.Remove(file)) }()
	keep, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	if _, err := unix.FcntlInt(keep.Fd(), unix.F_SETPIPE_SZ, pipeMiB<<20); err != nil {
		return 0, errors.Join(err, keep.Close())
	}
	cat := exec.CommandContext(ctx, "cat", fifo)
	cat.Stdout = out
	if err := cat.Start(); err != nil {
		return 0, errors.Join(err, keep.Close())
	}
	err = errors.Join(writeAtRate(ctx, fifo), keep.Close(), cat.Wait())
	return cat.ProcessState.UserTime() + cat.ProcessState.SystemTime(), err
}

// outputText is 1 MB of numbered lines.
func outputText() []byte {
	var b bytes.Buffer
	for i := range textLines {
		fmt.Fprintf(&b, "%08d %s\n", i, bytes.Repeat([]byte("x"), outputLine-10))
	}
	return b.Bytes()
}

// writeAtRate writes the output. It fails when it is held up for longer than a tenth of the time, because then it
// was not the rate that was measured.
func writeAtRate(ctx context.Context, fifo string) error {
	f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	text := outputText()
	start := time.Now()
	for n := range outputLines / textLines {
		for piece := range slices.Chunk(text, shimPiece) {
			if _, err := f.Write(piece); err != nil {
				return err
			}
		}
		due := start.Add(time.Duration(n+1) * time.Duration(len(text)) * time.Second / outputRate)
		if err := pause(ctx, time.Until(due)); err != nil {
			return err
		}
	}
	if took := time.Since(start); took > outputSeconds*time.Second*11/10 {
		return fmt.Errorf("the writer was held up: it took %v", took)
	}
	return nil
}

// missingLines counts what a log lacks of the output: every record has to be there, in order.
func missingLines(log string) (int, error) {
	f, err := os.Open(log)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	text := outputText()
	r, next := bufio.NewReaderSize(f, 1<<20), 0
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return outputLines - next, nil
		}
		if err != nil {
			return 0, err
		}
		at := next % textLines * outputLine
		if bytes.HasSuffix(line, text[at:at+outputLine]) {
			next++
		}
	}
}
