package simulate

import (
	"math/rand/v2"
	"strconv"
	"time"
)

// generator makes random histories. It remembers what it let the manifests say, so that most of its actions meet
// something.
type generator struct {
	*rand.Rand
	declared map[string][]string // realm to ids
	parts    []string            // realms that have a container document
}

// generate returns the history of a seed.
func generate(seed uint64) history {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), declared: map[string][]string{}}
	h := history{version: g.one("2.4", "2.4", "1.6"), epilogue: g.one("rest", "rest", "deaf", "stubborn")}
	h.actions = append(h.actions, g.edit("alpha"), g.edit("beta"))
	if g.IntN(2) == 0 {
		h.actions = append(h.actions, g.edit("gamma"))
	}
	if g.IntN(6) == 0 {
		h.actions = append(h.actions, g.part("alpha"))
	}
	for i := range h.actions {
		h.actions[i].pause = 0
	}
	for range 4 + g.IntN(14) {
		h.actions = append(h.actions, g.action())
	}
	return h
}

func (g *generator) one(words ...string) string { return words[g.IntN(len(words))] }

func (g *generator) number(below int) string { return strconv.Itoa(g.IntN(below)) }

// pause is short more often than not: things that come together are what breaks.
func (g *generator) pause() time.Duration {
	pauses := []time.Duration{0, 0, time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond,
		time.Second, time.Second, 3 * time.Second, 3 * time.Second, 11 * time.Second, 11 * time.Second, 30 * time.Second, 65 * time.Second}
	return pauses[g.IntN(len(pauses))]
}

func (g *generator) while() string {
	return g.one("50ms", "500ms", "2s", "4s", "15s")
}

// realm is one that is declared, mostly.
func (g *generator) realm() string { return realms[g.IntN(len(realms))] }

// object is a container that is declared, mostly.
func (g *generator) object() (realm, id string) {
	for range 3 {
		realm = g.realm()
		if ids := g.declared[realm]; len(ids) > 0 {
			return realm, ids[g.IntN(len(ids))]
		}
	}
	return realm, "a"
}

func (g *generator) container(id string) string {
	c := container{
		id: id, image: g.one("1", "1", "1", "2", "3"), policy: g.one("always", "always", "always", "on-failure", "never"),
		env: g.IntN(3) / 2, grace: []int{10, 10, 10, 1, 0}[g.IntN(5)],
	}
	if g.IntN(40) == 0 {
		c.image = missingImage
	}
	return c.String()
}

func (g *generator) edit(realm string) action {
	a := action{verb: "edit", args: []string{realm}}
	switch g.IntN(20) {
	case 0:
		a.args = append(a.args, "keep")
	case 1:
		a.args = append(a.args, "retain")
	case 2:
		a.args = append(a.args, "suspended")
	}
	g.declared[realm] = nil
	for _, id := range []string{"a", "b", "c"} {
		if g.IntN(3) > 0 {
			a.args = append(a.args, g.container(id))
			g.declared[realm] = append(g.declared[realm], id)
		}
	}
	return a
}

// part declares a container in a document of its own.
func (g *generator) part(realm string) action {
	g.declared[realm] = append(g.declared[realm], "p")
	g.parts = append(g.parts, realm)
	return action{verb: "part", args: []string{realm, g.container("p")}}
}

// action is one random action.
func (g *generator) action() action {
	w := g.IntN(100)
	var a action
	switch {
	case w < 30:
		a = g.manifests()
	case w < 62:
		a = g.containerd()
	case w < 84:
		a = g.people()
	default:
		a = g.ourselves()
	}
	a.pause = g.pause()
	return a
}

func (g *generator) manifests() action {
	r := g.realm()
	act := func(verb string, args ...string) action { return action{verb: verb, args: args} }
	switch g.IntN(20) {
	case 0, 1, 2, 3, 4, 5:
		return g.edit(r)
	case 6, 7:
		return act("remove", r)
	case 8:
		return act("tombstone", r)
	case 9, 10:
		return act("break", r, g.one("empty", "cut", "unknown", "null"))
	case 11:
		return act("writing", r, g.while())
	case 12:
		return act("vim", r, g.one("100ms", "1s", "2500ms"))
	case 13:
		return act("rename", r)
	case 14:
		return act("aside", r)
	case 15:
		return g.part(r)
	case 16:
		if len(g.parts) > 0 {
			r = g.one(g.parts...)
		}
		return act("unpart", r)
	case 17:
		return act("missing", g.while())
	case 18:
		return act("replace", g.one("full", "empty"), g.while())
	}
	return g.pick(act("deaf", g.while()), act("comment", r))
}

