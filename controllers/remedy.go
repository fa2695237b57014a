package controllers

import (
	"context"
	"sync"
	"time"

	"kukeon.io/kukeon-reconciler/internal/plan"
)

// remedyFresh is for how long the answer serves to where on this host an image is.
const remedyFresh = 30 * time.Second

// remedies knows where on this host the images are that a realm waits for. It asks in the background: a pass never
// waits for an answer, which takes a call for each namespace of the host.
type remedies struct {
	mu    sync.Mutex
	known map[string]remedy // by reference
}

type remedy struct {
	text   string
	at     time.Time
	asking bool
}

// add completes waits for images with the remedy, as far as it is known, and has the worker look again when it is.
func (r *remedies) add(ctx context.Context, w *worker, waits []plan.Wait) {
	r.mu.Lock()
	defer r.mu.Unlock()
	waited := map[string]remedy{}
	for i, wait := range waits {
		if wait.Object.Kind != plan.ImageObject {
			continue
		}
		ref := wait.Object.Name
		k := r.known[ref]
		if now := w.m.cfg.Now(); !k.asking && (k.at.IsZero() || now.Sub(k.at) > remedyFresh) {
			k.asking = true
			w.m.workers.Go(func() { r.ask(ctx, w, ref) })
		}
		waited[ref] = k
		if k.text != "" {
			waits[i].For += "; " + k.text
		}
	}
	r.known = waited
}

func (r *remedies) ask(ctx context.Context, w *worker, ref string) {
	text := w.m.cfg.Host.Remedy(ctx, w.realm, w.namespace, ref)
	r.mu.Lock()
	changed := r.known[ref].text != text
	r.known[ref] = remedy{text: text, at: w.m.cfg.Now()}
	r.mu.Unlock()
	if changed {
		w.wake()
	}
}
