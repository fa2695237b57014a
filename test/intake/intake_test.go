package intake

import (
	stdcmp "cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/manifests"
)

var (
	count = flag.Int("manifests", 300, "how many bad manifests to make")
	seed  = flag.Uint64("seed", 1, "what they are made of")
	only  = flag.Int("only", -1, "one specimen's number, to look at it alone")
	swaps = flag.Int("swaps", 0, "how often paths are swapped while they are read, in each way; 0: a tenth of the manifests, and at most 10000")
)

// tally is what a run came to.
type tally struct {
	bad, failures int
	kinds         map[string]*row
	beyond        map[string]int // refused for what the schema cannot say
	meant         map[string]int // accepted beyond the schema, by a rule
	costs         []cost
	hosts         []string // lines about the other stages
	escapes       int
	hangs         int
}

// row is what became of the files of one kind.
type row struct {
	files, refused, valid, problems int
	cpu                             time.Duration
	memory                          uint64
}

type cost struct {
	specimen specimen
	cpu      time.Duration
	memory   uint64
}

var figures = tally{kinds: map[string]*row{}, beyond: map[string]int{}, meant: map[string]int{}}

// TestMain prints the figures after the last test; its last line is the sum.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if figures.bad > 0 {
		figures.print()
	}
	os.Exit(code)
}

// particular is what a message quotes.
var particular = regexp.MustCompile("(\"[^\"]*\"|`[^`]*`|[0-9]+)")

// fail counts a failure and tells of it; of too many only the count is of interest.
func (y *tally) fail(t *testing.T, s specimen, why string) {
	if y.failures++; y.failures <= 40 {
		t.Errorf("%s, -seed %d -only %d: %s\n%s", s, *seed, s.n, why, excerpt(s.data))
	}
}

// note keeps a line for the end.
func (y *tally) note(t *testing.T, line string) {
	t.Log(line)
	y.hosts = append(y.hosts, line)
}

// excerpt shows the beginning of a file.
func excerpt(data []byte) string {
	const most = 1500
	if len(data) > most {
		return fmt.Sprintf("%+q ...", data[:most])
	}
	return fmt.Sprintf("%+q", data)
}

// TestIntake makes bad manifests until there are enough, and takes each through reading, compiling and deciding, all but
// the valid ones through the whole controller on a containerd in memory, and a sample through the real binary.
func TestIntake(t *testing.T) {
	g, o := newGenerator(t, *seed), newOracle(t)
	d := newDesk(t, filepath.Join(scratch(t), "realms.d"))
	var refused []int
	for n := max(0, *only); figures.bad < *count; n++ {
		s := g.specimen(n)
		v := d.measure(t, s)
		restore(t, d.root, s.path)
		figures.add(s, v)
		for _, why := range d.faults(s, v) {
			figures.fail(t, s, why)
		}
		figures.compare(t, o, s, v)
		if v.refused() {
			figures.bad++
			refused = append(refused, n)
		}
		if *only >= 0 {
			t.Logf("%s\n%s\n%s\n%v, %d KiB", s, excerpt(s.data), printed(v), v.cpu, v.memory>>10)
			break
		}
	}
	t.Run("TheControllerKeepsEverything", func(t *testing.T) { feedHouse(t, g, refused) })
	t.Run("TheBinaryKeepsEverything", func(t *testing.T) { feedBinary(t, g, refused) })
}

