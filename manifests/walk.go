package manifests

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/invopop/jsonschema"
	"go.yaml.in/yaml/v3"
)

// walker checks one document's nodes against the schema, reporting everything at once, and rebuilds from them a
// document that holds only what is right: aliases and merges resolved, every scalar explicit. It can then be turned
// into the Go types without rewriting a scalar or dropping a key in silence.
type walker struct {
	*report
	broken map[string]bool // fields with an Error, so that no second problem follows from the first
	lines  map[string]Position
	visits int // nodes visited, aliases counted at each use
}

func newWalker(r *report) *walker {
	return &walker{report: r, broken: map[string]bool{}, lines: map[string]Position{}}
}

// report gathers the problems of a file, and counts those beyond what is told.
type report struct {
	file       string
	problems   []Problem
	more       int
	moreErrors bool
}

type pair struct{ key, value *yaml.Node }

func (w *walker) at(n *yaml.Node) Position {
	return Position{File: w.file, Line: n.Line, Column: n.Column}
}

func (w *walker) tell(at Position, severity Severity, field, format string, args ...any) {
	if severity == Error {
		w.broken[field] = true
	}
	if len(w.problems) == maxProblems {
		w.more++
		w.moreErrors = w.moreErrors || severity == Error
		return
	}
	w.problems = append(w.problems, Problem{Position: at, Field: field, Severity: severity, Message: fmt.Sprintf(format, args...)})
}

func (w *walker) errorf(n *yaml.Node, field, format string, args ...any) {
	w.tell(w.at(n), Error, field, format, args...)
}

// exhausted counts a visit, and reports once when aliases have multiplied the document beyond its limit.
func (w *walker) exhausted(n *yaml.Node) bool {
	w.visits++
	if w.visits == maxNodes+1 {
		w.errorf(n, "", "the document is too large once its aliases are filled in; at most %d nodes", maxNodes)
	}
	return w.visits > maxNodes
}

// value checks n against s and returns the node to decode instead, or nil when there is nothing right to decode.
func (w *walker) value(n *yaml.Node, s *jsonschema.Schema, field string) *yaml.Node {
	if n = target(n); w.exhausted(n) {
		return nil
	}
	w.lines[field] = w.at(n)
	object, required := strings.TrimPrefix(s.Ref, refPrefix), s.Required
	if s.Ref != "" {
		s = definitions()[object]
		required = append(slices.Clone(s.Required), required...)
	}
	if len(s.OneOf) > 0 {
		s = alternative(s.OneOf, n)
	}
	switch {
	case n.ShortTag() == "!!null":
		if s.Type == "array" {
			w.errorf(n, field, "there is no value; write `%s: []` to mean none", lastField(field))
		} else {
			w.errorf(n, field, "there is no value; write one, or remove the key")
		}
		return nil
	case s.Type == "object" && w.kind(n, yaml.MappingNode, "!!map", "a mapping", field):
		if s.Properties != nil {
			return w.object(n, s, object, required, field)
		}
		return w.stringMap(n, s, field)
	case s.Type == "array" && w.kind(n, yaml.SequenceNode, "!!seq", "a list", field):
		return w.list(n, s, field)
	case s.Type == "string" && w.kind(n, yaml.ScalarNode, "", "a string", field):
		return w.text(n, s, field)
	case s.Type == "integer" && w.kind(n, yaml.ScalarNode, "", "a whole number", field):
		return w.integer(n, s, field)
	case s.Type == "number" && w.kind(n, yaml.ScalarNode, "", "a number", field):
		return w.text(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: n.Value, Line: n.Line, Column: n.Column, Style: yaml.DoubleQuotedStyle},
			&jsonschema.Schema{Type: "string", Format: "cpus"}, field)
	case s.Type == "boolean" && w.kind(n, yaml.ScalarNode, "", "true or false", field):
		if n.ShortTag() == "!!bool" && (strings.EqualFold(n.Value, "true") || strings.EqualFold(n.Value, "false")) {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strings.ToLower(n.Value)}
		}
		w.errorf(n, field, "%q is not true or false; write one of the two", clip(n.Value))
	}
	return nil
}

// kind reports whether n is of the wanted kind and tag, and says so if not.
func (w *walker) kind(n *yaml.Node, kind yaml.Kind, tag, name, field string) bool {
	found := map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}[n.Kind]
	if n.Kind != kind {
		w.errorf(n, field, "expected %s, found %s", name, found)
		return false
	}
	if tag != "" && n.ShortTag() != tag {
		w.errorf(n, field, "the tag %s means nothing here; remove it", clip(n.ShortTag()))
		return false
	}
	return true
}

