package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/internal/logs"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
)

// Each case is one golden file: the command lines, what they print where, and their exit codes.
func TestCommandsAskTheDaemon(t *testing.T) {
	cases := map[string][]string{
		"get lists what is desired and what is there": {
			"get realms", "get containers", "get containers -r two", "get realms -o name", "get containers -o name",
			"get realms -o wide", "get containers -o wide", "get realm main", "get containers main/web", "get container db",
			"get images", "get images -r main -o wide", "get image caddy:2", "get images -r two", "get images caddy:2 -o json",
		},
		"get as json has the keys of the contract":  {"get realms main -o json", "get containers web -o json"},
		"get as yaml is the same document":          {"get containers web -o yaml"},
		"get of something unknown is 1":             {"get realms none", "get containers main/none", "get containers -r none", "get containers web -r two", "get images -r none", "get images nobody:1"},
		"get of nonsense is 2":                      {"get", "get pods", "get realms -o xml", "get realms a b"},
		"describe tells everything":                 {"describe realm main", "describe realm two", "describe container main/job", "describe container two/db"},
		"describe of something unknown is 1":        {"describe realm none", "describe container main/none", "describe container main", "describe"},
		"status has a hint under what is not well":  {"status"},
		"plan prints steps and waits and is 1":      {"plan", "diff two", "plan main", "plan none"},
		"wait ends at once when it is so already":   {"wait main", "wait main --for synced", "wait main/web", "wait none --for deleted", "wait main/none --for deleted"},
		"wait says how things are when time is up":  {"wait two --timeout 500ms", "wait two/db --for synced --timeout 500ms", "wait none --timeout 500ms", "wait main --for deleted --timeout 500ms"},
		"wait for nonsense is 2":                    {"wait main --for coffee", "wait main/web/x", "wait"},
		"colors are asked for":                      {"get realms --color always", "get realms --color never", "get realms --color blue"},
		"completion offers realms and containers":   {"__complete describe realm ", "__complete logs ", "__complete wait "},
		"unknown commands and flags are 2":          {"frobnicate", "status --frobnicate", "status extra"},
		"a wrong variable or template names itself": {"get realms --namespace-template fixed", "run --rescan 1ms --observe"},
	}
	for name, lines := range cases {
		t.Run(name, func(t *testing.T) {
			realms := []status.Realm{mainRealm(), brokenRealm()}
			h := newHarness(t, realms...)
			h.host.Holds = []status.Hold{{Hint: "kukeon-reconciler confirm c0ffee"}}
			h.host.Holds[0].ID, h.host.Holds[0].Why, h.host.Holds[0].Since = "c0ffee", "2 of 2 realms are gone from the files", now.Add(-time.Minute)
			h.host.Holds[0].Realms = []state.RealmName{"main", "two"}
			h.host.Source.Problems = []string{"two.yaml:3:1: unknown field `imgae`"}
			h.serve(t)
			var b strings.Builder
			for _, line := range lines {
				args := strings.Fields(line)
				if strings.HasSuffix(line, " ") {
					args = append(args, "")
				}
				b.WriteString(h.transcript(t, args...) + "\n")
			}
			golden(t, name, b.String())
		})
	}
}

func TestStatusIsZeroWhenAllIsWell(t *testing.T) {
	h := newHarness(t, mainRealm())
	h.serve(t)
	golden(t, "status is zero when all is well", h.transcript(t, "status"))
}

func TestNobodyThereIsTwo(t *testing.T) {
	h := newHarness(t)
	for _, line := range []string{"status", "wait main --timeout 200ms", "reconcile", "confirm x", "plan", "suspend main"} {
		s := h.run(t.Context(), strings.Fields(line)...)
		if s.code != exitUsage || !strings.Contains(s.err.String(), "no daemon answers") || s.out.String() != "" {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", line, s.code, s.out, s.err)
		}
	}
}

func TestCommandsTellTheDaemonWhatToDo(t *testing.T) {
	tests := map[string]string{
		"reconcile":                   `reconcile ""`,
		"reconcile main":              `reconcile "main"`,
		"suspend main":                `suspend main/ until 0001-01-01T00:00:00Z by "root" because ""`,
		"suspend main/web --for 2h":   `suspend main/web until 2026-05-04T05:00:00Z by "root" because ""`,
		"suspend main --reason night": `suspend main/ until 0001-01-01T00:00:00Z by "root" because "night"`,
		"resume main/web":             "resume main/web",
		"confirm c0ffee":              "confirm c0ffee",
		"adopt main/web":              "adopt main/web",
		"release main":                "release main",
	}
	for line, want := range tests {
		t.Run(line, func(t *testing.T) {
			h := newHarness(t)
			h.serve(t)
			if s := h.run(t.Context(), strings.Fields(line)...); s.code != 0 {
				t.Errorf("exit %d: %s", s.code, s.err)
			}
			if diff := cmp.Diff([]string{want}, h.asked); diff != "" {
				t.Errorf("asked -want +got:\n%s", diff)
			}
			h.err = status.Refuse(status.ErrConflict, "not while a manifest names it")
			s := h.run(t.Context(), strings.Fields(line)...)
			if s.code != exitFailed || s.err.String() != "error: not while a manifest names it\n" {
				t.Errorf("refused: exit %d: %q", s.code, s.err)
			}
		})
	}
}

