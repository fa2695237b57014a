package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"kukeon.io/kukeon-reconciler/internal/api"
	"kukeon.io/kukeon-reconciler/internal/logs"
	"kukeon.io/kukeon-reconciler/internal/status"
)

func (a *app) logsCommand() *cobra.Command {
	opts := logs.ReadOptions{Tail: -1}
	var since string
	cmd := &cobra.Command{
		Use: "logs REALM/CONTAINER", Short: "print what a container wrote", Args: cobra.ExactArgs(1),
		Long:              "Prints what a container wrote, as it wrote it, from the log files: no daemon is needed.",
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			realm, container, err := splitRef(args[0])
			if err != nil {
				return err
			}
			if container == "" {
				return usage("%q is no REALM/CONTAINER", args[0])
			}
			if opts.Since, err = a.parseSince(since); err != nil {
				return err
			}
			opts.Notices = a.err
			err = logs.Read(cmd.Context(), a.settings.logDir, realm, container, opts, a.out)
			return a.explainNoLog(cmd.Context(), args[0], err)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.Follow, "follow", "f", false, "go on with what is written from now on")
	f.IntVar(&opts.Tail, "tail", -1, "only the last lines, -1 for everything that is kept")
	f.StringVar(&since, "since", "", "only what is newer: a duration such as 10m, or an RFC 3339 time")
	f.BoolVarP(&opts.Timestamps, "timestamps", "t", false, "begin each line with its time and its stream")
	f.BoolVar(&opts.Previous, "previous", false, "the run before the last start")
	return cmd
}

// parseSince reads a duration back from now, or a time.
func (a *app) parseSince(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return a.now().Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, usage("--since %q is neither a duration such as 10m nor an RFC 3339 time", s)
	}
	return t, nil
}

// explainNoLog tells a container that wrote nothing yet from one that nobody knows, when there is a daemon to ask.
func (a *app) explainNoLog(ctx context.Context, ref string, err error) error {
	if !errors.Is(err, logs.ErrNoLog) {
		return err
	}
	realms, asked := a.client().Realms(ctx)
	switch {
	case asked != nil:
		return status.Refuse(api.ErrNotFound, "%s has no log in %s", ref, a.settings.logDir)
	case len(pickContainers(realms, "", []string{ref})) == 0:
		return status.Refuse(api.ErrNotFound, "there is no container %s; `%s get containers` lists them", ref, program)
	}
	a.talk("%s has written nothing yet", ref)
	return nil
}
