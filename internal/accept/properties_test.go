package accept_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/compile"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

var (
	realmNames = []state.RealmName{"a", "b", "c", "d", state.SystemRealm}
	fileNames  = []string{"1.yaml", "2.yaml", "3.yaml", "4.yaml", "5.yaml", "6.yaml"}
)

// drawDocument draws a manifest, good or bad.
func drawDocument(t *rapid.T) string {
	name := rapid.SampledFrom(realmNames).Draw(t, "realm")
	image := rapid.SampledFrom([]string{"caddy:1", "caddy:2"}).Draw(t, "image")
	annotations := rapid.SampledFrom([]string{"", "", "", "", ", annotations: {kukeon.io/prune: disabled}", ", annotations: {kukeon.io/reconcile: disabled}"}).Draw(t, "annotations")
	id := rapid.SampledFrom([]string{"web", "db"}).Draw(t, "id")
	switch rapid.IntRange(0, 14).Draw(t, "document") {
	case 0:
		return fmt.Sprintf("kind: Realm\nmetadata: {name: %s}\nspec: {state: Absent}\n", name)
	case 1:
		return fmt.Sprintf("kind: Realm\nmetadata: {name: %s}\nspec: {containers: []}\n", name)
	case 2:
		return fmt.Sprintf("kind: Realm\nmetadata: {name: %s}\nspec: {deletionPolicy: Retain}\n", name)
	case 3:
		return fmt.Sprintf("kind: Realm\nmetadata: {name: %s}\nspec: {namespace: kukeon-shared, containers: [{id: web, image: %s}]}\n", name, image)
	case 4:
		return fmt.Sprintf("kind: Realm\nmetadata: {name: %s}\nspec: {containres: []}\n", name)
	case 5:
		return "kind: Realm\nmetadata: {nam"
	case 6, 7:
		return fmt.Sprintf("kind: Container\nmetadata: {name: %s%s}\nspec: {realmId: %s, image: %s}\n", id, annotations, name, image)
	case 8:
		return fmt.Sprintf("kind: Realm\nmetadata: {name: %s}\nspec: {containers: [{id: %s, image: %s%s}]}\n", name, id, image, annotations)
	}
	return fmt.Sprintf("kind: Realm\nmetadata: {name: %s%s}\nspec: {containers: [{id: web, image: %s}, {id: db, image: caddy:1}]}\n", name, annotations, image)
}

// disturb does to the world what people, git and the kernel do.
func disturb(t *rapid.T, w *world) {
	path := rapid.SampledFrom(fileNames).Draw(t, "path")
	switch rapid.IntRange(0, 20).Draw(t, "event") {
	case 0, 1, 2, 3, 4:
		w.files[path] = drawDocument(t)
	case 5:
		w.files[path] = drawDocument(t) + "---\n" + drawDocument(t)
	case 6, 7, 8:
		delete(w.files, path)
	case 9:
		if text, ok := w.files[path]; ok {
			w.files[path+".skip"] = text
			delete(w.files, path)
		}
	case 10:
		delete(w.files, path+".skip")
	case 11:
		w.missing = !w.missing
	case 12:
		w.root.Inode++
	case 13:
		w.unsettled[path] = !w.unsettled[path]
	case 14:
		clear(w.files)
	case 15:
		w.silent = !w.silent
	case 16:
		for _, h := range w.accepted.Holds {
			w.confirm = append(w.confirm, h.ID)
		}
	case 17:
		if len(w.accepted.Removals) > 0 {
			e := rapid.SampledFrom(w.accepted.Removals).Draw(t, "ended")
			w.ended(e.Realm, e.Container)
		}
	case 18:
		if err := w.restart(); err != nil {
			t.Fatal(err)
		}
	case 19:
		w.at -= time.Hour
	}
	w.at += time.Duration(rapid.SampledFrom([]int{0, 1, 2, 3, 3, 700}).Draw(t, "seconds"))*time.Second + time.Millisecond
}

// objects lists what is accepted: realms, and their containers.
func objects(a state.Accepted) map[string]bool {
	out := map[string]bool{}
	for name, r := range a.Realms {
		out[string(name)] = true
		for _, c := range r.Containers {
			out[string(name)+"/"+string(c.ID)] = true
		}
	}
	return out
}

