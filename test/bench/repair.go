package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// repair measures from the SIGKILL of a task's process to its successor running.
func (b *bench) repair(ctx context.Context) (_ []figure, err error) {
	h, err := b.newHost(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := h.makeModel(ctx); err != nil {
		return nil, err
	}
	const n = 20
	f := figure{what: "SIGKILL of a task to its successor running, p50 of 20", unit: "ms", times: 1.3}
	for round := range b.rounds {
		realm, err := h.newRealm(ctx)
		if err != nil {
			return nil, err
		}
		if _, err := h.declareAndAwait(ctx, realm, sleepers(n), n); err != nil {
			return nil, err
		}
		var took []float64
		for i := range n {
			d, err := h.killOne(ctx, realm, fmt.Sprintf("c%d", i))
			if err != nil {
				return nil, err
			}
			took = append(took, ms(d))
		}
		if err := h.withdraw(ctx, realm); err != nil {
			return nil, err
		}
		floor, err := h.runFloor(ctx, n, n)
		if err != nil {
			return nil, err
		}
		b.say("repair, round %d: %.1f ms, floor %.1f ms", round+1, median(took), floor.RepairMs)
		f.ours, f.floor = append(f.ours, median(took)), append(f.floor, floor.RepairMs)
	}
	return []figure{f}, nil
}

// killOne kills a container's process and waits for the next one.
func (h *host) killOne(ctx context.Context, realm, id string) (time.Duration, error) {
	pid, err := h.taskPid(ctx, realm, id)
	if err != nil {
		return 0, err
	}
	at := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, err
	}
	started, err := h.events.await(ctx, taskStarted, namespace(realm), id, at, 1)
	if err != nil {
		return 0, fmt.Errorf("%w%s", err, h.lastWords())
	}
	// The next kill comes when the daemon has looked at this one's end.
	return started[0].at.Sub(at), h.until(ctx, realm+" is ready", func() bool {
		r, err := h.api.Realm(ctx, realm)
		return err == nil && r.Ready && r.InSync
	})
}

// parentOf is a process's parent: a task's is its shim.
func parentOf(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// pid (comm) state ppid ...; comm may contain anything.
	_, rest, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')'):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0, fmt.Errorf("process %d: no parent in %q", pid, data)
	}
	return strconv.Atoi(fields[1])
}

// removal measures how long 10 containers that ignore TERM take to go, which wait out their grace together.
func (b *bench) removal(ctx context.Context) (_ []figure, err error) {
	h, err := b.newHost(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	const n, grace = 10, 2
	var stubborn strings.Builder
	for i := range n {
		fmt.Fprintf(&stubborn, "    - {id: c%d, image: %q, command: [sleep, \"2147483647\"], stopGracePeriodSeconds: %d}\n", i, image, grace)
	}
	f := figure{what: "removal of 10 containers that ignore TERM, grace 2 s", unit: "ms", most: atMost(1000 * grace * 1.5)}
	for round := range b.rounds {
		realm, err := h.newRealm(ctx)
		if err != nil {
			return nil, err
		}
		if _, err := h.declareAndAwait(ctx, realm, stubborn.String(), n); err != nil {
			return nil, err
		}
		at, err := h.declare(realm, "")
		if err != nil {
			return nil, err
		}
		gone, err := h.events.await(ctx, containerDeleted, namespace(realm), "", at, n)
		if err != nil {
			return nil, fmt.Errorf("%w%s", err, h.lastWords())
		}
		took := gone[n-1].at.Sub(at)
		b.say("removal, round %d: %.0f ms", round+1, ms(took))
		f.ours = append(f.ours, ms(took))
		if err := h.settle(ctx, realm); err != nil {
			return nil, err
		}
	}
	return []figure{f}, nil
}
