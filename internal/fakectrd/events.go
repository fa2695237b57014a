package fakectrd

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
)

// Event is one event on its way to one subscriber.
type Event struct {
	Topic, Namespace string
	// N counts the events so far, this one included.
	N int
	// Payload is one of the types of containerd's api/events.
	Payload any
}

// EventFault is what goes wrong with one event. The zero value is nothing.
type EventFault struct {
	Drop bool
	// Twice delivers it a second time.
	Twice bool
	// Delay delivers it later; events behind it overtake it.
	Delay time.Duration
	// Swap delivers it after the next one, whenever that comes.
	Swap bool
}

// HookEvents has every event ask f what goes wrong with it; nil ends that. It is called with the daemon locked: f
// must not call the daemon.
func (d *Daemon) HookEvents(f func(Event) EventFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.eventHook = f
}

// queued is an event that is due at some time.
type queued struct {
	*events.Envelope
	due time.Time
}

// subscriber is one stream of events. All but the channels is guarded by the daemon's lock.
type subscriber struct {
	out   chan *events.Envelope
	errs  chan error
	queue []queued
	// behind waits for the next event to overtake it.
	behind []queued
	wake   chan struct{} // a slot of one: the queue has changed
	ended  chan struct{} // closed when the daemon has gone away
	// failed guards the one error: the daemon's end and the context's may come together.
	failed sync.Once
}

// Subscribe implements ctrd.Services. A fault's Delay is the time from the call to the first event that is seen.
func (d *Daemon) Subscribe(ctx context.Context) (<-chan *events.Envelope, <-chan error) {
	s := &subscriber{
		out: make(chan *events.Envelope), errs: make(chan error, 1),
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	c := Call{Method: "Subscribe"}
	f := d.arrive(ctx, &c)
	if f.Delay == 0 {
		d.join(s, f)
		go d.pump(ctx, s)
		return s.out, s.errs
	}
	go func() {
		if err := sleep(ctx, f.Delay); err != nil {
			s.fail(err)
			return
		}
		d.join(s, f)
		d.pump(ctx, s)
	}()
	return s.out, s.errs
}

// fail ends the stream with its one error.
func (s *subscriber) fail(err error) {
	s.failed.Do(func() {
		s.errs <- err
		close(s.errs)
	})
}

// join makes the subscriber see what happens from now on.
func (d *Daemon) join(s *subscriber, f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case f.Before != nil:
		s.fail(f.Before)
		close(s.ended)
	case d.down:
		s.fail(errUnavailable)
		close(s.ended)
	default:
		s.queue = d.resend
		d.resend = nil
		d.subscribers = append(d.subscribers, s)
	}
}

// pump delivers events until the context ends or the daemon goes away.
func (d *Daemon) pump(ctx context.Context, s *subscriber) {
	defer d.leave(s)
	for {
		e, wait := d.next(s)
		if e != nil {
			select {
			case s.out <- e:
			case <-s.ended:
				return
			case <-ctx.Done():
				s.fail(ctx.Err())
				return
			}
			continue
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-due:
		case <-s.wake:
		case <-s.ended:
			return
		case <-ctx.Done():
			s.fail(ctx.Err())
			return
		}
	}
}

// next takes the first event that is due, or says how long until one is; 0 means until there is one.
func (d *Daemon) next(s *subscriber) (*events.Envelope, time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var wait time.Duration
	for i, q := range s.queue {
		left := time.Until(q.due)
		if left <= 0 {
			s.queue = slices.Delete(s.queue, i, i+1)
			return q.Envelope, 0
		}
		if wait == 0 || left < wait {
			wait = left
		}
	}
	return nil, wait
}

// leave forgets a subscriber.
func (d *Daemon) leave(s *subscriber) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.subscribers = slices.DeleteFunc(d.subscribers, func(other *subscriber) bool { return other == s })
}

// disconnect ends every stream; what was not delivered is lost.
func (d *Daemon) disconnect() {
	for _, s := range d.subscribers {
		s.queue, s.behind = nil, nil
		s.fail(errUnavailable)
		close(s.ended)
	}
	d.subscribers = nil
}

// BreakStreams ends every event stream, as a proxy or a slow reader does; the daemon goes on.
func (d *Daemon) BreakStreams() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.disconnect()
}

// publish tells an event to every subscriber. Nobody hears what happens while the daemon is down.
func (d *Daemon) publish(ns, topic string, payload any) {
	d.events++
	if d.down || len(d.subscribers) == 0 {
		return
	}
	packed := d.envelope(ns, topic, payload)
	for _, s := range d.subscribers {
		q := packed
		var f EventFault
		if d.eventHook != nil {
			f = d.eventHook(Event{Topic: topic, Namespace: ns, N: d.events, Payload: payload})
		}
		if f.Drop {
			continue
		}
		if f.Delay > 0 {
			q.due = time.Now().Add(f.Delay)
		}
		if f.Swap && len(s.behind) == 0 {
			s.behind = append(s.behind, q)
			continue
		}
		s.queue = append(s.queue, q)
		if f.Twice {
			s.queue = append(s.queue, q)
		}
		s.queue = append(s.queue, s.behind...)
		s.behind = nil
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// envelope packs an event as containerd sends it.
func (d *Daemon) envelope(ns, topic string, payload any) queued {
	packed, err := typeurl.MarshalAny(payload)
	if err != nil {
		panic(err) // the payloads are containerd's own types
	}
	return queued{Envelope: &events.Envelope{Timestamp: d.now().UTC(), Namespace: ns, Topic: topic, Event: packed}}
}
