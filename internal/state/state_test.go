package state_test

import (
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kukeon.io/kukeon-reconciler/internal/state"
)

func full() state.Spec {
	retries := 3
	return state.Spec{
		Image: "docker.io/library/caddy:2", PullPolicy: state.PullIfNotPresent, Command: []string{"/caddy"}, Args: []string{"run"},
		WorkingDir: "/srv", User: "1000:1000", Env: []string{"A=1"},
		Mounts:  []state.Mount{{Kind: state.MountTmpfs, Target: "/tmp", SizeBytes: 1 << 20}},
		Devices: []string{"/dev/fuse"}, Privileged: true, HostNetwork: true, HostPID: true, ReadOnlyRootFilesystem: true,
		Capabilities: state.Capabilities{Drop: []string{"ALL"}}, Security: state.Security{Seccomp: "unconfined"},
		Resources: state.Resources{MemoryBytes: 1 << 28}, LogDriver: state.LogFIFO,
		Restart: state.Restart{Policy: state.RestartOnFailure, BackoffSeconds: 1, MaxRetries: &retries},
		Stop:    state.StopSettings{Signal: "SIGINT", GraceSeconds: 10}, Labels: map[string]string{"tier": "front"},
		Log: state.LogLimits{MaxSizeBytes: 1 << 20, MaxFiles: 5},
	}
}

// Every field of a full spec stands in the table: taking one away is told as exactly one change, and moves the
// digest if and only if it takes a new container.
func TestEachFieldIsComparedOnItsOwn(t *testing.T) {
	edits := map[string]func(*state.Spec){
		"image":                  func(s *state.Spec) { s.Image = "x" },
		"command":                func(s *state.Spec) { s.Command = nil },
		"args":                   func(s *state.Spec) { s.Args = nil },
		"workingDir":             func(s *state.Spec) { s.WorkingDir = "" },
		"user":                   func(s *state.Spec) { s.User = "" },
		"env":                    func(s *state.Spec) { s.Env = []string{"A=2"} },
		"volumes":                func(s *state.Spec) { s.Mounts = nil },
		"devices":                func(s *state.Spec) { s.Devices = nil },
		"privileged":             func(s *state.Spec) { s.Privileged = false },
		"hostNetwork":            func(s *state.Spec) { s.HostNetwork = false },
		"hostPID":                func(s *state.Spec) { s.HostPID = false },
		"readOnlyRootFilesystem": func(s *state.Spec) { s.ReadOnlyRootFilesystem = false },
		"capabilities":           func(s *state.Spec) { s.Capabilities = state.Capabilities{} },
		"securityOpts":           func(s *state.Spec) { s.Security = state.Security{} },
		"resources":              func(s *state.Spec) { s.Resources.PidsLimit = 7 },
		"logging.driver":         func(s *state.Spec) { s.LogDriver = state.LogFile },
		"imagePullPolicy":        func(s *state.Spec) { s.PullPolicy = state.PullAlways },
		"restartPolicy":          func(s *state.Spec) { s.Restart.Policy = state.RestartNever },
		"restartBackoffSeconds":  func(s *state.Spec) { s.Restart.BackoffSeconds = 9 },
		"restartMaxRetries":      func(s *state.Spec) { s.Restart.MaxRetries = nil },
		"stopSignal":             func(s *state.Spec) { s.Stop.Signal = "" },
		"stopGracePeriodSeconds": func(s *state.Spec) { s.Stop.GraceSeconds = 1 },
		"labels":                 func(s *state.Spec) { s.Labels = nil },
		"logging":                func(s *state.Spec) { s.Log.MaxFiles = 1 },
	}
	for _, f := range state.Fields {
		edit, ok := edits[f.Name]
		if !ok {
			t.Errorf("%s is in the table and not in this test", f.Name)
			continue
		}
		old, next := full(), full()
		edit(&next)
		changes := old.Changes(next)
		if len(changes) != 1 || changes[0].Field != f.Name || changes[0].Class != f.Class || changes[0].Old == changes[0].New {
			t.Errorf("%s: told as %v", f.Name, changes)
		}
		if moved := old.Digest() != next.Digest(); moved != (f.Class == state.Recreate) {
			t.Errorf("%s (%s): digest moved: %v", f.Name, f.Class, moved)
		}
	}
	if len(edits) != len(state.Fields) {
		t.Errorf("%d edits for %d fields", len(edits), len(state.Fields))
	}
}

// What a release wrote must mean the same to the next one: this digest changes only on purpose, together with a
// rule for what was written before.
// Values of variables may be secrets, and a change is printed into logs, events and status.
// Every value that a spec can hold is compared, down to the fields of its parts: changing it is told as a change.
func TestEveryValueOfASpecIsCompared(t *testing.T) {
	was := full()
	was.Mounts[0].Options, was.Capabilities.Add = []string{"noexec"}, []string{"CAP_CHOWN"}
	var walk func(path string, v reflect.Value, changed func() state.Spec)
	walk = func(path string, v reflect.Value, changed func() state.Spec) {
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i), changed)
			}
			return
		case reflect.Slice:
			if v.Len() > 0 {
				walk(path+"[0]", v.Index(0), changed)
			}
			v.Set(reflect.MakeSlice(v.Type(), v.Len()+1, v.Len()+1))
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
		case reflect.Map:
			v.Set(reflect.ValueOf(map[string]string{"tier": "back"}))
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Uint32, reflect.Uint64:
			v.SetUint(v.Uint() + 1)
		default:
			v.SetInt(v.Int() + 1)
		}
		if len(was.Changes(changed())) == 0 {
			t.Errorf("a change of %s is not told", path)
		}
		v.Set(old)
	}
	next := full()
	next.Mounts[0].Options, next.Capabilities.Add = []string{"noexec"}, []string{"CAP_CHOWN"}
	if got := was.Changes(next); len(got) > 0 {
		t.Errorf("two equal specs differ: %v", got)
	}
	walk("Spec", reflect.ValueOf(&next).Elem(), func() state.Spec { return next })
}

