package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// open opens a store for the time of the test.
func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// reopen closes a store and opens its directory again, as a restart would.
func reopen(t *testing.T, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, s.dir)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, s *Store) state.Accepted {
	t.Helper()
	a, err := s.Load()
	check(t, err)
	return a
}

func accepted(generation int64) state.Accepted {
	spec := state.Spec{Image: "docker.io/library/caddy:2", Env: []string{"SECRET=canary"}}
	root := state.RootIdentity{Device: 1, Inode: 2, Links: []string{"/a -> /b"}}
	realm := state.Realm{Name: "main", Namespace: "kukeon-main", Containers: []state.Container{{ID: "web", Name: "web", Spec: spec}}}
	return state.Accepted{
		Realms:   map[state.RealmName]state.AcceptedRealm{"main": {Realm: realm, Generation: generation, Root: root}},
		Removals: []state.Removal{{Realm: "old", Namespace: "kukeon-old", Container: "db", Spec: &spec}},
		Scanned:  true,
	}
}

func TestWhatWasSavedIsLoadedAfterARestart(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state"))
	if diff := cmp.Diff(state.Accepted{}, load(t, s)); diff != "" {
		t.Errorf("an empty directory holds something:\n%s", diff)
	}
	check(t, s.Save(accepted(7)))
	if diff := cmp.Diff(accepted(7), load(t, reopen(t, s))); diff != "" {
		t.Error(diff)
	}
}

func TestNobodyElseCanReadTheState(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	s := open(t, filepath.Join(t.TempDir(), "state"))
	check(t, s.Save(accepted(1)))
	check(t, os.Chmod(filepath.Join(s.dir, acceptedFile), 0o666)) // somebody meant well
	check(t, s.Save(accepted(2)))
	check(t, s.Complete("main", "job", state.Completion{Digest: "d"}))
	check(t, s.Suspend(state.Suspension{Realm: "main"}))
	check(t, filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	}))
}

func TestWhatIsStoredAlreadyIsNotWrittenAgain(t *testing.T) {
	s := open(t, t.TempDir())
	check(t, s.Save(accepted(1)))
	inode := func() uint64 {
		var st unix.Stat_t
		check(t, unix.Stat(filepath.Join(s.dir, acceptedFile), &st))
		return st.Ino
	}
	before := inode()
	check(t, s.Save(accepted(1)))
	s = reopen(t, s)
	check(t, s.Save(load(t, s)))
	if inode() != before {
		t.Error("the file was replaced by one of the same content")
	}
	check(t, s.Save(accepted(2)))
	if inode() == before {
		t.Error("a change was not written")
	}
}

func TestFieldsAndVersionsOfAnotherReleaseDoNotMatter(t *testing.T) {
	s := open(t, t.TempDir())
	text := `{"version": 9, "new": [], "accepted": {"scanned": true, "moons": 2, "realms": {"main": {"name": "main", "orbit": {}}}}}`
	check(t, os.WriteFile(filepath.Join(s.dir, acceptedFile), []byte(text), 0o600))
	a := load(t, s)
	if !a.Scanned || a.Realms["main"].Name != "main" {
		t.Errorf("got %+v", a)
	}
}

