package ctrd

import (
	"context"
	"errors"
	"time"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// Run follows containerd's events until the context ends, which is the only thing it returns for. Each time that a
// stream has begun everything is dirty, and wake is called for every namespace that was ever observed; later it is
// called for those in which something may have changed. connected is told nil when a stream has begun, and the reason
// when there is none. Neither may block. While an operation is under way on a container, events about that container
// wake nobody: the operation's end does. After a break it reconnects within a second of the daemon being back.
func (h *Host) Run(ctx context.Context, wake func(state.Namespace), connected func(error)) error {
	life, end := context.WithCancel(ctx)
	h.mu.Lock()
	if h.life != nil {
		h.mu.Unlock()
		end()
		return errors.New("ctrd: Run is running already")
	}
	h.life, h.wake = life, wake
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.life, h.wake = nil, nil
		h.mu.Unlock()
		end()
		h.background.Wait()
	}()
	h.spawn(h.readSlow)

	pause := firstPause
	for ctx.Err() == nil {
		began, err := h.stream(ctx, connected)
		if ctx.Err() != nil {
			break
		}
		h.lost()
		if began {
			pause = firstPause
		}
		h.cfg.Log.V(1).Info("containerd's events ended", "error", err.Error())
		connected(&outcome.Unavailable{Err: err})
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, longestPause)
	}
	return ctx.Err()
}

// stream follows one subscription to its end.
func (h *Host) stream(ctx context.Context, connected func(error)) (began bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, failed := h.svc.Subscribe(ctx)
	// Nobody acknowledges a subscription: ask something else to see whether the daemon is there.
	ask, asked := context.WithTimeout(ctx, longestPause)
	id, err := h.svc.ServerID(ask)
	asked()
	if err != nil {
		return false, err
	}
	h.began(state.Owner(id))
	connected(nil)
	again := time.NewTimer(secondLook)
	defer again.Stop()
	for {
		select {
		case e, open := <-events:
			if !open {
				events = nil // the error channel says why
				continue
			}
			h.handle(e)
		case err := <-failed:
			if err == nil {
				err = errors.New("the event stream was closed")
			}
			return true, err
		case <-again.C:
			h.forgetSpaces()
			h.allDirty()
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
}

// began notes that events arrive from now on.
func (h *Host) began(owner state.Owner) {
	h.mu.Lock()
	h.owner, h.streaming, h.spaces = owner, true, nil
	h.mu.Unlock()
	h.allDirty()
}

// lost notes that events do not arrive any more: nothing that was seen can be trusted.
func (h *Host) lost() {
	h.mu.Lock()
	h.owner, h.streaming, h.spaces = "", false, nil
	h.mu.Unlock()
	for _, m := range h.allMirrors() {
		m.markAll()
		m.notifyAll()
	}
}

// allDirty has every namespace read as a whole.
func (h *Host) allDirty() {
	for _, m := range h.allMirrors() {
		m.markAll()
		h.wakeUp(m.ns)
	}
}

// wakeUp tells whoever runs us that a namespace may have changed.
func (h *Host) wakeUp(ns state.Namespace) {
	h.mu.Lock()
	wake := h.wake
	h.mu.Unlock()
	if wake != nil {
		wake(ns)
	}
}

// spawn runs f in the background as long as Run runs, which waits for it; it reports false when Run does not.
func (h *Host) spawn(f func(context.Context)) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life == nil || h.life.Err() != nil {
		return false
	}
	life := h.life
	h.background.Go(func() { f(life) })
	return true
}

// kickSlow tells the background that something is slow.
func (h *Host) kickSlow() {
	select {
	case h.slow <- struct{}{}:
	default:
	}
}

// readSlow reads what did not answer in time again and again until it does.
func (h *Host) readSlow(ctx context.Context) {
	for {
		select {
		case <-h.slow:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(retrySlow):
		case <-ctx.Done():
			return
		}
		for _, m := range h.allMirrors() {
			for _, j := range h.jobs(m, true) {
				h.spawn(func(ctx context.Context) {
					if err := j(ctx); err != nil {
						h.cfg.Log.V(1).Info("slow read failed", "namespace", m.ns, "error", err.Error())
					}
				})
			}
		}
	}
}
