package main

import "github.com/spf13/cobra"

func (a *app) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "resume REALM[/CONTAINER]", Short: "end a suspension", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeBoth,
		RunE: func(cmd *cobra.Command, args []string) error {
			realm, container, err := splitRef(args[0])
			if err != nil {
				return err
			}
			return a.client().Resume(cmd.Context(), realm, container)
		},
	}
}
