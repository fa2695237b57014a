package simulate

import (
	"strings"
	"time"

	"kukeon.io/kukeon-reconciler/internal/fakectrd"
)

// verbs are everything that can happen. Each says, by counting the fault, whether it found what it needs: an action on a
// container that is not there does nothing.
var verbs = map[string]func(*world, action){
	// The manifests.
	"edit":      (*world).edit,      // realm [keep|suspended|retain] id:image:policy:env:grace...
	"remove":    (*world).remove,    // realm
	"tombstone": (*world).tombstone, // realm
	"break":     (*world).damage,    // realm empty|cut|open|unknown|null
	"writing":   (*world).writing,   // realm duration
	"vim":       (*world).vim,       // realm duration: away, then back
	"rename":    (*world).rename,    // realm
	"aside":     (*world).aside,     // realm
	"part":      (*world).part,      // realm id:image:policy:env:grace
	"unpart":    (*world).unpart,    // realm
	"comment":   (*world).comment,   // realm
	"missing":   (*world).missing,   // duration
	"replace":   (*world).replace,   // full|empty duration
	"deaf":      (*world).deafen,    // duration
	"drop":      (*world).drop,      // realm tag|bad|none: an archive

	// Containerd and its processes.
	"lose":         (*world).loseRequest, // skip away|late|other [method]
	"forget":       (*world).loseReply,   // skip away|late [method]
	"blind":        (*world).blind,       // skip n away|late|other: reads
	"slow":         (*world).slow,        // skip n delay [back]: on its way back
	"events":       (*world).spoil,       // n drop|twice|late|swap delay
	"down":         (*world).down,        // duration
	"restart":      (*world).restart,
	"crash-at":     (*world).crashAt, // skip before|after [method]: containerd
	"break-stream": (*world).breakStream,
	"unleash":      (*world).unleash, // skip
	"reboot":       (*world).reboot,
	"gc":           func(w *world, _ action) { w.d.GC() },
	"exit":         (*world).exit,     // realm id code|oom
	"habit":        (*world).habit,    // realm id crash|instant|stubborn|slow|fail|done|stays|unkillable|none
	"shim":         (*world).killShim, // realm id
	"hang":         (*world).hang,     // realm id duration
	"away":         (*world).away,     // duration: the registry

	// A person with ctr, or with our own commands.
	"ctr":      (*world).ctr,   // realm id kill|term|task-rm|rm|rm-all|pause|snapshot-rm|image-rm|image-label|content-rm
	"stamp":    (*world).stamp, // realm key: a label of its namespace
	"label":    (*world).label, // realm id key value
	"take":     (*world).take,  // realm id stay|leave: another container in its place
	"usurp":    (*world).await, // skip: the same, just as we begin to act on it
	"guest":    (*world).guest, // namespace
	"guest-rm": (*world).guestLeaves,
	"import":   (*world).importImage, // realm tag
	"confirm":  (*world).confirm,     // what waits
	"suspend":  (*world).suspend,     // realm duration

	// Ourselves and the host.
	"kill":    (*world).sigkill,
	"kill-at": (*world).killAt, // skip before|after|save-before|save-after [method]
	"stop":    (*world).sigterm,
	"lost":    (*world).loseState,
	"full":    (*world).full,  // duration
	"clock":   (*world).clock, // duration
}

// act carries out an action; its pause has passed.
func (w *world) act(a action) {
	w.check.disturbed()
	verbs[a.verb](w, a)
}

// later undoes something after a while, unless the history has ended by then.
func (w *world) later(after time.Duration, undo func()) {
	time.AfterFunc(after, func() {
		w.mu.Lock()
		healed := w.healed
		w.mu.Unlock()
		if !healed {
			undo()
		}
	})
}

func errorOf(word string) error {
	switch word {
	case "late":
		return errLate
	case "other":
		return errOther
	}
	return errAway
}

func (w *world) loseRequest(a action) {
	w.inject(callFault{kind: "request lost", skip: a.number(0), n: 1, writes: true, method: a.arg(2), err: errorOf(a.arg(1))})
}

func (w *world) loseReply(a action) {
	w.inject(callFault{kind: "reply lost", skip: a.number(0), n: 1, writes: true, method: a.arg(2), err: errorOf(a.arg(1))})
}

func (w *world) blind(a action) {
	w.inject(callFault{kind: "read lost", skip: a.number(0), n: a.number(1), reads: true, err: errorOf(a.arg(2))})
}

func (w *world) crashAt(a action) {
	w.inject(callFault{kind: "containerd killed " + a.arg(1) + " a call", skip: a.number(0), n: 1, writes: true, method: a.arg(2)})
}

func (w *world) breakStream(action) {
	w.d.BreakStreams()
	w.fired("event stream broken")
}

// unleash is a person who removes the lease that a call is made under, and the garbage collector that comes after.
func (w *world) unleash(a action) {
	w.inject(callFault{kind: "lease removed by ctr", skip: a.number(0), n: 1, writes: true, leased: true})
}

