package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/internal/testenv"
)

// faults are the kinds, and how many cards of the deck are theirs: about two minutes go through it. A strike returns
// what it hit, or errMissed when there was nothing to hit just now.
var faults = []struct {
	kind   string
	cards  int
	strike func(*chaos, string) (string, error)
}{
	{"kill -9 of us", 6, (*chaos).killUs},
	{"kill -9 of us, back after 5 s", 2, (*chaos).killUs},
	{"kill -9 of logd", 1, (*chaos).killLogd},
	{"kill -9 of containerd", 5, (*chaos).killContainerd},
	{"kill -9 of a shim", 7, (*chaos).killShim},
	{"SIGSTOP of a shim, 1-30 s", 6, (*chaos).stopShim},
	{"ctr task kill", 6, onTask("tasks", "kill", "-s", "KILL")},
	{"ctr task rm -f", 5, onTask("tasks", "rm", "-f")},
	{"ctr task pause", 3, (*chaos).pause},
	{"ctr container rm", 5, (*chaos).removeContainer},
	{"ctr snapshot rm", 4, (*chaos).removeSnapshot},
	{"ctr label edit", 4, (*chaos).editLabels},
	{"manifest: env", 6, (*chaos).editEnv},
	{"manifest: env, and back within 300 ms", 3, (*chaos).editEnvAndBack},
	{"manifest: container added or removed", 5, (*chaos).addOrRemove},
	{"manifest: file renamed", 3, (*chaos).rename},
	{"manifest: comment", 2, (*chaos).comment},
	{"manifest: truncated, mended later", 3, (*chaos).damage},
	{"manifest: invalid, mended later", 3, (*chaos).damage},
	{"disk full, 10 s: state", 1, (*chaos).fillDisk},
	{"disk full, 10 s: containerd", 1, (*chaos).fillDisk},
	{"disk full, 10 s: logs", 1, (*chaos).fillDisk},
}

// errMissed means that a fault found nothing to hit, or that what it hit was gone before.
var errMissed = errors.New("missed")

// full is for how long a disk is.
const full = 10 * time.Second

// storm makes faults, one every 1-3 s, and keeps the appointments of those that last.
func (c *chaos) storm(length time.Duration) {
	GinkgoHelper()
	c.began = time.Now()
	end, lasting := c.began.Add(length), c.began.Add(time.Duration(float64(length)*(1-lastingShare)))
	next, judged, told := c.began, c.began, c.began
	for now := c.began; now.Before(end); now = time.Now() {
		c.keepAppointments(now)
		c.supervise()
		if !now.Before(next) {
			next = now.Add(time.Second + time.Duration(c.dice.Int64N(int64(time.Second))))
			c.strike(now.Before(lasting))
		}
		if now.Sub(judged) >= judgeInterval {
			judged = now
			c.judge()
		}
		if now.Sub(told) >= 10*time.Second {
			told = now
			c.tell()
		}
		c.wait(50 * time.Millisecond)
	}
}

// strike makes the next fault of the deck, or the one after it when that misses.
func (c *chaos) strike(mayKillUs bool) {
	GinkgoHelper()
	for range 5 {
		f := faults[c.draw()]
		if strings.HasPrefix(f.kind, "kill -9 of us") && !mayKillUs {
			continue
		}
		began := time.Now()
		target, err := f.strike(c, f.kind)
		if err == nil {
			c.log = append(c.log, chaosFault{began, f.kind, target})
			return
		}
		c.missed++
		if !errors.Is(err, errMissed) {
			c.log = append(c.log, chaosFault{began, "missed: " + f.kind, target + ": " + err.Error()})
		}
	}
}

// draw takes a card off the deck, and shuffles a new one when there is none: so every kind has its turn.
func (c *chaos) draw() int {
	if len(c.deck) == 0 {
		for i, f := range faults {
			c.deck = append(c.deck, slices.Repeat([]int{i}, f.cards)...)
		}
		c.dice.Shuffle(len(c.deck), func(i, j int) { c.deck[i], c.deck[j] = c.deck[j], c.deck[i] })
	}
	card := c.deck[0]
	c.deck = c.deck[1:]
	return card
}

