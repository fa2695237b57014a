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
	// resync is the time in which everything is seen when no event tells of anything, and mended: one resync, what a
	// change takes on an idle host, and the grace of a process that is replaced.
	resync = time.Minute + quick + 10*time.Second
	// bounded is more than the longest grace and the wait for a killed process together.
	bounded = 25 * time.Second
	// retried is the longest wait for a retry.
	retried = 72*time.Second + quick
)

// result is how a history went.
type result struct {
	violations []violation
	counts     map[string]int    // how often each kind of fault struck
	struck     map[[2]string]int // which calls, by kind and method
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
		w.finish(h, &r)
		r.counts, r.struck, r.lived = maps.Clone(w.counts), w.check.strikes(), time.Since(began)
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
	w.guest(action{args: []string{"moby"}})
	w.baseline = w.foreign()
	clear(w.counts)
}

// revive starts us again after we died, as an init system does.
func (w *world) revive() {
	if !w.proc.alive() {
		w.start()
	}
}

// heal ends all faults.
func (w *world) heal() {
	w.mu.Lock()
	w.healed = true
	w.faults, w.events, w.usurper = nil, nil, 0
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
			_ = w.d.Rouse(namespaceOf(r), id)
		}
	}
	for key, stays := range taken {
		if !stays {
			w.giveBack(key)
		}
	}
	w.dir.edit(func() {
		w.dir.mend()
		for realm, a := range w.dir.dropped {
			if a.tag == badArchive { // in its place: nobody looks at that of a realm without a manifest again
				w.dir.dropped[realm] = w.archive("1", a.version)
			}
		}
	})
	w.restoreArchived()
	w.revive()
	for _, r := range realms {
		w.check.asked(r)
		_ = w.proc.manager.Resume(r, "") // most are not suspended, or not known
	}
}

// restoreArchived brings the content back of images that have an archive: nobody notices that it is gone before it is needed,
// or we begin anew.
func (w *world) restoreArchived() {
	w.dir.mu.Lock()
	all := maps.Clone(w.dir.dropped)
	w.dir.mu.Unlock()
	for realm, a := range all {
		if _, err := w.d.Image(person, namespaceOf(realm), archivedRef(a.tag)); err == nil {
			w.d.RestoreContent(namespaceOf(realm), w.image(a.tag))
		}
	}
}

// giveBack is the person who takes their container away again.
func (w *world) giveBack(key string) {
	ns, id := key[:slices.Index([]byte(key), '/')], key[slices.Index([]byte(key), '/')+1:]
	w.alone(func() {
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
	})
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
		if bad == "" { // but a stop that was begun before it was declared again still ends it
			bad = w.check.underWay()
		}
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
			if c.Spec.Restart.Policy != state.RestartAlways && w.isOurs(string(r.Namespace), string(c.ID)) {
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
