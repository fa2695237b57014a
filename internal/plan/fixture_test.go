package plan_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// Each testdata/*.txtar is one situation: what is wanted (want.yaml), what is there (have.yaml), what is under way
// (busy.yaml, optional), and as text the plan that follows and the whole course to the end. The file's name is the
// sentence it proves.

var update = flag.Bool("update", false, "write the plans of the fixtures anew")

const (
	ours  = state.Owner("our-containerd")
	other = state.Owner("other-containerd")
	boot  = "boot-2"
)

// clock is when every fixture plays; its monotonic reading does not matter.
var clock = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type wantFixture struct {
	Realm        string             `json:"realm"`
	Labels       map[string]string  `json:"labels"`
	Deletion     string             `json:"deletionPolicy"`
	Images       []state.Image      `json:"images"`
	Archives     []state.Archive    `json:"archives"`
	Imports      []state.Import     `json:"imports"` // remembered
	Containers   []containerFixture `json:"containers"`
	Removing     string             `json:"removing"`
	Undeclared   bool               `json:"undeclared"`
	Removals     []string           `json:"removals"`
	RemovalsWait string             `json:"removalsWait"`
	Completed    map[string]int     `json:"completed"`
	EndedAs      *state.Restart     `json:"endedAs"` // what the completed ones were declared as
	Suspended    string             `json:"suspended"`
	Quiet        map[string]string  `json:"suspendedContainers"`
}

type containerFixture struct {
	ID       string            `json:"id"`
	Image    string            `json:"image"`
	Args     []string          `json:"args"`
	Pull     string            `json:"pull"`
	Restart  string            `json:"restart"`
	Retries  *int              `json:"retries"`
	Backoff  *int              `json:"backoff"`
	Grace    *int              `json:"grace"`
	Signal   string            `json:"signal"`
	Labels   map[string]string `json:"labels"`
	Revision string            `json:"revision"`
	Keep     bool              `json:"keep"`

	// only in have.yaml
	Owner           string `json:"owner"`  // ours (default), other, none, kukeond
	Record          string `json:"record"` // ok (default), none, newer
	NoContainer     bool   `json:"noContainer"`
	NoSnapshot      bool   `json:"noSnapshot"`
	Task            string `json:"task"` // default running
	Code            int    `json:"code"`
	Age             string `json:"age"` // of the task's status
	Ran             string `json:"ran"`
	Started         string `json:"started"` // yes (default), no, earlier-boot
	Restarts        int    `json:"restarts"`
	Failures        int    `json:"failures"`
	Unreadable      string `json:"unreadable"`
	Exit            *int   `json:"exit"` // the code on its label
	LosesOwnerLabel bool   `json:"losesOwnerLabel"`
}

type haveFixture struct {
	Missing    bool               `json:"missing"`
	Owner      string             `json:"owner"`
	Realm      string             `json:"realm"`
	Labels     map[string]string  `json:"labels"`
	Containers []containerFixture `json:"containers"`
	Images     []imageFixture     `json:"images"`
	Snapshots  []string           `json:"snapshots"`
	Leases     []string           `json:"leases"`
}

type imageFixture struct {
	Ref        string `json:"ref"`
	Owner      string `json:"owner"`
	Packed     bool   `json:"packed"`
	Incomplete bool   `json:"incomplete"`
	LookedUp   string `json:"lookedUp"` // ago
}

type busyFixture struct {
	Stopping []string          `json:"stopping"`
	Creating []string          `json:"creating"`
	Removing []string          `json:"removingSnapshots"`
	Pulling  []string          `json:"pulling"`
	Imports  []string          `json:"importing"`
	Failed   map[string]string `json:"failed"` // printed operation -> error, to be tried in 4 s
}

func (f containerFixture) spec() state.Spec {
	s := state.Spec{
		Image: f.Image, Args: f.Args, PullPolicy: state.PullPolicy(f.Pull), Labels: f.Labels, LogDriver: state.LogFIFO,
		Restart: state.Restart{Policy: state.RestartPolicy(orElse(f.Restart, "always")), BackoffSeconds: 1, MaxRetries: f.Retries},
		Stop:    state.StopSettings{GraceSeconds: 10, Signal: f.Signal},
	}
	if f.Backoff != nil {
		s.Restart.BackoffSeconds = *f.Backoff
	}
	if f.Grace != nil {
		s.Stop.GraceSeconds = *f.Grace
	}
	if s.PullPolicy == "" {
		s.PullPolicy = state.PullIfNotPresent
	}
	return s
}

