package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"

	"kukeon.io/kukeon-reconciler/internal/api"
	"kukeon.io/kukeon-reconciler/internal/logs"
	"kukeon.io/kukeon-reconciler/internal/testenv"
	"kukeon.io/kukeon-reconciler/test/proxy"
)

const (
	image = "docker.io/library/busybox:1.36"
	// quiet is for how long nothing may have happened before something is measured.
	quiet = 300 * time.Millisecond
)

// host is a private containerd with our daemon and its logd on it.
type host struct {
	*bench
	daemon *testenv.Daemon
	client *containerd.Client
	events *eyewitness
	end    context.CancelFunc // of the events
	api    *api.Client
	proxy  *proxy.Proxy // between the daemon and containerd; may be nil
	run    *process
	logd   *process
	suffix string // of the names of namespaces, since containerds of one host share cgroups
	spec   string // file with the OCI spec that makeModel kept
	realms int
}

// newHost starts everything; the daemon has no realm yet.
func (b *bench) newHost(ctx context.Context, proxied bool, runFlags ...string) (_ *host, err error) {
	h := &host{bench: b, suffix: testenv.Suffix()}
	if h.daemon, err = testenv.Start(ctx, testenv.Options{Version: testenv.Current}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	for _, dir := range []string{"realms.d", "staging", "log"} {
		if err := os.MkdirAll(h.dir(dir), 0o755); err != nil {
			return nil, err
		}
	}
	if err := testenv.SaveArchive(testenv.BusyboxImage(), image, h.dir("image.tar")); err != nil {
		return nil, err
	}
	if h.client, err = containerd.New(h.daemon.Address); err != nil {
		return nil, err
	}
	var watching context.Context
	watching, h.end = context.WithCancel(context.WithoutCancel(ctx))
	h.events = watch(watching, h.client)
	address := h.daemon.Address
	if proxied {
		if h.proxy, err = proxy.Start(h.dir("p.sock"), address); err != nil {
			return nil, err
		}
		address = h.proxy.Address
	}
	if err := h.startOurs(ctx, address, runFlags); err != nil {
		return nil, err
	}
	return h, nil
}

// dir is a path below the containerd's directory, which goes with it.
func (h *host) dir(name string) string { return filepath.Join(h.daemon.Dir, "b", name) }

// startOurs starts logd and the daemon, and waits until the daemon is connected.
func (h *host) startOurs(ctx context.Context, address string, runFlags []string) (err error) {
	dirs := []string{"--config", os.DevNull, "--run-dir", h.dir("run"), "--log-dir", h.dir("log")}
	if h.logd, err = startProcess(h.dir("logd.log"), h.binary, append([]string{"logd"}, dirs...)...); err != nil {
		return err
	}
	if err := h.until(ctx, "logd runs", func() bool {
		here, err := logs.LogdPresent(h.dir("run"))
		return err == nil && here
	}); err != nil {
		return err
	}
	runFlags = append([]string{"run", "--manifests", h.dir("realms.d"), "--state-dir", h.dir("state"),
		"--containerd-address", address}, runFlags...)
	h.run, err = startProcess(h.dir("run.log"), h.binary, append(runFlags, dirs...)...)
	if err != nil {
		return err
	}
	h.api = api.NewClient(api.SocketPath(h.dir("run")))
	return h.until(ctx, "the daemon is connected", func() bool {
		about, err := h.api.Host(ctx)
		return err == nil && about.Containerd.Connected
	})
}

// makeModel runs one container, which stays, and keeps its OCI spec for the floor.
func (h *host) makeModel(ctx context.Context) error {
	realm, err := h.newRealm(ctx)
	if err != nil {
		return err
	}
	if _, err := h.declareAndAwait(ctx, realm, sleepers(1), 1); err != nil {
		return err
	}
	spec, err := h.daemon.Ctr(ctx, namespace(realm), "containers", "info", "--spec", "c0")
	if err != nil {
		return err
	}
	h.spec = h.dir("spec.json")
	return os.WriteFile(h.spec, []byte(spec), 0o600)
}

// close ends everything and removes every trace.
func (h *host) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the caller's may be over
	defer cancel()
	errs := []error{h.run.stop(), h.logd.stop()}
	if h.proxy != nil {
		errs = append(errs, h.proxy.Close())
	}
	if h.end != nil {
		h.end()
	}
	if h.client != nil {
		errs = append(errs, h.client.Close())
	}
	errs = append(errs, h.daemon.Stop(ctx))
	if left := h.daemon.Leftovers(); len(left) > 0 {
		errs = append(errs, fmt.Errorf("left behind: %s", strings.Join(left, ", ")))
	}
	return errors.Join(errs...)
}

// until polls for a condition.
func (h *host) until(ctx context.Context, what string, condition func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !condition() {
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("waiting until %s: %w%s", what, err, h.lastWords())
		}
	}
	return nil
}

// lastWords is the end of the daemon's log, for a message that a person reads.
func (h *host) lastWords() string {
	text, err := os.ReadFile(h.dir("run.log"))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "\n" + strings.Join(lines[max(0, len(lines)-5):], "\n")
}
