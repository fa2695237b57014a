package manifests

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/invopop/jsonschema"
	"go.yaml.in/yaml/v3"
)

const (
	// MaxFileBytes bounds what a manifest file may cost to read. The largest real ones are some 100 KiB.
	MaxFileBytes = 1 << 20
	// maxNodes bounds a document's YAML nodes, also once its aliases are filled in. A node costs 2 to 3 us and 800
	// bytes, and no file may cost more than 50 ms and 32 MiB, with room for a busy host. Five hundred containers of
	// eight fields fit.
	maxNodes = 10_000
	// maxMarks bounds the bytes that can begin a node, which are counted before a tree is built: the tree
	// costs some 200 bytes for each.
	maxMarks = 2 * maxNodes
	// maxDepth bounds nesting; the format itself needs 9 levels.
	maxDepth = 64
	// maxDocuments bounds the documents of a file: a host has hundreds of realms at most. One costs 50 us.
	maxDocuments = 500
	// maxProblems is how many problems of one file are told; whoever has more has one cause.
	maxProblems = 100
)

// Decode reads one manifest file, YAML or JSON, and never fails: what is wrong is in the Problems, all at once.
// Path is used for positions only. Time and memory are bounded for any data; what is larger than MaxFileBytes is
// not looked at.
func Decode(path string, data []byte) (file File) {
	r := &report{file: path}
	defer func() {
		if cause := recover(); cause != nil { // the YAML reader is not ours; the daemon outlives its bugs
			file.Opaque = true
			r.add(Position{File: path}, fmt.Sprintf("the YAML reader failed on it (%v); simplify the file", cause))
		}
		file.Problems = r.all()
	}()
	file.Path = path
	if at, message := unreadable(path, data); message != "" {
		file.Opaque = true
		r.add(at, message)
		return file
	}
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	if json.Valid(data) {
		data = jsonAsYAML(data)
	}
	file.documents(r, data)
	if len(file.Documents) == 0 && len(r.problems) == 0 {
		file.Opaque = true
		r.add(Position{File: path, Line: 1}, "the file holds no document; write a manifest, or remove the file")
	}
	return file
}

// add notes an Error of the file itself; there are few, so they are always told.
func (r *report) add(at Position, message string) {
	r.problems = append(r.problems, Problem{Position: at, Message: message, Severity: Error})
}

// all returns the problems in place order, with a last one that counts those not told.
func (r *report) all() []Problem {
	SortProblems(r.problems)
	if r.more == 0 {
		return r.problems
	}
	last := Problem{Position: Position{File: r.file}, Severity: Warning, Message: fmt.Sprintf("%d more problems are not shown", r.more)}
	if r.moreErrors {
		last.Severity = Error
	}
	return append(r.problems, last)
}

// jsonAsYAML rewrites the two escapes of valid JSON that YAML does not have: \/ and pairs of surrogates.
func jsonAsYAML(data []byte) []byte {
	out := make([]byte, 0, len(data))
	for rest := data; len(rest) > 0; {
		size := 1
		switch {
		case rest[0] != '\\':
			out = append(out, rest[0])
		case rest[1] == '/':
			out, size = append(out, '/'), 2
		case rest[1] == 'u':
			r := jsonRune(rest)
			if size = 6; utf16.IsSurrogate(r) {
				if r = utf16.DecodeRune(r, jsonRune(rest[size:])); r != utf8.RuneError {
					size = 12
				}
				out = utf8.AppendRune(out, r)
				break
			}
			out = append(out, rest[:size]...)
		default:
			size = 2
			out = append(out, rest[:size]...)
		}
		rest = rest[size:]
	}
	return out
}

// jsonRune reads the \u and four hex digits that data begins with; anything else is no rune.
func jsonRune(data []byte) rune {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return utf8.RuneError
	}
	n, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	if err != nil {
		return utf8.RuneError
	}
	return rune(n)
}

