package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const pollInterval = 100 * time.Millisecond

// container is what the demo shows of one item of `get containers -o json`.
type container struct {
	Realm, Namespace, Name, Phase, Reason, Message string
	Pid, Restarts                                  int
}

func (c container) up() bool { return c.Phase == "Running" || c.Phase == "Completed" }

// line is what a person sees of a container; a new one is printed whenever it differs.
func (c container) line() string {
	s := fmt.Sprintf("%-24s %-10s", c.Namespace+"/"+c.Name, c.Phase)
	if c.Phase == "Running" {
		s += fmt.Sprintf(" pid %d, %d restarts", c.Pid, c.Restarts)
	} else if c.Message != "" {
		s += " " + c.Message
	}
	return strings.TrimSpace(s)
}

// watch prints what becomes of the containers until ctx is over or over fires, which is a failure only when the
// containers were never all up.
func (d *demo) watch(ctx context.Context, over <-chan time.Time) error {
	start := time.Now()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	shown := map[string]string{}
	wasUp := false
	var lastErr error
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.exited:
			log, err := os.ReadFile(d.dir("reconciler.log"))
			return errors.Join(fmt.Errorf("the reconciler has ended: %v\n%s", d.reconciler.ProcessState, log), err)
		case <-over:
			if !wasUp {
				return errors.Join(errors.New("not everything came up"), lastErr)
			}
			return nil
		case <-ticker.C:
		}
		items, err := d.containers(ctx)
		if lastErr = err; err != nil {
			continue // its API is not up yet
		}
		for _, c := range items {
			if key := c.Realm + "/" + c.Name; shown[key] != c.line() {
				shown[key] = c.line()
				fmt.Printf("%6.2fs  %s\n", time.Since(start).Seconds(), c.line())
			}
		}
		allUp := len(items) > 0 && !slices.ContainsFunc(items, func(c container) bool { return !c.up() })
		if allUp && !wasUp {
			wasUp = true
			d.hints()
		}
	}
}

// containers asks the reconciler.
func (d *demo) containers(ctx context.Context) ([]container, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, d.bin, "get", "containers", "-o", "json", "--run-dir", d.dir("run"),
		"--containerd-address", d.daemon.Address).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, fmt.Errorf("get containers: %w: %s", err, exit.Stderr)
	}
	if err != nil {
		return nil, err
	}
	var list struct{ Items []container }
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("get containers: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b container) int { return strings.Compare(a.line(), b.line()) })
	return list.Items, nil
}

// endAll ends the processes of a binary that work below dir, and waits until they are gone.
func endAll(ctx context.Context, bin, dir string) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for sig := syscall.SIGTERM; ; sig = syscall.SIGKILL {
		pids, err := processes(bin, dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		for range int(stopTimeout / pollInterval) {
			if pids, err = processes(bin, dir); err != nil || len(pids) == 0 {
				return err
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("processes %v do not end: %w", pids, ctx.Err())
			case <-ticker.C:
			}
		}
	}
}

// processes returns the processes of a binary that were told of dir, by argument or by environment.
func processes(bin, dir string) ([]int, error) {
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, exe := range exes {
		if target, err := os.Readlink(exe); err != nil || target != bin {
			continue
		}
		proc := filepath.Dir(exe)
		cmdline, _ := os.ReadFile(filepath.Join(proc, "cmdline")) // empty when it has just ended
		environ, _ := os.ReadFile(filepath.Join(proc, "environ"))
		if !strings.Contains(string(cmdline)+string(environ), dir+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
