package main

import (
	"runtime"

	"github.com/spf13/cobra"
)

// version is set by the build (-X main.version).
var version = "unknown"

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.print("%s %s %s %s/%s\n", program, version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}
