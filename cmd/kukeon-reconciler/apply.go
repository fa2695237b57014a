package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"kukeon.io/kukeon-reconciler/controllers"
	"kukeon.io/kukeon-reconciler/internal/source"
	"kukeon.io/kukeon-reconciler/manifests"
)

var errInvalid = errors.New("the manifests have errors")

func (a *app) applyCommand() *cobra.Command {
	var paths []string
	var timeout time.Duration
	opts := controllers.OnceOptions{}
	cmd := &cobra.Command{
		Use: "apply -f PATH...", Short: "converge what manifests declare, once, without the daemon", Args: cobra.NoArgs,
		Long: "Converges what the manifests declare, prints what was done to each container, and ends. It works beside a daemon, and\n" +
			"refuses realms that the daemon manages.\n\n" +
			"Exit status: 0 all is as declared, 1 something failed, 2 the manifests are invalid or there is no containerd.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(paths) == 0 {
				return usage("apply what? -f PATH")
			}
			scan, err := source.ReadPaths(paths, a.in)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if problems := a.problems(scan); manifests.HasErrors(problems) || !scan.Complete {
				a.printProblems(problems)
				return &exitError{exitUsage, errInvalid}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			outcomes, problems, err := a.applyOnce(ctx, scan, opts)
			a.printProblems(problems)
			failed, printed := a.printOutcomes(outcomes)
			switch {
			case printed != nil:
				return printed
			case err != nil:
				return &exitError{exitUsage, err}
			case failed:
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&paths, "file", "f", nil, "manifest files or directories, - for stdin")
	f.BoolVar(&opts.Wait, "wait", false, "until every realm is ready")
	f.BoolVar(&opts.Prune, "prune", false, "remove what is ours and not declared in the realms that PATH names")
	f.DurationVar(&timeout, "timeout", 5*time.Minute, "how long at most")
	return cmd
}

// printOutcomes prints a line per container and reports whether one of them failed.
func (a *app) printOutcomes(outcomes []controllers.Outcome) (failed bool, err error) {
	for _, o := range outcomes {
		if err := a.print("%s/%s %s\n", o.Realm, o.Container, o.Verb); err != nil {
			return failed, err
		}
		if o.Verb == controllers.Failed {
			failed = true
			a.talk("%s/%s: %s", o.Realm, o.Container, o.Error)
		}
	}
	return failed, nil
}
