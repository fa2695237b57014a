package simulate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/containers"

	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

const (
	// staleIntent is for how long an operation may follow what was accepted before: a pass looks at its realm for a few
	// seconds at most when a shim hangs, and for ten when lists are slow.
	staleIntent = 15 * time.Second
)

// allowed are the operations as part of which a call may be made.
var allowed = map[string][]string{
	"CreateContainer": {"Create", "Clean"},
	"UpdateContainer": {"Stop", "Update", "Start", "Complete"},
	"DeleteContainer": {"Remove", "Clean"},
	"CreateTask":      {"Start"},
	"StartTask":       {"Start"},
	"KillTask":        {"Stop", "Clean"},
	"ResumeTask":      {"Resume", "Stop", "Clean"},
	"DeleteTask":      {"Start", "Complete", "Remove", "Clean"},
}

// leased are the calls that the garbage collector could undo.
var leased = []string{"PrepareSnapshot", "CreateContainer", "Pull", "ImportArchive", "Unpack"}

// owner is the daemon's identity.
const owner = "5f0c1b1e-0000-4000-8000-000000000000"

// ownerOf is who owns a container: its label, else our extension's copy.
func ownerOf(c *containers.Container) string {
	if o := c.Labels[state.LabelOwner]; o != "" {
		return o
	}
	if r := recordOf(c); r != nil {
		return string(r.Owner)
	}
	return ""
}

// recordOf is our extension; nil when there is none that can be read.
func recordOf(c *containers.Container) *state.Record {
	ext := c.Extensions[state.ExtensionSpec]
	if ext == nil {
		return nil
	}
	r, err := state.DecodeRecord(ext.GetValue())
	if err != nil {
		return nil
	}
	return &r
}

// called judges that a call is made at all.
func (c *checker) called(call fakectrd.Call) {
	if !call.Bounded && call.Method != "Subscribe" {
		c.fail("P8", "%s %s/%s has no deadline", call.Method, call.Namespace, call.ID)
	}
	if call.Method == "Subscribe" { // once connected anew, nothing has to wait any longer
		c.mu.Lock()
		defer c.mu.Unlock()
		c.reset("")
	}
}

// wrote judges a write by what it finds. The daemon is locked.
func (c *checker) wrote(call fakectrd.Call, b fakectrd.Before) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := call.Method + " " + call.Namespace + "/" + call.ID
	if *trace {
		fmt.Println(time.Since(c.began0), at, b.Task)
	}
	if slices.Contains(leased, call.Method) && call.Lease == "" && !c.during(call, "Clean") {
		c.failLocked("P6", "%s is made without a lease", at)
	}
	if !c.manages(call.Namespace) {
		c.failLocked("P3", "%s: no accepted realm and no removal has this namespace", at)
	}
	if kinds, ok := allowed[call.Method]; ok {
		if call.Method == "KillTask" && (b.Task == "created" || b.Task == "stopped") {
			kinds = append(slices.Clone(kinds), "Start") // of a process that began without its shim's knowing
		}
		if !slices.ContainsFunc(kinds, func(k string) bool { return c.during(call, k) }) {
			c.failLocked("P4", "%s is part of no operation that may do it: %v", at, c.operations[call.Namespace+"/"+call.ID])
		}
		if b.Container != nil && call.Method != "CreateContainer" && ownerOf(b.Container) != owner {
			c.failLocked("P3", "%s: the container is not ours", at)
		}
	}
	switch call.Method {
	case "RemoveSnapshot":
		if b.Labels != nil && b.Labels[state.LabelOwner] != owner {
			c.failLocked("P3", "%s: the snapshot is not ours", at)
		}
		if len(b.Users) > 0 {
			c.failLocked("P4", "%s: %v use it", at, b.Users)
		}
	case "DeleteImage", "UpdateImageLabels":
		if b.Labels != nil && b.Labels[state.LabelOwner] != owner {
			c.failLocked("P3", "%s: the image is not ours", at)
		}
	case "KillTask":
		if b.Container != nil && c.during(call, "Stop") {
			delete(c.firstRun, incarnation(call, b)) // what we stop and somebody wants again has not ended by itself
		}
	case "StartTask":
		if b.Container != nil {
			c.startsAgain(call, b)
		}
	}
}

// startsAgain judges the start of a one-shot. c.mu is held.
func (c *checker) startsAgain(call fakectrd.Call, b fakectrd.Before) {
	r := recordOf(b.Container)
	if r == nil || r.Spec.Restart.Policy == state.RestartAlways {
		return
	}
	at := call.Namespace + "/" + call.ID
	// A success holds whatever the policy becomes; a failure may be tried again under another one.
	if done := c.completions[string(r.Realm)+"/"+call.ID]; done.digest == r.Spec.Digest() && done.success {
		c.failLocked("P5", "the one-shot %s has finished, and is started again", at)
	}
	if r.Spec.Restart.Policy != state.RestartNever {
		return
	}
	first, known := c.firstRun[incarnation(call, b)]
	if !known {
		c.firstRun[incarnation(call, b)] = b.Run.Starts
	} else if b.Run.Starts > first && !c.tampered[at] {
		c.failLocked("P5", "the one-shot %s ran, and is started again", at)
	}
}

// incarnation tells a container from others that had its id.
func incarnation(call fakectrd.Call, b fakectrd.Before) string {
	return call.Namespace + "/" + call.ID + b.Container.CreatedAt.Format(time.RFC3339Nano)
}