// unreadable tells, before a tree is built, why building it is impossible or too costly; "" means it is neither.
func unreadable(path string, data []byte) (Position, string) {
	here := Position{File: path, Line: 1}
	if len(data) > MaxFileBytes {
		return here, fmt.Sprintf("the file has %d bytes; at most %d are read", len(data), MaxFileBytes)
	}
	for rest := data; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		if r == utf8.RuneError && size == 1 {
			return placeOf(path, data, len(data)-len(rest)), "the text is not UTF-8; save the file as UTF-8"
		}
		rest = rest[size:]
	}
	marks := 0
	for i, c := range data {
		switch c {
		case '\n', '\r', ',', '[', '{', ':':
			marks++
		case '-', '?':
			if i+1 < len(data) && (data[i+1] <= ' ' || data[i+1] >= utf8.RuneSelf) { // spaces, and YAML's other line breaks
				marks++
			}
		}
	}
	if marks > maxMarks {
		return here, fmt.Sprintf("the file is too intricate: more than %d lines and separators; split it", maxMarks)
	}
	return here, ""
}

// placeOf returns the position of an offset.
func placeOf(path string, data []byte, offset int) Position {
	before := data[:offset]
	return Position{
		File: path, Line: 1 + bytes.Count(before, []byte("\n")),
		Column: 1 + utf8.RuneCount(before[1+bytes.LastIndexByte(before, '\n'):]),
	}
}

// isForbidden reports whether YAML allows a character nowhere, not even between quotes.
func isForbidden(r rune) bool {
	return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r >= 0x7f && r < 0xa0 && r != 0x85 || r == 0xfffe || r == 0xffff
}

// documents splits the file by YAML's own rules and decodes each document.
func (f *File) documents(r *report, data []byte) {
	reader := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var root yaml.Node
		err := reader.Decode(&root)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			f.Opaque = true
			r.add(syntaxError(f.Path, data, err))
			return
		}
		if len(root.Content) == 0 || root.Content[0].ShortTag() == "!!null" {
			continue // nothing between two ---
		}
		if len(f.Documents) == maxDocuments {
			f.Opaque = true
			r.add(Position{File: f.Path, Line: root.Line}, fmt.Sprintf("the file has more than %d documents; split it", maxDocuments))
			return
		}
		f.document(r, root.Content[0])
	}
}

