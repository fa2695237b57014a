package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// writtenLog writes text through a splitter, in chunks, into a log file of its own.
type writtenLog struct {
	file  *logFile
	lines splitter
	now   time.Time
}

func newWrittenLog(t testing.TB, dir string, maxSize int64, maxFiles int) *writtenLog {
	out := make([]byte, 0, outSize)
	return &writtenLog{
		file: &logFile{
			path: LogPath(dir, "main", "web"), maxSize: maxSize, maxFiles: maxFiles, out: &out,
			failed: func(path string, err error) { t.Errorf("%s: %v", path, err) },
		},
		lines: splitter{stream: streamStdout},
		now:   time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
	}
}

func (w *writtenLog) write(chunk string) {
	w.now = w.now.Add(time.Millisecond)
	w.lines.write([]byte(chunk), w.now, w.file)
	w.file.flush(w.now)
}

func (w *writtenLog) end(t rapid.TB) {
	w.lines.flush(w.now, w.file)
	w.file.flush(w.now)
	if err := w.file.close(); err != nil {
		t.Fatal(err)
	}
}

func readAll(t rapid.TB, dir string, opts ReadOptions) string {
	var out bytes.Buffer
	if err := Read(context.Background(), dir, "main", "web", opts, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

var anyText = rapid.Custom(func(t *rapid.T) string {
	line := rapid.OneOf(
		rapid.StringMatching(`[ -~\t\r\x00]{0,60}\n`),
		rapid.SampledFrom([]string{"\n", "no end", "stdout+ \n", "2026-11-23T12:00:00.000000000Z stdout x\n", strings.Repeat("x", 40_000) + "\n",
			strings.Repeat("y", maxText) + "\n", strings.Repeat("z", maxText)}),
	)
	return strings.Join(rapid.SliceOfN(line, 1, 40).Draw(t, "lines"), "")
})

func TestTheLogHasExactlyTheContainersTextAcrossChunksRotationsAndRestarts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		defer func() {
			if err := os.RemoveAll(dir); err != nil {
				rt.Error(err)
			}
		}()
		text := anyText.Draw(rt, "text")
		maxSize := rapid.Int64Range(60, 50_000).Draw(rt, "maxSize")
		w := newWrittenLog(t, dir, maxSize, 10_000)
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(rt, "chunk")
			w.write(rest[:n])
			rest = rest[n:]
			if rapid.IntRange(0, 5).Draw(rt, "restart") == 0 {
				w.end(rt)
			}
		}
		w.end(rt)
		if diff := cmp.Diff(text, readAll(rt, dir, ReadOptions{Tail: -1})); diff != "" {
			rt.Fatal(diff)
		}
		for _, name := range logFiles(t, w.file.path) {
			st, err := os.Stat(name)
			if err != nil {
				rt.Fatal(err)
			}
			data, err := os.ReadFile(name)
			if err != nil || (st.Size() > maxSize && bytes.Count(data, []byte("\n")) > 1) {
				rt.Fatalf("%s has %d bytes, more than %d: %v", name, st.Size(), maxSize, err)
			}
		}
		tail := rapid.IntRange(0, 50).Draw(rt, "tail")
		if diff := cmp.Diff(lastLines(text, tail), readAll(rt, dir, ReadOptions{Tail: tail})); diff != "" {
			rt.Fatal(diff)
		}
	})
}

func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

func TestRotationKeepsTheNewestFiles(t *testing.T) {
	for maxFiles := 1; maxFiles <= 3; maxFiles++ {
		dir := t.TempDir()
		w := newWrittenLog(t, dir, 520, maxFiles) // ten records of 52 bytes
		w.write(numbered(0, 95))
		w.end(t)
		if files := logFiles(t, w.file.path); len(files) != maxFiles {
			t.Errorf("maxFiles %d: %v", maxFiles, files)
		}
		if diff := cmp.Diff(numbered(90-10*(maxFiles-1), 95), readAll(t, dir, ReadOptions{Tail: -1})); diff != "" {
			t.Errorf("maxFiles %d: %s", maxFiles, diff)
		}
	}
}

func TestARecordTornByACrashSpoilsOnlyItself(t *testing.T) {
	dir := t.TempDir()
	w := newWrittenLog(t, dir, 1<<20, 5)
	w.write("one\n")
	w.end(t)
	f, err := os.OpenFile(w.file.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, f, "2026-11-23T12:00:0")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.write("two\n")
	w.end(t)
	if got := readAll(t, dir, ReadOptions{Tail: -1}); got != "one\ntwo\n" {
		t.Errorf("got %q", got)
	}
}

func TestSinceLeavesOutWhatIsOlder(t *testing.T) {
	dir := t.TempDir()
	w := newWrittenLog(t, dir, 100, 100)
	w.write("one\n")
	w.write("two\nthree\n")
	since := w.now
	w.write("four\n")
	w.end(t)
	if got := readAll(t, dir, ReadOptions{Tail: -1, Since: since}); got != "two\nthree\nfour\n" {
		t.Errorf("got %q", got)
	}
	if got := readAll(t, dir, ReadOptions{Tail: 2, Since: since.Add(1)}); got != "four\n" {
		t.Errorf("with tail: %q", got)
	}
}

