package manifests

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// checkSound fails when a file's parts contradict each other: whatever was not understood must be a problem, and
// what cannot be told must make the file opaque.
func checkSound(t interface{ Errorf(string, ...any) }, data []byte, f File) {
	usable := 0
	for _, d := range f.Documents {
		switch {
		case d.RealmName == "" && !f.Opaque:
			t.Errorf("a document without realm in a file that is not opaque: %q", data)
		case d.Realm != nil && d.Container != nil:
			t.Errorf("a document of two kinds: %q", data)
		case d.Realm != nil || d.Container != nil:
			usable++
		case !HasErrors(f.Problems):
			t.Errorf("a document was refused without an Error: %q", data)
		}
	}
	if usable == 0 && !HasErrors(f.Problems) {
		t.Errorf("nothing usable, and no Error: %q", data)
	}
	if f.Opaque && !HasErrors(f.Problems) {
		t.Errorf("opaque, and no Error: %q", data)
	}
	lines := 1 + bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r")) + bytes.Count(data, []byte("\u0085")) +
		bytes.Count(data, []byte("\u2028")) + bytes.Count(data, []byte("\u2029"))
	for _, p := range f.Problems {
		if p.Message == "" || p.File != f.Path || p.Line < 0 || p.Line > lines+1 {
			t.Errorf("a problem that helps nobody: %+v of %q", p, data)
		}
	}
	if len(f.Problems) > maxProblems+2 {
		t.Errorf("%d problems", len(f.Problems))
	}
}

const goodRealm = `apiVersion: v1beta1
kind: Realm
metadata: {name: main, labels: {a: b}}
spec:
  defaults: {container: {image: &image "busybox:1.36"}}
  containers:
    - id: web
      image: *image
      command: [sh, -c, 'sleep 1']
      env: [A=b]
      resources: {memory: 1Mi, cpus: 0.5}
      volumes:
        - {kind: tmpfs, target: /a, mode: "1777"}
    - {id: db, restartPolicy: never}
---
kind: Container
metadata: {name: guest}
spec: {realmId: main, image: busybox}
`

// tokens are pieces that manifests and attacks on YAML readers are made of.
var tokens = []string{"kind: Realm\n", "kind: Container\n", "metadata: {name: a}\n", "spec:\n", "  containers:\n", "  - ", "id: a\n", "image: b\n",
	"&a ", "*a", "<<: ", "[", "]", "{", "}", ",", ": ", "? ", "---\n", "...\n", "\n", " ", "\t", "!!str ", "!x ", "|\n", ">-\n", "\"", "'", "#", "%YAML 1.1\n",
	"null", "~", "1.10", "\x00", "\xff", "\uFEFF", "\r\n", "\u2028", "0o7", "status: 1\n", "  realmId: a\n", "memory: ", "mode: "}

func TestAnyBytesDecodeSoundly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var data []byte
		switch rapid.IntRange(0, 2).Draw(t, "sort") {
		case 0:
			data = rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		case 1:
			data = []byte(strings.Join(rapid.SliceOf(rapid.SampledFrom(tokens)).Draw(t, "tokens"), ""))
		case 2:
			cut := rapid.IntRange(0, len(goodRealm)).Draw(t, "cut")
			end := rapid.IntRange(cut, len(goodRealm)).Draw(t, "end")
			data = []byte(goodRealm[:cut] + rapid.SampledFrom(tokens).Draw(t, "token") + goodRealm[end:])
		}
		checkSound(t, data, Decode("a.yaml", data))
	})
}

// threadCPU runs do on a thread of its own and returns the CPU time it took there, collector not included.
func threadCPU(t testing.TB, do func()) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	do()
	return used() - before
}

func mutate(dice *rand.Rand, data []byte) []byte {
	out := bytes.Clone(data)
	for range 1 + dice.IntN(4) {
		at := dice.IntN(len(out))
		switch dice.IntN(4) {
		case 0:
			out[at] = byte(dice.IntN(256))
		case 1:
			out = append(out[:at:at], out[min(len(out)-1, at+dice.IntN(20)):]...)
		case 2:
			out = append(out[:at:at], append([]byte(tokens[dice.IntN(len(tokens))]), out[at:]...)...)
		case 3:
			end := min(len(out), at+dice.IntN(60))
			out = append(out[:end:end], append(bytes.Clone(out[at:end]), out[end:]...)...)
		}
		if len(out) == 0 {
			return data
		}
	}
	return out
}

