package intake

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"
)

// mutations are all ways to make a file bad.
var mutations = []mutation{
	{"cut at every byte", 16, (*generator).cut},
	{"bits flipped", 10, (*generator).flip},
	{"bytes replaced", 6, (*generator).overwrite},
	{"lines moved", 5, (*generator).lines},
	{"duplicate key", 6, (*generator).duplicate},
	{"case twin", 5, (*generator).twin},
	{"byte order mark", 3, (*generator).mark},
	{"line ends", 3, (*generator).lineEnds},
	{"invalid UTF-8", 5, (*generator).notUTF8},
	{"anchors", 6, (*generator).anchors},
	{"merge keys", 5, (*generator).merges},
	{"deep nesting", 5, (*generator).deep},
	{"1 to 64 MiB", 1, (*generator).huge},
	{"up to 1 MiB", 2, (*generator).large},
	{"very many", 2, (*generator).many},
	{"nasty names", 8, (*generator).names},
	{"tabs", 4, (*generator).tabs},
	{"control characters", 5, (*generator).controls},
	{"wrong types", 8, (*generator).types},
	{"unknown fields", 6, (*generator).unknown},
	{"numbers", 5, (*generator).numbers},
	{"look-alikes", 5, (*generator).lookAlikes},
	{"tags", 5, (*generator).tags},
	{"documents", 6, (*generator).documents},
	{"merge conflicts", 3, (*generator).conflict},
	{"json", 6, (*generator).json},
	{"token soup", 8, (*generator).soup},
	{"missing lines", 5, (*generator).missing},
	{"contradictions", 6, (*generator).contradict},
	{"other files", 2, (*generator).foreign},
}

// cut takes the end away: of the accepted manifest at each byte in turn, then of others.
func (g *generator) cut(turn int) []byte {
	if turn < len(mainManifest) {
		return []byte(mainManifest[:turn])
	}
	b := g.base()
	return b[:g.IntN(len(b))]
}

func (g *generator) flip(int) []byte {
	b := slices.Clone(g.base())
	for range 1 + g.IntN(3) {
		b[g.IntN(len(b))] ^= 1 << g.IntN(8)
	}
	return b
}

func (g *generator) overwrite(int) []byte {
	b := slices.Clone(g.base())
	at := g.IntN(len(b))
	end := min(len(b), at+1+g.IntN(20))
	return slices.Concat(b[:at], []byte(pick(g, tokens...)), b[end:])
}

// lines swaps, doubles and indents lines.
func (g *generator) lines(int) []byte {
	all := strings.SplitAfter(string(g.base()), "\n")
	i, j := g.IntN(len(all)), g.IntN(len(all))
	switch g.IntN(4) {
	case 0:
		all[i], all[j] = all[j], all[i]
	case 1:
		all = slices.Insert(all, i, all[j])
	case 2:
		all[i] = strings.Repeat(" ", 1+g.IntN(4)) + all[i]
	case 3:
		all[i] = strings.TrimPrefix(all[i], " ")
	}
	return []byte(strings.Join(all, ""))
}

var (
	keyed = regexp.MustCompile(`(?m)^( *(?:- )?)([A-Za-z]+):(.*)$`)
	word  = regexp.MustCompile(`[A-Za-z]+`)
)

// line finds a line with a key: its place, indentation, key and value.
func (g *generator) line(b []byte) (start, end int, indent, key, value string) {
	all := keyed.FindAllSubmatchIndex(b, -1)
	if len(all) == 0 {
		return 0, 0, "", "kind", " Realm"
	}
	m := all[g.IntN(len(all))]
	return m[0], m[1], string(b[m[2]:m[3]]), string(b[m[4]:m[5]]), string(b[m[6]:m[7]])
}

// insertAfter puts a line of the same indentation behind another.
func (g *generator) insertAfter(text func(key, value string) string) []byte {
	b := g.base()
	_, end, indent, key, value := g.line(b)
	indent = strings.Repeat(" ", len(indent))
	return slices.Concat(b[:end], []byte("\n"+indent+text(key, value)), b[end:])
}

func (g *generator) duplicate(int) []byte {
	if g.IntN(3) == 0 { // in a flow mapping
		return bytes.Replace(g.base(), []byte("{"), []byte("{a: b, a: c, "), 1+g.IntN(2))
	}
	return g.insertAfter(func(key, value string) string {
		return pick(g, key, `"`+key+`"`, "'"+key+"'", "? "+key+"\n: "+key, "!!str "+key) + ":" + pick(g, value, " other", " []")
	})
}

func (g *generator) twin(int) []byte {
	if g.IntN(3) == 0 {
		b := g.base()
		start, end, indent, key, value := g.line(b)
		return slices.Concat(b[:start], []byte(indent+strings.ToUpper(key[:1])+key[1:]+"s"[:g.IntN(2)]+":"+value), b[end:])
	}
	return g.insertAfter(func(key, value string) string {
		return pick(g, strings.ToUpper(key), strings.ToUpper(key[:1])+key[1:], strings.ToLower(key)+"\u200b", strings.Title(key)) + ":" + value //nolint:staticcheck // ASCII only
	})
}

