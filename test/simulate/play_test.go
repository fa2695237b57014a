package simulate

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

type runOf = fakectrd.Run

func typeName(op plan.Operation) string { return fmt.Sprintf("%T", op) }

const (
	// missingImage is a tag that the registry has only after the faults have ended.
	missingImage = "9"
	// longest is the time in which everything has to be as declared once the faults have ended: the longest backoff of
	// a crash loop with its jitter, and a resync and the longest retry on top of it.
	longest = 360*time.Second + 60*time.Second + 72*time.Second
	// quick is the time in which one change has to be carried out by an idle host.
	quick = 5 * time.Second
	// habitual is how long a process may go on to misbehave that began before the faults ended.
	habitual = 2100 * time.Millisecond
	// quiet is for how long nothing may be written afterwards: more than a resync.
	quiet = 75 * time.Second
	// calm is the same after a restart: both look at everything at once.
	calm = 15 * time.Second
)

// result is how a history went.
type result struct {
	violations []violation
	counts     map[string]int
	// converged is how long after the end of the faults everything was as declared.
	converged time.Duration
	// writes were made while nothing was to be done.
	writes int
	// lived is how much time passed in the history's world.
	lived time.Duration
}

// play plays one history, to its end, and checks it.
func play(t *testing.T, h history, files string) (r result) {
	defer func() {
		// synctest tells by a panic that goroutines are left which nothing can wake any more.
		if cause := recover(); cause != nil {
			r.violations = append(r.violations, violation{property: "P8", text: fmt.Sprint(cause)})
		}
	}()
	synctest.Test(t, func(*testing.T) {
		began := time.Now()
		w := newWorld(h.version, files)
		w.prepare()
		w.start()
		for _, a := range h.actions {
			w.idle(a.pause)
			w.revive()
			w.untouched()
			w.act(a)
		}
		w.idle(time.Second)
		w.untouched()
		w.finish(&r)
		r.counts, r.lived = maps.Clone(w.counts), time.Since(began)
		time.Sleep(time.Minute) // longer than any call: what still runs then is leaked
		r.violations = w.check.violations()
	})
	return r
}

// prepare puts what is not ours onto the host.
func (w *world) prepare() {
	for _, ns := range others {
		if err := w.d.Import(ns, "docker.io/library/theirs:1", fakectrd.Image{Layers: []string{"theirs"}}, true); err != nil {
			panic(err) // the daemon is new and up
		}
		if err := w.theirs(ns, "decoy"); err != nil {
			panic(err)
		}
	}
	w.baseline = w.foreign()
}

// revive starts us again after we died, as an init system does.
func (w *world) revive() {
	if !w.proc.alive() {
		w.start()
	}
}

// finish ends the faults, and checks that all becomes as declared, stays so, and is told so.
func (w *world) finish(r *result) {
	w.heal()
	w.idle(max(0, time.Until(w.slowUntil)) + habitual) // the last faults to end
	r.converged = w.settle(longest)
	if len(w.check.violations()) > 0 {
		w.stop()
		return
	}
	r.writes += w.rest("after it converged", quiet)
	if bad := w.untruthful(); bad != "" {
		w.check.fail("P14", "%s", bad)
	}
	if took := w.stop(); took > 5*time.Second {
		w.check.fail("P11", "the daemon took %s to stop", took)
	}
	w.start()
	r.writes += w.rest("after a restart of ours", calm)
	w.d.Restart()
	r.writes += w.rest("after a restart of containerd", calm)
	if bad := w.wrong(); bad != "" {
		w.check.fail("P1", "after the restarts: %s", bad)
	}
	if bad := w.untruthful(); bad != "" {
		w.check.fail("P14", "after the restarts: %s", bad)
	}
	if len(w.check.violations()) == 0 {
		w.probe()
	}
	w.untouched()
	w.stop()
}

// heal ends all faults.
func (w *world) heal() {
	w.mu.Lock()
	w.healed = true
	w.faults, w.events = nil, nil
	clear(w.habits)
	taken := maps.Clone(w.taken)
	w.mu.Unlock()
	w.disk.mu.Lock()
	w.disk.full, w.disk.killAt = false, ""
	w.disk.mu.Unlock()
	w.d.Registry.SetUnreachable(false)
	w.push(missingImage)
	w.d.Up()
	for _, r := range realms {
		for _, id := range []string{"a", "b", "c", "p"} {
			_ = w.d.UnhangShim(namespaceOf(r), id) // most are fine
		}
	}
	for key, stays := range taken {
		if !stays {
			w.giveBack(key)
		}
	}
	w.dir.edit(w.dir.mend)
	w.revive()
	for _, r := range realms {
		_ = w.proc.manager.Resume(r, "") // most are not suspended, or not known
	}
}

// giveBack is the person who takes their container away again.
func (w *world) giveBack(key string) {
	ns, id := key[:slices.Index([]byte(key), '/')], key[slices.Index([]byte(key), '/')+1:]
	_ = w.d.KillTask(person, ns, id, 9, true) // it may have been rebooted away
	_, _ = w.d.DeleteTask(person, ns, id)
	if err := w.d.DeleteContainer(person, ns, id); err != nil {
		w.check.fail("P3", "the container that took %s is gone: %v", key, err)
	}
	_ = w.d.RemoveSnapshot(person, ns, "overlayfs", "theirs-"+id)
	w.mu.Lock()
	delete(w.taken, key)
	delete(w.foreigners, key)
	w.mu.Unlock()
	w.baseline = w.foreign()
}

