package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/go-logr/logr"

	"kukeon.io/kukeon-reconciler/controllers"
	"kukeon.io/kukeon-reconciler/internal/apply"
	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/source"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/internal/store"
	"kukeon.io/kukeon-reconciler/manifests"
)

// engine is the connection to containerd, and what turns operations into calls.
type engine struct {
	client *ctrd.Client
	host   *ctrd.Host
}

// openArchive opens an archive as the manifests' reader judges it.
func openArchive(path string) (ctrd.Archive, error) {
	f, err := source.OpenArchive(path)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// defaultPulls is how many images are fetched at once: one fills most lines, and two keep a slow registry from being in
// the way of another realm's.
const defaultPulls = 2

// newEngine connects lazily: containerd need not be there yet. startSlots is how many containers are started at once,
// 0 for twice the cores: half of a start is waiting for the disk and for runc.
func (a *app) newEngine(log logr.Logger, startSlots, pullSlots int) (*engine, error) {
	s := a.settings
	if startSlots == 0 {
		startSlots = 2 * runtime.NumCPU()
	}
	boot, err := bootID(s.runDir)
	if err != nil {
		return nil, err
	}
	client, err := ctrd.Dial(s.containerd)
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", s.containerd, err)
	}
	return &engine{client, ctrd.New(ctrd.Config{
		Services: client, Snapshotter: s.snapshotter, RegistryConfigDir: s.registryConfig, Boot: boot, Log: log, Now: a.now,
		VolumesDir: filepath.Join(s.stateDir, "volumes"), FilesDir: filepath.Join(s.runDir, "files"),
		Output: streams{s.runDir, s.logDir}, OpenArchive: openArchive,
		Slots: map[ctrd.SlotKind]ctrd.Slots{
			ctrd.SlotStart: apply.NewSlots(startSlots), ctrd.SlotStop: apply.NewSlots(2 * startSlots), ctrd.SlotPull: apply.NewSlots(pullSlots),
		},
	})}, nil
}

// Close implements io.Closer.
func (e *engine) Close() error { return e.client.Close() }

// bootID identifies this boot of the host: the kernel's word for it, and a marker that does not outlive it.
func bootID(runDir string) (string, error) {
	kernel, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("which boot is this: %w", err)
	}
	return store.Boot(runDir, strings.TrimSpace(string(kernel)))
}

// closing closes at the end of a function, and adds what goes wrong to its error.
func closing(c io.Closer, err *error) { *err = errors.Join(*err, c.Close()) }

// lookLimit bounds commands that look at containerd themselves.
const lookLimit = 20 * time.Second

// looker connects for a look: nothing is written.
func (a *app) looker() (*ctrd.Client, *ctrd.Host, error) {
	client, err := ctrd.Dial(a.settings.containerd)
	if err != nil {
		return nil, nil, fmt.Errorf("containerd at %s: %w", a.settings.containerd, err)
	}
	boot := "" // without a run directory nothing was started since the host came up
	if _, err := os.Stat(a.settings.runDir); err == nil {
		if boot, err = bootID(a.settings.runDir); err != nil {
			return nil, nil, errors.Join(err, client.Close())
		}
	}
	return client, ctrd.New(ctrd.Config{Services: client, Snapshotter: a.settings.snapshotter, Boot: boot, Log: logr.Discard(), Now: a.now}), nil
}

// preview says what manifests would change, straight from containerd.
func (a *app) preview(ctx context.Context, scan manifests.Scan) (out []status.Realm, problems []manifests.Problem, err error) {
	client, host, err := a.looker()
	if err != nil {
		return nil, nil, err
	}
	defer closing(client, &err)
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	foreseen, problems, err := controllers.Preview(ctx, host, scan, a.imported, a.settings.template, a.now())
	for _, f := range foreseen {
		out = append(out, f.Status)
	}
	return out, problems, err
}

// imported tells what the daemon or, in a realm of its own, apply has imported. Without the right to look there is
// nothing to tell.
func (a *app) imported(realm state.RealmName) []state.Import {
	for _, dir := range []string{a.settings.stateDir, filepath.Join(a.settings.stateDir, "apply", string(realm))} {
		kept, err := store.OpenReadOnly(dir)
		if kept == nil || err != nil {
			continue
		}
		if all := kept.Imports(realm); len(all) > 0 {
			return all
		}
	}
	return nil
}

