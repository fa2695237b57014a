package manifests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"
)

// checker is as much of JSON Schema as our schema uses.
type checker struct{ defs map[string]any }

func (c checker) check(s map[string]any, v any, path string) error {
	if ref, ok := s["$ref"].(string); ok {
		if err := c.check(c.defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any), v, path); err != nil {
			return err
		}
	}
	if alternatives, ok := s["oneOf"].([]any); ok {
		var errs []error
		for _, one := range alternatives {
			if err := c.check(one.(map[string]any), v, path); err != nil {
				errs = append(errs, err)
			}
		}
		if len(errs) != len(alternatives)-1 {
			return fmt.Errorf("%s: not one of %d alternatives fits: %v", path, len(alternatives), errs)
		}
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		return fmt.Errorf("%s: %v is not one of %v", path, v, enum)
	}
	for _, key := range stringsOf(s["required"]) {
		if object, ok := v.(map[string]any); ok && object[key] == nil {
			return fmt.Errorf("%s: %s is missing", path, key)
		}
	}
	return c.checkType(s, v, path)
}

func (c checker) checkType(s map[string]any, v any, path string) error {
	switch v := v.(type) {
	case map[string]any:
		properties, _ := s["properties"].(map[string]any)
		for key, value := range v {
			property, known := properties[key].(map[string]any)
			additional, open := s["additionalProperties"].(map[string]any)
			switch {
			case known:
			case open:
				property = additional
			case properties[key] == true || properties == nil:
				continue
			default:
				return fmt.Errorf("%s: the schema does not know %s", path, key)
			}
			if err := c.check(property, value, path+"."+key); err != nil {
				return err
			}
		}
		return typed(s, "object", path)
	case []any:
		items, _ := s["items"].(map[string]any)
		for i, value := range v {
			if err := c.check(items, value, fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
		return typed(s, "array", path)
	case string:
		if pattern, ok := s["pattern"].(string); ok && !regexp.MustCompile(pattern).MatchString(v) {
			return fmt.Errorf("%s: %q does not match %s", path, v, pattern)
		}
		return typed(s, "string", path)
	case bool:
		return typed(s, "boolean", path)
	case json.Number:
		if s["type"] == "number" {
			return nil
		}
		return typed(s, "integer", path)
	}
	return fmt.Errorf("%s: %T", path, v)
}

func typed(s map[string]any, want, path string) error {
	if t, ok := s["type"]; ok && t != want {
		return fmt.Errorf("%s: the schema wants %v, not %s", path, t, want)
	}
	return nil
}

func stringsOf(v any) (out []string) {
	list, _ := v.([]any)
	for _, item := range list {
		out = append(out, item.(string))
	}
	return out
}

// What decodes without any problem fits the published schema. What the schema need not know is what asks for nothing.
func TestGoodManifestsFitTheSchema(t *testing.T) {
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	check := checker{schema["$defs"].(map[string]any)}
	checked := 0
	for name, data := range goodManifests(t) {
		if strings.HasPrefix(name, "empty-") || strings.HasPrefix(name, "a-container-document-joins") {
			continue // they hold empty values of keys that are not carried out
		}
		for _, document := range bytes.Split(data, []byte("\n---\n")) {
			asJSON, err := yaml.YAMLToJSON(bytes.ReplaceAll(jsonAsYAML(document), []byte("mode: 0755"), []byte(`mode: "0755"`)))
			if err != nil {
				t.Fatal(err)
			}
			var v any
			numbers := json.NewDecoder(bytes.NewReader(asJSON))
			numbers.UseNumber()
			if err := numbers.Decode(&v); err != nil {
				t.Fatal(err)
			}
			if v == nil {
				continue
			}
			if err := check.check(schema, v, name); err != nil {
				t.Error(err)
			}
			checked++
		}
	}
	if checked < 10 {
		t.Errorf("only %d documents were checked", checked)
	}
}

// goodManifests are the fixtures and examples that decode without a problem, by name.
func goodManifests(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	fixtures, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range fixtures {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		input := archive.Files[0]
		if data := bytesOf(input.Data); len(Decode(input.Name, data).Problems) == 0 {
			out[filepath.Base(path)] = data
		}
	}
	for _, path := range examples(t) {
		if out[filepath.Base(path)], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func examples(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(paths) < 5 {
		t.Fatalf("examples: %v, %v", paths, err)
	}
	return paths
}

func TestExamplesDecodeWithoutAnyProblem(t *testing.T) {
	for _, path := range examples(t) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file := Decode(path, data)
		for _, p := range file.Problems {
			t.Error(p)
		}
		if len(file.Documents) == 0 || file.Opaque {
			t.Errorf("%s declares nothing", path)
		}
	}
}

func TestSchemaAndReferenceAreSteady(t *testing.T) {
	first, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	second, err := Schema()
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("two schemas differ: %v", err)
	}
	if bytes.Contains(first, []byte(`"format"`)) {
		t.Error("the schema names a format that only we know")
	}
	reference := Reference()
	if reference != Reference() {
		t.Error("two references differ")
	}
	for _, field := range []string{"`stopGracePeriodSeconds` | integer | `10`", "`maxSizeBytes` | number or quantity (`256Mi`) | `10Mi`", "`livenessProbe`"} {
		if !strings.Contains(reference, field) {
			t.Errorf("the reference does not say %s", field)
		}
	}
	for name := range definitions() {
		if scalar := slices.Contains([]string{"Bytes", "MilliCPU", "Mode", "Command"}, name); !scalar && !slices.Contains(referenceOrder, name) {
			t.Errorf("the reference leaves %s out", name)
		}
	}
}

func TestEveryFieldIsDescribedAndEveryFormatKnown(t *testing.T) {
	for name, def := range definitions() {
		if def.Properties == nil {
			continue
		}
		for pair := def.Properties.Oldest(); pair != nil; pair = pair.Next() {
			if pair.Key != "status" && pair.Value.Description == "" {
				t.Errorf("%s.%s has no description", name, pair.Key)
			}
			format := pair.Value.Format
			if pair.Value.Items != nil {
				format = pair.Value.Items.Format
			}
			if _, ok := formats[format]; format != "" && !ok {
				t.Errorf("%s.%s has the unknown format %s", name, pair.Key, format)
			}
		}
	}
}
