package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"

	"kukeon.io/kukeon-reconciler/internal/logs"
)

func (a *app) logdCommand() *cobra.Command {
	var detach bool
	cmd := &cobra.Command{
		Use: "logd", Short: "drain the containers' output into log files, and nothing else", Args: cobra.NoArgs,
		Long: "Drains the containers' output into log files. It is a process of its own so that it outlives upgrades of the daemon;\n" +
			"`run` starts it when it is absent.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := a.logger()
			if err != nil {
				return err
			}
			if detach {
				return a.detachLogd(cmd.Context())
			}
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			pump := logs.NewPump(logs.Options{RunDir: a.settings.runDir, Log: log})
			ended := notifySystemd(ctx, log, func() {})
			err = pump.Run(ctx)
			cancel()
			<-ended
			return err
		},
	}
	cmd.Flags().BoolVar(&detach, "detach", false, "start it in the background, and return")
	_ = cmd.Flags().MarkHidden("detach") // it exists
	return cmd
}

// startLogd makes sure that a logd is there. Ours is the child of a process that ends at once, so that nobody has to
// wait for it, and it outlives us.
func (a *app) startLogd(ctx context.Context, log logr.Logger) error {
	present, err := logs.LogdPresent(a.settings.runDir)
	if err != nil || present {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start logd: %w", err)
	}
	helper := exec.CommandContext(ctx, self, append(a.logdArgs(), "--detach")...)
	out, err := helper.CombinedOutput()
	if err != nil {
		return fmt.Errorf("start logd: %w: %s", err, out)
	}
	log.Info("started logd")
	return nil
}

// logdArgs are the command line of a logd of ours. Everything is said, so that no other file or variable decides.
func (a *app) logdArgs() []string {
	s := a.settings
	return []string{"logd", "--config", os.DevNull, "--run-dir", s.runDir, "--log-dir", s.logDir,
		"--log-level", s.logLevel, "--log-format", s.logFormat}
}

// detachLogd starts logd in a session of its own and leaves it. What it says goes to a file beside the logs.
func (a *app) detachLogd(ctx context.Context) (err error) {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start logd: %w", err)
	}
	if err := os.MkdirAll(a.settings.logDir, 0o750); err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(a.settings.logDir, "logd.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, a.logdArgs()...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = io.Writer(out), out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = withoutSystemd(os.Environ())
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start logd: %w", err)
	}
	return cmd.Process.Release()
}
