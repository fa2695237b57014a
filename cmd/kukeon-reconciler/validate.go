package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"kukeon.io/kukeon-reconciler/internal/compile"
	"kukeon.io/kukeon-reconciler/internal/source"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

func (a *app) validateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "validate PATH...", Short: "print every problem of manifests; no containerd is needed", Args: cobra.MinimumNArgs(1),
		Long: "Prints every problem of the manifests in files and directories (- is stdin) as file:line:column: field: message.\n\n" +
			"Exit status: 0 valid (there may be warnings), 1 invalid, 2 a path cannot be read.",
		RunE: func(_ *cobra.Command, args []string) error {
			scan, err := source.ReadPaths(args, a.in)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			problems := a.problems(scan)
			for _, p := range problems {
				if err := a.print("%s\n", p); err != nil {
					return err
				}
			}
			errors := len(slices.DeleteFunc(slices.Clone(problems), func(p manifests.Problem) bool { return p.Severity != manifests.Error }))
			a.talk("%d files, %d errors, %d warnings", len(scan.Files), errors, len(problems)-errors)
			if errors > 0 || !scan.Complete {
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
}

// problems are all that can be found without containerd: the owner stands for one that holds no namespace.
func (a *app) problems(scan manifests.Scan) []manifests.Problem {
	const nobody state.Owner = "none"
	return compile.Compile(scan, compile.Options{Template: a.settings.template}, nil, nobody, state.Accepted{}).Problems
}

// printProblems tells of the problems on stderr, for commands whose data is something else.
func (a *app) printProblems(problems []manifests.Problem) {
	for _, p := range problems {
		a.talk("%s", fmt.Sprint(p))
	}
}