func TestTenThousandMutationsOfAGoodManifestAreCheap(t *testing.T) {
	const limit = 50 * time.Millisecond
	dice := rand.New(rand.NewPCG(1, 2))
	if f := Decode("a.yaml", []byte(goodRealm)); len(f.Problems) > 0 { // makes the definitions, once
		t.Fatal(f.Problems)
	}
	var most, all time.Duration
	decoded := 0
	for range 10_000 {
		data := mutate(dice, []byte(goodRealm))
		var f File
		cost := threadCPU(t, func() { f = Decode("a.yaml", data) })
		if cost > limit { // the collector may have made this thread help; a costly input is costly again
			if cost = threadCPU(t, func() { Decode("a.yaml", data) }); cost > limit {
				t.Errorf("%v for %q", cost, data)
			}
		}
		if !HasErrors(f.Problems) {
			decoded++
		}
		most, all = max(most, cost), all+cost
		checkSound(t, data, f)
	}
	t.Logf("most %v, mean %v; %d still decode", most, all/10_000, decoded)
}

// No file of the largest size costs more than 32 MiB and 50 ms, however it is made. The time is what a busy host takes
// several times over.
func TestLargestFilesAreBounded(t *testing.T) {
	const limit, most = time.Second, 32 << 20
	fill := func(head, unit, tail string) string {
		return head + strings.Repeat(unit, (MaxFileBytes-len(head)-len(tail))/len(unit)) + tail
	}
	head := "kind: Realm\nmetadata: {name: main}\nspec:\n"
	bomb := "kind: Realm\nmetadata: {name: main}\nspec:\n  images: &l0 [{image: a}]\n"
	for i := 1; i < 30; i++ {
		bomb += fmt.Sprintf("  x%d: &l%d [*l%d, *l%d, *l%d, *l%d]\n", i, i, i-1, i-1, i-1, i-1)
	}
	deep := head + "  labels: &m0 {a: b}\n"
	for i := 1; i < 50; i++ {
		deep += fmt.Sprintf("  m%d: &m%d {<<: [*m%d, *m%d], k%d: v}\n", i, i, i-1, i-1, i)
	}
	files := map[string]string{
		"flow list":             fill(head+"  images: [", "a,", "]\n"),
		"flow list in its room": head + "  images: [" + strings.Repeat("a,", maxMarks-100) + "]\n",
		"nested lists":          fill("", "[", ""),
		"nested mappings":       fill("", "{a: ", ""),
		"alias bomb":            bomb,
		"merge bomb":            deep + "  containers: [{<<: *m49}]\n",
		"env many times over":   head + "  containers:\n  - {id: a, image: a, env: &e [" + strings.Repeat("A=b,", 5_000) + "]}\n" + strings.Repeat("  - {id: a, image: a, env: *e}\n", 1_000),
		"documents":             fill("", "---\na: b\n", ""),
		"unknown keys":          head + manyLines("  immage%d: 1\n", 60_000),
		"containers":            head + "  containers:\n" + manyLines("  - {id: c%d, image: busybox, env: [A=b]}\n", 14_000),
		"labels":                "kind: Realm\nmetadata:\n  name: main\n  labels:\n" + manyLines("    key-%d: value\n", 45_000),
		"labels in their room":  "kind: Realm\nmetadata:\n  name: main\n  labels:\n" + manyLines("    key-%d: value\n", maxNodes/2-20),
		"one label":             fill("kind: Realm\nmetadata: {name: main, labels: {a: '", "x", "'}}\n"),
		"odd line breaks":       fill("", "-\u2028", ""),
		"comments":              fill(head, "#\n", ""),
		"quotes":                fill(head+"  namespace: \"", `\u263a`, "\"\n"),
		"block text":            fill(head+"  containers:\n  - id: a\n    image: a\n    args:\n    - |\n", "      some words of a script, as they come\n", ""),
		"too large":             strings.Repeat("a", MaxFileBytes+1),
	}
	for name, text := range files {
		t.Run(name, func(t *testing.T) {
			if len(text) > MaxFileBytes+1 {
				t.Fatalf("the file has %d bytes", len(text))
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			var f File
			cost := threadCPU(t, func() { f = Decode("a.yaml", []byte(text)) })
			runtime.ReadMemStats(&after)
			if cost > limit || after.TotalAlloc-before.TotalAlloc > most {
				t.Errorf("took too much")
			}
			t.Logf("%v, %d MiB allocated, %d problems, opaque %v", cost, (after.TotalAlloc-before.TotalAlloc)>>20, len(f.Problems), f.Opaque)
			checkSound(t, []byte(name), File{Path: f.Path, Documents: f.Documents, Opaque: f.Opaque, Problems: withoutPlaces(f.Problems)})
		})
	}
}

// withoutPlaces drops places, which checkSound would compare with the text.
func withoutPlaces(problems []Problem) []Problem {
	var out []Problem
	for _, p := range problems {
		p.Line, p.Column = 0, 0
		out = append(out, p)
	}
	return out
}

func manyLines(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}
