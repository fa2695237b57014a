package simulate

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
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
	h := history{version: g.one("2.4", "2.4", "2.4", "1.6", "1.6"), epilogue: g.one("rest", "repair", "deaf", "stubborn", "clock")}
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
	for range 2 { // so that nothing is rare, and any two things come together
		at := 2 + g.IntN(len(h.actions)-1)
		h.actions = slices.Insert(h.actions, at, g.by(recipes[g.IntN(len(recipes))]))
	}
	return h
}

func (g *generator) one(words ...string) string { return words[g.IntN(len(words))] }

func (g *generator) number(below int) string { return strconv.Itoa(g.IntN(below)) }

// pause is short more often than not: things that come together are what breaks.
func (g *generator) pause() time.Duration {
	pauses := []time.Duration{0, 0, 0, 0, time.Millisecond, time.Millisecond, 20 * time.Millisecond, 20 * time.Millisecond,
		100 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond, 400 * time.Millisecond, time.Second, time.Second,
		time.Second, 3 * time.Second, 3 * time.Second, 3 * time.Second, 11 * time.Second, 11 * time.Second, 30 * time.Second,
		65 * time.Second}
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
	w := g.IntN(weights)
	for _, r := range recipes {
		if w -= r.weight; w < 0 {
			return g.by(r)
		}
	}
	panic("the weights do not add up")
}

// by makes an action by a recipe.
func (g *generator) by(r recipe) action {
	realm, id := g.object()
	a := r.make(g, realm, id)
	a.pause = g.pause()
	return a
}

// recipe makes an action that concerns a realm, or a container of it. The heavier it is the more often it is taken:
// those that find what they need are light.
type recipe struct {
	weight int
	make   func(g *generator, realm, id string) action
}

// weights is the weight of all recipes.
var weights = func() (sum int) {
	for _, r := range recipes {
		sum += r.weight
	}
	return sum
}()

// act is a recipe without any chance. REALM and ID stand for those it concerns, FOR for a while.
func act(weight int, words ...string) recipe {
	return recipe{weight, func(g *generator, realm, id string) action {
		a := action{verb: words[0]}
		for _, word := range words[1:] {
			switch word {
			case "REALM":
				word = realm
			case "ID":
				word = id
			case "FOR":
				word = g.while()
			default:
				word = g.one(strings.Split(word, "|")...)
			}
			a.args = append(a.args, word)
		}
		return a
	}}
}

// call is a recipe for a fault that strikes one of the next calls.
func call(weight int, verb string, among int, words ...string) recipe {
	return recipe{weight, func(g *generator, realm, id string) action {
		a := act(1, append([]string{verb}, words...)...).make(g, realm, id)
		a.args = append([]string{g.number(among)}, a.args...)
		return a
	}}
}

// write is a recipe for a fault that strikes one of the next writes, or one of the next of a certain kind.
func write(weight int, verb string, words ...string) recipe {
	return recipe{weight, func(g *generator, realm, id string) action {
		a := call(1, verb, 12, words...).make(g, realm, id)
		switch g.IntN(15) {
		case 0, 1:
			a.args[0] = g.number(2)
			a.args = append(a.args, g.one(writes...))
		case 2, 3, 4, 5:
			a.args[0] = "0"
			a.args = append(a.args, g.one(rareWrites...))
		}
		return a
	}}
}

// writes are all calls by which the controller changes something of its own accord. (Only `release`, which a person asks
// for, relabels images.)
var writes = []string{
	"CreateContainer", "CreateLease", "CreateNamespace", "CreateTask", "DeleteContainer", "DeleteImage", "DeleteLease",
	"DeleteNamespace", "DeleteTask", "ImportArchive", "KillTask", "PrepareSnapshot", "Pull", "RemoveSnapshot", "ResumeTask",
	"SetNamespaceLabel", "StartTask", "Unpack", "UpdateContainer",
}

// rareWrites are those that few histories make more than once.
var rareWrites = []string{"CreateNamespace", "DeleteImage", "DeleteNamespace", "ImportArchive", "ResumeTask", "SetNamespaceLabel"}

const faultOfCall = "away|late|other"

