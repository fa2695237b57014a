package ctrd

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestAConnectionOnWhichNothingComesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		defer ours.Close()
		go func() {
			for range 3 { // slow is not silent
				time.Sleep(silence * 9 / 10)
				_, _ = theirs.Write([]byte("x")) // what is read tells
			}
		}()
		began := time.Now()
		conn := impatient{ours}
		for n := 0; ; n++ {
			_, err := conn.Read(make([]byte, 1))
			if err == nil {
				continue
			}
			if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || n != 3 || took != 3*silence*9/10+silence {
				t.Errorf("after %d bytes and %s: %v", n, took, err)
			}
			return
		}
	})
}
