package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/go-logr/logr"
)

// notifySystemd tells systemd, when it is there, that we are ready, that we are alive, and, once ctx ends, that we
// stop. alive is called before each sign of life: it blocks when we are stuck, and the watchdog bites. The channel is
// closed when nothing is told any more.
func notifySystemd(ctx context.Context, log logr.Logger, alive func()) <-chan struct{} {
	tell := func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.V(1).Info("systemd does not listen", "error", err.Error())
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer tell(daemon.SdNotifyStopping)
		tell(daemon.SdNotifyReady)
		interval, err := daemon.SdWatchdogEnabled(false)
		if err != nil || interval == 0 {
			<-ctx.Done()
			return
		}
		beat := time.NewTicker(interval / 3)
		defer beat.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-beat.C:
				alive()
				tell(daemon.SdNotifyWatchdog)
			}
		}
	}()
	return ended
}

// withoutSystemd is the environment for a process that is not systemd's: it must not speak for us.
func withoutSystemd(env []string) []string {
	return slices.DeleteFunc(env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == "NOTIFY_SOCKET" || name == "WATCHDOG_USEC" || name == "WATCHDOG_PID"
	})
}
