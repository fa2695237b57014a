package main

import "github.com/spf13/cobra"

func (a *app) adoptCommand() *cobra.Command {
	return &cobra.Command{
		Use: "adopt REALM[/CONTAINER]", Short: "take over containers that carry no owner or another one", Args: cobra.ExactArgs(1),
		Long: "Takes over containers that carry no owner or another one; without CONTAINER, the namespace and every container that a\n" +
			"manifest declares. They keep running until their declaration changes. Labels of containerd's restart monitor go.",
		ValidArgsFunction: a.completeBoth,
		RunE: func(cmd *cobra.Command, args []string) error {
			realm, container, err := splitRef(args[0])
			if err != nil {
				return err
			}
			objects, err := a.client().Adopt(cmd.Context(), realm, container)
			return a.printObjects("adopted", objects, err)
		},
	}
}

// printObjects prints what was done to which objects, also when it did not get to the end.
func (a *app) printObjects(done string, objects []string, failed error) error {
	for _, o := range objects {
		if err := a.print("%s %s\n", o, done); err != nil {
			return err
		}
	}
	if failed == nil && len(objects) == 0 {
		a.talk("nothing to do")
	}
	return failed
}
