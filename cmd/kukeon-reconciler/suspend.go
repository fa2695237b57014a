package main

import (
	"time"

	"github.com/spf13/cobra"

	"kukeon.io/kukeon-reconciler/internal/state"
)

func (a *app) suspendCommand() *cobra.Command {
	var duration time.Duration
	var reason string
	cmd := &cobra.Command{
		Use: "suspend REALM[/CONTAINER]", Short: "write nothing to a realm or container until it is resumed", Args: cobra.ExactArgs(1),
		Long: "Nothing is written to a suspended realm or container: what crashes stays down, changes and removals wait.\n" +
			"`" + program + " resume` ends it, and so does the time of --for.",
		ValidArgsFunction: a.completeBoth,
		RunE: func(cmd *cobra.Command, args []string) error {
			realm, container, err := splitRef(args[0])
			if err != nil {
				return err
			}
			now := a.now().UTC().Truncate(time.Second)
			s := state.Suspension{
				Realm: state.RealmName(realm), Container: state.ContainerID(container), Reason: reason, At: now, By: a.person(),
			}
			if duration < 0 {
				return usage("--for %s: a suspension cannot end before it begins", duration)
			}
			if duration > 0 {
				s.Until = now.Add(duration)
			}
			return a.client().Suspend(cmd.Context(), s)
		},
	}
	cmd.Flags().DurationVar(&duration, "for", 0, "how long (default: until resumed)")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for whoever looks at the status")
	return cmd
}

// person is who asks, as far as the environment tells: for people, not for security.
func (a *app) person() string {
	for _, variable := range []string{"SUDO_USER", "USER", "LOGNAME"} {
		if v := a.getenv(variable); v != "" {
			return v
		}
	}
	return ""
}
