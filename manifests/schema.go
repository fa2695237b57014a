package manifests

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/invopop/jsonschema"
)

// JSONSchemaExtend lets a realm carry the status that kuke prints; it is ignored.
func (Realm) JSONSchemaExtend(s *jsonschema.Schema) {
	s.Properties.Set("status", jsonschema.TrueSchema)
}

// JSONSchemaExtend lets a container carry the status that kuke prints; it is ignored.
func (Container) JSONSchemaExtend(s *jsonschema.Schema) {
	s.Properties.Set("status", jsonschema.TrueSchema)
}

// JSONSchemaExtend makes the id required where a container stands in a realm, and not in the defaults.
func (RealmSpec) JSONSchemaExtend(s *jsonschema.Schema) {
	if containers, ok := s.Properties.Get("containers"); ok {
		containers.Items.Required = []string{"id"}
	}
}

const refPrefix = "#/$defs/"

// definitions are the schemas of all types by name, made from the types and their tags. The decoder walks
// manifests along them, so that what the schema promises is what the decoder does. They are not to be changed.
var definitions = sync.OnceValue(reflectTypes)

func reflectTypes() jsonschema.Definitions {
	reflector := jsonschema.Reflector{Anonymous: true, RequiredFromJSONSchemaTags: true}
	defs := reflector.Reflect(&Realm{}).Definitions
	maps.Copy(defs, reflector.Reflect(&Container{}).Definitions)
	return defs
}

// publish puts in the place of our own formats, which no other program knows, what a pattern can say about them.
func publish(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if f, ours := formats[s.Format]; ours {
		if s.Format = ""; f.pattern != nil {
			s.Pattern = f.pattern.String()
		}
		if f.length > 0 {
			s.MaxLength = &f.length
		}
	}
	publish(s.Items)
	for _, one := range s.OneOf {
		publish(one)
	}
	if s.Properties != nil {
		for pair := s.Properties.Oldest(); pair != nil; pair = pair.Next() {
			publish(pair.Value)
		}
	}
}

// Schema returns the JSON Schema (draft 2020-12) of one manifest document: a Realm or a Container. The output
// is the same at every call. What JSON Schema cannot say, such as unique ids, only Decode checks.
func Schema() ([]byte, error) {
	defs := reflectTypes()
	for _, def := range defs {
		publish(def)
	}
	schema := jsonschema.Schema{
		Version:     jsonschema.Version,
		Title:       "Realm manifest of kukeon-reconciler",
		Definitions: defs,
		OneOf:       []*jsonschema.Schema{{Ref: refPrefix + "Realm"}, {Ref: refPrefix + "Container"}},
	}
	out, err := json.MarshalIndent(&schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the schema: %w", err)
	}
	return append(out, '\n'), nil
}

// referenceOrder is the order of the objects on the reference page, from the outside in.
var referenceOrder = []string{"Realm", "Container", "Metadata", "RealmSpec", "RegistryCredential", "ImageSpec", "Defaults", "ContainerDocumentSpec",
	"ContainerSpec", "VolumeMount", "TmpfsMount", "Capabilities", "Resources", "Logging"}

// Reference returns the manifest reference as Markdown: a table for each object, from the same types as the schema.
func Reference() string {
	var b strings.Builder
	b.WriteString("# Manifest reference\n\nGenerated from the types. A file holds one or more YAML documents, or JSON.\n")
	for _, name := range referenceOrder {
		def := definitions()[name]
		fmt.Fprintf(&b, "\n## %s\n\n", name)
		skip := map[string]bool{}
		if name == "ContainerDocumentSpec" {
			b.WriteString("All fields of [ContainerSpec](#containerspec), and:\n\n")
			for pair := definitions()["ContainerSpec"].Properties.Oldest(); pair != nil; pair = pair.Next() {
				skip[pair.Key] = true
			}
		}
		b.WriteString("| field | type | default | meaning |\n|---|---|---|---|\n")
		for pair := def.Properties.Oldest(); pair != nil; pair = pair.Next() {
			if pair.Value == jsonschema.TrueSchema || skip[pair.Key] {
				continue
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", pair.Key, typeText(pair.Value),
				defaultText(pair.Value, slices.Contains(def.Required, pair.Key)), strings.ReplaceAll(pair.Value.Description, "|", `\|`))
		}
	}
	b.WriteString("\n## Not supported yet\n\nRefused with a problem: ")
	b.WriteString(strings.Join(slices.Sorted(maps.Keys(allKeys(laterKeys))), ", "))
	b.WriteString("; the kinds Space, Stack, Cell, Secret and Volume.\n\nIgnored with a warning, since Kukeon knows them: ")
	b.WriteString(strings.Join(slices.Sorted(maps.Keys(allKeys(ignoredKeys))), ", "))
	b.WriteString(".\n")
	return b.String()
}

func typeText(s *jsonschema.Schema) string {
	name := strings.TrimPrefix(s.Ref, refPrefix)
	switch {
	case name == "Bytes":
		return "number or quantity (`256Mi`)"
	case name == "MilliCPU":
		return "number or string"
	case name == "Mode":
		return "octal string"
	case name == "Command":
		return "string or list of strings"
	case name != "":
		return fmt.Sprintf("[%s](#%s)", name, strings.ToLower(name))
	case s.Type == "array":
		return "list of " + typeText(s.Items)
	case s.Type == "object":
		return "map of strings"
	case len(s.Enum) > 0:
		words := make([]string, len(s.Enum))
		for i, word := range s.Enum {
			words[i] = fmt.Sprintf("`%v`", word)
		}
		return strings.Join(words, ", ")
	}
	return s.Type
}

func defaultText(s *jsonschema.Schema, required bool) string {
	switch {
	case required:
		return "required"
	case s.Default != nil:
		return fmt.Sprintf("`%v`", s.Default)
	case s.Extras["default"] != nil:
		return fmt.Sprintf("`%v`", s.Extras["default"])
	}
	return ""
}

// allKeys gathers the keys of a table of keys by object.
func allKeys(tables map[string]map[string]string) map[string]bool {
	out := map[string]bool{}
	for _, table := range tables {
		for key := range table {
			out["`"+key+"`"] = true
		}
	}
	return out
}
