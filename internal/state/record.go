package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Record is the value of ExtensionSpec: the effective spec and whose it is, written in the same request as the
// OCI spec it describes.
type Record struct {
	Version int       `json:"version"`
	Owner   Owner     `json:"owner"`
	Realm   RealmName `json:"realm"`
	Spec    Spec      `json:"spec"`
}

// ErrNewerRecord means that a newer release of ours wrote the record: the container is left alone.
var ErrNewerRecord = errors.New("written by a newer release of kukeon-reconciler")

// EncodeRecord returns the stored form.
func EncodeRecord(r Record) []byte {
	r.Version = SpecVersion
	return encode(r)
}

// DecodeRecord reads a stored record leniently: unknown fields are ignored, absent ones keep their defaults.
func DecodeRecord(data []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("recorded spec is damaged: %w", err)
	}
	switch {
	case r.Version > SpecVersion:
		return Record{}, ErrNewerRecord
	case r.Version < 1 || r.Owner == "":
		return Record{}, errors.New("recorded spec is damaged: no version or owner")
	}
	return r, nil
}

// Started is the value of LabelStarted: which spec was started, when, and in which boot of the host.
type Started struct {
	Digest string // Digest.Short
	At     time.Time
	Boot   string
}

// String is the label's value: digest@RFC3339@boot.
func (s Started) String() string {
	return s.Digest + "@" + s.At.UTC().Format(time.RFC3339) + "@" + s.Boot
}

// ParseStarted reads a label's value; a damaged one counts as absent.
func ParseStarted(v string) (Started, bool) {
	parts := strings.Split(v, "@")
	if len(parts) != 3 || parts[0] == "" {
		return Started{}, false
	}
	at, err := time.Parse(time.RFC3339, parts[1])
	return Started{Digest: parts[0], At: at, Boot: parts[2]}, err == nil
}

// Exit is the value of LabelExit.
type Exit struct {
	Code int // ExitUnknown when nobody saw it
	At   time.Time
}

// String is the label's value: code@RFC3339.
func (e Exit) String() string {
	return strconv.Itoa(e.Code) + "@" + e.At.UTC().Format(time.RFC3339)
}

// ParseExit reads a label's value; a damaged one counts as absent.
func ParseExit(v string) (Exit, bool) {
	code, at, ok := strings.Cut(v, "@")
	n, err1 := strconv.Atoi(code)
	t, err2 := time.Parse(time.RFC3339, at)
	return Exit{Code: n, At: t}, ok && err1 == nil && err2 == nil
}

// Count reads one of the counter labels; a damaged one counts as zero.
func Count(labels map[string]string, key string) int {
	n, err := strconv.Atoi(labels[key])
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// SnapshotKey names the snapshot of one incarnation of a container.
func SnapshotKey(id ContainerID, d Digest) string { return string(id) + "-" + d.Short() }