func (w *walker) object(n *yaml.Node, s *jsonschema.Schema, object string, required []string, field string) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	written := map[string]*yaml.Node{}
	for _, p := range w.pairs(n, field, 0) {
		key, path := p.key.Value, join(field, p.key.Value)
		written[key] = p.value
		property, known := s.Properties.Get(key)
		switch {
		case !known:
			w.unknownKey(p, s, object, path)
		case property == jsonschema.TrueSchema: // status
		default:
			if clean := w.value(p.value, property, path); clean != nil {
				out.Content = append(out.Content, textNode(key), clean)
			}
		}
	}
	for _, key := range required {
		if path := join(field, key); written[key] == nil {
			w.errorf(n, path, "required, and missing")
		} else if v := target(written[key]); v.ShortTag() == "!!str" && v.Value == "" {
			w.errorf(v, path, "required, and empty")
		}
	}
	return out
}

// unknownKey says what is wrong with a key that the schema does not have.
func (w *walker) unknownKey(p pair, s *jsonschema.Schema, object, path string) {
	key := p.key.Value
	if secret, _, joined := strings.Cut(key, ":"); joined && object == "RegistryCredential" {
		// `password:x` without a space is one word, which is not to be told.
		w.errorf(p.key, strings.TrimSuffix(path, key)+secret, "write a space behind the colon")
		return
	}
	if what, ok := laterKey(object, key); ok {
		if !asksForNothing(p.value) {
			w.errorf(p.key, path, "not supported yet: %s; remove the key", what)
		}
		return
	}
	if why, ok := ignoredKey(object, key); ok {
		if !asksForNothing(p.value) {
			w.tell(w.at(p.key), Warning, path, "ignored: %s", why)
		}
		return
	}
	if len(w.problems) == maxProblems {
		w.errorf(p.key, path, "unknown field")
		return // nobody will read it
	}
	var known []string
	for q := s.Properties.Oldest(); q != nil; q = q.Next() {
		known = append(known, q.Key)
	}
	w.errorf(p.key, path, "unknown field `%s`%s", clip(key), didYouMean(key, known))
}

// asksForNothing reports whether a value is empty, as Kukeon writes the fields that nobody set.
func asksForNothing(n *yaml.Node) bool {
	n = target(n)
	switch n.ShortTag() {
	case "!!null":
		return true
	case "!!bool":
		return strings.EqualFold(n.Value, "false")
	case "!!str":
		return n.Value == ""
	}
	return n.Kind == yaml.SequenceNode && len(n.Content) == 0
}

func (w *walker) stringMap(n *yaml.Node, s *jsonschema.Schema, field string) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, p := range w.pairs(n, field, 0) {
		if clean := w.value(p.value, s.AdditionalProperties, join(field, p.key.Value)); clean != nil {
			out.Content = append(out.Content, textNode(p.key.Value), clean)
		}
	}
	return out
}

func (w *walker) list(n *yaml.Node, s *jsonschema.Schema, field string) *yaml.Node {
	out := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Style: yaml.FlowStyle}
	for i, item := range n.Content {
		clean := w.value(item, s.Items, field+"["+strconv.Itoa(i)+"]")
		if clean == nil { // keeps the indices of the others
			if clean = textNode(""); s.Items.Type != "string" {
				clean = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Style: yaml.FlowStyle}
			}
		}
		out.Content = append(out.Content, clean)
	}
	return out
}

// rewritten are the plain words that readers of YAML 1.1, Kukeon's among them, take for booleans.
var rewritten = strings.Fields("y Y yes Yes YES on On ON n N no No NO off Off OFF")

func plain(n *yaml.Node) bool {
	return n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle|yaml.TaggedStyle) == 0
}