// keepAppointments does what is due.
func (c *chaos) keepAppointments(now time.Time) {
	due := slices.Collect(func(yield func(appointment) bool) {
		for _, a := range c.later {
			if !a.at.After(now) && !yield(a) {
				return
			}
		}
	})
	c.later = slices.DeleteFunc(c.later, func(a appointment) bool { return !a.at.After(now) })
	for _, a := range due {
		a.do()
	}
}

// calmDown ends every fault.
func (c *chaos) calmDown() {
	fmt.Printf("chaos: %s the faults end\n", c.clock())
	for len(c.later) > 0 {
		c.keepAppointments(time.Now().Add(time.Hour))
	}
	c.supervise()
}

// supervise starts us again when nobody meant us to end.
func (c *chaos) supervise() {
	GinkgoHelper()
	if c.alive() || c.away {
		return
	}
	c.violate("we have ended by ourselves: %v", c.process.ProcessState)
	c.relaunch()
}

// relaunch starts us while the watcher may be measuring us.
func (c *chaos) relaunch() {
	GinkgoHelper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.launch(chaosFlags...)
}

// away is for how long a supervisor takes at worst.
const away = 5 * time.Second

func (c *chaos) killUs(kind string) (string, error) {
	GinkgoHelper()
	if c.away {
		return "", errMissed
	}
	pid := strconv.Itoa(c.process.Process.Pid)
	c.disturb(c.realms...)
	c.kill()
	if strings.Contains(kind, "5 s") {
		c.away = true
		c.last(away, func() {
			c.away = false
			c.relaunch()
		}, c.realms...)
		return pid, nil
	}
	c.relaunch()
	c.disturb(c.realms...)
	return pid, nil
}

// killLogd leaves the output to us for as long as a supervisor takes at worst.
func (c *chaos) killLogd(string) (string, error) {
	GinkgoHelper()
	pids := c.logd()
	if len(pids) != 1 {
		return "", errMissed
	}
	c.later = append(c.later, appointment{time.Now().Add(away), func() {
		if len(c.logd()) == 0 { // we start one as well when we are started
			command(binary, append([]string{"logd", "--detach"}, c.flags()...)...)
		}
	}})
	return strconv.Itoa(pids[0]), syscall.Kill(pids[0], syscall.SIGKILL)
}

// killContainerd kills and restarts it, as on a host that clears away its leftovers before. At its start containerd gives up
// shims that do not answer, with what they run.
func (c *chaos) killContainerd(string) (string, error) {
	GinkgoHelper()
	if _, err := os.Stat(c.disks["containerd"].filler()); err == nil {
		return "", errMissed // whether it can start on a full disk is its own affair
	}
	pid := strconv.Itoa(daemon.Pid())
	c.disturb(c.realms...)
	defer c.disturb(c.realms...)
	for _, d := range c.containers(func(d *chaosContainer) bool { return d.hung }) {
		c.excuse("kill -9 of containerd, shim stopped", d, 0)
	}
	err := daemon.Kill(syscall.SIGKILL)
	clearLeftovers()
	for range 3 {
		if err = errors.Join(err, daemon.Restart(context.Background())); err == nil {
			break
		}
	}
	Expect(err).NotTo(HaveOccurred())
	return pid, nil
}

// clearLeftovers does what a host does before its containerd starts.
func clearLeftovers() {
	GinkgoHelper()
	root, err := testenv.Root()
	Expect(err).NotTo(HaveOccurred())
	out, err := exec.Command(filepath.Join(root, "packaging", "containerd-leftovers"), daemon.State).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), string(out))
}

// victim is a container that runs under a shim that answers; nil when there is none.
func (c *chaos) victim() *chaosContainer {
	c.mu.Lock()
	defer c.mu.Unlock()
	run := c.containers(func(d *chaosContainer) bool { return !d.calm && !d.hung && d.pid != 0 })
	if len(run) == 0 {
		return nil
	}
	return run[c.dice.IntN(len(run))]
}

// hit does something to a container that ends its process.
func (c *chaos) hit(kind string, do func(*chaosContainer) error) (string, error) {
	d := c.victim()
	if d == nil {
		return "", errMissed
	}
	c.disturb(d.realm)
	defer c.disturb(d.realm)
	c.excuse(kind, d, d.pid)
	return c.mark(d), do(d)
}

