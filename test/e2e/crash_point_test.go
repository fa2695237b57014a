package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"

	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/test/proxy"
)

// kind is what happens at a write.
type kind string

const (
	undisturbed     kind = "undisturbed"
	requestLost     kind = "request-lost"
	replyLost       kind = "reply-lost"
	killUsBefore    kind = "kill-us-before"
	killUsAfter     kind = "kill-us-after"
	killDaemonAfter kind = "kill-containerd-after"
)

var kinds = []kind{requestLost, replyLost, killUsBefore, killUsAfter, killDaemonAfter}

const (
	// convergeLimit is far more than any scenario takes, the longest backoff after one failure included.
	convergeLimit = 60 * time.Second
	// lookEvery is how often a realm is looked at while it converges.
	lookEvery = 40 * time.Millisecond
	// collectEvery is how often containerd's garbage is collected while the world is not as wanted.
	collectEvery = time.Second
	// passes is how many times we are asked for a pass that must not write anything.
	passes = 3
)

// injection is a fault that waits for its write.
type injection struct {
	kind  kind
	write int
	// hit is the call that was struck; nil as long as none was.
	hit  atomic.Pointer[proxy.Call]
	down chan struct{} // closed when containerd is dead
}

// arm sets the fault.
func (l *life) arm(k kind, write int) *injection {
	s := &injection{kind: k, write: write, down: make(chan struct{})}
	process, exited, api := l.process.Process, l.exited, l.proxy
	killUs := func() error {
		err := process.Kill()
		<-exited
		return errors.Join(err, proxy.Lose())
	}
	api.Reset()
	api.Hook(func(c proxy.Call) proxy.Fault {
		if c.Write == 0 || c.Write != s.write || k == undisturbed || !s.hit.CompareAndSwap(nil, &c) {
			return proxy.Fault{}
		}
		switch k {
		case requestLost:
			return proxy.Fault{Before: proxy.Lose}
		case replyLost:
			return proxy.Fault{After: proxy.Lose}
		case killUsBefore:
			return proxy.Fault{Before: killUs}
		case killUsAfter:
			return proxy.Fault{After: killUs}
		}
		return proxy.Fault{After: func() error {
			defer close(s.down)
			return errors.Join(l.daemon.Kill(syscall.SIGKILL), proxy.Lose())
		}}
	})
	return s
}

// mend starts what the fault has ended.
func (l *life) mend(s *injection) error {
	select {
	case <-s.down:
		if l.daemon.Pid() == 0 {
			if err := l.daemon.Restart(context.Background()); err != nil {
				return err
			}
		}
	default:
	}
	if l.alive() {
		return nil
	}
	if s.hit.Load() == nil || s.kind != killUsBefore && s.kind != killUsAfter {
		return errors.New("we have ended:\n" + l.logTail())
	}
	l.start(quick...)
	return nil
}

// converge waits until the world is as wanted and we say so; without a wanted world until we say that all is done.
// What differs at the end is the error.
func (l *life) converge(s *injection, want world) (world, error) {
	GinkgoHelper()
	began, reminded := time.Now(), time.Now()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var last error
	for {
		if err := l.mend(s); err != nil {
			return nil, err
		}
		got, err := l.settled(want)
		if err == nil && want == nil {
			err = l.lasting(got)
		}
		if err == nil {
			return got, nil
		}
		last = err
		if time.Since(began) > convergeLimit {
			return got, fmt.Errorf("not within %v: %w", convergeLimit, last)
		}
		if time.Since(reminded) > forgottenAfter {
			reminded = time.Now()
			l.remind(s)
		}
		<-ticker.C
	}
}

// settled looks whether nothing is under way, we say that all is done, and the world is as wanted; cheap looks first.
func (l *life) settled(want world) (world, error) {
	if calls := l.proxy.Pending(); len(calls) > 0 {
		return nil, fmt.Errorf("under way: %s", strings.Join(calls, ", "))
	}
	if len(l.proxy.Writes()) == 0 {
		return nil, errors.New("nothing has begun") // what we say is from before
	}
	if err := l.said(); err != nil {
		return nil, err
	}
	got, err := l.world()
	if err != nil {
		return nil, err
	}
	if text := difference(want, got); want != nil && text != "" {
		if time.Since(l.collected) > collectEvery {
			l.collected = time.Now()
			if err := l.collect(); err != nil {
				return nil, err
			}
		}
		return got, errors.New("it is not as after the undisturbed run:\n" + text)
	}
	return got, nil
}

// lasting is nil when another pass finds nothing to do, and containerd no garbage: what we say is as old as our last
// pass.
func (l *life) lasting(before world) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	if err := l.api().Reconcile(ctx, ""); err != nil {
		return err
	}
	if err := l.collect(); err != nil {
		return err
	}
	after, err := l.settled(nil)
	if text := difference(before, after); err == nil && text != "" {
		err = errors.New("it still changes:\n" + text)
	}
	return err
}

// said is nil when our status says that the realm is in sync and ready, or gone when it was removed.
func (l *life) said() error {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	realm, err := l.api().Realm(ctx, l.name())
	switch {
	case l.containers == nil && errors.Is(err, status.ErrNotFound):
		return nil
	case err != nil:
		return err
	case l.containers == nil:
		return fmt.Errorf("our status: %s %s: %s", realm.State, realm.Reason, realm.Message)
	case !realm.InSync || !realm.Ready || realm.Desired != len(l.containers) || realm.Running != realm.Desired || realm.Frozen != "":
		return fmt.Errorf("our status: %s, in sync %t, %d of %d run, %s: %s; plan %v", realm.State, realm.InSync,
			realm.Running, realm.Desired, realm.Reason, realm.Message, realm.Plan)
	}
	return nil
}

// quiet asks for more passes and returns an error when one writes anything.
func (l *life) quiet() error {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	l.proxy.Reset()
	for range passes {
		if err := l.api().Reconcile(ctx, ""); err != nil {
			return fmt.Errorf("reconcile: %w", err)
		}
	}
	var written []string
	for _, c := range l.proxy.Writes() {
		written = append(written, fmt.Sprintf("%s %q", c.Method, l.plain(objectOf(c))))
	}
	if len(written) > 0 {
		return fmt.Errorf("%d more passes write %s", passes, strings.Join(written, ", "))
	}
	return nil
}
