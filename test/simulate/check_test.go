package simulate

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// checker watches a history and says what must never happen. It knows the manifests as the simulation means them, and
// decides by itself what they allow: nothing of the product's own decisions is asked.
//
// Its lock is the innermost one: it is taken with the daemon or the disk locked, and neither is asked while it is held.
type checker struct {
	w  *world
	mu sync.Mutex
	// found are the violations, the first few.
	found  []violation
	began0 time.Time

	accepted state.Accepted
	// intents are what was accepted during the last seconds: an operation may still follow an older one.
	intents []intent
	// completions are the remembered ends of one-shots, by realm/id.
	completions map[string]ending
	// sawComplete means that the process that runs now has read a complete directory.
	sawComplete bool

	last      view
	missing   map[string]*absence
	inode     map[string]uint64 // of the directory in which a realm was last declared
	confirmed map[string]bool
	removed   []removal
	// generations are the highest ever accepted.
	generations map[string]int64
	// jumped means that the clock was set: then what the disk tells of times cannot be trusted.
	jumped bool

	operations map[string][]string // by namespace/id: what is under way
	bounds     bounds
	firstRun   map[string]int // by incarnation of a never container: its runs before
	tampered   map[string]bool
}

type violation struct {
	property, text string
	after          time.Duration
}

func (v violation) String() string {
	return fmt.Sprintf("%s after %s: %s", v.property, v.after, v.text)
}

// intent is what was accepted until a time; zero: it still is.
type intent struct {
	state.Accepted
	until   time.Time
	version int // counts what was accepted
}

// ending is how a one-shot ended.
type ending struct {
	digest  state.Digest
	success bool
}

// absence is a realm that no file names.
type absence struct {
	fingerprint string
	since       time.Time
	counted     bool
}

// removal is a realm that was removed because no file named it.
type removal struct {
	realm string
	at    time.Time
	of    int // realms accepted before
}

func newChecker(w *world) *checker {
	return &checker{
		w: w, began0: time.Now(), completions: map[string]ending{}, missing: map[string]*absence{}, inode: map[string]uint64{},
		confirmed: map[string]bool{}, generations: map[string]int64{}, operations: map[string][]string{},
		bounds: newBounds(), firstRun: map[string]int{}, tampered: map[string]bool{},
	}
}

// fail notes a violation.
func (c *checker) fail(property, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(property, format, args...)
}

func (c *checker) failLocked(property, format string, args ...any) {
	if len(c.found) < 5 {
		c.found = append(c.found, violation{property, fmt.Sprintf(format, args...), time.Since(c.began0)})
	}
}

func (c *checker) violations() []violation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.found)
}

// started notes that a new process runs.
func (c *checker) started() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sawComplete = false
	c.reset("")
}

// looked notes what a process saw of the manifests.
func (c *checker) looked(v view) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !v.exists {
		return // says nothing
	}
	c.last = v
	c.sawComplete = c.sawComplete || v.complete
	now := time.Now()
	for _, realm := range realms {
		named := v.names(realm, c.accepted.Realms[state.RealmName(realm)].Paths)
		if a := c.missing[realm]; named || !v.complete && a != nil && !a.counted {
			delete(c.missing, realm)
			if named {
				c.inode[realm] = v.inode
				delete(c.confirmed, realm)
			}
			continue
		}
		a := c.missing[realm]
		switch {
		case !v.complete:
		case a == nil:
			c.missing[realm] = &absence{fingerprint: v.fingerprint, since: now}
		case a.counted:
		case a.fingerprint != v.fingerprint:
			a.fingerprint, a.since = v.fingerprint, now
		default:
			a.counted = now.Sub(a.since) >= 2*time.Second
		}
	}
}

// names reports whether a file names the realm, or was set aside from which it was accepted.
func (v view) names(realm string, accepted []string) bool {
	for _, doc := range v.files {
		if doc.realm == realm {
			return true
		}
	}
	for path, doc := range v.aside {
		if _, back := v.files[path]; doc.realm == realm && !back && slices.Contains(accepted, path) {
			return true
		}
	}
	return false
}

// declares returns what the files say about a realm; false when they are not to be believed about it, or say nothing.
func (v view) declares(realm string) (head document, all map[string]container, valid bool) {
	all = map[string]container{}
	heads := 0
	for _, doc := range v.files {
		if doc.realm != realm {
			continue
		}
		if doc.broken != "" {
			return document{}, nil, false
		}
		if !doc.part {
			heads++
			head = doc
		}
		for _, x := range doc.containers {
			if _, twice := all[x.id]; twice {
				return document{}, nil, false
			}
			all[x.id] = x
		}
	}
	return head, all, heads == 1
}

