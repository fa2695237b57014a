package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"kukeon.io/kukeon-reconciler/controllers"
	"kukeon.io/kukeon-reconciler/internal/accept"
	"kukeon.io/kukeon-reconciler/internal/api"
	"kukeon.io/kukeon-reconciler/internal/logs"
	"kukeon.io/kukeon-reconciler/internal/source"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/internal/store"
)

// runFlags are what run alone may be told.
type runFlags struct {
	observe        bool
	rescan, resync time.Duration
	accept         accept.Settings
	logRetention   time.Duration
	startSlots     int
	pullSlots      int
}

func (a *app) runCommand() *cobra.Command {
	var o runFlags
	cmd := &cobra.Command{
		Use: "run", Short: "the daemon: watch the manifests and reconcile until SIGTERM", Args: cobra.NoArgs,
		Long: "The daemon: watches the manifests and reconciles until SIGTERM; then every workload is left running.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.observe, "observe", false, "write nothing to containerd: plan and status show what would be done")
	f.DurationVar(&o.rescan, "rescan", 10*time.Second, "how often the manifests are read without an event")
	f.DurationVar(&o.resync, "resync", time.Minute, "how often a namespace is read in full without an event")
	f.DurationVar(&o.accept.PruneSettle, "prune-settle", 2*time.Second, "how far apart two looks have to agree that a file is gone")
	f.DurationVar(&o.accept.RemovalHold, "removal-hold", 0, "after which a held removal passes (default: held until confirmed)")
	f.BoolVar(&o.accept.AllowEmpty, "allow-empty", false, "hold no removal, not even that of the last realm")
	f.DurationVar(&o.logRetention, "log-retention", 7*24*time.Hour, "how long logs of removed containers stay")
	f.IntVar(&o.startSlots, "start-slots", 0, "how many containers are started at once (default: 2 x cores)")
	f.IntVar(&o.pullSlots, "pull-slots", defaultPulls, "how many images are fetched at once")
	return cmd
}

func (o runFlags) check() error {
	for flag, d := range map[string]time.Duration{"rescan": o.rescan, "resync": o.resync} {
		if d < 100*time.Millisecond {
			return usage("--%s %s: it is at least 100ms", flag, d)
		}
	}
	for flag, d := range map[string]time.Duration{"prune-settle": o.accept.PruneSettle, "removal-hold": o.accept.RemovalHold, "log-retention": o.logRetention} {
		if d < 0 {
			return usage("--%s %s: it is not negative", flag, d)
		}
	}
	if o.startSlots < 0 {
		return usage("--start-slots %d: it is not negative", o.startSlots)
	}
	if o.pullSlots < 1 {
		return usage("--pull-slots %d: it is at least 1", o.pullSlots)
	}
	return nil
}

// gcPercent is how far the heap may grow between two collections. What we keep is a few MiB and nearly all that a pass
// reads is garbage at once: it makes a pass over 50 containers a fifth cheaper, for some MiB.
const gcPercent = 300

// run keeps everything going until ctx ends or a part of it cannot go on.
func (a *app) run(ctx context.Context, o runFlags) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	log, err := a.logger()
	if err != nil {
		return err
	}
	if a.getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	open := store.Open
	if o.observe {
		open = observed
	}
	kept, lost, err := openStore(open, a.settings.stateDir)
	if err != nil {
		return err
	}
	defer closing(kept, &err)
	about := a.about()
	for _, what := range lost {
		log.Error(what, "part of the state directory is lost; nothing is removed because of that")
		about.Daemon.Problems = append(about.Daemon.Problems, what.Error())
	}
	listener, err := api.Listen(api.SocketPath(a.settings.runDir))
	if err != nil {
		return err
	}
	eng, err := a.newEngine(log, o.startSlots, o.pullSlots)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer closing(eng, &err)
	directory := source.NewDirectory(a.settings.manifests)
	defer closing(directory, &err)
	if !o.observe {
		if err := a.startLogd(ctx, log); err != nil {
			log.Error(err, "logd cannot be started; the daemon drains the containers' output itself")
		}
	}
	manager := controllers.New(controllers.Config{
		Host: eng.host, Source: directory, Store: kept, Template: a.settings.template, Accept: o.accept,
		Rescan: o.rescan, Resync: o.resync, ManagedBy: state.ManagedByDaemon, Observe: o.observe, About: about,
		Log: log, Now: a.now,
	})
	pump := logs.NewPump(logs.Options{RunDir: a.settings.runDir, Fallback: true, Log: log})
	served := &backend{Manager: manager, containerd: eng.client, pump: pump, runDir: a.settings.runDir}

	log.Info("started", "version", version, "manifests", a.settings.manifests, "containerd", a.settings.containerd, "observe", o.observe)
	parts, partsCtx := errgroup.WithContext(ctx)
	parts.Go(func() error { return manager.Run(partsCtx) })
	parts.Go(func() error { return api.Serve(partsCtx, listener, served, log) })
	parts.Go(func() error { return pump.Run(partsCtx) })
	parts.Go(func() error { return a.sweepLogs(partsCtx, served, o, log) })
	told := notifySystemd(partsCtx, log, func() { served.Realms() })
	err = parts.Wait()
	<-told
	if err == nil {
		log.Info("stopped; workloads are left as they are")
	}
	return err
}

// observed opens a state directory to look at, also while the daemon proper works with it. One that is not there yet
// holds nothing.
func observed(dir string) (*store.Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return store.OpenReadOnly(dir)
}

// openStore opens a state directory; what is damaged in it was set aside and counts as lost.
func openStore(open func(dir string) (*store.Store, error), dir string) (*store.Store, []error, error) {
	var lost []error
	var damaged *store.DamagedError
	kept, err := open(dir)
	if errors.As(err, &damaged) {
		lost, err = append(lost, damaged), nil
	}
	if err != nil {
		return nil, nil, err
	}
	if _, err = kept.Load(); errors.As(err, &damaged) { // the next Load begins with nothing
		lost, err = append(lost, damaged), nil
	}
	if err != nil {
		return nil, nil, errors.Join(err, kept.Close())
	}
	return kept, lost, nil
}

// about is what status tells of this process.
func (a *app) about() status.Host {
	return status.Host{
		Daemon:     status.Daemon{Version: version, Pid: os.Getpid(), Started: a.now().UTC(), Mode: status.ModeRun},
		Containerd: status.Containerd{Address: a.settings.containerd},
		Source:     status.Source{Root: a.settings.manifests},
	}
}

// sweepInterval is how often logs of removed containers are looked for.
const sweepInterval = time.Hour

// sweepLogs deletes logs of removed containers after their retention. It trusts its list of containers only while
// manifests and containerd are both in full view.
func (a *app) sweepLogs(ctx context.Context, b *backend, o runFlags, log logr.Logger) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		h, wanted := b.Host(), map[string]bool{}
		if o.observe || !h.Source.Complete || !h.Containerd.Connected {
			continue
		}
		for _, r := range b.Realms() {
			for _, c := range r.Containers {
				wanted[fmt.Sprintf("%s/%s", r.Name, c.ContainerID)] = true
			}
		}
		keep := func(realm, container string) bool { return wanted[realm+"/"+container] }
		if err := logs.Sweep(a.settings.logDir, keep, o.logRetention, a.now()); err != nil {
			log.Error(err, "old logs cannot be deleted")
		}
	}
}
