package controllers_test

import (
	"strings"
	"testing"
	"time"

	"kukeon.io/kukeon-reconciler/internal/fakectrd"
)

func TestACrashLoopWithoutBackoffIsToldOfOnceAMinute(t *testing.T) {
	play(t, func(t *testing.T, h *house) {
		h.daemon.Behave(func(_, id string, _ int) (fakectrd.Process, bool) {
			return fakectrd.Process{ExitAfter: time.Millisecond, ExitCode: 1}, id == "loop"
		})
		h.files.write("main.yaml", realm("main", "db", "web")+"  - {id: loop, image: web:1, restartBackoffSeconds: 0}\n")
		const minutes = 20
		h.idle(minutes * time.Minute)
		told := 0
		for _, e := range h.Events("main", time.Time{}) {
			if strings.HasPrefix(e.Message, "restart loop") {
				told++
			}
		}
		if starts := h.daemon.Run("kukeon-main", "loop").Starts; starts < 10*minutes || told < minutes || told > minutes+5 {
			t.Errorf("%d starts, told of %d times in %d minutes", starts, told, minutes)
		}
	})
}
