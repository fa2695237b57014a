package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// records are what is kept in memory as well: asked for at every pass, written rarely.
type records struct {
	completions map[state.RealmName]map[state.ContainerID]state.Completion
	suspensions []state.Suspension
}

type completionsDocument struct {
	Version     int                                    `json:"version"`
	Completions map[state.ContainerID]state.Completion `json:"completions"`
}

type suspensionsDocument struct {
	Version     int                `json:"version"`
	Suspensions []state.Suspension `json:"suspensions"`
}

// Completions returns the remembered ends of a realm's containers. The map is the caller's.
func (s *Store) Completions(realm state.RealmName) map[state.ContainerID]state.Completion {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.records.completions[realm])
}

// Complete remembers the end of a container. Only after it returned nil may the container's task be deleted.
func (s *Store) Complete(realm state.RealmName, id state.ContainerID, c state.Completion) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.records.completions[realm][id]; ok && old.Digest == c.Digest && old.Code == c.Code && old.Time.Equal(c.Time) {
		return nil
	}
	next := maps.Clone(s.records.completions[realm])
	if next == nil {
		next = map[state.ContainerID]state.Completion{}
	}
	next[id] = c
	return s.putCompletions(realm, next)
}

// Forget drops the remembered ends of the containers, or of the whole realm when none is given.
func (s *Store) Forget(realm state.RealmName, ids ...state.ContainerID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(s.records.completions[realm])
	maps.DeleteFunc(next, func(id state.ContainerID, _ state.Completion) bool { return len(ids) == 0 || slices.Contains(ids, id) })
	if len(next) == len(s.records.completions[realm]) {
		return nil
	}
	return s.putCompletions(realm, next)
}

// putCompletions writes a realm's completions, and then believes them.
func (s *Store) putCompletions(realm state.RealmName, next map[state.ContainerID]state.Completion) error {
	name, err := completionsFile(realm)
	if err != nil {
		return err
	}
	if len(next) == 0 {
		if err := s.remove(name); err != nil {
			return fmt.Errorf("completions of realm %s: %w", realm, err)
		}
		delete(s.records.completions, realm)
		return nil
	}
	data, err := encode(completionsDocument{formatVersion, next})
	if err == nil {
		err = s.write(name, data)
	}
	if err != nil {
		return fmt.Errorf("completions of realm %s: %w", realm, err)
	}
	s.records.completions[realm] = next
	return nil
}

// completionsFile is where a realm's completions stand. Validation keeps slashes and dots out of names; a state
// file is no place to rely on that.
func completionsFile(realm state.RealmName) (string, error) {
	if !filepath.IsLocal(string(realm)) || strings.ContainsAny(string(realm), "/.") {
		return "", fmt.Errorf("realm %q cannot have a file of its own", realm)
	}
	return filepath.Join(completionsDir, string(realm)+".json"), nil
}

// Suspensions returns all suspensions, those that have ended included, sorted by realm and container.
func (s *Store) Suspensions() []state.Suspension {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.records.suspensions)
}

// Suspend stores a suspension in the place of any earlier one of the same object.
func (s *Store) Suspend(suspension state.Suspension) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(s.records.suspensions), sameObject(suspension.Realm, suspension.Container))
	next = append(next, suspension)
	slices.SortFunc(next, func(a, b state.Suspension) int {
		return cmp.Or(cmp.Compare(a.Realm, b.Realm), cmp.Compare(a.Container, b.Container))
	})
	return s.putSuspensions(next)
}

// Resume ends a suspension: of the realm itself when the container is empty, never of both. That there is none is
// fine.
func (s *Store) Resume(realm state.RealmName, container state.ContainerID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(s.records.suspensions), sameObject(realm, container))
	if len(next) == len(s.records.suspensions) {
		return nil
	}
	return s.putSuspensions(next)
}

func sameObject(realm state.RealmName, container state.ContainerID) func(state.Suspension) bool {
	return func(s state.Suspension) bool { return s.Realm == realm && s.Container == container }
}

func (s *Store) putSuspensions(next []state.Suspension) error {
	data, err := encode(suspensionsDocument{formatVersion, next})
	if err == nil {
		err = s.write(suspensionsFile, data)
	}
	if err != nil {
		return fmt.Errorf("suspensions: %w", err)
	}
	s.records.suspensions = next
	return nil
}

// loadRecords reads completions and suspensions. Damaged files are set aside and told of; the others hold.
func (s *Store) loadRecords() error {
	s.records = records{completions: map[state.RealmName]map[state.ContainerID]state.Completion{}}
	var damaged []error
	load := func(name string, into any) error {
		data, err := s.read(name)
		if err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		if data != nil {
			if err := decode(data, into); err != nil {
				damaged = append(damaged, s.setAside(name, err))
			}
		}
		return nil
	}
	var suspensions suspensionsDocument
	if err := load(suspensionsFile, &suspensions); err != nil {
		return err
	}
	s.records.suspensions = suspensions.Suspensions
	entries, err := os.ReadDir(filepath.Join(s.dir, completionsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("state directory: %w", err)
	}
	for _, e := range entries {
		realm, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || strings.HasPrefix(realm, ".") { // set aside, or left by a write that was cut off
			continue
		}
		var doc completionsDocument
		if err := load(filepath.Join(completionsDir, e.Name()), &doc); err != nil {
			return err
		}
		if len(doc.Completions) > 0 {
			s.records.completions[state.RealmName(realm)] = doc.Completions
		}
	}
	return errors.Join(damaged...)
}
