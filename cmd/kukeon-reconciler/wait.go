package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"kukeon.io/kukeon-reconciler/internal/api"
	"kukeon.io/kukeon-reconciler/internal/status"
)

// The conditions that wait knows.
const (
	forReady   = "ready"
	forSynced  = "synced"
	forDeleted = "deleted"
)

func (a *app) waitCommand() *cobra.Command {
	var condition string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "wait REALM[/CONTAINER]", Short: "block until a realm or container is ready, synced or deleted", Args: cobra.ExactArgs(1),
		Long: "Blocks until a realm or container is ready (it runs, or has completed), synced (it is as its files say, and nothing is\n" +
			"to be done) or deleted. What does not exist yet is waited for, a daemon that does not answer for 5 s.\n\n" +
			"Exit status: 0 it is so, 1 the timeout has passed, 2 no daemon answers.",
		ValidArgsFunction: a.completeBoth,
		RunE: func(cmd *cobra.Command, args []string) error {
			realm, container, err := splitRef(args[0])
			if err != nil {
				return err
			}
			if err := oneOf("for", condition, forReady, forSynced, forDeleted); err != nil {
				return &exitError{exitUsage, err}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return a.wait(ctx, realm, container, condition, timeout)
		},
	}
	cmd.Flags().StringVar(&condition, "for", forReady, "what to wait for: ready, synced or deleted")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long at most")
	return cmd
}

// comingUp is how long a daemon may take to answer for the first time: it may have been started just now.
const comingUp = 5 * time.Second

var (
	errReached = errors.New("reached")                                        // ends a watch that has seen what was waited for
	errNotRead = errors.New("the daemon has not looked at the manifests yet") // so that absence means nothing
)

// wait watches until the condition holds. A daemon that goes away in between is waited for: it may be an upgrade.
func (a *app) wait(ctx context.Context, realm, container, condition string, timeout time.Duration) error {
	var seen bool
	var last string
	up := time.After(comingUp)
	for {
		err := a.client().Watch(ctx, func(realms []status.Realm) error {
			seen = true
			var reached bool
			reached, last = holds(realms, realm, container, condition)
			switch {
			case !reached:
				return nil
			case condition == forDeleted:
				return a.looked(ctx)
			}
			return errReached
		})
		switch {
		case errors.Is(err, errReached):
			return nil
		case errors.Is(ctx.Err(), context.DeadlineExceeded) && seen:
			return &exitError{exitFailed, fmt.Errorf("not %s within %s: %s", condition, timeout, last)}
		case errors.Is(err, errNotRead):
			last = err.Error()
		case !errors.Is(err, api.ErrUnreachable) || ctx.Err() != nil:
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		case <-up:
			if !seen {
				return err
			}
		}
	}
}

// looked tells an object that is gone from one that a daemon which has just begun does not know of yet.
func (a *app) looked(ctx context.Context) error {
	host, err := a.client().Host(ctx)
	if err != nil {
		return err
	}
	if host.Source.ScannedAt.IsZero() {
		return errNotRead
	}
	return errReached
}

// holds reports whether the condition holds, and says in words how things are.
func holds(realms []status.Realm, realm, container, condition string) (bool, string) {
	i := slices.IndexFunc(realms, func(r status.Realm) bool { return string(r.Name) == realm })
	if i < 0 {
		return condition == forDeleted, fmt.Sprintf("there is no realm %s", realm)
	}
	r := realms[i]
	if container == "" {
		current := r.ObservedGeneration == r.Generation
		return condition == forReady && r.Ready && current || condition == forSynced && r.InSync && current,
			fmt.Sprintf("realm %s is %s: %s", realm, r.State, r.Message)
	}
	c, ok := r.Find(container)
	if !ok {
		return condition == forDeleted, fmt.Sprintf("realm %s has no container %s", realm, container)
	}
	ready := c.Phase == status.PhaseRunning || c.Phase == status.PhaseCompleted
	return condition == forReady && ready || condition == forSynced && c.InSync,
		fmt.Sprintf("container %s is %s: %s", c.Ref(), c.Phase, c.Message)
}