// saved judges a new accepted state by the files, and by nothing else.
func (c *checker) saved(prev, next state.Accepted) {
	empty := map[string]bool{}
	for name, r := range prev.Realms {
		if _, kept := next.Realms[name]; !kept {
			empty[string(name)] = c.w.ours(string(r.Namespace)) == 0
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.intents = slices.DeleteFunc(c.intents, func(i intent) bool { return now.Sub(i.until) > staleIntent })
	c.intents = append(c.intents, intent{prev, now, c.bounds.versions})
	c.bounds.versions++
	c.accepted = next
	for _, realm := range realms {
		name := state.RealmName(realm)
		if !reflect.DeepEqual(prev.Realms[name], next.Realms[name]) || !reflect.DeepEqual(prev.Removals, next.Removals) {
			c.reset(realm)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(prev.Realms)) {
		if r, kept := next.Realms[name]; kept {
			c.changed(prev.Realms[name], r)
		} else {
			c.removes(prev, next, string(name), empty[string(name)])
		}
	}
	for name, r := range next.Realms {
		if _, was := prev.Realms[name]; !was {
			c.changed(state.AcceptedRealm{}, r)
		}
		if r.Generation < c.generations[string(name)] {
			c.failLocked("P7", "the generation of %s fell from %d to %d", name, c.generations[string(name)], r.Generation)
		}
		c.generations[string(name)] = r.Generation
	}
}

// changed judges what was accepted of one realm.
func (c *checker) changed(prev, next state.AcceptedRealm) {
	head, declared, valid := c.last.declares(string(next.Name))
	for _, x := range next.Containers {
		old, was := prev.Find(x.ID)
		if was && meaning(old.Spec, x.ID) == meaning(x.Spec, x.ID) {
			continue
		}
		if want := declared[string(x.ID)]; !valid || want != meaning(x.Spec, x.ID) {
			c.failLocked("P4", "accepted %s/%s as %v, but the files say %v (valid: %v)", next.Name, x.ID, meaning(x.Spec, x.ID), want, valid)
		}
	}
	for _, x := range prev.Containers {
		if _, kept := next.Find(x.ID); kept {
			continue
		}
		a := c.missing[string(next.Name)]
		partly := a != nil && a.counted // the realm left but for what is never pruned
		_, still := declared[string(x.ID)]
		if !partly && (!valid || still) || head.keep || prev.KeepAlways && !valid {
			c.failLocked("P4", "%s/%s was dropped, but no valid file omits it", next.Name, x.ID)
		}
	}
}

// removes judges the removal of a whole realm.
func (c *checker) removes(prev, next state.Accepted, realm string, empty bool) {
	if head, _, valid := c.last.declares(realm); valid {
		if !head.absent {
			c.failLocked("P4", "realm %s was removed although its file declares it", realm)
		}
		return
	}
	a := c.missing[realm]
	remaining := 0
	for name := range prev.Realms {
		if _, kept := next.Realms[name]; kept {
			remaining++
		}
	}
	of, removed := len(prev.Realms), map[string]bool{realm: true}
	for _, r := range c.removed {
		if time.Since(r.at) < state.GuardWindow {
			removed[r.realm] = true
			of = max(of, r.of)
		}
	}
	switch {
	case !c.last.complete || a == nil || !a.counted:
		c.failLocked("P4", "realm %s was removed although its absence was not seen twice in a complete directory", realm)
	case prev.Realms[state.RealmName(realm)].KeepAlways:
		c.failLocked("P4", "realm %s was removed by absence although it says prune: disabled", realm)
	case c.confirmed[realm] || empty:
		return
	case c.inode[realm] != c.last.inode:
		c.failLocked("P4", "realm %s was removed because the directory was replaced", realm)
	case remaining == 0:
		c.failLocked("P4", "realm %s was removed by absence, and none is left", realm)
	case len(removed) > max(1, of/2) && !c.jumped:
		c.failLocked("P4", "%d of %d realms were removed by absence within %s", len(removed), of, state.GuardWindow)
	}
	c.removed = append(c.removed, removal{realm, time.Now(), of})
}

// meaning is what a spec says, as the simulation's manifests say it.
func meaning(s state.Spec, id state.ContainerID) container {
	out := container{id: string(id), policy: string(s.Restart.Policy), grace: s.Stop.GraceSeconds}
	out.image = strings.TrimPrefix(s.Image, "docker.io/library/web:")
	for _, e := range s.Env {
		if v, ok := strings.CutPrefix(e, "GEN="); ok {
			out.env, _ = strconv.Atoi(v) // what is no number differs from all that are declared
		}
	}
	return out
}

// ends judges that a one-shot is declared finished. Somebody may have put a container of his own into its place since.
func (c *checker) ends(realm, id string) {
	ns := namespaceOf(realm)
	if c.w.d.Run(ns, id).Live > 0 && c.w.isOurs(ns, id) {
		c.fail("P5", "the one-shot %s/%s is declared finished, and still runs", realm, id)
	}
}

func (c *checker) remembered(realm, id string, done state.Completion) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.completions[realm+"/"+id] = ending{done.Digest, done.Code == 0}
}

func (c *checker) forgot(realm string, ids []state.ContainerID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.completions {
		r, id, _ := strings.Cut(key, "/")
		if r == realm && (len(ids) == 0 || slices.Contains(ids, state.ContainerID(id))) {
			delete(c.completions, key)
		}
	}
}

// lost notes that the state directory was emptied: what was accepted starts anew.
func (c *checker) lost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accepted, c.intents = state.Accepted{}, nil
	clear(c.completions)
	clear(c.missing)
	clear(c.confirmed)
	clear(c.generations)
	c.removed = nil
}

// confirm notes that a person released the removal of realms.
func (c *checker) confirm(realms []state.RealmName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range realms {
		c.confirmed[string(r)] = true
	}
}

// jump notes that the clock was set.
func (c *checker) jump() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jumped = true
}

// tamper notes that a person edited a container's labels.
func (c *checker) tamper(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tampered[key] = true
}

// edited reports whether a person edited a container's labels.
func (c *checker) edited(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tampered[key]
}

// runsForEver reports whether the container was accepted with restart policy always.
func (c *checker) runsForEver(ns, id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.accepted.Realms {
		if string(r.Namespace) != ns {
			continue
		}
		x, ok := r.Find(state.ContainerID(id))
		return ok && x.Spec.Restart.Policy == state.RestartAlways
	}
	return true
}
