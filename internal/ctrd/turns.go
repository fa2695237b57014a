package ctrd

import (
	"context"
	"sync"
)

// turns lets one at a time do something about each key. The zero value is ready.
type turns struct {
	mu   sync.Mutex
	keys map[string]*turn
}

// turn is a channel and no mutex because a wait for it can be given up, and because simulated time passes only while
// everybody waits for something that it knows.
type turn struct {
	taken chan struct{}
	users int // guarded by turns.mu: who has it or waits for it
}

// take waits for the key's turn; done ends it. The error is the context's.
func (t *turns) take(ctx context.Context, key string) (done func(), err error) {
	t.mu.Lock()
	one := t.keys[key]
	if one == nil {
		one = &turn{taken: make(chan struct{}, 1)}
		if t.keys == nil {
			t.keys = map[string]*turn{}
		}
		t.keys[key] = one
	}
	one.users++
	t.mu.Unlock()
	select {
	case one.taken <- struct{}{}:
		return func() { <-one.taken; t.leave(key, one) }, nil
	case <-ctx.Done():
		t.leave(key, one)
		return nil, ctx.Err()
	}
}

func (t *turns) leave(key string, one *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one.users--; one.users == 0 {
		delete(t.keys, key)
	}
}