func (w *walker) text(n *yaml.Node, s *jsonschema.Schema, field string) *yaml.Node {
	value, tag := n.Value, n.ShortTag()
	if octal := strings.TrimPrefix(value, "0o"); s.Format == "mode" && tag == "!!int" && strings.HasPrefix(value, "0") {
		value, tag = octal, "!!str" // Kukeon writes 0755, which YAML reads as octal as well
	}
	switch {
	case s.Format == "secret" && (tag != "!!str" || plain(n) && slices.Contains(rewritten, value)):
		w.errorf(n, field, "quote it: without quotes YAML does not read it as text")
		return nil
	case tag != "!!str" && plain(n) || plain(n) && slices.Contains(rewritten, value):
		w.errorf(n, field, "quote it: without quotes YAML does not read %s as text; write \"%s\"", clip(value), clip(value))
		return nil
	case tag != "!!str":
		w.errorf(n, field, "the tag %s means nothing here; remove it", clip(tag))
		return nil
	case strings.ContainsRune(value, 0):
		w.errorf(n, field, "a zero byte cannot be part of it; remove it")
		return nil
	case value == "" && (s.Format != "" || len(s.Enum) > 0) && !strings.HasSuffix(field, "]"):
		return nil // as Kukeon writes what is not set; whether it is required is checked with the typed values
	case len(s.Enum) > 0 && !slices.Contains(s.Enum, any(value)):
		words := make([]string, len(s.Enum))
		for i, word := range s.Enum {
			words[i] = fmt.Sprint(word)
		}
		w.errorf(n, field, "%q is not one of %s%s", clip(value), strings.Join(words, ", "), didYouMean(value, words))
		return nil
	}
	if f, ok := formats[s.Format]; ok {
		if err := f.check(value); err != nil {
			w.errorf(n, field, "%s", err)
			return nil
		}
	}
	return textNode(value)
}

var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

func (w *walker) integer(n *yaml.Node, s *jsonschema.Schema, field string) *yaml.Node {
	if n.ShortTag() != "!!int" || !plain(n) || !decimal.MatchString(n.Value) {
		w.errorf(n, field, "%q is not a whole number; write plain decimal digits without quotes", clip(n.Value))
		return nil
	}
	value, err := strconv.ParseInt(n.Value, 10, 64)
	if err != nil || value < bound(s.Minimum, math.MinInt64) || value > bound(s.Maximum, math.MaxInt64) {
		w.errorf(n, field, "%s is out of range; %s", clip(n.Value), rangeText(s))
		return nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: n.Value}
}

func bound(limit json.Number, otherwise int64) int64 {
	if n, err := limit.Int64(); err == nil {
		return n
	}
	return otherwise
}

func rangeText(s *jsonschema.Schema) string {
	switch {
	case s.Minimum != "" && s.Maximum != "":
		return fmt.Sprintf("write %s to %s", s.Minimum, s.Maximum)
	case s.Minimum != "":
		return fmt.Sprintf("write %s or more", s.Minimum)
	}
	return "write a smaller number"
}

// pairs returns a mapping's keys and values with merges (<<) filled in, and reports keys that are no strings or
// that stand twice. A mapping's own keys win over merged ones, and earlier merges over later ones.
func (w *walker) pairs(n *yaml.Node, field string, merges int) []pair {
	var own, merged []pair
	first := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content) && !w.exhausted(n); i += 2 {
		key, value := target(n.Content[i]), n.Content[i+1]
		switch earlier := first[key.Value]; {
		case key.ShortTag() == "!!merge":
			merged = append(merged, w.merge(target(value), field, merges)...)
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" || plain(key) && slices.Contains(rewritten, key.Value):
			w.errorf(key, field, "a key must be text; quote it or remove it")
		case earlier != nil:
			w.errorf(key, join(field, key.Value), "duplicate key `%s`, first written at line %d; keep one", clip(key.Value), earlier.Line)
		default:
			first[key.Value] = key
			own = append(own, pair{key, value})
		}
	}
	for _, p := range merged {
		if first[p.key.Value] == nil {
			first[p.key.Value] = p.key
			own = append(own, p)
		}
	}
	return own
}

func (w *walker) merge(n *yaml.Node, field string, merges int) []pair {
	sources := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		sources = n.Content
	}
	var out []pair
	for _, source := range sources {
		if source = target(source); source.Kind != yaml.MappingNode || merges >= maxDepth {
			w.errorf(source, field, "<< merges mappings only, at most %d deep", maxDepth)
			continue
		}
		out = append(out, w.pairs(source, field, merges+1)...)
	}
	return out
}

// target follows an alias.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// alternative picks the schema that fits n's shape; text when none does, so that the message asks for that.
func alternative(schemas []*jsonschema.Schema, n *yaml.Node) *jsonschema.Schema {
	shapes := map[string]bool{"array": n.Kind == yaml.SequenceNode, "integer": n.ShortTag() == "!!int",
		"number": n.ShortTag() == "!!int" || n.ShortTag() == "!!float"}
	text := schemas[0]
	for _, s := range schemas {
		if shapes[s.Type] {
			return s
		}
		if s.Type == "string" {
			text = s
		}
	}
	return text
}

func textNode(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Style: yaml.DoubleQuotedStyle}
}

func join(field, key string) string {
	if field == "" {
		return key
	}
	return field + "." + key
}

func lastField(field string) string { return field[strings.LastIndexByte(field, '.')+1:] }
