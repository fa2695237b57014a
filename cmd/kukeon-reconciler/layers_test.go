package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// The order is: command line, environment, file, default. `get realms -o` shows who won.
func TestTheCommandLineGoesBeforeTheEnvironmentAndThatBeforeTheFile(t *testing.T) {
	h := newHarness(t, mainRealm())
	h.serve(t)
	h.env["KUKEON_CONFIG"] = filepath.Join(h.dir, "reconciler.yaml")
	write(t, h, "reconciler.yaml", "output: yaml\nmanifests: /somewhere\nrescan: 20s\nstart-slots: 3\nallow-empty: true\n")
	first := func(args ...string) string {
		t.Helper()
		s := h.run(t.Context(), append([]string{"get", "realms"}, args...)...)
		if s.code != 0 {
			t.Fatalf("exit %d: %s", s.code, s.err)
		}
		line, _, _ := strings.Cut(s.out.String(), "\n")
		return line
	}
	if got := first(); !strings.HasPrefix(got, "apiVersion:") {
		t.Errorf("from the file: %q", got)
	}
	h.env["KUKEON_OUTPUT"] = "json"
	if got := first(); got != "{" {
		t.Errorf("the environment over the file: %q", got)
	}
	if got := first("-o", "name"); got != "main" {
		t.Errorf("the command line over the environment: %q", got)
	}
}

func TestAConfigFileIsStrict(t *testing.T) {
	for name, test := range map[string]struct{ file, want string }{
		"unknown key":      {"manifest: /x\n", `unknown key "manifest"`},
		"key twice":        {"run-dir: /x\nrun-dir: /y\n", "run-dir"},
		"no scalar":        {"run-dir: [a]\n", "run-dir: the value is neither"},
		"value of no use":  {"output: json\ncolor: 7\n", `--color "7"`},
		"not a number":     {"tail: many\n", ""}, // of another command: passed over
		"not YAML":         {"a: b: c\n", "reconciler.yaml"},
		"config in itself": {"config: /x\n", `unknown key "config"`},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, mainRealm())
			h.serve(t)
			h.env["KUKEON_CONFIG"] = filepath.Join(h.dir, "reconciler.yaml")
			write(t, h, "reconciler.yaml", test.file)
			s := h.run(t.Context(), "get", "realms")
			if test.want == "" {
				if s.code != 0 {
					t.Errorf("exit %d: %s", s.code, s.err)
				}
				return
			}
			if s.code != exitUsage || !strings.Contains(s.err.String(), test.want) {
				t.Errorf("exit %d: %s", s.code, s.err)
			}
		})
	}
}

func TestOnlyAConfigFileThatNobodyAskedForMayBeMissing(t *testing.T) {
	h := newHarness(t)
	if s := h.run(t.Context(), "version", "--config", filepath.Join(h.dir, "none.yaml")); s.code != exitUsage {
		t.Errorf("exit %d", s.code)
	}
}

func TestAVariableThatDoesNotFitNamesItself(t *testing.T) {
	h := newHarness(t)
	h.env["KUKEON_TIMEOUT"] = "soon"
	if s := h.run(t.Context(), "wait", "main"); s.code != exitUsage || !strings.Contains(s.err.String(), `KUKEON_TIMEOUT="soon"`) {
		t.Errorf("exit %d: %s", s.code, s.err)
	}
	if s := h.run(t.Context(), "version"); s.code != 0 {
		t.Errorf("a command that has no such flag: exit %d: %s", s.code, s.err)
	}
}

// Every flag can be set by a variable and in the file: none has a value that the file cannot say.
func TestEveryFlagHasATwin(t *testing.T) {
	known := map[string]bool{}
	knownFlags((&app{}).rootCommand(), known)
	for _, flag := range []string{"manifests", "containerd-address", "state-dir", "run-dir", "log-dir", "log-retention", "namespace-template",
		"snapshotter", "rescan", "resync", "prune-settle", "removal-hold", "allow-empty", "start-slots", "log-level", "log-format", "observe", "color"} {
		if !known[flag] {
			t.Errorf("no flag --%s", flag)
		}
	}
	if got := twin("prune-settle"); got != "KUKEON_PRUNE_SETTLE" {
		t.Errorf("twin: %s", got)
	}
}