func TestTimestampsBeginEachLineAlsoWhenStreamsInterleave(t *testing.T) {
	dir := t.TempDir()
	w := newWrittenLog(t, dir, 1<<20, 5)
	stderr := splitter{stream: streamStderr}
	w.write("pro")
	w.lines.flush(w.now, w.file)
	w.write("mpt: ")
	w.lines.flush(w.now, w.file)
	stderr.write([]byte("oops\n"), w.now, w.file)
	w.write("answer\n")
	w.end(t)
	want := `2026-11-23T12:00:00.001000000Z stdout prompt: 
2026-11-23T12:00:00.002000000Z stderr oops
2026-11-23T12:00:00.003000000Z stdout answer
`
	if diff := cmp.Diff(want, readAll(t, dir, ReadOptions{Tail: -1, Timestamps: true})); diff != "" {
		t.Error(diff)
	}
}

func TestNoLogIsToldFromAnEmptyOne(t *testing.T) {
	dir := t.TempDir()
	if err := Read(t.Context(), dir, "main", "web", ReadOptions{Tail: -1}, os.Stdout); !errors.Is(err, ErrNoLog) {
		t.Errorf("got %v", err)
	}
}

// lineSink hears lines from a reader that follows.
type lineSink struct {
	mu  sync.Mutex
	got bytes.Buffer
}

func (s *lineSink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(p)
}

func (s *lineSink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

func startFollow(t *testing.T, dir string, opts ReadOptions) *lineSink {
	sink := &lineSink{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	opts.Follow = true
	go func() { ended <- Read(ctx, dir, "main", "web", opts, sink) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("follow: %v", err)
		}
	})
	return sink
}

func TestFollowPrintsEveryLineAcrossRotations(t *testing.T) {
	dir := t.TempDir()
	w := newWrittenLog(t, dir, 5_000, 1000)
	w.write(numbered(0, 150))
	sink := startFollow(t, dir, ReadOptions{Tail: 100})
	for n := 150; n < 5_000; n += 50 {
		w.write(numbered(n, n+50))
		if n%500 == 0 { // also a reader that is up to date
			want := numbered(n, n+50)
			waitFor(t, func() error { return unless(strings.HasSuffix(sink.text(), want), "behind") })
		}
	}
	w.end(t)
	// What it printed before the first write depends on when it started.
	waitFor(t, func() error { return unless(strings.HasSuffix(sink.text(), numbered(4_950, 5_000)), "behind") })
	text := sink.text()
	first := 0
	if _, err := fmt.Sscanf(text, "line %d", &first); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(numbered(first, 5_000), text); diff != "" {
		t.Error(diff)
	}
}

func TestFollowPrintsEveryLineOfARawLogThatIsCut(t *testing.T) {
	dir := t.TempDir()
	path := RawLogPath(dir, "main", "web")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mustWrite(t, f, numbered(0, 100))
	sink := startFollow(t, dir, ReadOptions{Tail: -1})
	written := 100
	for more := 90; more > 0; more -= 10 {
		waitFor(t, func() error {
			return unless(sink.text() == numbered(0, written), fmt.Sprintf("%d bytes", len(sink.text())))
		})
		// The reader need not be up to date when the file is cut.
		mustWrite(t, f, numbered(written, written+50))
		if err := rotateRaw(path, 1, 3); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, f, numbered(written+50, written+50+more))
		written += 50 + more
	}
}

func TestSweepDeletesOldLogsOfRemovedContainersOnly(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	files := map[string]time.Duration{
		"main/gone.log": 200 * time.Hour, "main/gone.log.1": 300 * time.Hour, "main/gone.raw.log.2": 300 * time.Hour,
		"main/kept.log": 300 * time.Hour,
		"main/late.log": 100 * time.Hour, "main/late.log.1": 300 * time.Hour,
		"main/notes.txt": 900 * time.Hour, "main/x.log.gz": 900 * time.Hour,
		"old/gone.log": 200 * time.Hour,
		"old.log":      900 * time.Hour,
	}
	for name, age := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	keep := func(realm, container string) bool { return realm == "main" && container == "kept" }
	if err := Sweep(dir, keep, 168*time.Hour, now); err != nil {
		t.Fatal(err)
	}
	var left []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, path); !d.IsDir() || rel == "old" {
			left = append(left, rel)
		}
		return err
	})
	want := []string{"main/kept.log", "main/late.log", "main/late.log.1", "main/notes.txt", "main/x.log.gz", "old.log"}
	if diff := cmp.Diff(want, left); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if err := Sweep(filepath.Join(dir, "none"), keep, 0, now); err != nil {
		t.Errorf("no log directory: %v", err)
	}
}

func FuzzParseRecordNeverPanics(f *testing.F) {
	f.Add([]byte("2026-11-23T12:00:00.001000000Z stdout+ x"))
	f.Add([]byte("2026-11-23T12:00:00.001000000Z + x"))
	f.Fuzz(func(_ *testing.T, line []byte) {
		parseRecord(line)
		_, _ = (&lines{r: bufio.NewReader(bytes.NewReader(line))}).read()
	})
}
