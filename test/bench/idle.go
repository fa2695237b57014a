package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"kukeon.io/kukeon-reconciler/test/proxy"
)

// noop measures full passes over a realm in which nothing is to be done: what one of them writes and costs us. They
// come by a short resync, which reads the whole namespace and nothing else, and then by `reconcile REALM`, which asks
// over the API and has the manifests read as well.
func (b *bench) noop(ctx context.Context) (figures []figure, err error) {
	const n, passes = 50, 100
	writes := figure{what: fmt.Sprintf("writes of %d full passes over %d containers", 2*passes, n), most: atMost(0)}
	for _, way := range []struct {
		figure
		flags []string
		next  func(*host, string) error
	}{
		{
			figure: figure{what: "CPU of a full pass over 50 containers", unit: "ms", most: atMost(5)},
			flags:  []string{"--resync", "100ms"},
			next:   func(*host, string) error { return nil },
		},
		{
			figure: figure{what: "the same by `reconcile REALM`: API and manifests included", unit: "ms", most: atMost(5)},
			next:   func(h *host, realm string) error { return h.api.Reconcile(ctx, realm) },
		},
	} {
		cpu, wrote, err := b.passes(ctx, n, passes, way.flags, way.next)
		if err != nil {
			return nil, err
		}
		way.ours = cpu
		writes.ours = []float64{max(wrote, writes.highest())}
		figures = append(figures, way.figure)
	}
	return append([]figure{writes}, figures...), nil
}

// passes makes passes over a realm of n containers in each round, and returns our CPU per pass, and the writes of all.
// next asks for one pass.
func (b *bench) passes(ctx context.Context, n, passes int, flags []string, next func(*host, string) error) (cpu []float64, writes float64, err error) {
	h, err := b.newHost(ctx, true, flags...)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	realm, err := h.newRealm(ctx)
	if err != nil {
		return nil, 0, err
	}
	if _, err := h.declareAndAwait(ctx, realm, sleepers(n), n); err != nil {
		return nil, 0, err
	}
	var lists atomic.Int64 // of the realm's tasks: each full pass reads it once
	h.proxy.Hook(func(c proxy.Call) proxy.Fault {
		if c.Method == "Tasks.List" && c.Namespace == namespace(realm) {
			lists.Add(1)
		}
		return proxy.Fault{}
	})
	h.proxy.Reset()
	for round := range b.rounds {
		first := lists.Load()
		before, err := h.run.cpu()
		if err != nil {
			return nil, 0, err
		}
		for i := range int64(passes) {
			if err := next(h, realm); err != nil {
				return nil, 0, err
			}
			if err := h.until(ctx, "the pass begins", func() bool { return lists.Load() > first+i }); err != nil {
				return nil, 0, err
			}
			if err := pause(ctx, 30*time.Millisecond); err != nil { // its end
				return nil, 0, err
			}
		}
		after, err := h.run.cpu()
		if err != nil {
			return nil, 0, err
		}
		per := ms(after-before) / float64(lists.Load()-first)
		b.say("noop %v, round %d: %.2f ms of CPU per pass, %d passes", flags, round+1, per, lists.Load()-first)
		cpu = append(cpu, per)
	}
	return cpu, float64(len(h.proxy.Writes())), nil
}

// idleFor is how long the daemon is watched doing nothing: six rescans and one resync.
const idleFor = time.Minute

// idle measures what keeping 10 containers costs when nothing happens. One minute is its only round.
func (b *bench) idle(ctx context.Context) (_ []figure, err error) {
	h, err := b.newHost(ctx, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	const n = 10
	realm, err := h.newRealm(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := h.declareAndAwait(ctx, realm, sleepers(n), n); err != nil {
		return nil, err
	}
	h.proxy.Reset()
	var spent [2]time.Duration
	processes := []*process{h.run, h.logd}
	for i, p := range processes {
		before, err := p.cpu()
		if err != nil {
			return nil, err
		}
		spent[i] = -before
	}
	if err := pause(ctx, idleFor); err != nil {
		return nil, err
	}
	var memory [2]float64
	for i, p := range processes {
		after, err := p.cpu()
		if err != nil {
			return nil, err
		}
		spent[i] += after
		if memory[i], err = p.anonymous(); err != nil {
			return nil, err
		}
	}
	b.say("idle: run %v, logd %v of CPU", spent[0], spent[1])
	share := func(d time.Duration) []float64 { return []float64{100 * d.Seconds() / idleFor.Seconds()} }
	return []figure{
		{what: "writes in 60 idle seconds, 10 containers", ours: []float64{float64(len(h.proxy.Writes()))}, most: atMost(0)},
		{what: "CPU of run and logd, idle, of a core", unit: "%", ours: share(spent[0] + spent[1]), most: atMost(0.1)},
		{what: "anonymous memory of run, idle", unit: "MiB", ours: memory[:1], most: atMost(20)},
		{what: "anonymous memory of logd, idle", unit: "MiB", ours: memory[1:], most: atMost(10)},
	}, nil
}
