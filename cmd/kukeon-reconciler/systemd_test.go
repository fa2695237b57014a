package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/go-logr/logr"
)

func TestSystemdHearsOfReadinessLifeAndStop(t *testing.T) {
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close() //nolint:errcheck // a test
	t.Setenv("NOTIFY_SOCKET", socket.LocalAddr().String())
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{}, 1)
	ended := notifySystemd(ctx, logr.Discard(), func() {
		select {
		case asked <- struct{}{}:
		default:
		}
	})
	hear := func() string {
		buf := make([]byte, 100)
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	if got := hear(); got != "READY=1" {
		t.Errorf("first %q", got)
	}
	if got := hear(); got != "WATCHDOG=1" {
		t.Errorf("then %q", got)
	}
	<-asked
	cancel()
	<-ended
	last := ""
	for last != "STOPPING=1" {
		if last = hear(); last != "WATCHDOG=1" && last != "STOPPING=1" {
			t.Fatalf("at last %q", last)
		}
	}
}

func TestAProcessOfItsOwnDoesNotSpeakForUs(t *testing.T) {
	got := withoutSystemd([]string{"PATH=/bin", "NOTIFY_SOCKET=/run/x", "WATCHDOG_PID=1", "WATCHDOG_USEC=2", "HOME=/"})
	if !slices.Equal(got, []string{"PATH=/bin", "HOME=/"}) {
		t.Errorf("got %q", got)
	}
}