// during reports whether an operation of the kind is under way on the call's object. c.mu is held.
func (c *checker) during(call fakectrd.Call, kind string) bool {
	return slices.Contains(c.operations[call.Namespace+"/"+call.ID], kind)
}

// busy reports whether an operation is under way on an object.
func (c *checker) busy(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.operations[key]) > 0
}

// underWay names an operation that is under way on a container; empty when none is.
func (c *checker) underWay() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, kinds := range c.operations {
		if len(kinds) > 0 {
			return fmt.Sprintf("%v of %s is under way", kinds, key)
		}
	}
	return ""
}

// manages reports whether an accepted realm or a removal has the namespace. c.mu is held.
func (c *checker) manages(ns string) bool {
	return c.ever(func(a state.Accepted) bool {
		for _, r := range a.Realms {
			if string(r.Namespace) == ns {
				return true
			}
		}
		return slices.ContainsFunc(a.Removals, func(r state.Removal) bool { return string(r.Namespace) == ns })
	})
}

// ever reports whether f held of anything that was accepted lately. c.mu is held.
func (c *checker) ever(f func(state.Accepted) bool) bool {
	if f(c.accepted) {
		return true
	}
	return slices.ContainsFunc(c.intents, func(i intent) bool { return time.Since(i.until) <= staleIntent && f(i.Accepted) })
}

// began judges that an operation begins, and notes it until its end.
func (c *checker) began(ns, realm string, op plan.Operation) (end func(error)) {
	obj := op.Object()
	kind := kindOf(op)
	var have found
	if obj.Kind == plan.ContainerObject {
		have = c.w.look(ns, obj.Name)
	}
	record := have.record
	if kind == "Start" && have.live && record != nil && ownerOf(record) == owner && !c.w.d.Unaware(ns, obj.Name) {
		c.fail("P5", "%s %s: its process runs", op, ns)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// A record without a snapshot only serves to clean up a task that lost its own.
	if r := record; r != nil && r.Labels[state.LabelOwner] == owner && r.SnapshotKey != "" && (recordOf(r) == nil || recordOf(r).Spec.Image != r.Image) {
		c.failLocked("P7", "%s in %s: the container has another effective spec than what is recorded: %+v", op, ns, recordOf(r))
	}
	if *trace {
		fmt.Println(time.Since(c.began0), "  ", ns, op, "--", op.Because())
	}
	key := ns + "/" + obj.Name
	if obj.Kind == plan.ContainerObject {
		c.operations[key] = append(c.operations[key], kind)
	}
	c.follows(ns+" "+obj.String(), op, func(a state.Accepted) bool { return c.legal(a, realm, op, have) })
	c.pacing(realm, op)
	return func(err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.paced(realm, op, err)
		if i := slices.Index(c.operations[key], kind); i >= 0 {
			c.operations[key] = slices.Delete(c.operations[key], i, i+1)
		}
	}
}

// legal reports whether an accepted state asks for an operation. c.mu is held.
func (c *checker) legal(a state.Accepted, realm string, op plan.Operation, have found) bool {
	r, accepted := a.Realms[state.RealmName(realm)]
	if accepted && r.Suspended {
		return false
	}
	id := state.ContainerID(op.Object().Name)
	want, declared := r.Find(id)
	listed, leaving, some := false, false, false
	for _, x := range a.Removals {
		if x.Realm != state.RealmName(realm) {
			continue
		}
		some = true
		leaving = leaving || x.Container == "" && !accepted
		listed = listed || x.Container == id
	}
	listed = (listed || leaving) && c.sawComplete
	switch op := op.(type) {
	case plan.Create:
		return declared && meaning(op.Spec, id) == meaning(want.Spec, id)
	case plan.Start:
		return declared && meaning(op.Spec, id) == meaning(want.Spec, id)
	case plan.Update, plan.Resume, plan.Complete:
		return declared
	case plan.Clean:
		return (declared || listed) && (have.record == nil || have.record.SnapshotKey == "")
	case plan.Stop:
		done := c.completions[realm+"/"+string(id)]
		over := declared && !have.live && done.success && done.digest == want.Spec.Digest() // what was only created
		return listed || over || declared && (have.record == nil || have.snapshotGone || outdated(have.record, want))
	case plan.Remove:
		return listed || declared && (have.record == nil || have.snapshotGone || outdated(have.record, want))
	case plan.Pull, plan.Unpack:
		return accepted
	case plan.Import:
		return accepted && slices.ContainsFunc(r.Archives, func(a state.Archive) bool { return a.Path == op.Path && a.Version == op.Version })
	case plan.EnsureNamespace: // one that is removed is stamped again when it lost our labels with something of ours in it
		return accepted || leaving && c.sawComplete
	case plan.DeleteImage, plan.DeleteNamespace, plan.ReleaseNamespace:
		return leaving && c.sawComplete
	}
	return accepted || some // leftovers of ours
}

// outdated reports whether a container has to be made anew to be what is wanted.
func outdated(have *containers.Container, want state.Container) bool {
	r := recordOf(have)
	if r == nil {
		return true
	}
	is, should := meaning(r.Spec, want.ID), meaning(want.Spec, want.ID)
	return is.image != should.image || is.env != should.env
}

// kindOf is the operation's type without its package.
func kindOf(op plan.Operation) string {
	return strings.TrimPrefix(strings.TrimPrefix(typeName(op), "*"), "plan.")
}