func (w *world) slow(a action) {
	kind := map[bool]string{true: "slow reply", false: "slow call"}[a.arg(3) == "back"]
	w.inject(callFault{kind: kind, skip: a.number(0), n: a.number(1), delay: a.duration(2)})
}

func (w *world) killAt(a action) {
	switch how, save := strings.CutPrefix(a.arg(1), "save-"); {
	case save:
		w.disk.mu.Lock()
		defer w.disk.mu.Unlock()
		w.disk.killAt = how
	default:
		w.inject(callFault{kind: "killed " + how + " a call", skip: a.number(0), n: 1, writes: true, method: a.arg(2)})
	}
}

func (w *world) spoil(a action) {
	f := eventFault{n: a.number(0)}
	switch a.arg(1) {
	case "drop":
		f.kind, f.fault = "event dropped", fakectrd.EventFault{Drop: true}
	case "twice":
		f.kind, f.fault = "event doubled", fakectrd.EventFault{Twice: true}
	case "swap":
		f.kind, f.fault = "event reordered", fakectrd.EventFault{Swap: true}
	default:
		f.kind, f.fault = "event late", fakectrd.EventFault{Delay: a.duration(2)}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, f)
}

func (w *world) down(a action) {
	w.d.Down()
	w.fired("containerd down")
	w.later(a.duration(0), w.d.Up)
}

func (w *world) restart(action) {
	w.d.Restart()
	w.fired("containerd restarted")
}

// reboot ends everything at once. The clock of the host says something else afterwards.
func (w *world) reboot(action) {
	w.proc.kill()
	w.d.Reboot()
	w.boot++
	w.alone(func() { w.baseline = w.foreign() })
	w.fired("host rebooted")
}

// isOurs reports whether nobody else made a container.
func (w *world) isOurs(ns, id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.foreigners[ns+"/"+id]
}

func (w *world) exit(a action) {
	ns, id := namespaceOf(a.arg(0)), a.arg(1)
	if a.arg(2) == "oom" {
		if w.isOurs(ns, id) && w.d.OOM(ns, id) == nil {
			w.fired("out of memory")
		}
		return
	}
	code := uint32(a.number(2))
	if w.isOurs(ns, id) && w.d.Exit(ns, id, code) == nil {
		w.fired("process exit")
	}
}

var habits = map[string]fakectrd.Process{
	"crash":    {ExitAfter: 300 * time.Millisecond, ExitCode: 1},
	"instant":  {ExitAfter: -1, ExitCode: 3},
	"stubborn": {IgnoreTerm: true},
	"slow":     {TermAfter: 2 * time.Second},
	"fail":     {FailStart: true},
	"done":     {ExitAfter: 2 * time.Second},
	"stays":    {}, // a one-shot, too

	"unkillable": {IgnoreTerm: true, Unkillable: true},
}

func (w *world) habit(a action) {
	p, misbehaves := habits[a.arg(2)]
	switch {
	case p.Unkillable:
		w.fired("process cannot be killed")
	case misbehaves:
		w.fired("process misbehaves")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key := namespaceOf(a.arg(0)) + "/" + a.arg(1)
	if w.habits[key] = p; !misbehaves {
		delete(w.habits, key)
	}
}

func (w *world) killShim(a action) {
	ns, id := namespaceOf(a.arg(0)), a.arg(1)
	if w.isOurs(ns, id) && w.d.KillShim(ns, id) == nil {
		w.fired("shim killed")
	}
}

func (w *world) hang(a action) {
	ns, id := namespaceOf(a.arg(0)), a.arg(1)
	if w.isOurs(ns, id) && w.d.HangShim(ns, id) == nil {
		w.fired("shim hung, " + map[bool]string{true: "unknown in lists", false: "missing from lists"}[w.version == "1.6"])
		w.later(a.duration(2), func() { _ = w.d.UnhangShim(ns, id) }) // it may be gone
	}
}

func (w *world) away(a action) {
	w.d.Registry.SetUnreachable(true)
	w.fired("registry away")
	w.later(a.duration(0), func() { w.d.Registry.SetUnreachable(false) })
}

func (w *world) sigkill(action) {
	if w.proc.alive() {
		w.proc.kill()
		w.fired("we are killed")
	}
}

func (w *world) sigterm(action) {
	if !w.proc.alive() {
		return
	}
	if took := w.stop(); took > 5*time.Second {
		w.check.fail("P11", "the daemon took %s to stop", took)
	}
	w.fired("we are stopped")
}

func (w *world) loseState(action) {
	w.proc.kill()
	<-w.proc.ended
	w.disk.lose()
	w.check.lost()
	w.stateLost = true
	w.fired("state lost")
}

func (w *world) full(a action) {
	set := func(full bool) {
		w.disk.mu.Lock()
		defer w.disk.mu.Unlock()
		w.disk.full = full
	}
	set(true)
	w.later(a.duration(0), func() { set(false) })
}

func (w *world) clock(a action) {
	w.mu.Lock()
	w.shift += a.duration(0)
	w.mu.Unlock()
	w.check.jump()
	w.fired("clock set")
}
