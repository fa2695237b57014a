package apply

import (
	"context"
	"sync"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// Slots bounds how many calls are under way at once. While another namespace waits, one namespace holds at most
// half of them; otherwise they are granted first come, first served.
type Slots struct {
	mu    sync.Mutex
	size  int
	held  map[state.Namespace]int
	total int
	queue []*slotWaiter
}

type slotWaiter struct {
	ns    state.Namespace
	grant chan struct{}
}

// NewSlots returns size slots; at least one.
func NewSlots(size int) *Slots {
	return &Slots{size: max(1, size), held: map[state.Namespace]int{}}
}

// Acquire waits for a slot and returns what gives it back, to be called once. It fails only with the context's
// error.
func (s *Slots) Acquire(ctx context.Context, ns state.Namespace) (release func(), err error) {
	w := &slotWaiter{ns, make(chan struct{})}
	s.mu.Lock()
	s.queue = append(s.queue, w)
	s.grant()
	s.mu.Unlock()
	select {
	case <-w.grant:
		return sync.OnceFunc(func() { s.release(ns) }), nil
	case <-ctx.Done():
		s.forget(w)
		return nil, ctx.Err()
	}
}

func (s *Slots) release(ns state.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.held[ns]--; s.held[ns] == 0 {
		delete(s.held, ns)
	}
	s.grant()
}

// forget takes a waiter that gave up off the queue, or gives its slot back when it was granted meanwhile.
func (s *Slots) forget(w *slotWaiter) {
	s.mu.Lock()
	for i, q := range s.queue {
		if q == w {
			s.queue = append(s.queue[:i], s.queue[i+1:]...)
			s.grant()
			s.mu.Unlock()
			return
		}
	}
	s.mu.Unlock()
	s.release(w.ns)
}

// grant hands free slots to waiters in order, passing over namespaces that have their share while others wait.
func (s *Slots) grant() {
	for i := 0; i < len(s.queue) && s.total < s.size; {
		w := s.queue[i]
		if s.othersWait(w.ns) && s.held[w.ns] >= max(1, s.size/2) {
			i++
			continue
		}
		s.queue = append(s.queue[:i], s.queue[i+1:]...)
		s.held[w.ns]++
		s.total++
		close(w.grant)
		i = 0
	}
}

func (s *Slots) othersWait(ns state.Namespace) bool {
	for _, w := range s.queue {
		if w.ns != ns {
			return true
		}
	}
	return false
}
