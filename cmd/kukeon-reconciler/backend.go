package main

import (
	"context"
	"sync"
	"time"

	"kukeon.io/kukeon-reconciler/controllers"
	"kukeon.io/kukeon-reconciler/internal/logs"
	"kukeon.io/kukeon-reconciler/internal/status"
)

// backend is the manager, and what it does not know of its surroundings: it is api's Backend.
type backend struct {
	*controllers.Manager
	containerd interface {
		Version(context.Context) (string, error)
	}
	pump   *logs.Pump
	runDir string

	mu      sync.Mutex
	version string
	since   time.Time // of the connection on which version was asked for
}

// Host implements api.Backend.
func (b *backend) Host() status.Host {
	h := b.Manager.Host()
	h.Containerd.Version = b.containerdVersion(h.Containerd)
	h.Logs = b.logs()
	return h
}

// containerdVersion asks once per connection: after a reconnect it may be another one.
func (b *backend) containerdVersion(c status.Containerd) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !c.Connected || b.version != "" && b.since.Equal(c.Since) {
		return b.version
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if v, err := b.containerd.Version(ctx); err == nil { // else it is shown without
		b.version, b.since = v, c.Since
	}
	return b.version
}

// logs says who drains the containers' output.
func (b *backend) logs() status.Logs {
	present, err := logs.LogdPresent(b.runDir)
	switch {
	case present:
		return status.Logs{Pump: "logd"}
	case b.pump.Draining():
		return status.Logs{Pump: "run", Message: "logd is absent, so that output waits while the daemon is down; start `" + program + " logd`"}
	case err != nil:
		return status.Logs{Pump: "none", Message: err.Error()}
	}
	return status.Logs{Pump: "none", Message: "nobody drains the containers' output; start `" + program + " logd`"}
}
