package main

import "github.com/spf13/cobra"

func (a *app) reconcileCommand() *cobra.Command {
	return &cobra.Command{
		Use: "reconcile [REALM]", Short: "look at the files and make a pass now", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeRealms,
		RunE: func(cmd *cobra.Command, args []string) error {
			realm := ""
			if len(args) > 0 {
				realm = args[0]
			}
			return a.client().Reconcile(cmd.Context(), realm)
		},
	}
}
