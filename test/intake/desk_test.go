package intake

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/compile"
	"kukeon.io/kukeon-reconciler/internal/source"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

// What one file may cost, from the directory to the decision.
const (
	cpuLimit    = 50 * time.Millisecond
	memoryLimit = 32 << 20
)

// desk is where files become decisions: the real directory, reader, compiler and acceptance, one after the other and
// on one thread, so that what each file costs can be measured.
type desk struct {
	root       string
	reader     *source.Reader
	accepted   state.Accepted
	namespaces []state.NamespaceSummary
	now        time.Time
}

const owner = state.Owner("5f0c1b1e-0000-4000-8000-000000000000")

// newDesk has the good manifests accepted.
func newDesk(t testing.TB, root string) *desk {
	t.Helper()
	d := &desk{root: root, reader: source.NewReader(root), now: time.Now()}
	lay(t, root)
	v := d.look()
	if v.refused() || len(v.decision.Accepted.Realms) != 2 {
		t.Fatalf("the good manifests are not accepted: %v", v.decision.Problems)
	}
	d.accepted = v.decision.Accepted
	for name, r := range d.accepted.Realms {
		d.namespaces = append(d.namespaces, state.NamespaceSummary{
			Name: r.Namespace, Containers: len(r.Containers), Ours: len(r.Containers),
			Labels: map[string]string{state.LabelOwner: string(owner), state.LabelRealm: string(name)},
		})
	}
	return d
}

// lay writes the good manifests.
func lay(t testing.TB, root string) {
	t.Helper()
	must(t, os.MkdirAll(root, 0o755))
	put(t, root, "main.yaml", []byte(mainManifest))
	put(t, root, "edge.yaml", []byte(edgeManifest))
}

// put replaces a file as a whole, as careful people and git do.
func put(t testing.TB, root, path string, data []byte) {
	t.Helper()
	at := filepath.Join(root, path)
	must(t, os.MkdirAll(filepath.Dir(at), 0o755))
	must(t, os.WriteFile(filepath.Join(filepath.Dir(at), ".new"), data, 0o644))
	must(t, os.Rename(filepath.Join(filepath.Dir(at), ".new"), at))
}

// restore undoes a put.
func restore(t testing.TB, root, path string) {
	t.Helper()
	if path == "main.yaml" {
		put(t, root, path, []byte(mainManifest))
		return
	}
	must(t, os.Remove(filepath.Join(root, path)))
	for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
		must(t, os.Remove(filepath.Join(root, dir)))
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// verdict is what one look at the directory came to, and what it cost.
type verdict struct {
	scan     manifests.Scan
	decision accept.Decision
	cpu      time.Duration
	memory   uint64
	panicked any
}

// refused reports whether anything is wrong with the files.
func (v verdict) refused() bool { return manifests.HasErrors(v.decision.Problems) || !v.scan.Complete }

// look reads, compiles and decides, and changes nothing.
func (d *desk) look() (v verdict) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	v.cpu, v.panicked = onThread(func() {
		v.scan = d.reader.Read(context.Background())
		desired := compile.Compile(v.scan, compile.Options{}, d.namespaces, owner, d.accepted)
		v.decision = accept.Decide(d.accepted, v.scan, desired, d.namespaces, nil, d.now, accept.Settings{PruneSettle: 2 * time.Second})
	})
	runtime.ReadMemStats(&after)
	v.memory = after.TotalAlloc - before.TotalAlloc
	return v
}

// onThread runs do on a thread of its own, and returns what it used there and what it panicked with.
func onThread(do func()) (cpu time.Duration, panicked any) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			panic(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	defer func() { cpu, panicked = used()-before, recover() }()
	do()
	return 0, nil
}

// measure looks at a file. What costs too much is looked at again, with a reader that knows nothing: the collector may
// have made this thread help, and a costly file is costly again.
func (d *desk) measure(t testing.TB, s specimen) verdict {
	put(t, d.root, s.path, s.data)
	v := d.look()
	for range 4 {
		if v.cpu <= cpuLimit && v.memory <= memoryLimit {
			break
		}
		runtime.GC()
		d.reader = source.NewReader(d.root)
		again := d.look()
		v.cpu, v.memory = min(v.cpu, again.cpu), min(v.memory, again.memory)
	}
	return v
}

// faults says what is wrong with a verdict about a bad file.
func (d *desk) faults(s specimen, v verdict) []string {
	var out []string
	no := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if v.panicked != nil {
		return []string{fmt.Sprintf("panic: %v", v.panicked)}
	}
	if v.cpu > cpuLimit {
		no("%v of CPU", v.cpu)
	}
	if v.memory > memoryLimit {
		no("%d MiB", v.memory>>20)
	}
	for _, p := range v.decision.Problems {
		if strings.Contains(p.Message, "the YAML reader failed on it") {
			no("a panic was caught: %s", p)
		}
		if why := unfit(p, s); why != "" {
			no("%s: %+q", why, p)
		}
	}
	if !v.refused() {
		return out
	}
	if !told(s, v) {
		no("no problem names the file and a line: %q", v.decision.Problems)
	}
	if diff := cmp.Diff(substance(d.accepted), substance(v.decision.Accepted)); diff != "" {
		no("the accepted state changes:\n%s", diff)
	}
	return out
}

// unfit says why a problem is not fit for people.
func unfit(p manifests.Problem, s specimen) string {
	text := p.String()
	odd := func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
	}
	switch {
	case p.Message == "" || p.File == "":
		return "a problem that says nothing"
	case !utf8.ValidString(text):
		return "a problem that is not UTF-8"
	case strings.ContainsFunc(text, odd):
		return "a problem with control characters"
	case len(text) > 3000:
		return "an endless problem"
	case p.File == s.path && p.Line > 1+strings.Count(string(s.data), "\n")+strings.Count(string(s.data), "\r")+strings.Count(string(s.data), "\u2028")+strings.Count(string(s.data), "\u2029")+strings.Count(string(s.data), "\u0085"):
		return "a problem behind the end of the file"
	}
	return ""
}

// told reports whether an error names the file and a line in it.
func told(s specimen, v verdict) bool {
	return slices.ContainsFunc(v.decision.Problems, func(p manifests.Problem) bool {
		return p.Severity == manifests.Error && p.File == s.path && p.Line > 0
	})
}

// substance is what an accepted state means, without what it tells about the last look.
func substance(a state.Accepted) map[string]any {
	out := map[string]any{"removals": len(a.Removals), "holds": len(a.Holds)}
	for name, r := range a.Realms {
		r.Frozen, r.Withheld, r.MissingSince = "", "", time.Time{}
		out[string(name)] = r
	}
	return out
}

// clean removes a directory that a failed test may have left in any state.
func clean(t testing.TB, dir string) {
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// scratch is a directory in memory, when the host has one: there leases and timestamps are as on a disk.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "intake-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { clean(t, dir) })
	return dir
}