func listed(a state.Accepted) map[string]bool {
	out := map[string]bool{}
	for _, e := range a.Removals {
		out[strings.TrimSuffix(string(e.Realm)+"/"+string(e.Container), "/")] = true
	}
	return out
}

// TestNoSequenceOfScansRemovesWhatNoAcceptedStateOmitted walks through random histories.
func TestNoSequenceOfScansRemovesWhatNoAcceptedStateOmitted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		highest := map[state.RealmName]int64{}
		for range rapid.IntRange(1, 25).Draw(t, "scans") {
			disturb(t, w)
			prev := w.accepted
			w.look()
			checkStep(t, w, prev)
			for name, r := range w.accepted.Realms {
				if r.Generation < highest[name] {
					t.Fatalf("the generation of %s fell from %d to %d", name, highest[name], r.Generation)
				}
				highest[name] = r.Generation
			}
		}
	})
}

// checkStep compares one decision with the state before it.
func checkStep(t *rapid.T, w *world, prev state.Accepted) {
	was, is, before, after := objects(prev), objects(w.accepted), listed(prev), listed(w.accepted)
	for o := range after {
		realm, id, _ := strings.Cut(o, "/")
		switch {
		case before[o]:
		case !was[o]:
			t.Fatalf("%s is being removed and was never accepted", o)
		case is[o]:
			t.Fatalf("%s is being removed and accepted", o)
		case !w.scan.Exists:
			t.Fatalf("%s goes without a directory", o)
		case !w.scan.Complete && id == "" && !declaresAbsent(w.scan, realm):
			t.Fatalf("%s goes by an incomplete scan", o)
		case realm == string(state.SystemRealm) && id == "" && !declaresAbsent(w.scan, realm):
			t.Fatalf("the system realm goes by absence")
		}
	}
	for o := range was {
		if !is[o] && !after[o] {
			t.Fatalf("%s is neither accepted nor being removed", o)
		}
	}
	for o := range before {
		if !after[o] && !is[o] {
			t.Fatalf("%s left the removal list without being declared", o)
		}
	}
	for _, h := range w.accepted.Holds {
		for _, name := range h.Realms {
			if !is[string(name)] {
				t.Fatalf("%s is held and not accepted", name)
			}
		}
	}
	for name := range w.accepted.Realms {
		if after[string(name)] {
			t.Fatalf("%s is accepted and being removed", name)
		}
	}
	again := *w
	again.decide()
	if diff := cmp.Diff(stored(w.accepted), stored(again.accepted)); diff != "" || again.decision.Changed {
		t.Fatalf("deciding about the same scan once more changes something (%v):\n%s", again.decision.Changed, diff)
	}
}

func declaresAbsent(scan manifests.Scan, realm string) bool {
	return slices.ContainsFunc(scan.Files, func(f manifests.File) bool {
		return slices.ContainsFunc(f.Documents, func(d manifests.Document) bool {
			return d.RealmName == realm && d.Realm != nil && d.Realm.Spec.State == manifests.Absent
		})
	})
}

func stored(a state.Accepted) string {
	text, err := json.MarshalIndent(a, "", " ")
	if err != nil {
		panic(err)
	}
	return string(text)
}

// TestTheOrderOfFilesMeansNothing compiles and decides with files and namespaces in another order.
func TestTheOrderOfFilesMeansNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		for range rapid.IntRange(1, 8).Draw(t, "scans") {
			disturb(t, w)
			prev := w.accepted
			w.look()
			scan := w.scan
			scan.Files = rapid.Permutation(scan.Files).Draw(t, "files")
			namespaces := rapid.Permutation(w.observed()).Draw(t, "namespaces")
			here := compile.Compile(w.scan, compile.Options{}, w.observed(), owner, prev)
			there := compile.Compile(scan, compile.Options{}, namespaces, owner, prev)
			if diff := cmp.Diff(here, there); diff != "" {
				t.Fatal(diff)
			}
			a := accept.Decide(prev, w.scan, here, w.observed(), nil, w.now(), w.settings)
			b := accept.Decide(prev, scan, there, namespaces, nil, w.now(), w.settings)
			if diff := cmp.Diff(a, b); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}