func (g *generator) mark(int) []byte {
	b := g.base()
	const bom = "\uFEFF"
	switch g.IntN(5) {
	case 0:
		return slices.Concat([]byte(bom), b)
	case 1:
		return slices.Concat([]byte(bom+bom), b)
	case 2:
		at := g.IntN(len(b))
		return slices.Concat(b[:at], []byte(bom), b[at:])
	case 3:
		return bytes.ReplaceAll(b, []byte("---\n"), []byte("---\n"+bom))
	}
	out := []byte{0xff, 0xfe}
	for _, unit := range utf16.Encode([]rune(string(b))) {
		out = append(out, byte(unit), byte(unit>>8))
	}
	return out
}

func (g *generator) lineEnds(int) []byte {
	b := g.base()
	if g.IntN(2) == 0 {
		b = g.flip(0)
	}
	end := pick(g, "\r\n", "\r\n", "\r", "\n\r", "\u2028", "\u0085", "\v", "\f", "\r\r\n")
	if g.IntN(3) == 0 {
		return bytes.Replace(b, []byte("\n"), []byte(end), 1+g.IntN(5))
	}
	return bytes.ReplaceAll(b, []byte("\n"), []byte(end))
}

func (g *generator) notUTF8(int) []byte {
	b := g.base()
	at := g.IntN(len(b))
	bad := pick(g, "\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\x80", "\xfe\xff", "\xc3\x28", "caf\xe9")
	return slices.Concat(b[:at], []byte(bad), b[at:])
}

func (g *generator) tabs(int) []byte {
	b := g.base()
	switch g.IntN(3) {
	case 0:
		return bytes.ReplaceAll(b, []byte("  "), []byte("\t"))
	case 1:
		return bytes.Replace(b, []byte("\n  "), []byte("\n\t"), 1)
	}
	return bytes.Replace(b, []byte(": "), []byte(":\t"), 1+g.IntN(3))
}

func (g *generator) controls(int) []byte {
	b := g.base()
	c := pick(g, "\x00", "\x00", "\x01", "\x07", "\b", "\x1b[2J", "\x7f", "\u0080", "\u009b31m", "\ufffe", "\u2066")
	if g.IntN(3) == 0 { // as an escape, which YAML undoes
		start, end, indent, key, _ := g.line(b)
		text := pick(g, `"\0"`, `"a\e[31mb"`, `"a\nb"`, `"\x1b]0;x\a"`, `"\u202e"`, `"\L"`)
		if g.IntN(2) == 0 {
			return slices.Concat(b[:start], []byte(indent+text+": "+key), b[end:])
		}
		return slices.Concat(b[:start], []byte(indent+key+": "+text), b[end:])
	}
	at := g.IntN(len(b))
	return slices.Concat(b[:at], []byte(c), b[at:])
}

// set gives a key another value.
func (g *generator) set(value string) []byte {
	b := g.base()
	start, end, indent, key, _ := g.line(b)
	return slices.Concat(b[:start], []byte(indent+key+": "+value), b[end:])
}

func (g *generator) types(int) []byte {
	return g.set(pick(g, "", "null", "~", "[]", "{}", "true", "7", "1.5", "[1, 2]", "{a: b}", "[[]]", "[{}]", "'text'", "no", "1.10", "0755",
		"2026-11-23", "|\n        text", ">-\n        text", "[null]", "{null: null}", "[a, {b: c}]", "!!str", "*x", "&x y"))
}

func (g *generator) numbers(int) []byte {
	return g.set(pick(g, "1e999", "99999999999999999999", "-1", "0x7fffffffffffffff", ".inf", "-.INF", ".nan", "1_000", "0b1", "08", "1e3", "+5",
		"9223372036854775808", "-9223372036854775809", "0.1e-400", "1e6Mi", "99999999Ti", "0o777", "1:30:00", "00", "-0", "4294967296"))
}

func (g *generator) names(int) []byte {
	name := pick(g, "/", "..", "../../etc", "a/b", `"a\0b"`, `"a\nb"`, strings.Repeat("a", 64), strings.Repeat("n", 5000), "Main", "-a", "a-", "a_b", "a.b",
		"é", "ｍａｉｎ", `"\u202Eniam"`, "\"ma\u200bin\"", "💥", `""`, "' '", "' main'", "main ", "default", "k8s.io", "system", "kukeon-system", "%2e%2e", "$(id)",
		"a;b", "~", "-", "'*'", "CON", "moby", "con.yaml", "nul", `"main\r"`, "1", "1e3", "0x10", "true")
	b := g.base()
	key := []byte(pick(g, "name: ", "name: ", "id: ", "realmId: ", "image: ", "namespace: ", "source: ", "target: "))
	if !bytes.Contains(b, key) {
		key = []byte("name: ")
	}
	at := bytes.Index(b, key) + len(key)
	end := at + bytes.IndexAny(b[at:], ",}\n")
	return slices.Concat(b[:at], []byte(name), b[max(at, end):])
}

