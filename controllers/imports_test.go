package controllers

import (
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// importStore is a store of which only the imports are asked.
type importStore struct {
	Store
	imports []state.Import
}

func (s *importStore) SetImports(_ state.RealmName, imports []state.Import) error {
	s.imports = imports
	return nil
}

// A drop directory may be away for a moment. What it brought is forgotten with its images only.
func TestImportsAreRememberedForAsLongAsTheirImagesAreThere(t *testing.T) {
	store := &importStore{}
	w := &worker{m: &Manager{cfg: Config{Store: store, Log: logr.Discard()}}, realm: "main"}
	a, b := state.Import{Path: "/a.tar", Version: "1", Refs: []string{"app:1"}}, state.Import{Path: "/b.tar", Version: "1", Refs: []string{"app:2"}}
	newer := state.Import{Path: "/a.tar", Version: "2", Refs: []string{"app:1"}}
	declared := func(paths ...string) state.Realm {
		var r state.Realm
		for _, p := range paths {
			r.Archives = append(r.Archives, state.Archive{Path: p})
		}
		return r
	}
	with := func(refs ...string) state.Observed {
		o := state.Observed{Imports: map[string]state.Import{"/a.tar": newer}}
		for _, ref := range refs {
			o.Images = append(o.Images, state.ObservedImage{Ref: ref})
		}
		return o
	}
	for name, c := range map[string]struct {
		want plan.Want
		have state.Observed
		kept []state.Import
	}{
		"declared, also without its images": {plan.Want{Realm: declared("/a.tar", "/b.tar"), Imports: []state.Import{a, b}}, with(), []state.Import{newer, b}},
		"no longer declared":                {plan.Want{Imports: []state.Import{a, b}}, with("app:1", "app:2"), []state.Import{newer, b}},
		"and one without images":            {plan.Want{Imports: []state.Import{a, b}}, with("app:2"), []state.Import{b}},
		"suspended":                         {plan.Want{Imports: []state.Import{a}, Suspended: "yes"}, with(), nil},
	} {
		store.imports = nil
		if err := w.imported(c.want, c.have); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.kept, store.imports); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
