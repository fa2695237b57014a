package tracetest

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
)

// Tally counts the steps of a run by method and kind of result.
type Tally struct{ counts map[string]map[string]int }

func (t *Tally) count(method string, r result) {
	if t.counts == nil {
		t.counts = map[string]map[string]int{}
	}
	if t.counts[method] == nil {
		t.counts[method] = map[string]int{}
	}
	t.counts[method][r.kind]++
	if method == "Restart" && r.err == nil {
		t.count("a call meanwhile", result{kind: r.value})
	}
}

// Steps counts them all.
func (t *Tally) Steps() int {
	n := 0
	for method, counts := range t.counts {
		for _, c := range counts {
			if method != "a call meanwhile" {
				n += c
			}
		}
	}
	return n
}

// Kinds returns the kinds of results that occurred.
func (t *Tally) Kinds() []string {
	all := map[string]bool{}
	for _, counts := range t.counts {
		for k := range counts {
			all[k] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// Missing returns the methods of ctrd.Services that were not called.
func (t *Tally) Missing() []string {
	return t.without(func(counts map[string]int, _ string) bool { return len(counts) > 0 })
}

// Fruitless returns those that never succeeded.
func (t *Tally) Fruitless() []string {
	return t.without(func(counts map[string]int, method string) bool {
		return counts["ok"] > 0 || method == "Subscribe" // a stream's end is never good
	})
}

// without returns the methods of ctrd.Services that the condition does not hold for.
func (t *Tally) without(condition func(counts map[string]int, method string) bool) []string {
	var out []string
	for m := range reflect.TypeFor[ctrd.Services]().Methods() {
		if !condition(t.counts[m.Name], m.Name) {
			out = append(out, m.Name)
		}
	}
	return out
}

// String prints a line for each method.
func (t *Tally) String() string {
	var b strings.Builder
	for _, method := range slices.Sorted(maps.Keys(t.counts)) {
		fmt.Fprintf(&b, "  %-18s", method)
		counts := t.counts[method]
		for _, k := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(&b, " %s %d", k, counts[k])
		}
		b.WriteByte('\n')
	}
	return b.String()
}
