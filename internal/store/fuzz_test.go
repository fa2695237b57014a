package store

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/compile"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

// FuzzStore reads any bytes back as the files of a state directory: what is damaged is kept aside as it was and counts
// as lost, what is read is the same after it was saved, and everything that is decided by it decides without a panic.
func FuzzStore(f *testing.F) {
	good, err := encode(acceptedDocument{formatVersion, accepted(7)})
	if err != nil {
		f.Fatal(err)
	}
	done, err := encode(realmDocument{formatVersion, realmRecords{
		Completions: map[state.ContainerID]state.Completion{"job": {Digest: "d", Code: 1, Time: time.Unix(1, 0)}},
		Imports:     []state.Import{{Path: "/a.tar", Version: "1", Digest: "sha256:1", Refs: []string{"app:1"}}},
	}})
	if err != nil {
		f.Fatal(err)
	}
	off, err := encode(suspensionsDocument{formatVersion, []state.Suspension{{Realm: "main", Container: "web"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, done, off)
	f.Add(good[:len(good)/2], done[:len(done)/2], off[:len(off)/2])
	f.Add([]byte{}, make([]byte, 64), []byte("null"))
	f.Add([]byte(`{"version": 9, "accepted": {"realms": {"main": {"name": "other"}, "": {}}, "removals": [{}], "absences": [{}], "holds": [{}]}}`), done, []byte(`{}`))
	f.Add([]byte(`{"version": 1, "accepted": {"realms": {"../x": {"containers": [{"spec": null}]}}, "guard": null}}`), []byte(`{"completions": {"a": null}}`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, acceptedText, completions, suspensions []byte) {
		dir, err := os.MkdirTemp("/dev/shm", "fuzz-") // where a sync costs nothing
		if err != nil {
			dir = t.TempDir()
		}
		t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
		files := map[string][]byte{acceptedFile: acceptedText, suspensionsFile: suspensions, completionsDir + "/main.json": completions}
		check(t, os.Mkdir(filepath.Join(dir, completionsDir), 0o700))
		for name, data := range files {
			check(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
		}
		s, err := Open(dir)
		keptAside(t, files, dir, err)
		if s == nil {
			t.Fatal(err)
		}
		defer func() { check(t, s.Close()) }()
		a, err := s.Load()
		keptAside(t, files, dir, err)
		if err != nil && cmp.Diff(state.Accepted{}, a) != "" {
			t.Errorf("damaged, and yet %+v", a)
		}
		saved(t, s, a)
		decided(t, a, s.Completions("main"))
	})
}

// keptAside wants every file that is called damaged to be kept under another name as it was.
func keptAside(t *testing.T, files map[string][]byte, dir string, err error) {
	t.Helper()
	var all []error
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	} else if err != nil {
		all = []error{err}
	}
	for _, one := range all {
		var damaged *DamagedError
		if !errors.As(one, &damaged) {
			t.Fatal(one)
		}
		name, err := filepath.Rel(dir, damaged.Path)
		check(t, err)
		kept, err := os.ReadFile(damaged.Aside)
		check(t, err)
		if diff := cmp.Diff(files[name], kept); diff != "" {
			t.Errorf("%s was not kept as it was:\n%s", name, diff)
		}
	}
}

// saved wants a state to be the same after it was saved and read again.
func saved(t *testing.T, s *Store, a state.Accepted) {
	t.Helper()
	check(t, s.Save(a))
	again, err := s.Load()
	check(t, err)
	was, err := json.Marshal(a)
	check(t, err)
	is, err := json.Marshal(again)
	check(t, err)
	if diff := cmp.Diff(string(was), string(is)); diff != "" {
		t.Errorf("saved and read again (-was +is):\n%s", diff)
	}
}

// decided takes a state through everything that believes it.
func decided(t *testing.T, a state.Accepted, done map[state.ContainerID]state.Completion) {
	t.Helper()
	now := time.Unix(1_800_000_000, 0)
	a = accept.Resume(a)
	missing := accept.Decide(a, manifests.Scan{}, compile.Compile(manifests.Scan{}, compile.Options{}, nil, "owner", a), nil, nil, now, accept.Settings{})
	if len(missing.Accepted.Realms) != len(a.Realms) || len(missing.Accepted.Removals) != len(a.Removals) {
		t.Error("something is lost without a manifest directory")
	}
	empty := manifests.Scan{Exists: true, Complete: true, Fingerprint: "empty", At: now}
	accept.Decide(a, empty, compile.Compile(empty, compile.Options{}, nil, "owner", a), nil, nil, now, accept.Settings{PruneSettle: time.Second})
	for _, r := range a.Realms {
		want := plan.Want{Realm: r.Realm, Completions: done}
		_ = plan.Diff(want, state.Observed{Namespace: r.Namespace, Owner: "owner"}, plan.Busy{}, now).String()
	}
}
