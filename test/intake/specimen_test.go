package intake

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// specimen is one generated file, most likely a bad manifest.
type specimen struct {
	n    int
	kind string
	// path is below the manifest directory; main.yaml replaces the accepted manifest, anything else stands beside it.
	path string
	data []byte
}

func (s specimen) String() string {
	return fmt.Sprintf("specimen %d (%s, %s, %d bytes)", s.n, s.kind, s.path, len(s.data))
}

// mutation makes a file, bad if it can. turn counts the calls of one kind.
type mutation struct {
	kind string
	// weight is the kind's share of a run.
	weight int
	make   func(g *generator, turn int) []byte
}

// generator makes specimens. The n-th depends on the seed and on n alone.
type generator struct {
	*rand.Rand
	seed  uint64
	bases [][]byte // good manifests; the first is the accepted one
	plan  []int    // indices of mutations, one for each share
}

func newGenerator(t testing.TB, seed uint64) *generator {
	t.Helper()
	g := &generator{seed: seed, bases: [][]byte{[]byte(mainManifest), []byte(edgeManifest)}}
	paths, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		g.bases = append(g.bases, text)
	}
	for i, m := range mutations {
		for range m.weight {
			g.plan = append(g.plan, i)
		}
	}
	shuffle := rand.New(rand.NewPCG(1, 1)) // so that a short run has all kinds, and any run the same
	shuffle.Shuffle(len(g.plan), func(i, j int) { g.plan[i], g.plan[j] = g.plan[j], g.plan[i] })
	return g
}

// specimen makes the n-th file.
func (g *generator) specimen(n int) specimen {
	g.Rand = rand.New(rand.NewPCG(g.seed, uint64(n)))
	slot := n % len(g.plan)
	at := g.plan[slot]
	m := mutations[at]
	before := 0 // of this kind in a round of the plan
	for _, other := range g.plan[:slot] {
		if other == at {
			before++
		}
	}
	s := specimen{n: n, kind: m.kind, path: g.path(m.kind)}
	s.data = m.make(g, n/len(g.plan)*m.weight+before)
	return s
}

// path is mostly the accepted manifest's.
func (g *generator) path(kind string) string {
	if kind == "json" && g.IntN(2) == 0 {
		return "beside.json"
	}
	return pick(g, "main.yaml", "main.yaml", "main.yaml", "beside.yaml", "a/b/below.yml", nastyFiles[g.IntN(len(nastyFiles))])
}

// nastyFiles are names that files may have.
var nastyFiles = []string{
	"-rf.yaml", "a b.yaml", "%s%n%d.yaml", "$(id).yaml", "'quote\".yaml", "Ünïcode.yaml", "UPPER.yaml", "a:7:3: b.yaml", "<b>.yml", "a\\b.yaml",
}

// base is a good manifest, most often the accepted one, or one made anew.
func (g *generator) base() []byte {
	switch g.IntN(4) {
	case 0:
		return g.bases[0]
	case 1:
		return g.good()
	}
	return slices.Clone(g.bases[g.IntN(len(g.bases))])
}

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }
