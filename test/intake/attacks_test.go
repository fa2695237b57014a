package intake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	sigsyaml "sigs.k8s.io/yaml"

	"kukeon.io/kukeon-reconciler/manifests"
)

// head begins a realm whose spec follows.
const head = "apiVersion: v1beta1\nkind: Realm\nmetadata: {name: main}\nspec:\n"

// anchors makes aliases that multiply, lead to nothing, or contain themselves.
func (g *generator) anchors(int) []byte {
	levels, width := 2+g.IntN(40), 2+g.IntN(9)
	switch g.IntN(7) {
	case 0, 1: // a billion laughs
		var b strings.Builder
		b.WriteString(head + "  images: &l0 [{image: a}]\n")
		for i := 1; i < levels; i++ {
			fmt.Fprintf(&b, "  %s: &l%d [%s]\n", pick(g, "x", "labels", "containers")+fmt.Sprint(i), i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d,", i-1), width), ","))
		}
		return []byte(b.String())
	case 2: // a list that many share
		return []byte(head + "  containers:\n  - {id: a, image: a, env: &e [" + strings.Repeat("A=b,", 1+g.IntN(6000)) + "]}\n" +
			strings.Repeat("  - {id: a, image: a, env: *e}\n", 1+g.IntN(1500)))
	case 3:
		return []byte(head + pick(g, "  containers: &a [*a]\n", "  containers: &a {b: *a}\n", "  images: &a [[*a]]\n", "  labels: &a\n    x: *a\n"))
	case 4:
		return g.set(pick(g, "*nowhere", "&a &b c", "&", "*", "&a *a", "*a b", "& a", "&a\n", "[*a, &a b]", "{*a : b}"))
	case 5:
		return bytes.Replace(g.base(), []byte("image: web:1"), []byte("image: &i web:1\n      *i : x"), 1)
	}
	b := bytes.Replace(g.base(), []byte("spec:"), []byte("spec: &s"), 1)
	return append(b, "  again: *s\n"...)
}

// merges makes << that merges what it cannot, itself, or too much.
func (g *generator) merges(int) []byte {
	switch g.IntN(5) {
	case 0:
		return g.insertAfter(func(string, string) string {
			return "<<: " + pick(g, "a", "[a]", "null", "1", "[[]]", "*x", "{a: b}", "[{a: b}, c]", "{<<: {<<: a}}", "!!str x")
		})
	case 1: // each level merges the one below twice
		var b strings.Builder
		b.WriteString(head + "  labels: &m0 {a: b}\n")
		levels := 2 + g.IntN(80)
		for i := 1; i < levels; i++ {
			fmt.Fprintf(&b, "  m%d: &m%d {<<: [*m%d, *m%d], k%d: v}\n", i, i, i-1, i-1, i)
		}
		fmt.Fprintf(&b, "  containers: [{<<: *m%d}]\n", levels-1)
		return []byte(b.String())
	case 2:
		return []byte(head + pick(g, "  <<: &a {<<: *a}\n", "  containers:\n  - &c {id: a, image: b, <<: *c}\n", "  <<: [&a {x: y}, *a, *a]\n"))
	case 3:
		return []byte(head + "  containers:\n  - &c {id: a, image: web:1}\n  - {<<: *c, id: b, <<: *c}\n  - {'<<': *c, id: d}\n")
	}
	return []byte(head + "  containers:\n  - &c {id: a, image: web:1, privileged: maybe}\n  - {<<: *c, id: b}\n")
}

func (g *generator) deep(int) []byte {
	n := pick(g, 10, 60, 65, 100, 1000, 9_999, 10_001, 20_000, 100_000)
	switch g.IntN(6) {
	case 0:
		return []byte(strings.Repeat("[", n))
	case 1:
		return []byte(head + "  containers: " + strings.Repeat("[", n) + strings.Repeat("]", n) + "\n")
	case 2:
		return []byte(strings.Repeat("{a: ", n) + "b" + strings.Repeat("}", n))
	case 3:
		return []byte(head + "  containers:\n  " + strings.Repeat("- ", n) + "a\n")
	case 4:
		var b strings.Builder
		for i := range min(n, 1200) {
			b.WriteString(strings.Repeat(" ", i) + "a:\n")
		}
		return []byte(b.String())
	}
	return []byte(strings.Repeat("? ", n) + "a\n")
}

// huge is more than a manifest may have.
func (g *generator) huge(turn int) []byte {
	size := manifests.MaxFileBytes + 1 + g.IntN(3<<20)
	if turn%8 == 7 {
		size = (1 + g.IntN(64)) << 20
		size = max(size, manifests.MaxFileBytes+1)
	}
	return g.filled(size)
}

// large is as much as a manifest may have, or somewhat less.
func (g *generator) large(int) []byte {
	return g.filled(manifests.MaxFileBytes - g.IntN(manifests.MaxFileBytes)*g.IntN(2))
}

// many is a file of many good things, about as many as may be, with a bad one at the end.
func (g *generator) many(turn int) []byte {
	var b strings.Builder
	n := pick(g, 900, 2000, 3900, 4100, 6000)
	line := pick(g, "  - {id: c%d, image: web:1}\n", "  - id: c%d\n    image: web:1\n", "  - {id: c%[1]d, image: web:%[1]d, env: [A=%[1]d]}\n", "  - {id: c%[1]d, image: web:1, volumes: [{source: /a, target: /t%[1]d}]}\n")
	switch turn % 4 {
	case 0, 1:
		b.WriteString(head + "  containers:\n")
	case 2:
		b.WriteString(head + "  containers: []\n")
		line = "---\nkind: Container\nmetadata: {name: c%d}\nspec: {realmId: main, image: web:1}\n"
		n = min(n, 499)
	case 3:
		line = "---\nkind: Realm\nmetadata: {name: r%d}\nspec: {containers: [{id: a, image: web:1}]}\n"
		n = min(n, 499)
	}
	for i := range n {
		fmt.Fprintf(&b, line, i)
	}
	return []byte(b.String() + pick(g, "---\nkind: Nothing\n", "---\n[\n", "bad: 1\n", "---\nkind: Realm\nmetadata: {name: main}\n"))
}

// filled is a file of a size, made of one thing again and again.
func (g *generator) filled(size int) []byte {
	begin := pick(g, head, head+"  containers:\n", head+"  images: [", "kind: Realm\nmetadata: {name: main, labels: {a: '", "", string(g.base()))
	unit := pick(g, "a,", "#\n", " ", "\n", "\t", "x", "[", "{a: ", "- ", "---\n", "---\nkind: Realm\n", "  - {id: a, image: b}\n", "\x00", "'", "\"", "key: value\n", "? ", "  # a comment of some length, as people write them\n",
		"&a ", "*a ", "<<: *a\n", "!x ", "é", "\u2028", "-\n", "      some words of a script as they come\n", "\"\\u263a\": ", "a: |\n  ", "a: b # c\n", ": ", ",", "{}", "[],")
	b := make([]byte, 0, size+len(unit))
	b = append(b, begin...)
	if len(unit) == 1 || g.IntN(3) > 0 {
		b = append(b, bytes.Repeat([]byte(unit), max(0, size-len(b))/len(unit)+1)...)
	} else { // numbered, so that keys differ
		for i := 0; len(b) < size; i++ {
			b = append(b, fmt.Sprintf("  k%d: %s", i, unit)...)
			b = append(b, '\n')
		}
	}
	return b[:size]
}

func (g *generator) tags(int) []byte {
	return g.set(pick(g, "!!binary aGVsbG8=", "!!binary ???", "!!python/object/apply:os.system [id]", "!!set {a, b}", "!!timestamp 2026-11-23", "!include /etc/passwd",
		"!!js/function 'x'", "!<tag:yaml.org,2002:str> a", "!!int a", "!!int '7'", "!!bool yes", "!!float 1", "!!null x", "!!map []", "!!seq {}", "! a", "!!omap [a: b]",
		"!!str 7", "!env HOME", "!!merge <<", "!<", "!!", "!a!b c", "!!str {a: b}"))
}

func (g *generator) documents(turn int) []byte {
	b := string(g.base())
	switch turn % 12 {
	case 0:
		return []byte(pick(g, "", "\n", "# nothing\n", "---\n", "---\n---\n", "null\n", "~", "...\n", "   ", "%YAML 1.2\n---\n", "''", "{}", "[]", "0"))
	case 1:
		return []byte(strings.Replace(b, "kind: Realm", "kind: "+pick(g, "realm", "Pod", "Cell", "Secret", "Volume", "Space", "Stack", "''", "[]", "Realm2", "null"), 1))
	case 2:
		return []byte(strings.Replace(b, "v1beta1", pick(g, "v1", "v1beta2", "apps/v1", "''", "1", "[v1beta1]"), 1))
	case 3:
		return []byte(strings.Repeat("---\na: b\n", pick(g, 2, 999, 1001, 3000)))
	case 4:
		return []byte(strings.Repeat("---\n"+edgeManifest, 2) + b)
	case 5:
		return []byte(pick(g, "%YAML 9.9\n", "%TAG ! tag:x,\n", "%FOO\n", "%YAML 1.1\n%YAML 1.1\n") + "---\n" + b)
	case 6:
		return []byte(strings.ReplaceAll(b, "\n---\n", pick(g, "\n--\n", "\n----\n", "\n ---\n", "\n...\n", "\n---x\n", "---\n", "\n--- |\n", "\n--- &a\n")))
	case 7:
		return []byte(b + pick(g, "...\nkind\n", "---\n[\n", "---\nkind: Realm\n", "---\n}\n", "---\n\"\n", "--- # \n- x\n"))
	case 8:
		return []byte(strings.Replace(b, "containers:", pick(g, "containers: null\n  x:", "#containers:", "containers: ~ #"), 1))
	case 9:
		return []byte("- " + strings.ReplaceAll(b, "\n", "\n  "))
	case 10:
		return []byte("items:\n" + b)
	}
	return capitalWords([]byte(b))
}

func (g *generator) json(int) []byte {
	text, err := sigsyaml.YAMLToJSON([]byte(edgeManifest))
	if err != nil {
		panic(err)
	}
	text = bytes.ReplaceAll(text, []byte("edge"), []byte(pick(g, "main", "other")))
	if g.IntN(2) == 0 {
		var indented bytes.Buffer
		if json.Indent(&indented, text, "", "\t") == nil {
			text = indented.Bytes()
		}
	}
	at := 1 + g.IntN(len(text)-1)
	switch g.IntN(8) {
	case 0:
		return text[:at]
	case 1:
		return bytes.Replace(text, []byte("{"), []byte(`{"kind":"Realm","kind":"Realm",`), 1)
	case 2:
		return bytes.ReplaceAll(text, []byte("}"), []byte(",}"))
	case 3:
		return slices.Concat(text, text)
	case 4:
		return bytes.Replace(text, []byte("{"), []byte("{ // comment\n"), 1)
	case 5:
		return bytes.ReplaceAll(text, []byte(`"one"`), []byte(pick(g, "NaN", "1", "null", `"\ud800"`, `"\u0000"`, `"\/"`, `'one'`, `["one"]`, "1e400", `"\x41"`)))
	case 6:
		return slices.Concat(text[:at], []byte(pick(g, ",", "}", "{", "\"", "\\", ":", "[", "\x00")), text[at:])
	}
	return bytes.Replace(text, []byte("{"), []byte(`{"Kind":"x","`+strings.Repeat("a", 40)+`":{},`), 1)
}

// tokens are pieces that manifests and attacks on YAML readers are made of.
var tokens = []string{
	"kind: Realm\n", "kind: Container\n", "metadata: {name: a}\n", "spec:\n", "  containers:\n", "  - ", "id: a\n", "image: b\n", "realmId: main\n", "&a ", "*a", "<<: ",
	"[", "]", "{", "}", ",", ": ", ":", "? ", "---\n", "...\n", "\n", " ", "\t", "!!str ", "!x ", "|\n", ">-\n", "|2+\n", "\"", "'", "#", " #", "%YAML 1.1\n", "null", "~", "1.10",
	"\x00", "\xff", "\uFEFF", "\r\n", "\u2028", "\u0085", "0o7", "status: 1\n", "memory: ", "mode: ", "\\", "\"\\x\"", "@", "`", "%", "- - -\n", "=", "\u00a0", "true", "..", "/",
}

func (g *generator) soup(int) []byte {
	var b strings.Builder
	if g.IntN(2) == 0 {
		b.WriteString(head)
	}
	for range 1 + g.IntN(60) {
		b.WriteString(pick(g, tokens...))
	}
	return []byte(b.String())
}
