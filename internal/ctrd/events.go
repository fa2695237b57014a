package ctrd

import (
	"strings"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"

	"kukeon.io/kukeon-reconciler/internal/state"
)

// handle notes what an event may have changed, and wakes the namespace if anything may have.
func (h *Host) handle(e *events.Envelope) {
	family, _, _ := strings.Cut(strings.TrimPrefix(e.Topic, "/"), "/")
	switch family {
	case "namespaces":
		h.handleNamespace(e)
		return
	case "containers", "tasks", "images", "snapshot":
	default:
		return // content and the like
	}
	h.mu.Lock()
	if _, known := h.spaces[state.Namespace(e.Namespace)]; !known {
		h.spaces = nil // a write into a namespace that does not exist makes it, without a word
	}
	m, ok := h.mirrors[state.Namespace(e.Namespace)]
	h.mu.Unlock()
	if !ok {
		return // nobody ever asked for it
	}
	v, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		h.cfg.Log.V(1).Info("event could not be decoded", "topic", e.Topic, "error", err.Error())
		m.markAll()
		h.wakeUp(m.ns)
		return
	}
	if m.handle(v, h.cfg.Now()) {
		h.wakeUp(m.ns)
	}
}

// handleNamespace notes that a namespace was made, changed or deleted. The event carries the name in its envelope only
// when somebody acted inside of it.
func (h *Host) handleNamespace(e *events.Envelope) {
	ns := e.Namespace
	if v, err := typeurl.UnmarshalAny(e.Event); err == nil {
		switch v := v.(type) {
		case *apievents.NamespaceCreate:
			ns = v.Name
		case *apievents.NamespaceUpdate:
			ns = v.Name
		case *apievents.NamespaceDelete:
			ns = v.Name
		}
	}
	h.mu.Lock()
	h.spaces = nil
	m := h.mirrors[state.Namespace(ns)]
	h.mu.Unlock()
	if m != nil {
		m.mark(dirt{labels: true})
	}
	h.wakeUp(state.Namespace(ns))
}

// handle notes what a decoded event may have changed and reports whether that is worth a look now. What an operation
// under way changes is looked at when it ends. An event that tells what was seen already, because it came late, makes
// nothing dirty: the next event about the object would be no news then, and nobody would look.
func (m *mirror) handle(v any, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch v := v.(type) {
	case *apievents.ContainerCreate:
		return m.touchRecord(v.ID)
	case *apievents.ContainerUpdate:
		return m.touchRecord(v.ID) // also when its labels are known: the extension is not told
	case *apievents.ContainerDelete:
		return m.touchRecord(v.ID)
	case *apievents.TaskCreate:
		return m.touchTask(v.ContainerID, true)
	case *apievents.TaskStart:
		return !m.seen(v.ContainerID, v.Pid, state.TaskRunning) && m.touchTask(v.ContainerID, true)
	case *apievents.TaskExit:
		if v.ID != v.ContainerID {
			return false // of an exec
		}
		e := m.entry(state.ContainerID(v.ContainerID))
		e.seen.exited, e.seen.exitedPid = now, v.Pid
		return !m.seen(v.ContainerID, v.Pid, state.TaskStopped) && m.touchTask(v.ContainerID, e.alive)
	case *apievents.TaskDelete:
		if v.ID != "" && v.ID != v.ContainerID {
			return false // of an exec
		}
		return !m.seen(v.ContainerID, 0, state.TaskNone) && m.touchTask(v.ContainerID, false)
	case *apievents.TaskPaused:
		return m.touchTask(v.ContainerID, true)
	case *apievents.TaskResumed:
		return m.touchTask(v.ContainerID, true)
	case *apievents.TaskOOM:
		return m.touchTask(v.ContainerID, true)
	case *apievents.ImageCreate, *apievents.ImageUpdate, *apievents.ImageDelete:
		m.dirty.store = true
		clear(m.incomplete) // an import may have brought what was missing
		return true
	case *apievents.SnapshotPrepare:
		return false // names nothing that we would act on: ours are known from their making
	case *apievents.SnapshotCommit:
		m.dirty.store = true // an image may be unpacked now
		return true
	case *apievents.SnapshotRemove:
		return m.snapshotRemoved(v.Key)
	}
	return false
}

// touchRecord makes a container's record dirty and reports whether that is news. m.mu is held.
func (m *mirror) touchRecord(id string) bool {
	e := m.entry(state.ContainerID(id))
	return e.record.touch() && m.busy[state.ContainerID(id)] == 0
}

// touchTask makes a task dirty, tells who waits for it and reports whether that is news. m.mu is held.
func (m *mirror) touchTask(id string, alive bool) bool {
	e := m.entry(state.ContainerID(id))
	e.alive = alive
	m.notify(state.ContainerID(id))
	return e.task.touch() && m.busy[state.ContainerID(id)] == 0
}

// touch makes a part dirty and reports whether that is news: whoever made it dirty before has woken somebody, or will
// at the end of an operation.
func (p *part) touch() (news bool) {
	news = !p.dirty || p.slow
	p.dirty, p.slow = true, false
	return news
}

// seen reports whether the mirror knew already that the task has this status. m.mu is held.
func (m *mirror) seen(id string, pid uint32, status state.TaskStatus) bool {
	e := m.entry(state.ContainerID(id))
	return e.task.applied > 0 && e.seen.Status == string(status) && (pid == 0 || e.seen.Pid == pid)
}

// snapshotRemoved notes that a snapshot is gone. m.mu is held.
func (m *mirror) snapshotRemoved(key string) bool {
	s, known := m.snaps[key]
	delete(m.snaps, key)
	look := false
	for id, e := range m.entries {
		if e.recorded && e.container.SnapshotKey == key {
			look = e.snapshot.touch() && m.busy[id] == 0 || look
		}
	}
	for _, chain := range m.chain {
		look = look || chain == key // an image is no longer unpacked
	}
	return look || known && s.Labels[state.LabelOwner] != ""
}

// notify tells who waits for a task. m.mu is held.
func (m *mirror) notify(id state.ContainerID) {
	for c := range m.watchers[id] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (m *mirror) notifyAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.watchers {
		m.notify(id)
	}
}

// watch returns a channel that is told whenever an event may have changed the task.
func (m *mirror) watch(id state.ContainerID) (changed <-chan struct{}, end func()) {
	c := make(chan struct{}, 1)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.watchers[id] == nil {
		m.watchers[id] = map[chan struct{}]struct{}{}
	}
	m.watchers[id][c] = struct{}{}
	return c, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers[id], c)
		if len(m.watchers[id]) == 0 {
			delete(m.watchers, id)
		}
	}
}
