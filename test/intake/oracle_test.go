package intake

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	sigsyaml "sigs.k8s.io/yaml"

	"kukeon.io/kukeon-reconciler/manifests"
)

// oracle judges a file without our decoder: sigs.k8s.io/yaml reads it strictly, and the published JSON Schema says what
// a document may be.
type oracle struct {
	schema, defs map[string]any
}

func newOracle(t testing.TB) oracle {
	t.Helper()
	text, err := manifests.Schema()
	if err != nil {
		t.Fatal(err)
	}
	var o oracle
	if err := json.Unmarshal(text, &o.schema); err != nil {
		t.Fatal(err)
	}
	o.defs = o.schema["$defs"].(map[string]any)
	return o
}

// objection is one thing that is wrong with a document.
type objection struct {
	// path leads to the value, such as .spec.containers[0].image.
	path  string
	value any
	why   string
}

func (o objection) String() string { return o.path + ": " + o.why }

var (
	separator = regexp.MustCompile(`(?m)^(---|\.\.\.)(\s|$)`)
	onlyTalk  = regexp.MustCompile(`^(\s*(#.*|%.*)?(\n|$))*$`)
)

// split cuts a file into its documents, where YAML says that they begin and end. Directives go with what follows.
func split(data []byte) [][]byte {
	var out [][]byte
	carried := []byte{}
	take := func(part []byte) {
		part = slices.Concat(carried, part)
		carried = nil
		if onlyTalk.Match(part) && bytes.ContainsRune(part, '%') {
			carried = part
			return
		}
		out = append(out, part)
	}
	begin := 0
	for _, at := range separator.FindAllIndex(data, -1) {
		take(data[begin:at[0]])
		begin = at[0]
		if data[begin] == '.' {
			begin += 3
		}
	}
	take(data[begin:])
	if len(carried) > 0 {
		out = append(out, carried)
	}
	return out
}

// judge returns what is wrong with a file: nothing when it is a manifest. An error means that it is no YAML, or holds
// nothing.
func (o oracle) judge(data []byte) ([]objection, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not UTF-8")
	}
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	// The line ends of YAML are one thing to its readers.
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	var all []objection
	documents := 0
	for i, part := range split(data) {
		text, err := sigsyaml.YAMLToJSONStrict(part)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		reader := json.NewDecoder(bytes.NewReader(text))
		reader.UseNumber()
		var v any
		if err := reader.Decode(&v); err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		if v == nil {
			continue
		}
		documents++
		all = append(all, o.document(v)...)
	}
	if documents == 0 {
		return nil, errors.New("no document")
	}
	return all, nil
}

// document checks against the alternative that the kind names.
func (o oracle) document(v any) []objection {
	object, ok := v.(map[string]any)
	if !ok {
		return []objection{{"", v, "not a mapping"}}
	}
	kind, _ := object["kind"].(string)
	if kind != "Realm" && kind != "Container" {
		return []objection{{".kind", object["kind"], "the schema has no such kind"}}
	}
	return o.check(o.defs[kind].(map[string]any), v, "")
}

// check holds a value against a schema: as much of JSON Schema as ours uses.
func (o oracle) check(s map[string]any, v any, path string) []objection {
	var out []objection
	no := func(format string, args ...any) { out = append(out, objection{path, v, fmt.Sprintf(format, args...)}) }
	if ref, ok := s["$ref"].(string); ok {
		out = append(out, o.check(o.defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any), v, path)...)
	}
	if alternatives, ok := s["oneOf"].([]any); ok {
		fits := 0
		for _, one := range alternatives {
			if len(o.check(one.(map[string]any), v, path)) == 0 {
				fits++
			}
		}
		if fits != 1 {
			no("%d of %d alternatives fit", fits, len(alternatives))
		}
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		no("not one of %v", enum)
	}
	if kind, ok := s["type"].(string); ok && !typed(kind, v) {
		no("not of type %s", kind)
		return out
	}
	switch v := v.(type) {
	case map[string]any:
		out = append(out, o.object(s, v, path)...)
	case []any:
		items, _ := s["items"].(map[string]any)
		for i, item := range v {
			out = append(out, o.check(items, item, fmt.Sprintf("%s[%d]", path, i))...)
		}
	case string:
		if pattern, ok := s["pattern"].(string); ok && !regexp.MustCompile(pattern).MatchString(v) {
			no("does not match %s", pattern)
		}
		if most, ok := s["maxLength"].(float64); ok && utf8.RuneCountInString(v) > int(most) {
			no("longer than %v", most)
		}
	case json.Number:
		n, err := v.Float64()
		least, hasLeast := s["minimum"].(float64)
		most, hasMost := s["maximum"].(float64)
		above, hasAbove := s["exclusiveMinimum"].(float64)
		if err != nil || hasLeast && n < least || hasMost && n > most || hasAbove && n <= above {
			no("out of range")
		}
	}
	return out
}

func (o oracle) object(s, v map[string]any, path string) []objection {
	var out []objection
	required, _ := s["required"].([]any)
	for _, key := range required {
		if _, there := v[key.(string)]; !there {
			out = append(out, objection{path, v, fmt.Sprintf("%s is missing", key)})
		}
	}
	properties, _ := s["properties"].(map[string]any)
	additional, open := s["additionalProperties"].(map[string]any)
	for key, value := range v {
		property, known := properties[key].(map[string]any)
		switch {
		case known:
			out = append(out, o.check(property, value, path+"."+key)...)
		case properties[key] == true || properties == nil && !open:
		case open:
			out = append(out, o.check(additional, value, path+"."+key)...)
		default:
			out = append(out, objection{path + "." + key, value, "unknown key"})
		}
	}
	return out
}

func typed(kind string, v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return kind == "object"
	case []any:
		return kind == "array"
	case string:
		return kind == "string"
	case bool:
		return kind == "boolean"
	case json.Number:
		return kind == "number" || kind == "integer" && !strings.ContainsAny(v.String(), ".eE")
	}
	return false
}

// meant says why our decoder accepts what the schema objects to, and is right: the rules that its reference page
// states. Empty means that one of the two is wrong.
func meant(o objection, problems []manifests.Problem) string {
	ignored := func() bool {
		return slices.ContainsFunc(problems, func(p manifests.Problem) bool {
			return p.Severity == manifests.Warning && "."+p.Field == o.path && strings.HasPrefix(p.Message, "ignored: ")
		})
	}
	switch empty := o.value == nil || o.value == "" || o.value == false || fmt.Sprint(o.value) == "[]"; {
	case o.why == "unknown key" && empty:
		return "a key of Kukeon's that asks for nothing"
	case o.why == "unknown key" && ignored():
		return "a key of Kukeon's that is ignored with a warning"
	case o.value == "":
		return "an empty text, as Kukeon writes what is not set"
	case strings.HasSuffix(o.path, ".mode") && o.why == "not of type string":
		return "an octal mode without quotes, as Kukeon writes it"
	}
	return ""
}
