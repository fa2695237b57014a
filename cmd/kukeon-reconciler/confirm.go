package main

import "github.com/spf13/cobra"

func (a *app) confirmCommand() *cobra.Command {
	return &cobra.Command{
		Use: "confirm ID", Short: "release a held removal, or remove an orphan", Args: cobra.ExactArgs(1),
		Long: "Releases a removal that is held, or removes an orphan; `" + program + " status` shows both, with their IDs.",
		RunE: func(cmd *cobra.Command, args []string) error {
			released, err := a.client().Confirm(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print("confirmed: %s\n", released)
		},
	}
}
