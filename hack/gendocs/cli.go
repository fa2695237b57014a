package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// program is the command's name, and the package below cmd/ that it is built from.
const program = "kukeon-reconciler"

// cliHead is the beginning of docs/cli.md: what holds for all commands, and what no help text says.
//
//go:embed cli.head.md
var cliHead string

// commandLine makes docs/cli.md out of what every command prints with --help. The command's package cannot be
// imported, and what people see is the best witness anyway.
func commandLine() (string, error) {
	dir, err := os.MkdirTemp("", "gendocs")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a directory of ours among the temporary ones
	binary := filepath.Join(dir, program)
	if out, err := exec.Command("go", "build", "-o", binary, "./cmd/"+program).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	help := func(path []string) (string, error) {
		out, err := exec.Command(binary, append(path[1:len(path):len(path)], "--help")...).Output()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			return "", fmt.Errorf("%s --help: %w: %s", strings.Join(path, " "), err, exit.Stderr)
		}
		return string(out), err
	}
	var b strings.Builder
	b.WriteString(cliHead)
	if err := section(&b, []string{program}, help); err != nil {
		return "", err
	}
	return b.String(), nil
}

// section adds what help says of a command and of all below it.
func section(b *strings.Builder, path []string, help func(path []string) (string, error)) error {
	text, err := help(path)
	if err != nil {
		return err
	}
	h := parseHelp(text)
	fmt.Fprintf(b, "\n%s %s\n\n```text\n%s\n```\n", strings.Repeat("#", min(len(path)+1, 3)), strings.Join(path, " "), h.text)
	for _, name := range h.commands {
		if err := section(b, append(path[:len(path):len(path)], name), help); err != nil {
			return err
		}
	}
	return nil
}

// helpText is what a page shows of one help text.
type helpText struct {
	// text is without what the page says once for all commands.
	text     string
	commands []string // below it
}

// The headings in cobra's help texts that matter here, and where cobra points to further help.
const (
	commandsHeading = "Available Commands:"
	globalsHeading  = "Global Flags:"
	seeAlso         = "Use \""
)

// parseHelp cuts a help text into its paragraphs and drops those that each command repeats.
func parseHelp(text string) helpText {
	var h helpText
	var kept []string
	for _, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		heading, rest, _ := strings.Cut(paragraph, "\n")
		switch {
		case heading == globalsHeading, strings.HasPrefix(heading, seeAlso):
			continue
		case heading == commandsHeading:
			for line := range strings.Lines(rest) {
				if name := strings.Fields(line); len(name) > 0 && name[0] != "help" {
					h.commands = append(h.commands, name[0])
				}
			}
		}
		kept = append(kept, paragraph)
	}
	h.text = strings.Join(kept, "\n\n")
	return h
}
