package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// start measures from the rename of a manifest into the directory to all its tasks running.
func (b *bench) start(ctx context.Context) (figures []figure, err error) {
	h, err := b.newHost(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := h.makeModel(ctx); err != nil {
		return nil, err
	}
	for _, n := range []int{1, 10, 50} {
		f := figure{what: fmt.Sprintf("rename of a manifest to %d running", n), unit: "ms"}
		if n > 1 {
			f.times = 1.25
		}
		figures = append(figures, f)
	}
	for round := range b.rounds {
		for i, n := range []int{1, 10, 50} {
			took, err := h.startOnce(ctx, n)
			if err != nil {
				return nil, err
			}
			floor, err := h.runFloor(ctx, n, 0)
			if err != nil {
				return nil, err
			}
			b.say("start %d, round %d: %.1f ms, floor %.1f ms", n, round+1, ms(took), floor.RunningMs)
			figures[i].ours = append(figures[i].ours, ms(took))
			figures[i].floor = append(figures[i].floor, floor.RunningMs)
		}
	}
	return figures, nil
}

// startOnce starts n containers in a new realm and removes them again.
func (h *host) startOnce(ctx context.Context, n int) (time.Duration, error) {
	realm, err := h.newRealm(ctx)
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, quiet); err != nil {
		return 0, err
	}
	took, err := h.declareAndAwait(ctx, realm, sleepers(n), n)
	if err != nil {
		return 0, err
	}
	return took, h.withdraw(ctx, realm)
}

// hungShims is how many shims are stopped in the realm beside the measured one.
const hungShims = 3

// beside measures the start of 10 containers alone, and beside a realm with hung shims and a crash loop.
func (b *bench) beside(ctx context.Context) (_ []figure, err error) {
	h, err := b.newHost(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	const n = 10
	f := figure{what: "10 running beside a realm with 3 hung shims and a crash loop (floor: alone)", unit: "ms", times: 1.1}
	for round := range b.rounds {
		alone, err := h.startOnce(ctx, n)
		if err != nil {
			return nil, err
		}
		var took time.Duration
		if err := h.withSickRealm(ctx, func() error {
			took, err = h.startOnce(ctx, n)
			return err
		}); err != nil {
			return nil, err
		}
		b.say("beside, round %d: %.1f ms, alone %.1f ms", round+1, ms(took), ms(alone))
		f.ours, f.floor = append(f.ours, ms(took)), append(f.floor, ms(alone))
	}
	return []figure{f}, nil
}

// withSickRealm does something while another realm has hung shims and a container that ends at once, again and again,
// with the default backoff.
func (h *host) withSickRealm(ctx context.Context, do func() error) (err error) {
	realm, err := h.newRealm(ctx)
	if err != nil {
		return err
	}
	if _, err := h.declareAndAwait(ctx, realm, sleepers(hungShims), hungShims); err != nil {
		return err
	}
	var shims []int
	for i := range hungShims {
		pid, err := h.taskPid(ctx, realm, fmt.Sprintf("c%d", i))
		if err != nil {
			return err
		}
		shim, err := parentOf(pid)
		if err != nil {
			return err
		}
		shims = append(shims, shim)
	}
	signalAll := func(s syscall.Signal) {
		for _, pid := range shims {
			_ = syscall.Kill(pid, s) // one that is gone is not hung: the measured start would fail to settle then
		}
	}
	signalAll(syscall.SIGSTOP)
	crash := fmt.Sprintf("    - {id: crash, image: %q, command: [sh, -c, exit 1]}\n", image)
	at, err := h.declare(realm, sleepers(hungShims)+crash)
	if err == nil {
		if _, err = h.events.await(ctx, taskStarted, namespace(realm), "crash", at, 3); err != nil { // it is in its loop now
			err = fmt.Errorf("%w%s", err, h.lastWords())
		}
	}
	if err == nil {
		err = do()
	}
	signalAll(syscall.SIGCONT)
	if err != nil {
		return err
	}
	return h.withdraw(ctx, realm)
}

func (h *host) taskPid(ctx context.Context, realm, id string) (int, error) {
	c, err := h.client.LoadContainer(namespaces.WithNamespace(ctx, namespace(realm)), id)
	if err != nil {
		return 0, err
	}
	t, err := c.Task(namespaces.WithNamespace(ctx, namespace(realm)), nil)
	if err != nil {
		return 0, err
	}
	return int(t.Pid()), nil
}
