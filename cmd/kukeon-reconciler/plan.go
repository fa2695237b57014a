package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"kukeon.io/kukeon-reconciler/internal/api"
	"kukeon.io/kukeon-reconciler/internal/source"
	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/manifests"
)

func (a *app) planCommand() *cobra.Command {
	var paths []string
	cmd := &cobra.Command{
		Use: "plan [-f PATH...] [REALM]", Aliases: []string{"diff"}, Short: "print the steps that would run, with reasons", Args: cobra.MaximumNArgs(1),
		Long: "Prints the steps that would run, each with its reason: of what the daemon is about to do, or, with -f, of what those\n" +
			"manifests would change; that needs no daemon.\n\n" +
			"Exit status: 0 nothing to do, 1 there are changes, 2 an error.",
		ValidArgsFunction: a.completeRealms,
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := a.plan(cmd.Context(), paths, args)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if changes {
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVarP(&paths, "file", "f", nil, "manifest files or directories, - for stdin")
	return cmd
}

// plan prints the steps and reports whether there are any.
func (a *app) plan(ctx context.Context, paths, args []string) (bool, error) {
	realms, err := a.planned(ctx, paths)
	if err != nil {
		return false, err
	}
	if len(args) > 0 {
		realms = slices.DeleteFunc(realms, func(r status.Realm) bool { return string(r.Name) != args[0] })
		if len(realms) == 0 {
			return false, status.Refuse(api.ErrNotFound, "there is no realm %q", args[0])
		}
	}
	changes := false
	for _, r := range realms {
		if len(r.Plan)+len(r.Waits)+len(r.LeftAlone) == 0 {
			continue
		}
		changes = changes || len(r.Plan)+len(r.Waits) > 0
		if err := a.printPlan(r); err != nil {
			return changes, err
		}
	}
	if !changes {
		a.talk("nothing to do")
	}
	return changes, nil
}

func (a *app) planned(ctx context.Context, paths []string) ([]status.Realm, error) {
	if len(paths) == 0 {
		return a.client().Realms(ctx)
	}
	scan, err := source.ReadPaths(paths, a.in)
	if err != nil {
		return nil, err
	}
	realms, problems, err := a.preview(ctx, scan)
	a.printProblems(problems)
	if err == nil && (manifests.HasErrors(problems) || !scan.Complete) {
		err = errInvalid
	}
	return realms, err
}

func (a *app) printPlan(r status.Realm) error {
	p := &page{a: a}
	p.line("realm %s (namespace %s):", r.Name, r.Namespace)
	for _, step := range r.Plan {
		p.line("  %s", step)
	}
	for _, wait := range r.Waits {
		p.line("  %s", wait)
	}
	for _, l := range r.LeftAlone {
		p.line("  left alone %s: %s", l.Object, l.Message)
	}
	return p.err
}
