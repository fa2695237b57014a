package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// records are what is kept in memory as well: asked for at every pass, written rarely.
type records struct {
	realms      map[state.RealmName]realmRecords
	suspensions []state.Suspension
}

// realmRecords are what is remembered of a realm. They are replaced as a whole, and never changed.
type realmRecords struct {
	Completions map[state.ContainerID]state.Completion `json:"completions"`
	Imports     []state.Import                         `json:"imports,omitempty"` // sorted by path
}

type realmDocument struct {
	Version int `json:"version"`
	realmRecords
}

type suspensionsDocument struct {
	Version     int                `json:"version"`
	Suspensions []state.Suspension `json:"suspensions"`
}

// Completions returns the remembered ends of a realm's containers. The map is the caller's.
func (s *Store) Completions(realm state.RealmName) map[state.ContainerID]state.Completion {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.records.realms[realm].Completions)
}

// Complete remembers the end of a container. Only after it returned nil may the container's task be deleted.
func (s *Store) Complete(realm state.RealmName, id state.ContainerID, c state.Completion) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.records.realms[realm]
	if old, ok := next.Completions[id]; ok && old.Digest == c.Digest && old.Code == c.Code && old.Time.Equal(c.Time) {
		return nil
	}
	if next.Completions = maps.Clone(next.Completions); next.Completions == nil {
		next.Completions = map[state.ContainerID]state.Completion{}
	}
	next.Completions[id] = c
	return s.putRealm(realm, next)
}

// Imports returns what was imported into a realm, sorted by path.
func (s *Store) Imports(realm state.RealmName) []state.Import {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.records.realms[realm].Imports)
}

// SetImports remembers what was imported into a realm, and forgets what else was.
func (s *Store) SetImports(realm state.RealmName, imports []state.Import) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.records.realms[realm]
	next.Imports = slices.SortedFunc(slices.Values(imports), func(a, b state.Import) int { return cmp.Compare(a.Path, b.Path) })
	if reflect.DeepEqual(next.Imports, s.records.realms[realm].Imports) {
		return nil
	}
	return s.putRealm(realm, next)
}

// Forget drops the remembered ends of the containers; all that is remembered of the realm when none is given.
func (s *Store) Forget(realm state.RealmName, ids ...state.ContainerID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.records.realms[realm]
	if len(ids) == 0 {
		if !known {
			return nil
		}
		return s.putRealm(realm, realmRecords{})
	}
	next := old
	next.Completions = maps.Clone(old.Completions)
	maps.DeleteFunc(next.Completions, func(id state.ContainerID, _ state.Completion) bool { return slices.Contains(ids, id) })
	if len(next.Completions) == len(old.Completions) {
		return nil
	}
	return s.putRealm(realm, next)
}

// putRealm writes what is remembered of a realm, and then believes it.
func (s *Store) putRealm(realm state.RealmName, next realmRecords) error {
	name, err := completionsFile(realm)
	if err != nil {
		return err
	}
	if len(next.Completions)+len(next.Imports) == 0 {
		if err := s.remove(name); err != nil {
			return fmt.Errorf("records of realm %s: %w", realm, err)
		}
		delete(s.records.realms, realm)
		return nil
	}
	data, err := encode(realmDocument{formatVersion, next})
	if err == nil {
		err = s.write(name, data)
	}
	if err != nil {
		return fmt.Errorf("records of realm %s: %w", realm, err)
	}
	s.records.realms[realm] = next
	return nil
}

// completionsFile is where the records of a realm stand. Validation keeps slashes and dots out of names; a state
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
	s.records = records{realms: map[state.RealmName]realmRecords{}}
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
		var doc realmDocument
		if err := load(filepath.Join(completionsDir, e.Name()), &doc); err != nil {
			return err
		}
		if len(doc.Completions)+len(doc.Imports) > 0 {
			s.records.realms[state.RealmName(realm)] = doc.realmRecords
		}
	}
	return errors.Join(damaged...)
}