var recipes = []recipe{
	// The manifests.
	{30, func(g *generator, realm, _ string) action { return g.edit(realm) }},
	{8, func(g *generator, realm, _ string) action { return g.part(realm) }},
	{12, func(g *generator, realm, _ string) action {
		if len(g.parts) == 0 {
			return g.part(realm)
		}
		return action{verb: "unpart", args: []string{g.one(g.parts...)}}
	}},
	act(12, "remove", "REALM"), act(8, "tombstone", "REALM"), act(8, "break", "REALM", "empty|cut"), act(8, "break", "REALM", "unknown|null"),
	act(8, "writing", "REALM", "FOR"), act(8, "vim", "REALM", "100ms|1s|2500ms"), act(8, "rename", "REALM"), act(8, "aside", "REALM"),
	act(8, "comment", "REALM"), act(7, "missing", "FOR"), act(7, "replace", "full", "FOR"), act(7, "replace", "empty", "FOR"),
	act(7, "deaf", "FOR"), act(12, "drop", "REALM", "1|2|3|3|9|bad|none"),

	// Containerd and its processes.
	write(9, "lose", faultOfCall), write(9, "forget", "away|late"), call(7, "blind", 30, "1|1|5", faultOfCall),
	call(7, "slow", 15, "1|3|20", "50ms|300ms|1500ms|5s|40s"), call(7, "slow", 15, "1|3|20", "50ms|300ms|1500ms|5s|40s", "back"), write(9, "crash-at", "before"), write(9, "crash-at", "after"),
	call(16, "unleash", 6),
	act(9, "events", "1|5|1000", "drop"), act(9, "events", "1|5|1000", "twice"), act(9, "events", "2|5|1000", "swap"),
	act(9, "events", "1|5|1000", "late", "10ms|2s"),
	act(7, "break-stream"), act(7, "down", "FOR"), act(7, "restart"), act(7, "reboot"), act(4, "gc"), act(7, "away", "FOR"),
	act(16, "exit", "REALM", "ID", "0|1|137"), act(16, "exit", "REALM", "ID", "oom"), act(13, "shim", "REALM", "ID"),
	act(14, "hang", "REALM", "ID", "50ms|500ms|2s|4s|15s|90s"),
	act(5, "habit", "REALM", "ID", "crash|instant|stubborn|slow|fail|done|stays|stays|none"), act(7, "habit", "REALM", "ID", "unkillable"),

	// People.
	act(13, "ctr", "REALM", "ID", "kill"), act(16, "ctr", "REALM", "ID", "term"), act(16, "ctr", "REALM", "ID", "task-rm"),
	act(6, "ctr", "REALM", "ID", "rm"), act(8, "ctr", "REALM", "ID", "rm-all"), act(20, "ctr", "REALM", "ID", "pause"),
	act(11, "ctr", "REALM", "ID", "snapshot-rm"), act(11, "ctr", "REALM", "ID", "image-rm"), act(11, "ctr", "REALM", "ID", "image-label"),
	act(11, "ctr", "REALM", "ID", "content-rm"),
	act(2, "label", "REALM", "ID", "app", "other"), act(8, "label", "REALM", "ID", "source|owner|started"),
	act(2, "label", "REALM", "ID", "failures", "many"), act(6, "label", "REALM", "ID", label, "x"),
	act(9, "stamp", "REALM", "owner|realm|managed-by|team"), act(12, "take", "REALM", "ID", "leave|leave|stay"), call(8, "usurp", 6),
	{9, func(g *generator, realm, _ string) action {
		return action{verb: "guest", args: []string{g.one(namespaceOf(realm), namespaceOf(realm), "moby", "default")}}
	}},
	act(7, "guest-rm"),
	act(7, "import", "REALM", "1|2|3"), act(4, "confirm"), act(9, "suspend", "REALM", "FOR"),

	// Ourselves and the host.
	act(5, "kill"), write(8, "kill-at", "before"), write(8, "kill-at", "after"), act(10, "kill-at", "0", "save-before|save-after"),
	act(7, "stop"), act(7, "lost"), act(10, "full", "FOR"), act(7, "clock", "1h|-1h|30s|-30s|-262800h|8760h"),
}
