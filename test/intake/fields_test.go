package intake

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	sigsyaml "sigs.k8s.io/yaml"

	"kukeon.io/kukeon-reconciler/manifests"
)

// climbs are texts that lead up and out when somebody takes them for a path. OUT is the canary tree.
var climbs = []string{
	"..", "../..", "../outside/x", "../../../../../../../../..OUT/x", "/../..OUT/x", "OUT/../outside/x", "a/../../outside/x", "./../outside", "..\\outside",
	"%2e%2e/outside", "~/x", "$(touch OUT/x)", "`touch OUT/x`", "volume/../../outside", "..%00", "\x00/outside", "name\n../outside", "....//outside", "/proc/self/root/..OUT",
}

// field is a place in a manifest where a text may stand.
type field struct {
	path string
	set  func(document map[string]any, text string)
}

// stringFields finds every text of the published schema, in a realm with one container and in a container's document.
func (o oracle) stringFields(def map[string]any, path string, set func(map[string]any, any)) []field {
	if ref, ok := def["$ref"].(string); ok {
		def = o.defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	if alternatives, ok := def["oneOf"].([]any); ok {
		var out []field
		for _, one := range alternatives {
			out = append(out, o.stringFields(one.(map[string]any), path, set)...)
		}
		return out
	}
	switch def["type"] {
	case "string":
		return []field{{path, func(document map[string]any, text string) { set(document, text) }}}
	case "array":
		return o.stringFields(def["items"].(map[string]any), path+"[]", func(document map[string]any, v any) { set(document, []any{v}) })
	case "object":
		properties, ok := def["properties"].(map[string]any)
		if !ok { // a map of texts, whose keys are texts as well
			return []field{
				{path + ".value", func(document map[string]any, text string) { set(document, map[string]any{"key": text}) }},
				{path + ".key", func(document map[string]any, text string) { set(document, map[string]any{text: "value"}) }},
			}
		}
		var out []field
		for _, key := range slices.Sorted(maps.Keys(properties)) {
			property, ok := properties[key].(map[string]any)
			if !ok {
				continue // status
			}
			out = append(out, o.stringFields(property, path+"."+key, func(document map[string]any, v any) {
				object := map[string]any{key: v}
				switch { // what the object needs beside
				case strings.HasSuffix(path, ".containers[]"):
					fill(object, map[string]any{"id": "c", "image": "web:1"})
				case strings.HasSuffix(path, ".volumes[]"):
					fill(object, map[string]any{"source": "/etc", "target": "/t"})
				case strings.HasSuffix(path, ".tmpfs[]"):
					fill(object, map[string]any{"path": "/t"})
				}
				set(document, object)
			})...)
		}
		return out
	}
	return nil
}

// fill adds what an object does not have.
func fill(object, with map[string]any) {
	for key, v := range with {
		if _, there := object[key]; !there {
			object[key] = v
		}
	}
}

// merge lays one document over another.
func merge(under, over map[string]any) map[string]any {
	out := maps.Clone(under)
	for key, v := range over {
		below, ok1 := out[key].(map[string]any)
		above, ok2 := v.(map[string]any)
		if ok1 && ok2 {
			v = merge(below, above)
		}
		out[key] = v
	}
	return out
}

// climbing makes a file for each field and text.
func (o oracle) climbing(t *testing.T, outside string) []specimen {
	t.Helper()
	var out []specimen
	for kind, base := range map[string]map[string]any{
		"Realm":     {"kind": "Realm", "metadata": map[string]any{"name": "climber"}, "spec": map[string]any{"containers": []any{}}},
		"Container": {"kind": "Container", "metadata": map[string]any{"name": "climber"}, "spec": map[string]any{"realmId": "edge", "image": "web:1"}},
	} {
		var over map[string]any
		for _, f := range o.stringFields(o.defs[kind].(map[string]any), "", func(_ map[string]any, v any) { over = v.(map[string]any) }) {
			for _, text := range climbs {
				f.set(nil, strings.ReplaceAll(text, "OUT", outside))
				data, err := json.Marshal(merge(base, over))
				must(t, err)
				if data, err = sigsyaml.JSONToYAML(data); err != nil {
					t.Fatal(err)
				}
				out = append(out, specimen{n: len(out), kind: kind + f.path + " " + text, path: "climber.yaml", data: data})
			}
		}
	}
	for _, text := range climbs { // which means another thing with another kind
		text = strings.ReplaceAll(text, "OUT", outside)
		volume := fmt.Sprintf("kind: Realm\nmetadata: {name: climber}\nspec: {containers: [{id: c, image: web:1, volumes: [{kind: volume, source: %q, target: /t}]}]}\n", text)
		out = append(out, specimen{n: len(out), kind: "volume.source " + text, path: "climber.yaml", data: []byte(volume)})
	}
	slices.SortFunc(out, func(a, b specimen) int { return strings.Compare(a.kind, b.kind) })
	return out
}

// TestNoStringLeadsOut writes texts that climb into every field that takes a text, and has the controller carry out what
// it accepts: nothing but the containers' own directories is made, and nothing outside is touched.
func TestNoStringLeadsOut(t *testing.T) {
	dir := scratch(t)
	lay(t, filepath.Join(dir, "realms.d"))
	c := newCanary(t, dir)
	all := newOracle(t).climbing(t, c.dir)
	fields, carried := map[string]bool{}, map[string]int{}
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, dir)
		defer h.stop()
		h.idle(5 * time.Second)
		before := places(t, dir)
		for i, s := range all {
			field, _, _ := strings.Cut(s.kind, " ")
			fields[field] = true
			// A short run takes every tenth, another one for each field.
			if *count < 2000 && (i+len(fields))%10 != 0 {
				continue
			}
			writes := h.daemon.Writes()
			put(t, h.root, s.path, s.data)
			h.look()
			c.escaped(t, s.kind, manifests.Scan{})
			if h.daemon.Writes() > writes {
				carried[field]++
			}
			for _, at := range places(t, dir) {
				if !slices.Contains(before, at) && !ours(at) {
					figures.escape(t, fmt.Sprintf("%s: made %s\n%s", s.kind, at, s.data))
				}
			}
			restore(t, h.root, s.path)
			h.look()
		}
	})
	figures.note(t, fmt.Sprintf("%d texts that climb, in each of %d fields; carried out where a text may be anything: %v",
		len(climbs), len(fields), slices.Sorted(maps.Keys(carried))))
}

// places lists all paths below a directory.
func places(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at, err := filepath.Rel(dir, path)
		if at == "outside" {
			return fs.SkipDir // the kernel tells of it, and we would be told of ourselves
		}
		out = append(out, at)
		return err
	}))
	return out
}

// ours reports whether a path is where the product keeps things: a realm's name, and below it a container's or volume's.
func ours(at string) bool {
	name := `[a-zA-Z0-9][a-zA-Z0-9._-]*`
	for _, form := range []string{"realms.d/climber.yaml", "state/accepted.json", "state/completions/" + name + ".json", "state/volumes(/" + name + "){0,2}", "run(/files(/" + name + "){0,3})?"} {
		if matches(form, at) {
			return !strings.Contains(at, "..")
		}
	}
	return false
}

func matches(form, at string) bool { return regexp.MustCompile("^" + form + "$").MatchString(at) }