func (f containerFixture) desired(line int) state.Container {
	return state.Container{
		ID: state.ContainerID(f.ID), Name: f.ID, Spec: f.spec(),
		Origin: state.Origin{Path: "main.yaml", Line: line, Revision: f.Revision},
		Lines:  map[string]int{"image": line + 1, "args": line + 2},
	}
}

func (f containerFixture) observed() state.ObservedContainer {
	spec := f.spec()
	o := state.ObservedContainer{
		ID: state.ContainerID(f.ID), Recorded: !f.NoContainer, Image: f.Image,
		SnapshotKey: state.SnapshotKey(state.ContainerID(f.ID), spec.Digest()), SnapshotMissing: f.NoSnapshot,
		Unreadable: f.Unreadable,
		Task: state.Task{
			Status: state.TaskStatus(orElse(f.Task, "running")), ExitCode: f.Code,
			ExitedAt: clock.Add(-duration(f.Age)), Since: clock.Add(-duration(f.Age)), Ran: duration(f.Ran),
		},
	}
	if f.NoContainer {
		return o
	}
	o.Labels = plan.ContainerLabels(state.Realm{Name: "main"}, f.desired(0), owner(f.Owner))
	for k, v := range map[string]int{state.LabelRestarts: f.Restarts, state.LabelFailures: f.Failures} {
		if v > 0 {
			o.Labels[k] = fmt.Sprint(v)
		}
	}
	switch f.Started {
	case "", "yes", "earlier-boot":
		in := map[bool]string{true: "boot-1", false: boot}[f.Started == "earlier-boot"]
		o.Labels[state.LabelStarted] = state.Started{Digest: spec.Digest().Short(), At: clock.Add(-time.Hour), Boot: in}.String()
	}
	if f.Keep {
		o.Labels[state.LabelKeep] = "true"
	}
	if f.Exit != nil {
		o.Labels[state.LabelExit] = state.Exit{Code: *f.Exit, At: clock}.String()
	}
	switch f.Record {
	case "", "ok":
		o.Record = &state.Record{Version: 1, Owner: owner(f.Owner), Realm: "main", Spec: spec}
	case "newer":
		o.RecordProblem = state.ErrNewerRecord.Error()
	}
	if f.LosesOwnerLabel {
		delete(o.Labels, state.LabelOwner)
	}
	if f.Owner == "none" || f.Owner == "kukeond" {
		o.Record, o.Labels = nil, map[string]string{}
	}
	if f.Owner == "kukeond" {
		o.Labels[state.KukeondSpecHash] = "abc"
	}
	return o
}

func (f wantFixture) want() plan.Want {
	w := plan.Want{
		Realm: state.Realm{
			Name: state.RealmName(orElse(f.Realm, "main")), Namespace: "kukeon-main", Labels: f.Labels, Images: f.Images, Archives: f.Archives,
			Deletion: state.DeletionPolicy(orElse(f.Deletion, "Delete")), Origin: state.Origin{Path: "main.yaml", Line: 1},
		},
		Removing: f.Removing != "", Why: f.Removing, Suspended: f.Suspended, ManagedBy: state.ManagedByDaemon,
		Imports: f.Imports, Undeclared: f.Undeclared, RemovalsWait: f.RemovalsWait,
		Removals:            map[state.ContainerID]state.Removal{},
		Completions:         map[state.ContainerID]state.Completion{},
		SuspendedContainers: map[state.ContainerID]string{},
	}
	for i, c := range f.Containers {
		d := c.desired(10 * (i + 1))
		d.KeepAlways = c.Keep
		w.Realm.Containers = append(w.Realm.Containers, d)
		if code, ok := f.Completed[c.ID]; ok {
			w.Completions[d.ID] = state.Completion{Digest: d.Spec.Digest(), Code: code, Time: clock.Add(-time.Minute)}
			if f.EndedAs != nil {
				done := w.Completions[d.ID]
				done.Policy, done.MaxRetries = f.EndedAs.Policy, f.EndedAs.MaxRetries
				w.Completions[d.ID] = done
			}
		}
	}
	for _, id := range f.Removals {
		w.Removals[state.ContainerID(id)] = state.Removal{Realm: w.Realm.Name, Container: state.ContainerID(id), Why: "no longer in main.yaml"}
	}
	for id, why := range f.Quiet {
		w.SuspendedContainers[state.ContainerID(id)] = why
	}
	return w
}

