package simulate

import (
	"slices"
	"time"

	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// What follows once the faults have ended.

// converged is when a host is at rest that nobody restarted.
const converged = "after it converged"

// finish ends the faults, and checks that all becomes as declared, stays so, and is told so.
func (w *world) finish(h history, r *result) {
	w.heal()
	w.idle(max(0, time.Until(w.slowUntil)) + habitual) // the last faults to end
	r.converged = w.settle(longest)
	if len(w.check.violations()) > 0 {
		w.stop()
		return
	}
	long := calm
	if h.ends("rest") {
		long = quiet
	}
	r.writes += w.rest(converged, long)
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
	w.probes(h)
	w.untouched()
	w.stop()
}

// rest checks that nothing is written for a while, and returns how many writes there were.
func (w *world) rest(when string, d time.Duration) int {
	before, spoken := w.d.Writes(), w.proc.log.spoken()
	w.idle(d)
	writes := w.d.Writes() - before
	if writes > 0 {
		trace := w.d.Trace()
		w.check.fail("P2", "%d writes %s: %v", writes, when, trace[len(trace)-min(writes, 8):])
	}
	if n := w.proc.log.spoken() - spoken; n > 0 && when == converged {
		w.check.fail("P8", "%d lines were logged %s", n, when)
	}
	return writes
}

// probes disturb the idle host once more, in the way of the history's epilogue, as long as nothing is wrong.
func (w *world) probes(h history) {
	probes := []struct {
		epilogue string
		probe    func([][2]string)
	}{
		{"rest", w.comments}, {"rest", w.move}, {"repair", w.repair}, {"deaf", w.deaf}, {"clock", w.jump}, {"stubborn", w.stubborn},
	}
	for _, p := range probes {
		if objects := w.steady(); h.ends(p.epilogue) && len(w.check.violations()) == 0 && len(objects) > 0 {
			p.probe(objects)
		}
	}
}

// steady are the containers that run for ever: realm and id.
func (w *world) steady() (objects [][2]string) {
	for name, r := range w.disk.current().Realms {
		for _, c := range r.Containers {
			_, taken := w.taken[string(r.Namespace)+"/"+string(c.ID)]
			if c.Spec.Restart.Policy == state.RestartAlways && !taken && !r.Suspended {
				objects = append(objects, [2]string{string(name), string(c.ID)})
			}
		}
	}
	slices.SortFunc(objects, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	return objects
}

// comments checks that what means nothing writes nothing.
func (w *world) comments([][2]string) {
	before := w.d.Writes()
	for _, r := range realms {
		w.act(action{verb: "comment", args: []string{r}})
	}
	w.idle(quick)
	if n := w.d.Writes() - before; n > 0 {
		w.check.fail("P2", "%d writes after comments were added to the manifests", n)
	}
}

// move checks that a manifest that asks for another namespace moves no live realm: it is told of, and nothing is done.
func (w *world) move(objects [][2]string) {
	realm := objects[0][0]
	before, moved := w.d.Writes(), false
	turn := func(namespace string) {
		w.change(realm, "manifest edited", func(path string, doc document) {
			doc.elsewhere, moved = namespace, true
			w.dir.files[path] = doc
		})
		w.idle(quick)
	}
	turn("kukeon-elsewhere")
	for _, r := range w.proc.manager.Realms() {
		if moved && string(r.Name) == realm && (r.InSync || string(r.Namespace) != namespaceOf(realm)) {
			w.check.fail("P14", "status says that %s is in sync: %t, in %s, and its manifest asks for another namespace", realm, r.InSync, r.Namespace)
		}
	}
	turn("")
	if n := w.d.Writes() - before; n > 0 {
		w.check.fail("P4", "%d writes because a manifest asked for another namespace", n)
	}
}

// repair checks that what is deleted on an idle host runs again at once, also beside a hung shim.
func (w *world) repair(objects [][2]string) {
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

// mended checks that all is as declared before the limit.
func (w *world) mended(limit time.Duration, when string) bool {
	began := time.Now()
	for bad := w.wrong(); bad != ""; bad = w.wrong() {
		if time.Since(began) > limit {
			w.check.fail("P1", "%s, %s: %s; status: %s", when, limit, bad, w.told())
			return false
		}
		w.idle(500 * time.Millisecond)
	}
	return true
}

// deaf checks that one resync mends everything when no event arrives at all, of containerd or of the files.
func (w *world) deaf(objects [][2]string) {
	w.d.HookEvents(func(fakectrd.Event) fakectrd.EventFault { return fakectrd.EventFault{Drop: true} })
	w.dir.edit(func() { w.dir.deaf = true })
	// Of a label nobody hears but a resync: tasks are asked about more often than that.
	last := objects[len(objects)-1]
	w.act(action{verb: "label", args: []string{last[0], last[1], "source", "elsewhere"}})
	if !w.mended(resync, "the event of an edited label was lost") {
		return
	}
	for i, o := range objects {
		how := []string{"rm-all", "task-rm", "snapshot-rm"}[i%3]
		if w.crashed(o) {
			how = "rm-all" // another end would only lengthen its backoff, and that may be longer than a resync
		}
		if how == "snapshot-rm" {
			w.act(action{verb: "ctr", args: []string{o[0], o[1], "kill"}})
			w.act(action{verb: "ctr", args: []string{o[0], o[1], how}})
		} else {
			w.act(action{verb: "ctr", args: []string{o[0], o[1], how}})
		}
	}
	w.alter(objects[0])
	w.mended(resync, "every event was lost")
	w.d.HookEvents(w.event)
	w.dir.edit(func() { w.dir.deaf = false })
}

// crashed reports whether a container's last ends are counted still.
func (w *world) crashed(object [2]string) bool {
	c, err := w.d.Container(person, namespaceOf(object[0]), object[1])
	return err == nil && state.Count(c.Labels, state.LabelFailures) > 0
}

// jump checks that setting the clock between an exit and the first look at it neither shortens nor lengthens the backoff
// of a crash loop. The waits double, and may be a fifth longer than that.
func (w *world) jump(objects [][2]string) {
	at := slices.IndexFunc(objects, func(o [2]string) bool { return !w.crashed(o) && !w.check.edited(namespaceOf(o[0])+"/"+o[1]) })
	if at < 0 {
		return // nobody knows how long they have to wait
	}
	o := objects[at]
	const runs, slack = 300 * time.Millisecond, 200 * time.Millisecond
	ns := namespaceOf(o[0])
	defer w.mended(retried, "a crash loop has ended")
	defer w.act(action{verb: "habit", args: []string{o[0], o[1], "none"}})
	w.act(action{verb: "habit", args: []string{o[0], o[1], "crash"}})
	w.act(action{verb: "ctr", args: []string{o[0], o[1], "kill"}})
	restarts := w.d.Run(ns, o[1]).Starts + 1 // the first one comes at once
	for wait := time.Second; wait <= 16*time.Second; wait *= 2 {
		if !w.restarts(o, restarts, slack) {
			return
		}
		w.d.HookEvents(func(fakectrd.Event) fakectrd.EventFault { return fakectrd.EventFault{Drop: true} })
		w.idle(runs + slack)
		switch wait {
		case 4 * time.Second:
			w.act(action{verb: "clock", args: []string{"1h"}})
		case 8 * time.Second:
			w.act(action{verb: "clock", args: []string{"-2h"}})
		}
		w.d.HookEvents(w.event)
		w.d.BreakStreams() // and so everything is looked at again
		w.idle(wait - 2*slack)
		if w.d.Run(ns, o[1]).Starts > restarts {
			w.check.fail("P10", "%v was started again before %s were over", o, wait)
			return
		}
		if restarts++; !w.restarts(o, restarts, wait/5+3*slack) {
			return
		}
	}
}

// restarts waits until a container was started as often as that.
func (w *world) restarts(o [2]string, starts int, limit time.Duration) bool {
	for began := time.Now(); w.d.Run(namespaceOf(o[0]), o[1]).Starts < starts; w.idle(50 * time.Millisecond) {
		if time.Since(began) > limit {
			w.check.fail("P10", "%v was not started again in time: %s", o, w.told())
			return false
		}
	}
	return true
}

// alter has a container's manifest ask for another one; false when there is none, for what is never pruned.
func (w *world) alter(object [2]string) (altered bool) {
	w.dir.edit(func() {
		for path, doc := range w.dir.files {
			at := slices.IndexFunc(doc.containers, func(c container) bool { return c.id == object[1] })
			if doc.realm != object[0] || at < 0 {
				continue
			}
			doc.containers = slices.Clone(doc.containers)
			doc.containers[at].env += 7
			w.dir.files[path] = doc
			altered = true
		}
	})
	return altered
}

// stubborn checks that a stop is bounded: a process that ignores every signal is asked, killed and told of, nobody waits
// for it, and it is replaced once it ends.
func (w *world) stubborn(objects [][2]string) {
	o := objects[0]
	ns := namespaceOf(o[0])
	w.act(action{verb: "habit", args: []string{o[0], o[1], "unkillable"}})
	w.act(action{verb: "ctr", args: []string{o[0], o[1], "rm-all"}})
	if !w.mended(quick, "a container was deleted") {
		return
	}
	w.act(action{verb: "habit", args: []string{o[0], o[1], "none"}})
	if !w.alter(o) {
		_ = w.d.Rouse(ns, o[1]) // it runs
		return
	}
	for _, other := range objects[1:] {
		w.act(action{verb: "ctr", args: []string{other[0], other[1], "rm-all"}})
	}
	w.idle(quick)
	for _, other := range objects[1:] {
		if w.d.Run(namespaceOf(other[0]), other[1]).Live != 1 {
			w.check.fail("P11", "%v waits for the stop of %v: %s", other, o, w.told())
			return
		}
	}
	w.idle(bounded)
	for _, r := range w.proc.manager.Realms() {
		if string(r.Name) == o[0] && r.InSync {
			w.check.fail("P14", "status says that %s is in sync while an old process of %s cannot be killed", o[0], o[1])
		}
	}
	if w.d.Run(ns, o[1]).Live != 1 {
		w.check.fail("P5", "a process of %v that cannot be killed is gone", o)
	}
	if err := w.d.Rouse(ns, o[1]); err != nil {
		w.check.fail("P5", "%v: %v", o, err)
		return
	}
	w.mended(retried, "a process ended at last that had survived SIGKILL")
}