// realmsWithoutDaemon shows what containerd records of our realms: what was last accepted is written on the
// containers themselves.
func (a *app) realmsWithoutDaemon(ctx context.Context) (out []status.Realm, err error) {
	client, host, err := a.looker()
	if err != nil {
		return nil, err
	}
	defer closing(client, &err)
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	owner, err := host.Owner(ctx)
	if err != nil {
		return nil, err
	}
	namespaces, err := host.Summaries(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range namespaces {
		realm := state.RealmName(n.Labels[state.LabelRealm])
		if state.Owner(n.Labels[state.LabelOwner]) != owner || realm == "" {
			continue
		}
		have, err := host.Observe(ctx, n.Name)
		if err != nil {
			return nil, err
		}
		want := recorded(realm, have)
		out = append(out, status.Summarize(status.Realm{}, status.Pass{
			Accepted: state.AcceptedRealm{Realm: want.Realm, Generation: 1}, Want: want, Have: have, Seen: true,
			Plan: plan.Diff(want, have, plan.Busy{}, a.now()), ObserveOnly: true, Now: a.now(),
		}))
	}
	return out, nil
}

// recorded is the realm as the containers of ours in its namespace declare it.
func recorded(name state.RealmName, have state.Observed) plan.Want {
	want := plan.Want{
		Realm:     state.Realm{Name: name, Namespace: have.Namespace},
		ManagedBy: have.Labels[state.LabelManagedBy], Completions: map[state.ContainerID]state.Completion{},
	}
	for _, o := range have.Containers {
		if o.Record == nil || o.Owner() != have.Owner {
			continue
		}
		c := state.Container{
			ID: o.ID, Name: o.Labels[state.LabelContainer], Spec: o.Record.Spec,
			Origin: state.Origin{Path: o.Labels[state.LabelSource], Revision: o.Labels[state.LabelRevision]},
		}
		if c.Name == "" {
			c.Name = string(o.ID)
		}
		want.Realm.Containers = append(want.Realm.Containers, c)
		exit, ended := state.ParseExit(o.Labels[state.LabelExit])
		if ended && o.Task.Status == state.TaskNone && c.Spec.Restart.Policy != state.RestartAlways {
			want.Completions[o.ID] = state.Completion{Digest: c.Spec.Digest(), Code: exit.Code, Time: exit.At}
		}
	}
	return want
}

// applyOnce converges what the scan declares, and ends.
func (a *app) applyOnce(ctx context.Context, scan manifests.Scan, opts controllers.OnceOptions) (out []controllers.Outcome, problems []manifests.Problem, err error) {
	level := a.settings.logLevel
	if level == "info" {
		level = "error" // the outcomes say the rest, and on a terminal the progress
	}
	log, err := a.loggerAt(level)
	if err != nil {
		return nil, nil, err
	}
	kept, err := openOneShotStore(a.settings.stateDir, scan)
	if err != nil {
		return nil, nil, err
	}
	defer closing(kept, &err)
	eng, err := a.newEngine(log, 0, defaultPulls)
	if err != nil {
		return nil, nil, err
	}
	defer closing(eng, &err)
	if err := a.startLogd(ctx, log); err != nil {
		log.Error(err, "logd cannot be started; containers that write much will wait for one")
	}
	const fast = time.Second // there is nobody to wait for but ourselves
	return controllers.Once(ctx, controllers.Config{
		Host: eng.host, Store: kept, Template: a.settings.template, Rescan: fast, Resync: time.Minute,
		ManagedBy: state.ManagedByApply, About: a.about(), Log: log, Now: a.now, Ended: a.progress,
	}, scan, opts)
}

// progress tells a person at a terminal of each step as it ends.
func (a *app) progress(r apply.Result) {
	if !a.watched {
		return
	}
	end := fmt.Sprintf("done in %s", r.Took.Round(time.Millisecond))
	if r.Err != nil {
		end = "not yet: " + r.Err.Error()
	}
	a.talk("%s: %s: %s", r.Realm, r.Operation, end)
}
