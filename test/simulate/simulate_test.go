package simulate

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	histories = flag.Int("histories", 300, "how many random histories to play")
	seed      = flag.Uint64("seed", 1, "the first history's seed; the others follow it")
	budget    = flag.Int("shrink", 400, "how often a history that broke something may be played to make it shorter")
	replay    = flag.String("replay", "", "a history's file, to be played once")
	trace     = flag.Bool("trace", false, "print the operations, and the writes as they are carried out")
	limit     = flag.Duration("limit", 0, "for how long to play at most; 0 means until all are played")
	keepGoing = flag.Int("violations", 1, "how many violations to look for before giving up")
)

// memory is what the heap of a run may take.
const memory = 300 << 20

// allow lets the heap grow to that. The limit counts what the runtime has for itself as well, and each bubble of synctest
// leaves 4 KB of that behind for ever: after 50,000 histories nothing would be left for the heap.
func allow() {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	debug.SetMemoryLimit(int64(memory + m.Sys - m.HeapSys))
}

func TestWithWall(t *testing.T) {
	wall := time.Date(2026, 11, 23, 12, 0, 0, 7, time.UTC)
	for _, by := range []time.Duration{0, time.Hour, -time.Hour, -10 * 365 * 24 * time.Hour} {
		a, b := withWall(wall, time.Second), withWall(wall.Add(by), 3*time.Second)
		if b.Sub(a) != 2*time.Second || b.Round(0).Sub(a.Round(0)) != by || !a.Round(0).Equal(wall) || !b.Add(time.Second).After(b) {
			t.Errorf("by %s: monotonic %s, wall %s", by, b.Sub(a), b.Round(0).Sub(a.Round(0)))
		}
	}
}

// TestKept plays every history that once broke something, again and again: goroutines run in another order each time.
func TestKept(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	times := 10
	if *replay != "" {
		paths, times = []string{*replay}, 1
	}
	files := scratch(t)
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			h, err := parseHistory(string(text))
			if err != nil {
				t.Fatal(err)
			}
			for range times {
				for _, v := range play(t, h, files).violations {
					t.Fatal(v)
				}
			}
		})
	}
}

// scratch is a directory in memory, when the host has one, for the files of containers.
func scratch(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "simulate-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// tally adds up what the histories did.
type tally struct {
	mu                 sync.Mutex
	next               uint64
	played, violations int
	struck             map[string]int    // histories in which a kind of fault struck
	together           map[[2]string]int // histories in which two kinds did
	calls              map[[2]string]int // calls that a kind struck, by kind and method
	times              map[string]int    // how often a kind struck
	slowest            time.Duration
	slowestSeed        uint64
	writes             int
	lived              time.Duration
	began, spoke       time.Time
}

func (y *tally) add(seed uint64, r result) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.played++
	kinds := slices.Sorted(maps.Keys(r.counts))
	for i, k := range kinds {
		y.struck[k]++
		y.times[k] += r.counts[k]
		for _, other := range kinds[i+1:] {
			y.together[[2]string{k, other}]++
		}
	}
	for at, n := range r.struck {
		y.calls[at] += n
	}
	if r.converged > y.slowest {
		y.slowest, y.slowestSeed = r.converged, seed
	}
	y.writes += r.writes
	y.lived += r.lived
	if time.Since(y.spoke) > 5*time.Second {
		y.spoke = time.Now()
		fmt.Printf("%d of %d histories, %d violations, %s\n", y.played, *histories, y.violations, time.Since(y.began).Round(time.Second))
	}
}

// take returns the next seed; false when there is none.
func (y *tally) take() (uint64, bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if *limit > 0 && time.Since(y.began) > *limit {
		return 0, false
	}
	if y.violations >= *keepGoing || y.next >= *seed+uint64(*histories) {
		return 0, false
	}
	if y.next++; y.next%1000 == 0 {
		allow()
	}
	return y.next - 1, true
}

// TestSimulate plays random histories on as many threads as Go has.
func TestSimulate(t *testing.T) {
	// A history leaves nothing behind: collect garbage only when there is much of it.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(memory))
	y := &tally{
		next: *seed, struck: map[string]int{}, together: map[[2]string]int{}, calls: map[[2]string]int{}, times: map[string]int{}, began: time.Now(), spoke: time.Now(),
	}
	t.Run("workers", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				files := scratch(t)
				for s, more := y.take(); more; s, more = y.take() {
					h := generate(s)
					r := play(t, h, files)
					if len(r.violations) > 0 {
						y.mu.Lock()
						y.violations++
						y.mu.Unlock()
						short, v := shrink(t, h, r.violations[0], files)
						fmt.Printf("seed %d: %s\n# %s\n%s", s, r.violations[0], v, short) // at once: a run takes long
						t.Errorf("seed %d: %s", s, r.violations[0])
					}
					y.add(s, r)
				}
			})
		}
	})
	y.print()
	y.covered(t)
}

