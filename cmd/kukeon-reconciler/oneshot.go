package main

import (
	"errors"
	"path/filepath"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/internal/store"
	"kukeon.io/kukeon-reconciler/manifests"
)

// oneShotStore is what one shot of apply keeps: the ends of containers, on disk and locked per realm, so that two
// shots at different realms work at the same time. What it accepts holds only for as long as it runs.
type oneShotStore struct {
	accepted state.Accepted
	realms   map[state.RealmName]*store.Store
}

// openOneShotStore locks every realm that the scan names.
func openOneShotStore(stateDir string, scan manifests.Scan) (*oneShotStore, error) {
	s := &oneShotStore{realms: map[state.RealmName]*store.Store{}}
	for _, f := range scan.Files {
		for _, d := range f.Documents {
			name := state.RealmName(d.RealmName)
			if s.realms[name] != nil {
				continue
			}
			one, _, err := openStore(store.Open, filepath.Join(stateDir, "apply", d.RealmName))
			if err != nil { // what was damaged is lost: a finished one-shot may run again
				return nil, errors.Join(err, s.Close())
			}
			s.realms[name] = one
		}
	}
	return s, nil
}

// Close gives the locks back.
func (s *oneShotStore) Close() error {
	var errs []error
	for _, one := range s.realms {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

// Load implements controllers.Store.
func (s *oneShotStore) Load() (state.Accepted, error) { return s.accepted, nil }

// Save implements controllers.Store; the manager calls it under its own lock.
func (s *oneShotStore) Save(a state.Accepted) error {
	s.accepted = a
	return nil
}

// Completions implements controllers.Store.
func (s *oneShotStore) Completions(realm state.RealmName) map[state.ContainerID]state.Completion {
	if one := s.realms[realm]; one != nil {
		return one.Completions(realm)
	}
	return nil
}

// Complete implements controllers.Store.
func (s *oneShotStore) Complete(realm state.RealmName, id state.ContainerID, c state.Completion) error {
	if one := s.realms[realm]; one != nil {
		return one.Complete(realm, id, c)
	}
	return nil
}

// Imports implements controllers.Store.
func (s *oneShotStore) Imports(realm state.RealmName) []state.Import {
	if one := s.realms[realm]; one != nil {
		return one.Imports(realm)
	}
	return nil
}

// SetImports implements controllers.Store.
func (s *oneShotStore) SetImports(realm state.RealmName, imports []state.Import) error {
	if one := s.realms[realm]; one != nil {
		return one.SetImports(realm, imports)
	}
	return nil
}

// Forget implements controllers.Store.
func (s *oneShotStore) Forget(realm state.RealmName, ids ...state.ContainerID) error {
	if one := s.realms[realm]; one != nil {
		return one.Forget(realm, ids...)
	}
	return nil
}

// Suspensions implements controllers.Store: there are none, nobody can ask for one.
func (s *oneShotStore) Suspensions() []state.Suspension { return nil }

// Suspend implements controllers.Store.
func (s *oneShotStore) Suspend(state.Suspension) error {
	return status.Refuse(status.ErrInvalid, "apply ends by itself and cannot be suspended")
}

// Resume implements controllers.Store.
func (s *oneShotStore) Resume(state.RealmName, state.ContainerID) error {
	return status.Refuse(status.ErrInvalid, "apply ends by itself and cannot be suspended")
}
