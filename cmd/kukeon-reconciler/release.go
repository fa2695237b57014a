package main

import "github.com/spf13/cobra"

func (a *app) releaseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "release REALM", Short: "take our keys off a realm's objects and leave everything running", Args: cobra.ExactArgs(1),
		Long: "Takes our keys off a realm's objects and leaves everything running. It is refused while a manifest names the realm:\n" +
			"move the manifest away first.",
		ValidArgsFunction: a.completeRealms,
		RunE: func(cmd *cobra.Command, args []string) error {
			objects, err := a.client().Release(cmd.Context(), args[0])
			return a.printObjects("released", objects, err)
		},
	}
}