// print shows what was done.
func (y *tally) print() {
	fmt.Printf("\n%d histories, %s of their own time, in %s\n", y.played, y.lived.Round(time.Minute), time.Since(y.began).Round(time.Second))
	for _, k := range slices.SortedFunc(maps.Keys(y.struck), func(a, b string) int { return cmp.Compare(y.struck[b], y.struck[a]) }) {
		fmt.Printf("  %-32s in %6d histories, %7d times\n", k, y.struck[k], y.times[k])
	}
	fmt.Println("\ncalls that a fault struck, by method:")
	for _, kind := range kindsOfCallFaults {
		fmt.Printf("  %-32s", kind)
		for _, at := range slices.SortedFunc(maps.Keys(y.calls), func(a, b [2]string) int { return cmp.Compare(a[1], b[1]) }) {
			if at[0] == kind {
				fmt.Printf(" %s %d", at[1], y.calls[at])
			}
		}
		fmt.Println()
	}
	var total, least int
	rarest := [2]string{}
	for _, n := range y.times {
		total += n
	}
	for pair, n := range y.pairs() {
		if rarest[0] == "" || n < least {
			least, rarest = n, pair
		}
	}
	fmt.Printf(`
| histories | %d, seeds %d to %d |
| their own time | %s |
| faults | %d of %d kinds |
| rarest pair of kinds | %d histories (%s; %s) |
| slowest convergence | %s (seed %d) |
| writes when idle | %d |
| violations | %d |
`, y.played, *seed, y.next-1, y.lived.Round(time.Hour), total, len(kindsOfFaults), least, rarest[0], rarest[1],
		y.slowest.Round(time.Millisecond), y.slowestSeed, y.writes, y.violations)
}

// kindsOfCallFaults are those that strike one call.
var kindsOfCallFaults = []string{
	"request lost", "reply lost", "read lost", "slow call", "slow reply", "killed before a call", "killed after a call",
	"containerd killed before a call", "containerd killed after a call", "lease removed by ctr",
}

// covered fails when a kind of fault, or two kinds together, struck too few histories for the run to say much.
func (y *tally) covered(t *testing.T) {
	if y.violations > 0 || y.played < 2000 {
		return // too few to tell
	}
	for _, k := range kindsOfFaults {
		if least := max(1, y.played/100); y.struck[k] < least {
			t.Errorf("not covered: %q struck %d histories, at least %d are needed", k, y.struck[k], least)
		}
	}
	if least := y.played / 10000; least > 0 {
		for _, what := range y.spared(least) {
			t.Errorf("not covered: %s, at least %d are needed", what, least)
		}
	}
	for pair, n := range y.pairs() {
		if least := y.played / 2000; n < least {
			t.Errorf("not covered: %q and %q struck %d histories together, at least %d are needed", pair[0], pair[1], n, least)
		}
	}
}

// spared tells which writes too few faults of a kind struck: each has to be struck before and after it is carried out.
func (y *tally) spared(least int) (out []string) {
	for _, kind := range kindsOfCallFaults {
		for _, method := range writes {
			if n := y.calls[[2]string{kind, method}]; n < least && slices.Contains(struckAnywhere, kind) {
				out = append(out, fmt.Sprintf("%s: %s, %d times", kind, method, n))
			}
		}
	}
	return out
}

// struckAnywhere are the faults that have to strike every write.
var struckAnywhere = []string{
	"request lost", "reply lost", "killed before a call", "killed after a call", "containerd killed before a call",
	"containerd killed after a call",
}

// pairs tells in how many histories any two kinds of faults struck, but for those that exclude each other.
func (y *tally) pairs() map[[2]string]int {
	out := map[[2]string]int{}
	for i, k := range kindsOfFaults {
		for _, other := range kindsOfFaults[i+1:] {
			if pair := [2]string{k, other}; pair != neverTogether {
				out[pair] = y.together[pair]
			}
		}
	}
	return out
}

// neverTogether are what a hung shim does to lists by the version of containerd.
var neverTogether = [2]string{"shim hung, missing from lists", "shim hung, unknown in lists"}

// kindsOfFaults are all that have to be covered.
var kindsOfFaults = []string{
	"archive dropped", "clock set", "comment", "container deleted by ctr", "container document", "container document removed", "containerd down",
	"containerd killed after a call", "containerd killed before a call", "containerd restarted", "directory missing",
	"directory swapped", "directory unmounted", "event doubled", "event dropped", "event late", "event reordered",
	"event stream broken", "file events lost", "foreign container", "foreign container removed", "host rebooted",
	"image content lost", "image imported by ctr", "image relabelled by ctr", "image removed by ctr", "killed after a call",
	"killed at a save", "killed before a call", "label edited by ctr", "lease removed by ctr", "manifest away for a moment",
	"manifest edited", "manifest half written", "manifest invalid", "manifest removed", "manifest renamed",
	"manifest set aside", "manifest truncated", "name taken", "namespace relabelled by ctr", "out of memory",
	"process cannot be killed", "process exit", "process misbehaves", "read lost", "realm suspended", "registry away",
	"reply lost", "request lost", "shim hung, missing from lists", "shim hung, unknown in lists", "shim killed", "slow call", "slow reply",
	"snapshot removed by ctr", "state lost", "store full", "task deleted by ctr", "task killed by ctr", "task paused by ctr",
	"task stopped by ctr", "tombstone", "we are killed", "we are stopped",
}

// shrink makes a history that broke something shorter, as long as it still breaks the same property. A candidate is
// played a few times, for goroutines do not always run in the order that it takes.
func shrink(t *testing.T, h history, v violation, files string) (history, violation) {
	left := *budget
	breaks := func(h history) bool {
		for range 3 {
			if left--; left < 0 {
				return false
			}
			for _, found := range play(t, h, files).violations {
				if found.property == v.property {
					v = found
					return true
				}
			}
		}
		return false
	}
	for size := max(1, len(h.actions)/2); size >= 1; {
		shorter := false
		for at := 0; at+size <= len(h.actions); {
			candidate := history{h.version, h.epilogue, slices.Delete(slices.Clone(h.actions), at, at+size)}
			if breaks(candidate) {
				h, shorter = candidate, true
			} else {
				at += size
			}
		}
		if !shorter || size > 1 {
			size /= 2
		}
	}
	return h, v
}
