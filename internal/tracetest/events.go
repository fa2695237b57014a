package tracetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
)

// recorder collects the events of a trace by object, until it is stopped.
type recorder struct {
	side   *Side
	cancel context.CancelFunc
	ended  chan struct{}

	mu     sync.Mutex
	probes int
	seen   map[string][]string // by object
	// deletions counts the deletions of tasks, by object. They are not compared: the shim tells of one while it ends,
	// so one in a dozen is lost on 2.4, and none has a fixed place.
	deletions map[string]int
	// retold are the tasks that had ended when the daemon went down: 1.6 tells their exits again when it is back, to
	// those who have subscribed by then, which nobody can be sure of.
	retold map[string]bool
	// unsure are the tasks that were deleted: the exit of one that ends as it is deleted is sometimes lost with the
	// shim, as its deletion is.
	unsure map[string]bool
	err    error
}

// record subscribes, and returns once events arrive for sure: containerd does not say when it has subscribed us.
func (s *Side) record(ctx context.Context, retold map[string]bool) (*recorder, error) {
	streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &recorder{side: s, cancel: cancel, ended: make(chan struct{}), retold: retold,
		seen: map[string][]string{}, unsure: map[string]bool{}, deletions: map[string]int{}}
	stream, errs := s.Subscribe(streaming)
	go r.run(stream, errs)
	probe := s.in("probe")
	n := 0
	err := await(ctx, func() (bool, error) {
		n++
		if err := s.SetNamespaceLabel(ctx, probe, "probe", fmt.Sprint(n)); err != nil {
			return false, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.probes > 0, r.err
	})
	if err == nil {
		err = s.DeleteNamespace(ctx, probe)
	}
	if err != nil {
		r.stop()
		return nil, fmt.Errorf("subscribing: %w", err)
	}
	return r, nil
}

// stop ends the subscription and waits for its end.
func (r *recorder) stop() {
	r.cancel()
	<-r.ended
}

func (r *recorder) run(stream <-chan *events.Envelope, errs <-chan error) {
	defer close(r.ended)
	for {
		select {
		case e := <-stream:
			r.note(e)
		case err := <-errs:
			r.mu.Lock()
			r.err = fmt.Errorf("the event stream ended: %w", err)
			r.mu.Unlock()
			return
		}
	}
}

func (r *recorder) note(e *events.Envelope) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ns, ok := strings.CutPrefix(e.Namespace, r.side.prefix+"-")
	switch {
	case !ok:
		return
	case ns == "probe":
		r.probes++
		return
	}
	object, what := r.side.describe(e)
	if object == "" {
		return
	}
	object = ns + " " + object
	switch {
	case e.Topic == "/tasks/delete":
		r.deletions[object]++
		return
	case e.Topic == "/tasks/exit" && r.retold[object]:
		return
	case e.Topic == "/tasks/create":
		delete(r.retold, object)
	}
	r.seen[object] = append(r.seen[object], what)
}

// deleted counts how often the deletion of a task was told.
func (r *recorder) deleted(ns, id string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deletions[ns+" tasks "+id]
}

// ended returns the tasks that have ended, as retold wants them.
func (s *Side) ended(ctx context.Context) (map[string]bool, error) {
	out := map[string]bool{}
	for _, ns := range tenants {
		tasks, err := s.Tasks(ctx, s.in(ns))
		if err != nil {
			return nil, err
		}
		for _, t := range tasks {
			if t.Status == "stopped" {
				out[ns+" tasks "+t.ID] = true
			}
		}
	}
	return out, nil
}

// describe tells which object an event is about, and what happened; no object when the event is not compared.
func (s *Side) describe(e *events.Envelope) (object, what string) {
	family, _, _ := strings.Cut(strings.TrimPrefix(e.Topic, "/"), "/")
	if family == "content" {
		return "", "" // only 2.x tells about content, and it means nothing to us
	}
	payload, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		return "undecodable", err.Error()
	}
	id, what := "", e.Topic
	switch p := payload.(type) {
	case *eventtypes.TaskExit:
		id, what = p.ContainerID, fmt.Sprintf("%s %d", e.Topic, p.ExitStatus)
		if p.ID != p.ContainerID || p.Pid == 0 {
			what += " of something else"
		}
	case *eventtypes.ContainerUpdate:
		id, what = p.ID, e.Topic+printLabels(p.Labels)
	case *eventtypes.ImageUpdate:
		id, what = p.Name, e.Topic+printLabels(p.Labels)
	case *eventtypes.ImageCreate:
		id, what = p.Name, e.Topic+printLabels(p.Labels)
	case *eventtypes.NamespaceUpdate:
		id, what = p.Name, e.Topic+printLabels(p.Labels)
	case *eventtypes.SnapshotCommit:
		id = p.Name
	case interface{ GetContainerID() string }:
		id = p.GetContainerID()
	case interface{ GetKey() string }:
		id = p.GetKey()
	case interface{ GetID() string }:
		id = p.GetID()
	case interface{ GetName() string }:
		id = p.GetName()
	}
	if _, chain, ok := strings.Cut(id, " "); ok && strings.HasPrefix(id, "extract-") {
		id = chain // what is unpacked has a name of its own each time
	}
	return family + " " + s.named(id), what
}

// doubt notes that a task was deleted.
func (r *recorder) doubt(ns, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsure[ns+" tasks "+id] = true
}

// print prints what was seen so far of each object.
func (r *recorder) print() (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for object, seen := range r.seen {
		if r.unsure[object] {
			seen = slices.DeleteFunc(slices.Clone(seen), func(e string) bool { return strings.HasPrefix(e, "/tasks/exit") })
		}
		if len(seen) > 0 {
			lines = append(lines, object+": "+strings.Join(seen, ", "))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), r.err
}