func TestWaitSurvivesARestartOfTheDaemon(t *testing.T) {
	h := newHarness(t, brokenRealm())
	stop := h.serve(t)
	s := streamsOf{out: &safeBuffer{}, err: &safeBuffer{}}
	done := make(chan struct{})
	go func() { h.runInto(t.Context(), &s, "wait", "two"); close(done) }()
	eventually(t, "the watch", func() bool { return h.watches() == 1 })
	stop()
	healed := brokenRealm()
	healed.Ready = true
	h.set(healed)
	h.serve(t)
	<-done
	if s.code != 0 {
		t.Errorf("exit %d: %s", s.code, s.err)
	}
}

func TestADaemonThatHasJustBegunProvesNoDeletion(t *testing.T) {
	h := newHarness(t)
	h.host.Source.ScannedAt = time.Time{}
	h.serve(t)
	s := h.run(t.Context(), "wait", "main", "--for", "deleted", "--timeout", "500ms")
	if s.code != exitFailed || !strings.Contains(s.err.String(), "has not looked") {
		t.Errorf("exit %d: %s", s.code, s.err)
	}
}

func TestAWatchPrintsWhatChangesAndEndsWithTheSignal(t *testing.T) {
	h := newHarness(t, mainRealm(), brokenRealm())
	h.serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := streamsOf{out: &safeBuffer{}, err: &safeBuffer{}}
	done := make(chan struct{})
	go func() { h.runInto(ctx, &s, "get", "realms", "-w"); close(done) }()
	lines := func() int { return strings.Count(s.out.String(), "\n") }
	eventually(t, "the first list", func() bool { return lines() == 3 })
	unseen := mainRealm() // a change that the table does not show
	unseen.Message = "something else"
	h.set(unseen, brokenRealm())
	slow := mainRealm()
	slow.State = status.Degraded
	h.set(slow, brokenRealm())
	eventually(t, "the change", func() bool { return lines() == 4 })
	h.set(slow)
	eventually(t, "the end of a realm", func() bool { return strings.Contains(s.err.String(), "two is gone") })
	cancel()
	<-done
	if s.code != 0 {
		t.Errorf("exit %d", s.code)
	}
	golden(t, "a watch prints what changes", s.out.String())
}

func (d *fakeDaemon) watches() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.subs)
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
		time.Sleep(time.Millisecond) // a look costs nothing; nothing depends on when it is
	}
}

func TestValidatePrintsEveryProblem(t *testing.T) {
	h := newHarness(t)
	write(t, h, "good.yaml", "kind: Realm\nmetadata: {name: good}\nspec: {containers: [{id: web, image: caddy}]}\n")
	write(t, h, "bad.yaml", "kind: Realm\nmetadata: {name: Bad_Name}\nspec:\n  containers:\n    - id: web\n      imgae: caddy\n")
	write(t, h, "two.yaml", "kind: Realm\nmetadata: {name: good}\nspec: {containers: []}\n")
	h.in = "kind: Realm\nmetadata: {name: piped}\nspec: {containers: []}\n"
	var b strings.Builder
	for _, args := range [][]string{{"good.yaml"}, {"bad.yaml"}, {"good.yaml", "two.yaml"}, {"-"}, {"missing.yaml"}, {"."}} {
		for i, a := range args {
			if a != "-" {
				args[i] = filepath.Join(h.dir, a)
			}
		}
		b.WriteString(h.transcript(t, append([]string{"validate"}, args...)...) + "\n")
	}
	golden(t, "validate prints every problem", b.String())
}

func TestApplyOfInvalidManifestsIsTwoAndTouchesNothing(t *testing.T) {
	h := newHarness(t)
	write(t, h, "bad.yaml", "kind: Realm\nmetadata: {name: bad}\nspec: {imgaes: []}\n")
	s := h.run(t.Context(), "apply", "-f", filepath.Join(h.dir, "bad.yaml"))
	if s.code != exitUsage || !strings.Contains(s.err.String(), "imgaes") {
		t.Errorf("exit %d: %s", s.code, s.err)
	}
	if _, err := os.Stat(h.env["KUKEON_STATE_DIR"]); !os.IsNotExist(err) {
		t.Errorf("the state directory: %v", err)
	}
	if s := h.run(t.Context(), "apply"); s.code != exitUsage {
		t.Errorf("without -f: exit %d", s.code)
	}
}

func write(t *testing.T, h *harness, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLogsPrintTheContainersOwnText(t *testing.T) {
	h := newHarness(t, mainRealm())
	h.serve(t)
	path := logs.LogPath(h.env["KUKEON_LOG_DIR"], "main", "web")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	text := "2026-05-04T02:00:00.000000001Z stdout one\n2026-05-04T02:59:00.000000002Z stderr two\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, line := range []string{"logs main/web", "logs main/web -t", "logs main/web --tail 1", "logs main/web --since 10m",
		"logs main/web --since yesterday", "logs main/job", "logs main/none", "logs main"} {
		b.WriteString(h.transcript(t, strings.Fields(line)...) + "\n")
	}
	golden(t, "logs print the containers own text", b.String())
}

func TestVersionSchemaAndCompletionNeedNobody(t *testing.T) {
	h := newHarness(t)
	for line, want := range map[string]string{
		"version": "kukeon-reconciler unknown go", "schema": `"$schema"`, "completion bash": "bash completion",
		"autocomplete zsh": "#compdef", "completion fish": "fish completion",
	} {
		if s := h.run(t.Context(), strings.Fields(line)...); s.code != 0 || !strings.Contains(s.out.String(), want) || s.err.String() != "" {
			t.Errorf("%s: exit %d, stderr %q, stdout %.80q", line, s.code, s.err, s.out)
		}
	}
	if s := h.run(t.Context(), "completion", "tcsh"); s.code != exitUsage {
		t.Errorf("completion tcsh: exit %d", s.code)
	}
}