func TestADamagedStateIsSetAsideAndCountsAsLost(t *testing.T) {
	for name, text := range map[string]string{
		"empty":           "",
		"zeroes":          string(make([]byte, 64)),
		"cut off":         `{"version": 1, "accepted": {"realms": {"main": {"na`,
		"another thing":   `[]`,
		"no version":      `{}`,
		"a wrong type":    `{"version": 1, "accepted": {"realms": 7}}`,
		"something after": `{"version": 1, "accepted": {}} {}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			path := filepath.Join(s.dir, acceptedFile)
			check(t, os.WriteFile(path, []byte(text), 0o600))
			a, err := s.Load()
			var damaged *DamagedError
			if !errors.As(err, &damaged) || !strings.HasPrefix(damaged.Aside, path+".damaged-") {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(state.Accepted{}, a); diff != "" {
				t.Error(diff)
			}
			kept, err := os.ReadFile(damaged.Aside)
			if err != nil || string(kept) != text {
				t.Errorf("kept %q, %v", kept, err)
			}
			check(t, s.Save(accepted(1)))
			load(t, s)
		})
	}
}

func TestADamagedRecordLosesNoOther(t *testing.T) {
	s := open(t, t.TempDir())
	check(t, s.Complete("a", "job", state.Completion{Digest: "d"}))
	check(t, s.Complete("b", "job", state.Completion{Digest: "d"}))
	check(t, s.Suspend(state.Suspension{Realm: "a"}))
	check(t, s.Close())
	check(t, os.WriteFile(filepath.Join(s.dir, completionsDir, "a.json"), []byte("{"), 0o600))
	again, err := Open(s.dir)
	if !errors.As(err, new(*DamagedError)) || again == nil {
		t.Fatalf("got %v", err)
	}
	if len(again.Completions("a")) != 0 || len(again.Completions("b")) != 1 || len(again.Suspensions()) != 1 {
		t.Errorf("got %v, %v, %v", again.Completions("a"), again.Completions("b"), again.Suspensions())
	}
	check(t, again.Close())
	open(t, s.dir) // what was set aside is not complained of again
}

func TestASecondInstanceIsToldWhoHasTheDirectory(t *testing.T) {
	s := open(t, t.TempDir())
	check(t, s.Save(accepted(1)))
	_, err := Open(s.dir)
	var locked *LockedError
	if !errors.As(err, &locked) || locked.Pid != os.Getpid() || locked.Path != filepath.Join(s.dir, lockFile) {
		t.Fatalf("got %v", err)
	}
	reader, err := OpenReadOnly(s.dir)
	check(t, err)
	if diff := cmp.Diff(accepted(1), load(t, reader)); diff != "" {
		t.Error(diff)
	}
	for what, err := range map[string]error{
		"Save": reader.Save(accepted(2)), "Complete": reader.Complete("a", "b", state.Completion{}),
		"Suspend": reader.Suspend(state.Suspension{Realm: "a"}),
	} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s of a reader: %v", what, err)
		}
	}
	check(t, reader.Close())
	check(t, s.Close())
	open(t, s.dir)
}

func TestReadingDoesNotMakeAStateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	if _, err := OpenReadOnly(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is there: %v", err)
	}
}

func TestACompletionHoldsUntilItIsForgotten(t *testing.T) {
	s := open(t, t.TempDir())
	end := state.Completion{Digest: "d1", Code: 3, Time: time.Date(2026, 11, 23, 1, 2, 3, 4, time.UTC)}
	check(t, s.Complete("main", "one", end))
	check(t, s.Complete("main", "two", end))
	check(t, s.Complete("other", "one", end))
	s = reopen(t, s)
	want := map[state.ContainerID]state.Completion{"one": end, "two": end}
	if diff := cmp.Diff(want, s.Completions("main")); diff != "" {
		t.Error(diff)
	}
	check(t, s.Forget("main", "one", "never"))
	check(t, s.Forget("other"))
	check(t, s.Forget("unknown"))
	s = reopen(t, s)
	delete(want, "one")
	if diff := cmp.Diff(want, s.Completions("main")); diff != "" {
		t.Error(diff)
	}
	if left := s.Completions("other"); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	if s.Complete("../../etc/x", "one", end) == nil || s.Complete("", "one", end) == nil {
		t.Error("a realm's name led out of the directory")
	}
}

func TestASuspensionHoldsUntilItIsResumed(t *testing.T) {
	s := open(t, t.TempDir())
	until := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	check(t, s.Suspend(state.Suspension{Realm: "b", By: "old"}))
	check(t, s.Suspend(state.Suspension{Realm: "b", By: "root", Reason: "surgery", Until: until}))
	check(t, s.Suspend(state.Suspension{Realm: "b", Container: "web"}))
	check(t, s.Suspend(state.Suspension{Realm: "a"}))
	s = reopen(t, s)
	want := []state.Suspension{{Realm: "a"}, {Realm: "b", By: "root", Reason: "surgery", Until: until}, {Realm: "b", Container: "web"}}
	if diff := cmp.Diff(want, s.Suspensions()); diff != "" {
		t.Error(diff)
	}
	check(t, s.Resume("b", ""))
	check(t, s.Resume("c", ""))
	s = reopen(t, s)
	if diff := cmp.Diff([]state.Suspension{want[0], want[2]}, s.Suspensions()); diff != "" {
		t.Error(diff)
	}
}

func TestAFullDiskLeavesTheOldStateIntact(t *testing.T) {
	dir := t.TempDir()
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=700"))
	t.Cleanup(func() { check(t, unix.Unmount(dir, 0)) })
	s := open(t, dir)
	check(t, s.Save(accepted(1)))
	check(t, s.Complete("main", "job", state.Completion{Digest: "d"}))
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, bytes.Repeat([]byte("x"), 128<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if err := s.Save(accepted(2)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Save: %v", err)
	}
	if err := s.Complete("main", "other", state.Completion{Digest: "d"}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Complete: %v", err)
	}
	if err := s.Suspend(state.Suspension{Realm: "main"}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Suspend: %v", err)
	}
	s = reopen(t, s)
	if diff := cmp.Diff(accepted(1), load(t, s)); diff != "" {
		t.Error(diff)
	}
	if len(s.Completions("main")) != 1 || len(s.Suspensions()) != 0 {
		t.Errorf("what was not written is believed: %v, %v", s.Completions("main"), s.Suspensions())
	}
	check(t, os.Remove(filler))
	check(t, s.Save(accepted(2)))
	if diff := cmp.Diff(accepted(2), load(t, reopen(t, s))); diff != "" {
		t.Error(diff)
	}
}

// TestAKillInMidWriteLeavesOneOfTheStates kills a process that saves without a pause.
func TestAKillInMidWriteLeavesOneOfTheStates(t *testing.T) {
	const env = "STORE_TEST_WRITE_TO"
	if dir := os.Getenv(env); dir != "" {
		s := open(t, dir)
		for i := int64(1); ; i++ {
			check(t, s.Save(accepted(i)))
			if i == 3 {
				fmt.Println("writing")
			}
		}
	}
	dir := t.TempDir()
	last := int64(0)
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), env+"="+dir)
		out, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		_, readErr := out.Read(make([]byte, 1))
		check(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
		check(t, readErr)
		s, err := Open(dir)
		check(t, err)
		a := load(t, s)
		last = a.Realms["main"].Generation
		if diff := cmp.Diff(accepted(last), a); diff != "" || last < 3 {
			t.Errorf("generation %d:\n%s", last, diff)
		}
		entries, err := os.ReadDir(dir)
		check(t, err)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				t.Errorf("%s was left behind", e.Name())
			}
		}
		check(t, s.Close())
	}
}

func TestTheStoreIsSafeForConcurrentUse(t *testing.T) {
	s := open(t, t.TempDir())
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			realm, id := state.RealmName("realm"+strconv.Itoa(i%2)), state.ContainerID(strconv.Itoa(i))
			for j := range 5 {
				if err := errors.Join(s.Save(accepted(int64(j))), s.Complete(realm, id, state.Completion{Code: j}),
					s.Suspend(state.Suspension{Realm: realm, Container: id})); err != nil {
					t.Error(err)
				}
				s.Completions(realm)[id] = state.Completion{} // the caller's copy
				s.Suspensions()[0].Reason = "mine"
			}
		})
	}
	all.Wait()
	s = reopen(t, s)
	if len(s.Completions("realm0")) != 4 || len(s.Completions("realm1")) != 4 || len(s.Suspensions()) != 8 {
		t.Errorf("got %v, %v, %v", s.Completions("realm0"), s.Completions("realm1"), s.Suspensions())
	}
	for id, c := range s.Completions("realm0") {
		if c.Code != 4 {
			t.Errorf("%s ended with %d", id, c.Code)
		}
	}
}

func TestABootIsTheSameUntilItsMarkerOrTheKernelsIDIsAnother(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	boot := func(id string) string {
		t.Helper()
		b, err := Boot(dir, id)
		check(t, err)
		return b
	}
	first := boot("kernel-1")
	if first == "" || boot("kernel-1") != first {
		t.Error("a restart looks like a boot")
	}
	second := boot("kernel-2")
	if second == first || boot("kernel-2") != second {
		t.Error("another kernel's boot looks like a restart")
	}
	check(t, os.RemoveAll(dir))
	third := boot("kernel-2")
	if third == second {
		t.Error("an empty run directory looks like a restart")
	}
	check(t, os.WriteFile(filepath.Join(dir, bootFile), []byte("torn"), 0o600))
	if boot("kernel-2") == "torn" {
		t.Error("a torn marker was believed")
	}
}