func (g *generator) unknown(int) []byte {
	return g.insertAfter(func(key, _ string) string {
		name := pick(g, "imgae", "x", "Spec", "containres", key+"s", key+"_", "spec.containers", "nodeSelector", "privilged", "'a b'", "$ref", "__proto__",
			"ports", "secrets", "livenessProbe", "egress", strings.Repeat("k", 3000), "\"\\e[31m\"")
		return name + ": " + pick(g, "a", "1", "[a]", "{a: b}", "true")
	})
}

func (g *generator) lookAlikes(int) []byte {
	b := g.base()
	pair := pick(g, [2]string{"a", "а"}, [2]string{"e", "е"}, [2]string{"o", "ο"}, [2]string{": ", "： "}, [2]string{"  ", "\u00a0\u00a0"}, [2]string{"- ", "– "},
		[2]string{"\"", "“"}, [2]string{"'", "’"}, [2]string{"i", "і"}, [2]string{"-", "‑"}, [2]string{"\n", "\n\u3000"}, [2]string{"[", "［"}, [2]string{"kind", "ｋｉｎｄ"})
	at := bytes.Index(b[g.IntN(len(b)/2):], []byte(pair[0]))
	if at < 0 || g.IntN(2) == 0 {
		return bytes.ReplaceAll(b, []byte(pair[0]), []byte(pair[1]))
	}
	return bytes.Replace(b, []byte(pair[0]), []byte(pair[1]), 1+g.IntN(4))
}

func (g *generator) missing(int) []byte {
	all := strings.SplitAfter(string(g.base()), "\n")
	for range 1 + g.IntN(3) {
		if at := g.IntN(len(all)); len(all) > 1 {
			all = slices.Delete(all, at, at+1)
		}
	}
	return []byte(strings.Join(all, ""))
}

// contradict makes fields, documents and files that cannot all be true.
func (g *generator) contradict(int) []byte {
	extra := pick(g,
		"---\nkind: Realm\nmetadata: {name: main}\nspec: {containers: []}\n",
		"---\nkind: Container\nmetadata: {name: stray}\nspec: {realmId: nobody, image: web:1}\n",
		"---\nkind: Container\nmetadata: {name: web}\nspec: {realmId: main, image: web:1}\n---\nkind: Container\nmetadata: {name: web}\nspec: {realmId: main, image: web:1}\n",
		"---\nkind: Realm\nmetadata: {name: thief}\nspec: {namespace: kukeon-edge, containers: []}\n",
		"---\nkind: Realm\nmetadata: {name: other}\nspec: {namespace: k8s.io, containers: []}\n",
		"---\nkind: Realm\nmetadata: {name: other}\nspec: {namespace: kukeon-system, containers: []}\n",
		"---\nkind: Realm\nmetadata: {name: edge}\nspec: {state: Absent}\n",
		"---\nkind: Realm\nmetadata: {name: x}\nspec: {containers: [{id: a, image: web:1}, {id: a, image: web:1}]}\n",
		"---\nkind: Realm\nmetadata: {name: x}\nspec: {containers: [{id: a, image: web:1, resources: {memory: 1, memoryLimitBytes: 2}}]}\n",
		"---\nkind: Realm\nmetadata: {name: x}\nspec: {containers: [{id: a, image: web:1, volumes: [{source: ../x, target: /x}]}]}\n",
		"---\nkind: Realm\nmetadata: {name: x, labels: {containerd.io/restart.loguri: 'binary:///bin/sh'}}\nspec: {containers: []}\n",
	)
	return slices.Concat(bytes.TrimRight(g.base(), "\n"), []byte("\n"+extra))
}

func (g *generator) conflict(int) []byte {
	all := strings.SplitAfter(string(g.base()), "\n")
	i := g.IntN(len(all))
	marker := []string{"<<<<<<< HEAD\n", "=======\n", ">>>>>>> 1f3a (theirs)\n"}
	return []byte(strings.Join(slices.Concat(all[:i], marker[:1], all[i:], marker[1:2], all[i:], marker[2:]), ""))
}

// foreign is a file of another kind under a manifest's name.
func (g *generator) foreign(int) []byte {
	noise := make([]byte, 64+g.IntN(4000))
	for i := range noise {
		noise[i] = byte(g.IntN(256))
	}
	return slices.Concat([]byte(pick(g, "\x7fELF\x02\x01\x01", "\x1f\x8b\x08\x00", "PK\x03\x04", "\x89PNG\r\n\x1a\n", "#!/bin/sh\nrm -rf /\n",
		"<!DOCTYPE html>\n<html>404</html>\n", "[section]\nkey = value\n", "version https://git-lfs.github.com/spec/v1\n", "apiVersion: v1\nkind: Pod\n",
		"services:\n  web:\n    image: nginx\n", "just some words\n", "- a\n- b\n", "404: Not Found", "\xef\xbb\xbf", fmt.Sprintf("# %x\n", noise))),
		noise[:g.IntN(2)*len(noise)])
}

func capitalWords(b []byte) []byte { return word.ReplaceAllFunc(b, bytes.ToUpper) }