func printed(v verdict) string {
	var b strings.Builder
	for _, p := range v.decision.Problems {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

func (y *tally) add(s specimen, v verdict) {
	r := y.kinds[s.kind]
	if r == nil {
		r = &row{}
		y.kinds[s.kind] = r
	}
	r.files++
	if v.refused() {
		r.refused++
		r.problems += len(v.decision.Problems)
	} else {
		r.valid++
	}
	r.cpu, r.memory = max(r.cpu, v.cpu), max(r.memory, v.memory)
	s.data = nil
	y.costs = append(y.costs, cost{s, v.cpu, v.memory})
}

// oracleLimit is how much the oracle is given: it knows no limits, and takes minutes for what ours refuses by size.
const oracleLimit = 64 << 10

// compare holds the decoder against the oracle.
func (y *tally) compare(t *testing.T, o oracle, s specimen, v verdict) {
	at := slices.IndexFunc(v.scan.Files, func(f manifests.File) bool { return f.Path == s.path })
	if at < 0 {
		if len(s.data) <= manifests.MaxFileBytes {
			y.fail(t, s, fmt.Sprintf("the file is not in the scan: %v", v.decision.Problems))
		}
		return
	}
	file := v.scan.Files[at]
	ours := !manifests.HasErrors(file.Problems)
	if !ours && len(s.data) > oracleLimit {
		return
	}
	objections, err := o.judge(s.data)
	switch {
	case err != nil && ours:
		y.fail(t, s, fmt.Sprintf("accepted, and no YAML to the oracle: %v", err))
	case err == nil && !ours && len(objections) == 0:
		y.beyond[rule(file.Problems)]++
	case err == nil && ours:
		for _, objection := range objections {
			why := meant(objection, file.Problems)
			if why == "" {
				y.fail(t, s, fmt.Sprintf("accepted, and against the schema: %s", objection))
				continue
			}
			y.meant[why]++
		}
	}
}

// rule is what the first error of a file says, without what is particular to the file.
func rule(problems []manifests.Problem) string {
	at := slices.IndexFunc(problems, func(p manifests.Problem) bool { return p.Severity == manifests.Error })
	text := particular.ReplaceAllString(problems[at].Message, "…")
	if cut, _, found := strings.Cut(text, ": "); found && len(cut) > 20 {
		text = cut
	}
	return text[:min(len(text), 90)]
}

// print is the table, with the sum in its last line.
func (y *tally) print() {
	fmt.Printf("\n%-20s %6s %8s %9s %12s %9s %9s\n", "kind", "files", "refused", "problems", "still valid", "most CPU", "most KiB")
	var sum row
	for _, m := range mutations {
		r := y.kinds[m.kind]
		if r == nil {
			continue
		}
		r.print(m.kind)
		sum = row{sum.files + r.files, sum.refused + r.refused, sum.valid + r.valid, sum.problems + r.problems, max(sum.cpu, r.cpu), max(sum.memory, r.memory)}
	}
	sum.print("all")
	worst := func(what string, more func(a, b cost) int) {
		slices.SortFunc(y.costs, more)
		fmt.Printf("\nthe five that cost most %s:\n", what)
		for _, c := range y.costs[:min(5, len(y.costs))] {
			fmt.Printf("  %9s %6d KiB  specimen %d, %s\n", c.cpu.Round(10*time.Microsecond), c.memory>>10, c.specimen.n, c.specimen.kind)
		}
	}
	worst("CPU", func(a, b cost) int { return stdcmp.Compare(b.cpu, a.cpu) })
	worst("memory", func(a, b cost) int { return stdcmp.Compare(b.memory, a.memory) })
	table("refused by a rule that the schema cannot say:", y.beyond)
	table("accepted although the schema objects, by a rule of the format:", y.meant)
	fmt.Println()
	for _, line := range y.hosts {
		fmt.Println(line)
	}
	fmt.Printf("seed %d, worst CPU %s of %s, worst memory %d KiB of %d, escapes %d, hangs %d\n", *seed, sum.cpu.Round(10*time.Microsecond), cpuLimit, sum.memory>>10, memoryLimit>>10, y.escapes, y.hangs)
	fmt.Printf("intake: %d bad manifests, %d failures\n", y.bad, y.failures)
}

func (r row) print(kind string) {
	fmt.Printf("%-20s %6d %8d %9d %12d %9s %9d\n", kind, r.files, r.refused, r.problems, r.valid, r.cpu.Round(10*time.Microsecond), r.memory>>10)
}

func table(title string, counts map[string]int) {
	if len(counts) == 0 {
		return
	}
	fmt.Printf("\n%s\n", title)
	var keys []string
	for k := range counts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return stdcmp.Or(stdcmp.Compare(counts[b], counts[a]), stdcmp.Compare(a, b)) })
	for _, k := range keys {
		fmt.Printf("  %5d  %s\n", counts[k], k)
	}
}

// TestTheChecksSeeAnEdit proves that a file which does change something is noticed: by the desk, by the controller and
// by the oracle.
func TestTheChecksSeeAnEdit(t *testing.T) {
	edited := specimen{kind: "edit", path: "main.yaml", data: []byte(strings.Replace(mainManifest, "    - id: web\n", "    - id: other\n", 1))}
	d := newDesk(t, filepath.Join(scratch(t), "realms.d"))
	v := d.measure(t, edited)
	if v.refused() || cmp.Diff(substance(d.accepted), substance(v.decision.Accepted)) == "" {
		t.Errorf("the desk sees nothing: %v", v.decision.Problems)
	}
	if objections, err := newOracle(t).judge(edited.data); err != nil || len(objections) > 0 {
		t.Errorf("the oracle objects: %v %v", objections, err)
	}
	dir := scratch(t)
	lay(t, filepath.Join(dir, "realms.d"))
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, dir)
		defer h.stop()
		h.idle(5 * time.Second)
		if h.feed(t, edited) == "" {
			t.Error("the controller's check sees nothing")
		}
	})
}
