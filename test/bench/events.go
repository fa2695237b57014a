package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
)

// sighting is an event about a container or its task, at the time that containerd gives it.
type sighting struct {
	at            time.Time
	topic         string
	namespace, id string
	pid           uint32
}

// eyewitness sees what containerd does, by its own events: neither we nor the floor are asked.
type eyewitness struct {
	mu   sync.Mutex
	seen []sighting
	more chan struct{} // closed, and made anew, at each sighting
	err  error
}

// watch follows containerd's events until ctx ends.
func watch(ctx context.Context, client *containerd.Client) *eyewitness {
	w := &eyewitness{more: make(chan struct{})}
	envelopes, failed := client.EventService().Subscribe(ctx)
	go func() {
		for {
			select {
			case e := <-envelopes:
				w.note(e, nil)
			case err := <-failed:
				w.note(nil, fmt.Errorf("containerd's events ended: %w", err))
				return
			}
		}
	}()
	return w
}

func (w *eyewitness) note(e *events.Envelope, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e != nil {
		s := sighting{at: e.Timestamp, topic: e.Topic, namespace: e.Namespace}
		v, decodeErr := typeurl.UnmarshalAny(e.Event)
		if decodeErr != nil {
			return // of no kind that we wait for
		}
		switch v := v.(type) {
		case *apievents.TaskStart:
			s.id, s.pid = v.ContainerID, v.Pid
		case *apievents.TaskExit:
			s.id, s.pid = v.ContainerID, v.Pid
		case *apievents.ContainerDelete:
			s.id = v.ID
		default:
			return
		}
		w.seen = append(w.seen, s)
	}
	w.err = err
	close(w.more)
	w.more = make(chan struct{})
}

// The topics that are waited for.
const (
	taskStarted      = "/tasks/start"
	containerDeleted = "/containers/delete"
)

// await waits for n events of a topic in a namespace, at or after a time, and returns them in order. An id that is not
// empty selects one container.
func (w *eyewitness) await(ctx context.Context, topic, namespace, id string, since time.Time, n int) ([]sighting, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		w.mu.Lock()
		var found []sighting
		for _, s := range w.seen {
			if s.topic == topic && s.namespace == namespace && (id == "" || s.id == id) && !s.at.Before(since) {
				found = append(found, s)
			}
		}
		more, err := w.more, w.err
		w.mu.Unlock()
		if len(found) >= n {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d events %s in %s: %w", len(found), n, topic, namespace, ctx.Err())
		}
	}
}
