package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"kukeon.io/kukeon-reconciler/internal/store"
)

// A host that comes up has neither containerd nor, perhaps, the directory: the daemon waits for both.
func TestRunStaysUpWithoutManifestsAndContainerdAndStopsAtOnce(t *testing.T) {
	h := newHarness(t)
	h.env["KUKEON_MANIFESTS"] = h.dir + "/none"
	ctx, cancel := context.WithCancel(t.Context())
	s := streamsOf{out: &safeBuffer{}, err: &safeBuffer{}}
	done := make(chan struct{})
	// Observing, because logd would be this very test binary.
	go func() { h.runInto(ctx, &s, "run", "--observe", "--log-format", "console"); close(done) }()
	eventually(t, "the API", func() bool {
		return h.run(t.Context(), "get", "realms", "-o", "name").code == 0 && strings.Contains(s.err.String(), "lost containerd") ||
			h.run(t.Context(), "status").code == exitFailed
	})
	shown := h.run(t.Context(), "status")
	for _, want := range []string{"mode observe", "not connected to " + h.env["KUKEON_CONTAINERD_ADDRESS"], "systemctl status containerd"} {
		if !strings.Contains(shown.out.String(), want) {
			t.Errorf("status lacks %q:\n%s", want, shown.out)
		}
	}
	begin := time.Now()
	cancel()
	<-done
	if s.code != 0 || time.Since(begin) > 5*time.Second {
		t.Errorf("exit %d after %s: %s", s.code, time.Since(begin), s.err)
	}
	if s.out.String() != "" {
		t.Errorf("stdout: %q", s.out)
	}
}

func TestASecondDaemonOnTheSameStateIsRefused(t *testing.T) {
	h := newHarness(t)
	kept, err := store.Open(h.env["KUKEON_STATE_DIR"]) // the daemon proper
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kept.Close(); err != nil {
			t.Error(err)
		}
	})
	second := h.run(t.Context(), "run")
	if second.code != exitFailed || !strings.Contains(second.err.String(), h.env["KUKEON_STATE_DIR"]) {
		t.Errorf("same state directory: exit %d: %s", second.code, second.err)
	}
	// To observe is allowed beside it.
	ctx, cancel := context.WithCancel(t.Context())
	s := streamsOf{out: &safeBuffer{}, err: &safeBuffer{}}
	done := make(chan struct{})
	go func() { h.runInto(ctx, &s, "run", "--observe"); close(done) }()
	eventually(t, "the API", func() bool { return h.run(t.Context(), "status").code == exitFailed })
	h.env["KUKEON_STATE_DIR"] = h.dir + "/other"
	third := h.run(t.Context(), "run", "--observe")
	if third.code != exitFailed || !strings.Contains(third.err.String(), "--run-dir") {
		t.Errorf("same run directory: exit %d: %s", third.code, third.err)
	}
	cancel()
	<-done
	if _, err := os.Stat(h.env["KUKEON_RUN_DIR"] + "/api.sock"); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}