func TestAChangeOfVariablesNamesThemAndTellsNoValue(t *testing.T) {
	was, is := full(), full()
	was.Env, is.Env = []string{"A=1", "PASSWORD=canary-old", "GONE=canary-gone"}, []string{"A=1", "PASSWORD=canary-new", "CAME=canary-came"}
	changes := was.Changes(is)
	if len(changes) != 1 || changes[0].String() != "env PASSWORD GONE -> PASSWORD CAME" {
		t.Errorf("%v", changes)
	}
}

func TestTheDigestOfAKnownSpecStays(t *testing.T) {
	const known = "8b059e32bfce"
	if got := full().Digest().Short(); got != known {
		t.Errorf("digest %s, was %s: every container of every host would be made anew", got, known)
	}
}

func TestARecordSurvivesItsStoredForm(t *testing.T) {
	r := state.Record{Version: state.SpecVersion, Owner: "o", Realm: "main", Spec: full()}
	got, err := state.DecodeRecord(state.EncodeRecord(r))
	if diff := cmp.Diff(r, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if changes := r.Spec.Changes(got.Spec); len(changes) != 0 {
		t.Errorf("stored and read it differs: %v", changes)
	}
}

func TestARecordIsReadLeniently(t *testing.T) {
	if _, err := state.DecodeRecord([]byte(`{"version":1,"owner":"o","spec":{"image":"a","future":1}}`)); err != nil {
		t.Errorf("a field of another release: %v", err)
	}
	if _, err := state.DecodeRecord([]byte(`{"version":99,"owner":"o"}`)); !errors.Is(err, state.ErrNewerRecord) {
		t.Errorf("a newer version: %v", err)
	}
	for _, bad := range []string{``, `{`, `{}`, `[]`, `{"version":1}`, `{"owner":"o"}`} {
		if _, err := state.DecodeRecord([]byte(bad)); err == nil || errors.Is(err, state.ErrNewerRecord) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestLabelValuesSurviveAndDamagedOnesCountAsAbsent(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	started := state.Started{Digest: "abc", At: at, Boot: "b"}
	if got, ok := state.ParseStarted(started.String()); !ok || got != started {
		t.Errorf("%+v", got)
	}
	exit := state.Exit{Code: state.ExitUnknown, At: at}
	if got, ok := state.ParseExit(exit.String()); !ok || got != exit {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{"", "@", "x@y@z", "@2026-01-02T03:04:05Z@b", "abc@b"} {
		if _, ok := state.ParseStarted(bad); ok {
			t.Errorf("started %q was read", bad)
		}
		if _, ok := state.ParseExit(bad); ok {
			t.Errorf("exit %q was read", bad)
		}
	}
	for v, want := range map[string]int{"7": 7, "": 0, "x": 0, "-3": 0} {
		if got := state.Count(map[string]string{"k": v}, "k"); got != want {
			t.Errorf("count %q = %d", v, got)
		}
	}
}

func TestTheRestartDelayFollowsItsFormula(t *testing.T) {
	delays := func(b int) (out []time.Duration) {
		for k := range 14 {
			out = append(out, state.RestartDelay("web", k, b).Truncate(time.Second/10))
		}
		return out
	}
	if d := state.RestartDelay("web", 1, 1); d != 0 {
		t.Errorf("the first restart waits %s", d)
	}
	for _, b := range []int{1, 30, 1000} {
		limit := max(state.BackoffCap, time.Duration(b)*time.Second)
		for k, d := range delays(b) {
			base := time.Duration(0)
			if k >= 2 {
				base = min(limit, time.Duration(b)*time.Second<<(k-2))
			}
			if d < base.Truncate(time.Second/10) || d > base*6/5 {
				t.Errorf("b=%d k=%d: %s, base %s", b, k, d, base)
			}
		}
	}
	if d := state.RestartDelay("web", 2, 0); d != state.MinRestartDelay {
		t.Errorf("without a backoff the second exit waits %s", d)
	}
	if state.RestartDelay("web", 4, 10) == state.RestartDelay("db", 4, 10) {
		t.Error("two containers that die together come back together")
	}
}

func TestDelaysNeverOverflowAndNeverRunBackwards(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, b := rapid.IntRange(0, 1<<30).Draw(t, "k"), rapid.IntRange(0, 86400).Draw(t, "b")
		d := state.RestartDelay("web", k, b)
		if most := max(state.BackoffCap, time.Duration(b)*time.Second) * 6 / 5; d < 0 || d > most {
			t.Fatalf("delay %s", d)
		}
		if d := state.RetryDelay("x", k); d < 0 || d > state.RetryCap*6/5 {
			t.Fatalf("retry delay %s", d)
		}
	})
}

func TestLongValuesAreCutAndStillTellThatTheyDiffer(t *testing.T) {
	long := func(end string) state.Spec {
		return state.Spec{Args: append(slices.Repeat([]string{"argument"}, 20), end)}
	}
	c := long("a").Changes(long("b"))
	if len(c) != 1 || c[0].Old == c[0].New || len(c[0].String()) > 160 {
		t.Errorf("%v", c)
	}
}
