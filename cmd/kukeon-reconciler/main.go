// Command kukeon-reconciler keeps a host's containerd namespaces equal to a directory of realm manifests.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/internal/api"
)

func main() {
	// The first signal asks for an orderly end; after it, a second one ends us at once.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	a := &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, now: time.Now, getenv: os.Getenv,
		terminal: isTerminal(os.Stdout), watched: isTerminal(os.Stderr),
	}
	os.Exit(a.execute(ctx, os.Args[1:]))
}

// app is the surroundings of one invocation; tests make their own.
type app struct {
	in       io.Reader
	out, err io.Writer // data and talk
	getenv   func(string) string
	now      func() time.Time
	terminal bool // out is one
	watched  bool // err is one: a person looks on

	settings settings
	began    bool // the command line was understood
}

// The exit codes that commands share. Each command's own are in its file.
const (
	exitFailed      = 1
	exitUsage       = 2 // or nobody there to ask
	exitInterrupted = 130
)

// exitError ends the command with a code; a nil err says nothing more.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// execute runs one command line and returns the exit code.
func (a *app) execute(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		if exit.err != nil {
			a.talk("error: %v", exit.err)
		}
		return exit.code
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitInterrupted
	case !a.began:
		a.talk("error: %v\n`kukeon-reconciler --help` shows the commands, `kukeon-reconciler COMMAND --help` their flags", err)
		return exitUsage
	}
	a.talk("error: %v", err)
	if errors.Is(err, api.ErrUnreachable) {
		return exitUsage
	}
	return exitFailed
}

// talk says something to the person, on stderr.
func (a *app) talk(format string, args ...any) {
	fmt.Fprintf(a.err, format+"\n", args...) //nolint:errcheck // nobody is left to tell
}

// print writes data to stdout.
func (a *app) print(format string, args ...any) error {
	_, err := fmt.Fprintf(a.out, format, args...)
	return err
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
