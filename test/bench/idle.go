package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"kukeon.io/kukeon-reconciler/test/proxy"
)

// noop measures full passes over a realm in which nothing is to be done: what one of them writes and costs us.
func (b *bench) noop(ctx context.Context) (_ []figure, err error) {
	h, err := b.newHost(ctx, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	const n, passes = 50, 100
	realm, err := h.newRealm(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := h.declareAndAwait(ctx, realm, sleepers(n), n); err != nil {
		return nil, err
	}
	var lists atomic.Int64 // of the realm's tasks: each full pass reads it once
	h.proxy.Hook(func(c proxy.Call) proxy.Fault {
		if c.Method == "Tasks.List" && c.Namespace == namespace(realm) {
			lists.Add(1)
		}
		return proxy.Fault{}
	})
	h.proxy.Reset()
	writes := figure{what: fmt.Sprintf("writes of %d full passes over 50 containers", passes), most: atMost(0)}
	cpu := figure{what: "CPU of a full pass over 50 containers, nothing to do", unit: "ms", most: atMost(5)}
	for round := range b.rounds {
		first := lists.Load()
		before, err := h.run.cpu()
		if err != nil {
			return nil, err
		}
		for i := range int64(passes) {
			if err := h.api.Reconcile(ctx, realm); err != nil {
				return nil, err
			}
			if err := h.until(ctx, "the pass begins", func() bool { return lists.Load() > first+i }); err != nil {
				return nil, err
			}
			if err := pause(ctx, 30*time.Millisecond); err != nil { // its end; another may not follow sooner anyway
				return nil, err
			}
		}
		after, err := h.run.cpu()
		if err != nil {
			return nil, err
		}
		per := ms(after-before) / float64(lists.Load()-first)
		b.say("noop, round %d: %.2f ms of CPU per pass, %d passes", round+1, per, lists.Load()-first)
		cpu.ours = append(cpu.ours, per)
	}
	writes.ours = []float64{float64(len(h.proxy.Writes()))}
	return []figure{writes, cpu}, nil
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
	const n = 9 // and the model
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