// shimOf is the shim above a container's process.
func shimOf(pid int) (*os.Process, error) {
	parent, err := parentPid(pid)
	if err != nil {
		return nil, err
	}
	name, err := os.ReadFile(proc(parent, "cmdline"))
	if err != nil || !strings.Contains(string(name), "containerd-shim") {
		return nil, errMissed
	}
	return os.FindProcess(parent) // by descriptor, so that no other process is meant later on
}

func (c *chaos) killShim(kind string) (string, error) {
	return c.hit(kind, func(d *chaosContainer) error {
		shim, err := shimOf(d.pid)
		if err != nil {
			return err
		}
		return shim.Kill()
	})
}

func (c *chaos) stopShim(string) (string, error) {
	d := c.victim()
	if d == nil || len(c.containers(func(d *chaosContainer) bool { return d.hung })) > 2 {
		return "", errMissed
	}
	shim, err := shimOf(d.pid)
	if err != nil {
		return "", err
	}
	length := time.Duration(1+c.dice.IntN(30)) * time.Second
	if err := shim.Signal(syscall.SIGSTOP); err != nil {
		return "", err
	}
	c.setHung(d, true)
	c.last(length, func() {
		_ = shim.Signal(syscall.SIGCONT) // or it was ended meanwhile
		c.setHung(d, false)
	}, d.realm)
	return fmt.Sprintf("%s %v (shim %d)", c.mark(d), length, shim.Pid), nil
}

func (c *chaos) setHung(d *chaosContainer, hung bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d.hung = hung
}

// onTask is a strike with a command of ctr that ends in the container's id.
func onTask(args ...string) func(*chaos, string) (string, error) {
	return func(c *chaos, kind string) (string, error) {
		return c.hit(kind, func(d *chaosContainer) error {
			_, err := tryCtr(c.namespace(d.realm.name), append(slices.Clone(args), d.id)...)
			return err
		})
	}
}

// pause is no excuse for another process.
func (c *chaos) pause(string) (string, error) {
	d := c.victim()
	if d == nil {
		return "", errMissed
	}
	c.disturb(d.realm)
	defer c.disturb(d.realm)
	_, err := tryCtr(c.namespace(d.realm.name), "tasks", "pause", d.id)
	return c.mark(d), err
}

// removeContainer is quicker than us at the latest at its tenth try: between the two commands the task may be back.
func (c *chaos) removeContainer(kind string) (string, error) {
	return c.hit(kind, func(d *chaosContainer) (err error) {
		for range 10 {
			_, _ = tryCtr(c.namespace(d.realm.name), "tasks", "rm", "-f", d.id) // or there is none just now
			if _, err = tryCtr(c.namespace(d.realm.name), "containers", "rm", d.id); err == nil {
				return nil
			}
		}
		return err
	})
}

func (c *chaos) removeSnapshot(kind string) (string, error) {
	return c.hit(kind, func(d *chaosContainer) error {
		ns := c.namespace(d.realm.name)
		text, err := tryCtr(ns, "containers", "info", d.id)
		if err != nil {
			return err
		}
		var i info
		if err := json.Unmarshal([]byte(text), &i); err != nil {
			return err
		}
		_, err = tryCtr(ns, "snapshots", "rm", i.SnapshotKey)
		return err
	})
}

// editLabels is no excuse for another process.
func (c *chaos) editLabels(string) (string, error) {
	d := c.victim()
	if d == nil {
		return "", errMissed
	}
	label := []string{
		"reconciler.kukeon.io/realm=other", "reconciler.kukeon.io/source=nowhere.yaml", "reconciler.kukeon.io/container=x",
		"reconciler.kukeon.io/revision=", "team=somebody",
	}[c.dice.IntN(5)]
	c.disturb(d.realm)
	defer c.disturb(d.realm)
	_, err := tryCtr(c.namespace(d.realm.name), "containers", "label", d.id, label)
	return c.mark(d) + " " + label, err
}

func (c *chaos) fillDisk(kind string) (string, error) {
	GinkgoHelper()
	name := kind[strings.LastIndexByte(kind, ' ')+1:]
	d := c.disks[name]
	if _, err := os.Stat(d.filler()); err == nil {
		return "", errMissed
	}
	concerned := c.realms
	if name == "logs" {
		concerned = nil // containers do not wait for their logs, and nor do we
	}
	c.last(full, func() { Expect(d.empty()).To(Succeed()) }, concerned...)
	return d.path, d.fill()
}