// mend makes every file what it was meant to be.
func (d *directory) mend() {
	d.missing, d.deaf = false, false
	clear(d.half)
	if d.under != nil {
		d.remount(d.inode, d.under)
	}
	for path, doc := range d.aside {
		if _, _, there := d.head(doc.realm); !there {
			d.files[path] = doc
		}
	}
	clear(d.aside)
	for path, doc := range d.files {
		doc.broken, doc.suspended = "", false
		d.files[path] = doc
		if _, head, there := d.head(doc.realm); doc.part && (!there || head.absent) {
			delete(d.files, path)
		}
	}
}

// settle waits until all is as declared; a person confirms what is held. It returns how long that took.
func (w *world) settle(limit time.Duration) time.Duration {
	began, step := time.Now(), 100*time.Millisecond
	for {
		w.idle(step)
		if len(w.check.violations()) > 0 {
			return 0
		}
		bad := w.wrong()
		if bad == "" {
			return time.Since(began)
		}
		took := time.Since(began)
		if took > limit {
			w.check.fail("P1", "not as declared after %s: %s; status: %s", took, bad, w.told())
			return took
		}
		if took > 3*time.Second {
			w.confirm(action{})
			w.confirmOrphans()
			w.endOneShots()
		}
		step = min(step*3/2, 5*time.Second)
	}
}

// confirmOrphans is a person who gives up what a lost state directory left behind.
func (w *world) confirmOrphans() {
	for _, o := range w.proc.manager.Host().Orphans {
		_, _ = w.proc.manager.Confirm(o.ID) // the next look says whether it went
	}
}

// endOneShots ends what was declared to run for ever when it began, and is declared a one-shot now.
func (w *world) endOneShots() {
	for _, r := range w.disk.current().Realms {
		for _, c := range r.Containers {
			if c.Spec.Restart.Policy != state.RestartAlways && w.isOurs(action{args: []string{string(r.Name), string(c.ID)}}) {
				_ = w.d.Exit(string(r.Namespace), string(c.ID), 0) // it may have ended
			}
		}
	}
}

// told is what the status says, for people who look into a violation.
func (w *world) told() string {
	text := ""
	for _, r := range w.proc.manager.Realms() {
		text += fmt.Sprintf("\n  %s %s: %s; plan %v, waits %v", r.Name, r.State, r.Message, r.Plan, r.Waits)
	}
	for _, h := range w.proc.manager.Host().Holds {
		text += fmt.Sprintf("\n  held %v: %s", h.Realms, h.Why)
	}
	return text
}

// rest checks that nothing is written for a while, and returns how many writes there were.
func (w *world) rest(when string, d time.Duration) int {
	before := w.d.Writes()
	w.idle(d)
	writes := w.d.Writes() - before
	if writes > 0 {
		trace := w.d.Trace()
		w.check.fail("P2", "%d writes %s: %v", writes, when, trace[len(trace)-min(writes, 8):])
	}
	return writes
}

// probe disturbs the idle host once in each of a few ways, and checks that it is mended at once.
func (w *world) probe() {
	var objects [][2]string // realm, id of containers that run for ever
	for name, r := range w.disk.current().Realms {
		for _, c := range r.Containers {
			_, taken := w.taken[string(r.Namespace)+"/"+string(c.ID)]
			if c.Spec.Restart.Policy == state.RestartAlways && !taken && !r.Suspended {
				objects = append(objects, [2]string{string(name), string(c.ID)})
			}
		}
	}
	slices.SortFunc(objects, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	if len(objects) == 0 {
		return
	}
	touched := w.d.Writes()
	for _, r := range realms {
		w.act(action{verb: "comment", args: []string{r}})
	}
	w.idle(quick)
	if n := w.d.Writes() - touched; n > 0 {
		w.check.fail("P2", "%d writes after comments were added to the manifests", n)
	}
	if len(objects) > 1 { // a hung shim hinders nobody else
		hung := objects[len(objects)-1]
		objects = objects[:len(objects)-1]
		if err := w.d.HangShim(namespaceOf(hung[0]), hung[1]); err != nil {
			w.check.fail("P1", "%v has no shim: %v", hung, err)
			return
		}
		defer func() {
			_ = w.d.UnhangShim(namespaceOf(hung[0]), hung[1]) // a failed check may have left none
			w.idle(quick)
		}()
	}
	for _, o := range objects {
		w.act(action{verb: "ctr", args: []string{o[0], o[1], "rm-all"}})
	}
	w.idle(quick)
	for _, o := range objects {
		if w.d.Run(namespaceOf(o[0]), o[1]).Live != 1 {
			w.check.fail("P1", "%s/%s was deleted on an idle host and does not run %s later: %s", o[0], o[1], quick, w.told())
			return
		}
	}
}