var (
	yamlLine      = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// syntaxError tells where the YAML reader stopped. The reader has no error type that carries the line, so it is
// taken from the text; it can be one line off. It names no line when that is the first, and for unknown anchors and
// characters that are not allowed.
func syntaxError(path string, data []byte, err error) (Position, string) {
	at, text := Position{File: path}, err.Error()
	if found := yamlLine.FindStringSubmatch(text); found != nil {
		text = strings.TrimPrefix(text, found[0])
		if line, err := strconv.Atoi(found[1]); err == nil {
			at.Line = line
		}
	}
	if at.Line == 0 {
		if offset := bytes.IndexFunc(data, isForbidden); offset >= 0 {
			bad, _ := utf8.DecodeRune(data[offset:])
			return placeOf(path, data, offset), fmt.Sprintf("%U is a control character; remove it, or write it as an escape between double quotes", bad)
		}
		at.Line = 1
		if found := unknownAnchor.FindStringSubmatch(text); found != nil {
			// It may be a password that lacks its quotes.
			return placeOf(path, data, max(0, bytes.Index(data, []byte("*"+found[1])))), "nothing before has the anchor that this * asks for; quote the text, or write the & first"
		}
	}
	advice := "; look for a quote, bracket or indentation that does not match, or a file cut off in the middle"
	lines := bytes.Split(data, []byte("\n"))
	for _, near := range []int{at.Line - 1, at.Line} {
		if near >= 0 && near < len(lines) && bytes.HasPrefix(bytes.TrimLeft(lines[near], " "), []byte("\t")) && !bytes.HasPrefix(data, []byte("{")) {
			at.Line, advice = near+1, "; indent with spaces, YAML knows no tabs"
			break
		}
	}
	return at, "the file does not parse here, or just before: " + text + advice
}

// document decodes one document and adds it to the file, with whatever is wrong with it.
func (f *File) document(r *report, n *yaml.Node) {
	w := newWalker(r)
	doc := Document{Position: w.at(n), Lines: w.lines}
	if nodes, deep := measure(n, 1); nodes > maxNodes || deep {
		w.errorf(n, "", "the document is too large: at most %d nodes, %d deep", maxNodes, maxDepth)
	} else {
		w.identify(n, &doc)
	}
	switch {
	case doc.Kind == KindRealm:
		doc.Realm = decodeAs(w, n, doc.Kind, validateRealm)
	case doc.Kind == KindContainer:
		doc.Container = decodeAs(w, n, doc.Kind, validateContainerDocument)
	}
	f.Opaque = f.Opaque || doc.RealmName == ""
	f.Documents = append(f.Documents, doc)
}

// identify tells a document's kind, name and realm from its nodes, also when the rest of it has errors, and
// reports when the kind is none that can be carried out.
func (w *walker) identify(n *yaml.Node, doc *Document) {
	if !w.kind(n, yaml.MappingNode, "!!map", "a manifest", "") {
		return
	}
	kind := Kind(lookup(n, "kind"))
	place := valueOf(n, "kind")
	switch kind {
	case "":
		w.errorf(place, "kind", "the kind cannot be told; write `kind: Realm`, once")
		return
	case KindRealm, KindContainer:
	case KindSpace, KindStack, KindCell, KindSecret, KindVolume:
		w.errorf(place, "kind", "not supported yet: kind %s; remove the document", kind)
	default:
		w.errorf(place, "kind", "unknown kind %q%s", clip(string(kind)), didYouMean(string(kind), []string{string(KindRealm), string(KindContainer)}))
		return
	}
	doc.Kind, doc.Name = kind, lookup(n, "metadata", "name")
	switch kind {
	case KindRealm:
		doc.RealmName = doc.Name
	case KindSecret, KindVolume: // Kukeon's name their realm in the metadata
		doc.RealmName = cmp.Or(lookup(n, "metadata", "realm"), lookup(n, "spec", "realmId"))
	default:
		doc.RealmName = lookup(n, "spec", "realmId")
	}
	if !canBeShown(doc.Name) {
		doc.Name = ""
	}
	if !canBeShown(doc.RealmName) {
		doc.RealmName = ""
	}
}

// canBeShown reports whether a name is one to tell people of, though it may be none that a realm can have: what is
// refused is listed by its name.
func canBeShown(name string) bool { return len(name) <= 2*MaxNameLength && printable(name) == name }

// decodeAs returns the document as a T, or nil when it has Error problems.
func decodeAs[T any](w *walker, n *yaml.Node, kind Kind, validate func(*walker, *T)) *T {
	clean := w.value(n, &jsonschema.Schema{Ref: refPrefix + string(kind)}, "")
	if clean == nil {
		return nil
	}
	out := new(T)
	reader := json.NewDecoder(bytes.NewReader(appendJSON(nil, clean)))
	reader.DisallowUnknownFields()
	if err := reader.Decode(out); err != nil {
		w.errorf(n, "", "the document cannot be decoded: %v", err)
		return nil
	}
	validate(w, out)
	if len(w.broken) > 0 {
		return nil
	}
	return out
}

// appendJSON writes what the walker made. To write it as YAML and to read that back costs three times the decoding of
// the file itself.
func appendJSON(out []byte, n *yaml.Node) []byte {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!str":
		text, _ := json.Marshal(n.Value) // a string has a JSON form
		return append(out, text...)
	case n.Kind == yaml.ScalarNode:
		return append(out, n.Value...)
	case n.Kind == yaml.SequenceNode:
		out = append(out, '[')
		for i, item := range n.Content {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendJSON(out, item)
		}
		return append(out, ']')
	}
	out = append(out, '{')
	for i := 0; i+1 < len(n.Content); i += 2 {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(appendJSON(out, n.Content[i]), ':')
		out = appendJSON(out, n.Content[i+1])
	}
	return append(out, '}')
}

// measure counts the nodes under n, and reports whether they are nested too deep. Aliases are not followed.
func measure(n *yaml.Node, depth int) (nodes int, deep bool) {
	nodes = 1
	if depth > maxDepth {
		return nodes, true
	}
	for _, child := range n.Content {
		more, tooDeep := measure(child, depth+1)
		nodes, deep = nodes+more, deep || tooDeep
	}
	return nodes, deep
}

// valueOf returns the node at a key, or the mapping itself.
func valueOf(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return n
}

// lookup returns the scalar at a path of keys, or "" when it is not there, is null, or stands there twice: then
// nobody can tell which one is meant.
func lookup(n *yaml.Node, keys ...string) string {
	quiet := newWalker(&report{})
	for _, key := range keys {
		if n = target(n); n.Kind != yaml.MappingNode {
			return ""
		}
		var next *yaml.Node
		for _, p := range quiet.pairs(n, "", 0) {
			if p.key.Value == key {
				next = p.value
			}
		}
		if next == nil || quiet.broken[key] {
			return ""
		}
		n = next
	}
	if n = target(n); n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		return ""
	}
	return n.Value
}