func (f haveFixture) have() state.Observed {
	h := state.Observed{Namespace: "kukeon-main", Exists: !f.Missing, Owner: ours, Boot: boot, Labels: map[string]string{}}
	for k, v := range f.Labels {
		h.Labels[k] = v
	}
	if h.Exists && f.Owner != "none" {
		h.Labels[state.LabelOwner] = string(owner(f.Owner))
		h.Labels[state.LabelRealm] = strings.TrimPrefix(orElse(f.Realm, "main"), "none")
		h.Labels[state.LabelManagedBy] = state.ManagedByDaemon
	}
	for _, c := range f.Containers {
		h.Containers = append(h.Containers, c.observed())
	}
	for _, i := range f.Images {
		img := state.ObservedImage{Ref: i.Ref, Unpacked: !i.Packed, Incomplete: i.Incomplete}
		if i.Owner != "none" {
			img.Owner = owner(i.Owner)
		}
		if i.LookedUp != "" {
			img.LookedUp = clock.Add(-duration(i.LookedUp))
		}
		h.Images = append(h.Images, img)
	}
	for _, s := range f.Snapshots {
		h.Snapshots = append(h.Snapshots, state.ObservedSnapshot{Key: s, Owner: ours})
	}
	for _, l := range f.Leases {
		h.Leases = append(h.Leases, state.ObservedLease{ID: l})
	}
	return h
}

func (f busyFixture) busy() plan.Busy {
	b := plan.Busy{Running: map[plan.Object]plan.Operation{}, RetryAt: map[plan.Object]plan.Retry{}}
	for _, id := range f.Stopping {
		op := plan.Stop{ID: state.ContainerID(id), Grace: 10 * time.Second}
		b.Running[op.Object()] = op
	}
	for _, id := range f.Creating {
		op := plan.Create{ID: state.ContainerID(id)}
		b.Running[op.Object()] = op
	}
	for _, key := range f.Removing {
		op := plan.RemoveSnapshot{Key: key}
		b.Running[op.Object()] = op
	}
	for _, ref := range f.Pulling {
		op := plan.Pull{Ref: ref}
		b.Running[op.Object()] = op
	}
	for _, path := range f.Imports {
		op := plan.Import{Path: path}
		b.Running[op.Object()] = op
	}
	for op, text := range f.Failed {
		verb, name, _ := strings.Cut(op, " ")
		obj := plan.Object{Kind: plan.ContainerObject, Name: name}
		switch verb {
		case "pull":
			obj.Kind = plan.ImageObject
		case "import":
			obj.Kind = plan.ArchiveObject
		}
		b.RetryAt[obj] = plan.Retry{At: clock.Add(4 * time.Second), Operation: op, Error: text}
	}
	return b
}

func TestPlans(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { playFixture(t, file) })
	}
}

func playFixture(t *testing.T, file string) {
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var want wantFixture
	var have haveFixture
	var busy busyFixture
	parts := map[string]any{"want.yaml": &want, "have.yaml": &have, "busy.yaml": &busy}
	texts := map[string]string{}
	for _, f := range a.Files {
		into, known := parts[f.Name]
		if !known {
			texts[f.Name] = string(f.Data)
			continue
		}
		if err := yaml.UnmarshalStrict(f.Data, into); err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
	}
	p := plan.Diff(want.want(), have.have(), busy.busy(), clock)
	got := map[string]string{"plan": printed(p), "course": plan.Foresee(want.want(), have.have(), clock).String()}
	if *update {
		rewrite(t, file, a, got)
		return
	}
	for _, part := range []string{"plan", "course"} {
		if diff := cmp.Diff(texts[part], got[part]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", part, diff)
		}
	}
}

// printed is the plan's text and, after it, when it changes by itself and what has ended.
func printed(p plan.Plan) string {
	s := p.String()
	if !p.NextWake.IsZero() {
		s += fmt.Sprintf("next wake in %s\n", p.NextWake.Sub(clock))
	}
	if p.Gone {
		s += "the removal has ended\n"
	}
	for _, id := range p.GoneContainers {
		s += fmt.Sprintf("the removal of %s has ended\n", id)
	}
	return s
}

func rewrite(t *testing.T, file string, a *txtar.Archive, got map[string]string) {
	kept := a.Files[:0]
	for _, f := range a.Files {
		if _, made := got[f.Name]; !made {
			kept = append(kept, f)
		}
	}
	kept = append(kept, txtar.File{Name: "plan", Data: []byte(got["plan"])}, txtar.File{Name: "course", Data: []byte(got["course"])})
	a.Files = kept
	if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
		t.Fatal(err)
	}
}

func owner(word string) state.Owner {
	switch word {
	case "", "ours":
		return ours
	case "none", "kukeond":
		return ""
	}
	return other
}

func duration(s string) time.Duration {
	d, _ := time.ParseDuration(orElse(s, "0s"))
	return d
}

func orElse(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
