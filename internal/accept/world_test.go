package accept_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/compile"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

const owner = state.Owner("owner-1")

// epoch is when every test begins.
var epoch = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// world is a manifest directory, a host and what was accepted so far.
type world struct {
	files     map[string]string
	unsettled map[string]bool
	refused   map[string]string // path -> message
	missing   bool
	root      manifests.ScanIdentity
	touched   int
	revision  string
	template  string
	silent    bool // containerd has not answered yet

	namespaces map[state.Namespace]state.NamespaceSummary
	settings   accept.Settings
	confirm    accept.Confirmations

	at       time.Duration
	accepted state.Accepted
	decision accept.Decision
	scan     manifests.Scan
}

func newWorld() *world {
	return &world{
		files: map[string]string{}, unsettled: map[string]bool{}, refused: map[string]string{},
		namespaces: map[state.Namespace]state.NamespaceSummary{},
		root:       manifests.ScanIdentity{Device: 1, Inode: 1},
		settings:   accept.Settings{PruneSettle: 2 * time.Second},
	}
}

// read is a stand-in for package source.
func (w *world) read() manifests.Scan {
	s := manifests.Scan{Root: "/realms.d", At: epoch.Add(w.at)}
	if w.missing {
		s.Problems = []manifests.Problem{problem("/realms.d", "no such directory")}
		return s
	}
	s.Exists, s.Complete, s.Identity, s.Revision = true, true, w.root, w.revision
	h := sha256.New()
	fmt.Fprintln(h, w.root, w.touched)
	for _, dir := range slices.Sorted(maps.Keys(w.refused)) {
		if !strings.HasSuffix(dir, ".yaml") { // nothing below it is read
			s.Problems, s.Complete = append(s.Problems, problem(dir, w.refused[dir])), false
		}
	}
	for _, path := range slices.Sorted(maps.Keys(w.files)) {
		fmt.Fprintln(h, path, w.files[path])
		base, aside := strings.CutSuffix(strings.TrimSuffix(path, ".bak"), ".skip")
		if aside = aside || strings.HasSuffix(path, ".bak"); aside {
			if _, there := w.files[base]; !there {
				s.Withheld = append(s.Withheld, manifests.Withheld{Path: base, By: path})
			}
			continue
		}
		dir, _, _ := strings.Cut(path, "/")
		switch {
		case !strings.HasSuffix(path, ".yaml"), w.refused[dir] != "" && dir != path:
		case w.unsettled[path]:
			s.Unsettled, s.Complete = append(s.Unsettled, path), false
		case w.refused[path] != "":
			s.Problems, s.Complete = append(s.Problems, problem(path, w.refused[path])), false
		default:
			f := manifests.Decode(path, []byte(w.files[path]))
			s.Files, s.Complete = append(s.Files, f), s.Complete && !f.Opaque
		}
	}
	s.Fingerprint = hex.EncodeToString(h.Sum(nil))
	return s
}

func problem(path, message string) manifests.Problem {
	return manifests.Problem{Position: manifests.Position{File: path}, Message: message, Severity: manifests.Error}
}

func (w *world) observed() []state.NamespaceSummary {
	return slices.Collect(maps.Values(w.namespaces)) // in no order
}

func (w *world) now() time.Time { return epoch.Add(w.at) }

// look scans and decides.
func (w *world) look() {
	w.scan = w.read()
	w.decide()
	w.converge()
}

// decide decides about the last scan once more.
func (w *world) decide() {
	namespaces, daemon := w.observed(), owner
	if w.silent {
		namespaces, daemon = nil, ""
	}
	desired := compile.Compile(w.scan, compile.Options{Template: w.template}, namespaces, daemon, w.accepted)
	w.decision = accept.Decide(w.accepted, w.scan, desired, namespaces, w.confirm, w.now(), w.settings)
	w.accepted, w.confirm = w.decision.Accepted, nil
}

// converge makes the host as the reconciler would: accepted realms get their namespace, stamped, and containers.
// Nothing is ever removed: that is the script's business.
func (w *world) converge() {
	for name, r := range w.accepted.Realms {
		n := w.namespaces[r.Namespace]
		n.Name = r.Namespace
		n.Labels = stamps(name)
		n.Containers += max(0, len(r.Containers)-n.Ours)
		n.Ours = max(n.Ours, len(r.Containers))
		w.namespaces[r.Namespace] = n
	}
}

func stamps(name state.RealmName) map[string]string {
	return map[string]string{state.LabelOwner: string(owner), state.LabelRealm: string(name)}
}

// ended is containerd's answer that an object of the removal list is gone.
func (w *world) ended(realm state.RealmName, id state.ContainerID) {
	if id == "" {
		for _, e := range w.accepted.Removals {
			if e.Realm == realm && e.Container == "" {
				delete(w.namespaces, e.Namespace)
			}
		}
	}
	w.accepted = accept.Ended(w.accepted, realm, id)
}

// restart puts the accepted state through its stored form, and hands it to a new process.
func (w *world) restart() error {
	text, err := json.Marshal(w.accepted)
	if err != nil {
		return err
	}
	w.accepted = state.Accepted{}
	err = json.Unmarshal(text, &w.accepted)
	w.accepted = accept.Resume(w.accepted)
	return err
}

// print tells what holds now.
func (w *world) print() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.accepted.Realms)) {
		r := w.accepted.Realms[name]
		fmt.Fprintf(&b, "realm %s in %s, generation +%d", name, r.Namespace, r.Generation-epoch.Unix())
		for _, note := range []struct{ what, text string }{
			{"revision", r.Origin.Revision}, {"because", r.NamespaceReason}, {"withheld by", r.Withheld}, {"frozen:", r.Frozen},
		} {
			if note.text != "" {
				fmt.Fprintf(&b, ", %s %s", note.what, note.text)
			}
		}
		b.WriteString("\n")
		for _, c := range r.Containers {
			fmt.Fprintf(&b, "  %s: %s (%s)", c.ID, strings.TrimPrefix(c.Spec.Image, "docker.io/library/"), c.Origin)
			if c.Withheld != "" {
				fmt.Fprintf(&b, ", withheld by %s", c.Withheld)
			}
			b.WriteString("\n")
		}
	}
	for _, e := range w.accepted.Removals {
		object := string(e.Realm)
		if e.Container != "" {
			object += "/" + string(e.Container)
		}
		fmt.Fprintf(&b, "removing %s from %s (%s): %s\n", object, e.Namespace, e.Deletion, e.Why)
	}
	for _, h := range w.decision.Holds {
		fmt.Fprintf(&b, "held %s %v: %s\n", h.ID, h.Realms, h.Why)
	}
	for _, p := range w.decision.Problems {
		fmt.Fprintf(&b, "problem %s\n", p)
	}
	if !w.decision.NextLook.IsZero() {
		fmt.Fprintf(&b, "look again at %s\n", w.decision.NextLook.Sub(epoch))
	}
	return b.String()
}

func TestEndedTakesExactlyItsEntryOffTheList(t *testing.T) {
	a := state.Accepted{Removals: []state.Removal{{Realm: "a"}, {Realm: "a", Container: "x"}, {Realm: "b", Container: "x"}}}
	count := func(realm state.RealmName, id state.ContainerID) int { return len(accept.Ended(a, realm, id).Removals) }
	if count("a", "x") != 2 || count("a", "") != 1 || count("c", "") != 3 || len(a.Removals) != 3 {
		t.Errorf("got %d, %d, %d entries and %d in the argument", count("a", "x"), count("a", ""), count("c", ""), len(a.Removals))
	}
}
