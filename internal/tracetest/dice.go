package tracetest

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// overlayfs is the snapshotter that the product uses.
const overlayfs = "overlayfs"

// Program is what a container runs.
type Program string

// The programs. As the first process of its container one is spared the signals that it does not handle.
const (
	Forever   Program = "forever"   // runs until SIGKILL
	Steerable Program = "steerable" // exits with 7 on SIGTERM, with 3 on SIGUSR1 and with 0 on SIGUSR2
	Fails     Program = "fails"     // exits with 3 at once
	Absent    Program = "absent"    // is not in the image
)

// Args is the program's command line in busybox.
func (p Program) Args() []string {
	switch p {
	case Steerable:
		return []string{"/bin/sh", "-c", "trap 'exit 7' TERM; trap 'exit 3' USR1; trap 'exit 0' USR2; echo ready; " +
			"while :; do sleep 100000 & wait; done"}
	case Fails:
		return []string{"/bin/sh", "-c", "exit 3"}
	case Absent:
		return []string{"/bin/not-there"}
	}
	return []string{"/bin/sleep", "100000"}
}

// programOf is the opposite of Args.
func programOf(args []string) Program {
	for _, p := range []Program{Steerable, Fails, Absent} {
		if strings.Join(args, " ") == strings.Join(p.Args(), " ") {
			return p
		}
	}
	return Forever
}

// dice draw the arguments of steps. The alphabets are small, so that names meet again.
type dice struct{ *rand.Rand }

// odds are alternatives with their weights.
type odds[T any] []struct {
	weight int
	value  T
}

func draw[T any](d dice, o odds[T]) T {
	sum := 0
	for _, a := range o {
		sum += a.weight
	}
	n := d.IntN(sum)
	for _, a := range o {
		if n -= a.weight; n < 0 {
			return a.value
		}
	}
	panic("weights that do not add up")
}

func (d dice) one(in int) bool { return d.IntN(in) == 0 }

func (d dice) ns() string {
	return draw(d, odds[string]{{90, "a"}, {9, "b"}, {1, "-bad"}})
}

func (d dice) container() string {
	return draw(d, odds[string]{{75, "c1"}, {22, "c2"}, {1, "none"}, {2, "bad/id"}})
}

// snapshotOf is a key that goes with a container, or another.
func (d dice) snapshotOf(container string) string {
	if d.one(10) {
		return d.snapshot()
	}
	return strings.Replace(container, "c", "s", 1)
}

func (d dice) snapshot() string {
	return draw(d, odds[string]{{70, "s1"}, {20, "s2"}, {4, "A/1"}, {4, "B/2"}, {2, "none"}})
}

func (d dice) parent() string {
	return draw(d, odds[string]{{60, "A/1"}, {15, "B/2"}, {13, ""}, {6, "s1"}, {6, "none"}})
}

func (d dice) snapshotter() string {
	return draw(d, odds[string]{{97, overlayfs}, {1, "no-such"}, {1, "native"}})
}

// pulled is a reference to pull, stored one that a namespace may hold.
func (d dice) pulled() string {
	return draw(d, odds[string]{{55, "A"}, {20, "B"}, {17, "moving"}, {4, "missing"}, {4, "unreachable"}})
}

func (d dice) stored() string {
	return draw(d, odds[string]{{55, "A"}, {20, "B"}, {12, "moving"}, {10, "imported"}, {3, "missing"}})
}

func (d dice) lease() string {
	return draw(d, odds[string]{{60, "l1"}, {40, "kukeon/a/create/docker.io/library/web:1"}})
}

func (d dice) label() string {
	return draw(d, odds[string]{{50, "k"}, {50, "reconciler.kukeon.io/x"}})
}

func (d dice) value() string {
	return draw(d, odds[string]{{40, "1"}, {40, "2"}, {15, ""}, {5, strings.Repeat("x", 4096)}})
}

// labels are a few, or none.
func (d dice) labels() map[string]string {
	if d.one(3) {
		return nil
	}
	out := map[string]string{}
	for range 1 + d.IntN(2) {
		out[d.label()] = d.value()
	}
	return out
}

func (d dice) snapshotLabels() map[string]string {
	out := d.labels()
	if out != nil && d.one(5) {
		out["containerd.io/gc.root"] = "now"
	}
	return out
}

func (d dice) program() Program {
	return draw(d, odds[Program]{{40, Steerable}, {30, Forever}, {22, Fails}, {8, Absent}})
}

// brief prints labels for a step's text.
func brief(labels map[string]string) string {
	if labels == nil {
		return ""
	}
	text := printLabels(labels)
	return fmt.Sprintf(" [%s]", strings.TrimSpace(strings.ReplaceAll(text, strings.Repeat("x", 4096), "xxx...")))
}
