package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// How long nothing may have happened to a realm for our status to be held to what is there: what it takes to see a
// change, and, for saying that all is well again, to make a pass on a busy machine.
const (
	quietForFalseReady = 2 * time.Second
	quietForNotReady   = 5 * time.Second
)

// saidRealm and saidContainer are what we say.
type saidRealm struct {
	Name            string
	Ready, InSync   bool
	Reason, Message string
}

type saidContainer struct {
	Realm, Name, Phase, Reason, Message string
	Pid                                 int
	InSync                              bool
}

type said struct {
	realms     map[string]saidRealm
	containers map[string]map[string]saidContainer
}

// said asks for our status.
func (c *chaos) said() (said, error) {
	s := said{map[string]saidRealm{}, map[string]map[string]saidContainer{}}
	realms, err := ask[saidRealm](c, "realms")
	for _, r := range realms {
		s.realms[r.Name] = r
		s.containers[r.Name] = map[string]saidContainer{}
	}
	containers, containersErr := ask[saidContainer](c, "containers")
	for _, k := range containers {
		if of, ok := s.containers[k.Realm]; ok {
			of[k.Name] = k
		}
	}
	return s, errors.Join(err, containersErr)
}

func ask[T any](c *chaos, what string) ([]T, error) {
	r := c.cli("get", what, "-o", "json")
	if r.code != 0 {
		return nil, errors.New(r.String())
	}
	var list struct{ Items []T }
	err := json.Unmarshal([]byte(r.stdout), &list)
	return list.Items, err
}

// trouble tells of a realm's containers that are not all right.
func (s said) trouble(realm string) (text string) {
	for _, k := range s.containers[realm] {
		if k.Phase != "Running" && k.Phase != "Completed" || !k.InSync {
			text += fmt.Sprintf("\n    %s: %s, in sync %v: %s: %s", k.Name, k.Phase, k.InSync, k.Reason, k.Message)
		}
	}
	return text
}

// silence is how long we may overlook the end of a task that was killed and deleted at once: containerd, mostly when it
// was restarted since, now and then tells nobody of it, and we ask about each task every 10 s.
const silence = 10*time.Second + quietForFalseReady

// quietOf is since when nothing has happened to a realm; 0 while something lasts.
func (c *chaos) quietOf(r *chaosRealm, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	untold := func(d *chaosContainer) bool {
		return strings.HasPrefix(d.waiting, "ctr ") && strings.Contains(d.waiting, " rm") && now.Sub(d.since) < silence
	}
	if r.under > 0 || slices.ContainsFunc(r.containers, untold) {
		return 0
	}
	return now.Sub(r.disturbed)
}

// judge compares our status with containerd and /proc (P14), in the realms where nothing happens meanwhile; and looks
// where we have written (P3).
func (c *chaos) judge() {
	c.judgeWrites()
	now := time.Now()
	before := map[*chaosRealm]map[string]int{}
	for _, r := range c.realms {
		if c.quietOf(r, now) < quietForFalseReady {
			c.samples.skipped++
			continue
		}
		tasks, err := c.runningTasks(r)
		if err != nil {
			c.violate("containerd: %v", err)
			continue
		}
		before[r] = tasks
	}
	if len(before) == 0 {
		return
	}
	status, err := c.said()
	if err != nil {
		c.violate("P14: no status: %v", err)
		return
	}
	found := c.trees()
	for r, tasks := range before {
		after, err := c.runningTasks(r)
		if err != nil || !maps.Equal(tasks, after) {
			c.samples.skipped++
			continue
		}
		c.samples.status++
		c.judgeRealm(r, status, tasks, found, c.quietOf(r, now))
	}
}

// judgeRealm compares what we say of a realm with what is there.
func (c *chaos) judgeRealm(r *chaosRealm, status said, tasks map[string]int, found map[string][]tree, quiet time.Duration) {
	notRunning, notAsDeclared := c.differences(r, tasks, found)
	s := status.realms[c.name(r.name)]
	said := fmt.Sprintf("%s: %s: %s%s", r.name, s.Reason, s.Message, status.trouble(c.name(r.name)))
	if s.Ready && len(notRunning) > 0 {
		c.violate("P14: Ready is said of %s\n    %v", said, notRunning)
	}
	if s.InSync && len(notAsDeclared) > 0 {
		c.violate("P14: in sync is said of %s\n    %v", said, notAsDeclared)
	}
	if !s.Ready && len(notRunning) == 0 && quiet >= quietForNotReady {
		c.violate("P14: after %v all run, and not ready is said of %s", quiet, said)
	}
	for _, d := range r.containers {
		k := status.containers[c.name(r.name)][d.id]
		if k.Phase == "Running" && k.Pid != tasks[d.id] {
			c.violate("P14: %s is said to run as %d, and runs as %d", c.mark(d), k.Pid, tasks[d.id])
		}
	}
}

// judgeWrites sees that every write went to a namespace of ours.
func (c *chaos) judgeWrites() {
	ours := map[string]bool{"": true}
	for _, r := range c.realms {
		ours[c.namespace(r.name)] = true
	}
	for _, w := range c.proxy.Writes() {
		if !ours[w.Namespace] {
			c.violate("P3: %s", w)
		}
	}
	c.proxy.Reset()
}
