package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// now is the clock that names damaged files.
var now = time.Now

// acceptedDocument is the form of accepted.json.
type acceptedDocument struct {
	Version  int            `json:"version"`
	Accepted state.Accepted `json:"accepted"`
}

// Load returns the accepted state; the zero value when there is none. It is read leniently and never validated anew:
// fields that this release does not know are ignored, so that it can be installed over a newer one's state. A
// *DamagedError comes with the zero value; any other error means that the state may be there and could not be read.
func (s *Store) Load() (state.Accepted, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, err := s.read(acceptedFile)
	if err != nil {
		return state.Accepted{}, fmt.Errorf("accepted state: %w", err)
	}
	if data == nil {
		return state.Accepted{}, nil
	}
	var doc acceptedDocument
	if err := decode(data, &doc); err != nil {
		return state.Accepted{}, s.setAside(acceptedFile, err)
	}
	if doc.Version < 1 {
		return state.Accepted{}, s.setAside(acceptedFile, errors.New("no version"))
	}
	s.lastSave = data
	return doc.Accepted, nil
}

// Save stores the accepted state, secrets of manifests included, so that it is on the disk before anything of it is
// carried out. What is stored already is not written again.
func (s *Store) Save(a state.Accepted) error {
	data, err := encode(acceptedDocument{formatVersion, a})
	if err != nil {
		return fmt.Errorf("accepted state: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readOnly {
		return ErrReadOnly
	}
	if bytes.Equal(data, s.lastSave) {
		return nil
	}
	s.lastSave = nil // until it is known what the file holds
	if err := s.write(acceptedFile, data); err != nil {
		return fmt.Errorf("accepted state: %w", err)
	}
	s.lastSave = data
	return nil
}

// decode reads a stored file leniently.
func decode(data []byte, into any) error {
	if blank(data) {
		return errors.New("the file is empty")
	}
	return json.Unmarshal(data, into)
}

// encode makes the stored form: readable by people in need, and the same for the same content.
func encode(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}
