package controllers_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
)

// errorLines is a log that only counts the errors told of.
type errorLines struct {
	mu sync.Mutex
	n  map[string]int
}

func (*errorLines) Init(logr.RuntimeInfo)            {}
func (*errorLines) Enabled(int) bool                 { return true }
func (*errorLines) Info(int, string, ...any)         {}
func (l *errorLines) WithValues(...any) logr.LogSink { return l }
func (l *errorLines) WithName(string) logr.LogSink   { return l }
func (l *errorLines) Error(_ error, m string, _ ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n[m]++
}

func TestAFullDiskIsToldOfOnceAMinute(t *testing.T) {
	told := &errorLines{n: map[string]int{}}
	play(t, func(_ *testing.T, h *house) {
		h.stop()
		h.log = logr.New(told)
		h.start()
		h.store.mu.Lock()
		h.store.full = errors.New("no space left on device")
		h.store.mu.Unlock()
		const minutes = 5
		for i := range 20 * minutes {
			h.files.write("main.yaml", realm("main", "db", "web")+"# "+string(rune('a'+i%26))+"\n")
			h.files.remove("edge.yaml")
			h.idle(3 * time.Second)
		}
	})
	for message, n := range told.n {
		if n > 5+5 {
			t.Errorf("told %d times: %s", n, message)
		}
	}
	if len(told.n) == 0 {
		t.Error("nobody was told of it")
	}
}