func (g *generator) containerd() action {
	r, id := g.object()
	act := func(verb string, args ...string) action { return action{verb: verb, args: args} }
	switch g.IntN(29) {
	case 0, 1:
		return act("lose", g.number(12), g.one("away", "late", "other"))
	case 2:
		return act("blind", g.number(30), g.one("1", "1", "5"), g.one("away", "late", "other"))
	case 3, 4, 5:
		return act("forget", g.number(12), g.one("away", "late"))
	case 6, 7:
		return act("slow", g.number(15), g.one("1", "3", "20"), g.one("50ms", "300ms", "1500ms", "5s", "40s"))
	case 8, 9, 10:
		return act("events", g.one("1", "5", "1000"), g.one("drop", "twice", "late", "swap"), g.one("10ms", "2s"))
	case 11:
		return act("down", g.while())
	case 12:
		return act("restart")
	case 13:
		return act("reboot")
	case 14, 15:
		return act("exit", r, id, g.one("0", "1", "137", "oom", "oom"))
	case 16, 17:
		return act("habit", r, id, g.one("crash", "instant", "stubborn", "slow", "fail", "done", "stays", "stays", "none", "unkillable", "unkillable", "unkillable"))
	case 18:
		return act("shim", r, id)
	case 19:
		return act("hang", r, id, g.while())
	case 20:
		return act("away", g.while())
	case 21:
		return act("shim", r, id)
	case 22:
		return act("hang", r, id, "90s")
	case 23, 24, 25:
		return act("crash-at", g.number(12), g.one("before", "after"))
	case 26:
		return act("break-stream")
	case 27:
		return act("unleash", g.number(6))
	}
	return act("gc")
}

func (g *generator) people() action {
	r, id := g.object()
	act := func(verb string, args ...string) action { return action{verb: verb, args: args} }
	switch g.IntN(23) {
	case 0:
		return act("ctr", r, id, "kill")
	case 1:
		return act("ctr", r, id, "term")
	case 16, 17:
		return act("stamp", r, g.one("owner", "realm", "managed-by", "team"))
	case 18:
		return act("ctr", r, id, "image-label")
	case 19:
		return act("ctr", r, id, "content-rm")
	case 20:
		return act("import", r, g.one("1", "2", "3"))
	case 21, 22:
		return act("guest-rm")
	case 2:
		return act("ctr", r, id, "task-rm")
	case 3:
		return act("ctr", r, id, "rm")
	case 4:
		return act("ctr", r, id, "rm-all")
	case 5, 6:
		return act("ctr", r, id, "pause")
	case 7, 8:
		return act("ctr", r, id, "snapshot-rm")
	case 9:
		return act("ctr", r, id, "image-rm")
	case 10, 11:
		return g.pick(act("label", r, id, "app", "other"), act("label", r, id, "source"), act("label", r, id, "owner"),
			act("label", r, id, "started"), act("label", r, id, "failures", "many"))
	case 12:
		return act("take", r, id, g.one("leave", "leave", "stay"))
	case 13:
		return act("guest", g.one(namespaceOf(r), namespaceOf(r), "moby", "default"))
	case 14:
		return act("confirm")
	}
	return act("suspend", r, g.while())
}

func (g *generator) ourselves() action {
	act := func(verb string, args ...string) action { return action{verb: verb, args: args} }
	switch g.IntN(17) {
	case 0, 1, 2:
		return act("kill")
	case 3, 4, 5, 6, 7:
		return act("kill-at", g.number(12), g.one("before", "after"))
	case 8, 9:
		return act("kill-at", "0", g.one("save-before", "save-after"))
	case 10, 11:
		return act("stop")
	case 12:
		return act("lost")
	case 13, 14:
		return act("full", g.while())
	}
	return act("clock", g.one("1h", "-1h", "30s", "-30s", "-262800h", "8760h"))
}

func (g *generator) pick(actions ...action) action { return actions[g.IntN(len(actions))] }
