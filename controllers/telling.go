package controllers

import (
	"slices"
	"sync"
	"time"

	"kukeon.io/kukeon-reconciler/internal/status"
)

const millisecond = time.Millisecond

// eventLimit is how many recent events are kept: a day of a calm host, an hour of a restless one.
const eventLimit = 500

// eventRing keeps the most recent events.
type eventRing struct {
	mu   sync.Mutex
	ring []status.Event
}

func (r *eventRing) add(e status.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ring) == eventLimit {
		r.ring = append(r.ring[:0], r.ring[1:]...)
	}
	r.ring = append(r.ring, e)
}

// since returns the events of a realm, or of all when it is empty, that are not older than the time.
func (r *eventRing) since(realm string, t time.Time) []status.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []status.Event
	for _, e := range r.ring {
		if (realm == "" || e.Realm == realm) && !e.Time.Before(t) {
			out = append(out, e)
		}
	}
	return out
}

// What repeats itself is told five times, then once a minute.
const (
	loudTimes   = 5
	quietPeriod = time.Minute
)

// quieter keeps what fails again and again from filling the log.
type quieter struct {
	mu    sync.Mutex
	times map[string]telling
}

type telling struct {
	count int
	last  time.Time
}

// speak reports whether to tell of it this time.
func (q *quieter) speak(what string, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.times == nil {
		q.times = map[string]telling{}
	}
	for key, t := range q.times { // what has been quiet for ten periods is news again
		if now.Sub(t.last) > 10*quietPeriod {
			delete(q.times, key)
		}
	}
	t := q.times[what]
	if t.count >= loudTimes && now.Sub(t.last) < quietPeriod {
		return false
	}
	q.times[what] = telling{t.count + 1, now}
	return true
}

// broadcast signals that something changed to whoever subscribed. It never blocks.
type broadcast struct {
	mu   sync.Mutex
	subs []chan struct{}
}

func (b *broadcast) signal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (b *broadcast) subscribe() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs = append(b.subs, c)
	return c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.subs = slices.DeleteFunc(b.subs, func(s chan struct{}) bool { return s == c })
	}
}
