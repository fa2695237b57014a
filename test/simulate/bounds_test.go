package simulate

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

const (
	// patience is how often an operation may be begun on one object within a minute while nothing happens: a crash loop
	// makes eight starts in its first minute, a call that fails seven.
	patience = 12
	// provoked is how often more for everything that happened within that minute.
	provoked = 4
	// memoryOfResets is for how long after a change a retry may come early: what was held back is released once the
	// realm was looked at, which a hung shim delays.
	memoryOfResets = 15 * time.Second
)

// bounds watch that nothing is done more often than it may be (P8), and that nobody goes back to an older declaration
// (P7).
type bounds struct {
	disturbances []time.Time            // within the last minute
	happened     int                    // all of them
	begun        map[string][]time.Time // operations, by what they do to which object
	failures     map[string]failures    // by object
	resets       map[string]time.Time   // by realm; "" is all of them
	// versions counts what was accepted, newest is the one that the last operation on an object followed.
	versions int
	newest   map[string]int
	// struckBy counts the calls that a kind of fault struck, by kind and method.
	struckBy map[[2]string]int
}

// failures are those of one operation in a row.
type failures struct {
	op string
	n  int
	at time.Time // of the last one
}

func newBounds() bounds {
	return bounds{
		begun: map[string][]time.Time{}, failures: map[string]failures{}, resets: map[string]time.Time{},
		newest: map[string]int{}, struckBy: map[[2]string]int{},
	}
}

func (b *bounds) happen() {
	b.happened++
	b.disturbances = append(b.disturbances, time.Now())
}

// disturbed notes that something happened that may have to be reacted to.
func (c *checker) disturbed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bounds.happen()
}

// struck notes which call a fault struck.
func (c *checker) struck(kind string, call fakectrd.Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bounds.happen()
	c.bounds.struckBy[[2]string{kind, call.Method}]++
}

// strikes counts the calls that each kind of fault struck.
func (c *checker) strikes() map[[2]string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.bounds.struckBy)
}

// asked notes that a person asked for a look at a realm.
func (c *checker) asked(realm string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset(realm)
}

// reset notes that what failed in a realm need not wait any longer; "" means everywhere. c.mu is held.
func (c *checker) reset(realm string) { c.bounds.resets[realm] = time.Now() }

// pacing judges that an operation begins when it does. c.mu is held.
func (c *checker) pacing(realm string, op plan.Operation) {
	b, now := &c.bounds, time.Now()
	object := realm + " " + op.Object().String()
	f := b.failures[object]
	early := now.Sub(b.resets[realm]) < memoryOfResets || now.Sub(b.resets[""]) < memoryOfResets
	if least := min(state.RetryCap, state.RetryBase<<min(max(f.n-1, 0), 10)); f.n > 0 && f.op == op.String() && !early && now.Sub(f.at) < least {
		c.failLocked("P8", "%s failed %d times in a row and is tried again after %s: %s", object, f.n, now.Sub(f.at), op)
	}
	recent := func(times []time.Time) []time.Time {
		return slices.DeleteFunc(times, func(t time.Time) bool { return now.Sub(t) > time.Minute })
	}
	b.disturbances = recent(b.disturbances)
	kind := kindOf(op) + " " + object
	b.begun[kind] = append(recent(b.begun[kind]), now)
	if n, most := len(b.begun[kind]), patience+provoked*len(b.disturbances); n > most {
		c.failLocked("P8", "%s was begun %d times within a minute in which %d things happened", kind, n, len(b.disturbances))
	}
}

// paced notes how an operation ended. c.mu is held.
func (c *checker) paced(realm string, op plan.Operation, err error) {
	object := realm + " " + op.Object().String()
	b := &c.bounds
	if err == nil {
		delete(b.failures, object)
		return
	}
	f := b.failures[object]
	forgotten := f.at.Add(-memoryOfResets).Before(b.resets[realm]) || f.at.Add(-memoryOfResets).Before(b.resets[""])
	if f.op != op.String() || forgotten {
		f = failures{op: op.String()}
	}
	if waiting := new(*outcome.Waiting); errors.As(err, waiting) {
		kind := kindOf(op) + " " + object
		if n := len(b.begun[kind]); n > 0 { // looked at again twice a second, without being counted as a try
			b.begun[kind] = b.begun[kind][:n-1]
		}
		f.n = 0
	} else {
		f.n++
	}
	f.at = time.Now()
	b.failures[object] = f
}

// follows judges that an operation does not go back to an older declaration than the last one on the same object
// followed. c.mu is held.
func (c *checker) follows(key string, op plan.Operation, legal func(state.Accepted) bool) {
	b := &c.bounds
	at := -1
	if legal(c.accepted) {
		at = b.versions
	} else {
		for i := len(c.intents) - 1; i >= 0 && at < 0; i-- {
			if x := c.intents[i]; time.Since(x.until) <= staleIntent && legal(x.Accepted) {
				at = x.version
			}
		}
	}
	switch {
	case at < 0:
		c.failLocked("P4", "%s in %s (%s): nothing accepted asks for it", op, key, op.Because())
	case at < b.newest[key]:
		c.failLocked("P7", "%s in %s (%s): follows an older declaration than the operation before it", op, key, op.Because())
	default:
		b.newest[key] = at
	}
}

// happened is how much has happened so far.
func (c *checker) happened() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bounds.happened
}

// count judges how often something is logged: an object that keeps failing is told of five times, then once a minute.
// What tells of an event may be told as often as there are events.
func (l *logCounter) count(msg string, kv []any, events int) {
	var key strings.Builder
	key.WriteString(msg)
	for i := 0; i+1 < len(kv); i += 2 {
		switch k, _ := kv[i].(string); k {
		case "realm", "operation", "namespace", "problem", "id":
			fmt.Fprintf(&key, " %v", kv[i+1])
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	n := l.lines[key.String()]
	if n == nil {
		n = &lines{since: time.Now()}
		l.lines[key.String()] = n
	}
	if n.n++; n.n > 6+int(time.Since(n.since).Minutes())+events {
		l.w.check.fail("P8", "logged %d times within %s: %s", n.n, time.Since(n.since), key.String())
	}
}

// spoken is how many lines were logged so far.
func (l *logCounter) spoken() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}
