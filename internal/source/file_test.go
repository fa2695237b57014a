package source

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/manifests"
)

// clock is a time that a test moves.
type clock struct{ now time.Time }

func (c *clock) read() time.Time { return c.now }

func TestAFileIsUnsettledWhileSomebodyHasItOpenForWriting(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/other.yaml", "other")
	writer, err := os.Create(root + "/slow.yaml")
	must(t, err)
	defer writer.Close()
	c := &clock{now: time.Now()}
	r := testReader(root, WithClock(c.read))
	expect(t, r.Read(t.Context()), "file other.yaml: other\nunsettled slow.yaml\nincomplete")

	_, err = writer.WriteString("half")
	must(t, err)
	c.now = c.now.Add(maxUnsettled - time.Millisecond)
	expect(t, r.Read(t.Context()), "file other.yaml: other\nunsettled slow.yaml\nincomplete")

	c.now = c.now.Add(time.Millisecond)
	expect(t, r.Read(t.Context()), "file other.yaml: other\nproblem slow.yaml: still being written after 5s\nincomplete")

	_, err = writer.WriteString(" and whole")
	must(t, err)
	must(t, writer.Close())
	expect(t, r.Read(t.Context()), "file other.yaml: other\nfile slow.yaml: half and whole\ncomplete")

	writer, err = os.OpenFile(root+"/slow.yaml", os.O_WRONLY|os.O_TRUNC, 0)
	must(t, err)
	defer writer.Close()
	c.now = c.now.Add(time.Hour)
	expect(t, r.Read(t.Context()), "file other.yaml: other\nunsettled slow.yaml\nincomplete")
}

func TestWithoutLeasesAFileMustStandStill(t *testing.T) {
	for name, c := range map[string]*clock{
		"by its timestamps":             {now: time.Now()},
		"by watching, when it is 1970":  {now: time.Unix(0, 0)},
		"by watching, an hour too slow": {now: time.Now().Add(-time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write(t, root+"/a.yaml", "a")
			r := testReader(root, WithClock(c.read))
			r.lease = func(*os.File) error { return errNoLease }
			expect(t, r.Read(t.Context()), "unsettled a.yaml\nincomplete")
			c.now = c.now.Add(leaselessQuiet + time.Second)
			expect(t, r.Read(t.Context()), "file a.yaml: a\ncomplete")
			expect(t, r.Read(t.Context()), "file a.yaml: a\ncomplete")
		})
	}
}

func TestAFileThatChangesWhileItIsReadIsUnsettled(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/a.yaml", "a")
	r := testReader(root)
	r.lease = func(f *os.File) error {
		must(t, os.Chtimes(root+"/a.yaml", time.Now(), time.Now())) // needs no open
		return takeLease(f)
	}
	expect(t, r.Read(t.Context()), "unsettled a.yaml\nincomplete")
}

func TestAWriterNeverShowsAHalfFile(t *testing.T) {
	root := t.TempDir()
	versions := [][]byte{bytes.Repeat([]byte("one "), 50_000), bytes.Repeat([]byte("second "), 20_000)}
	must(t, os.WriteFile(root+"/a.yaml", versions[0], 0o644))
	ctx, cancel := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	// os.WriteFile truncates first. Each of its opens breaks the lease of a scan under way, which would kill this
	// process if the signal for that were SIGIO.
	writing.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := os.WriteFile(root+"/a.yaml", versions[i%2], 0o644); err != nil {
				t.Error(err)
			}
		}
	})
	r := testReader(root)
	r.decode = func(path string, data []byte) manifests.File {
		if !bytes.Equal(data, versions[0]) && !bytes.Equal(data, versions[1]) {
			t.Errorf("%d bytes were read", len(data))
		}
		return manifests.File{Path: path}
	}
	settled := 0
	for i := 0; i < 100_000 && settled < 300; i++ {
		if scan := r.Read(t.Context()); len(scan.Files) == 1 {
			settled++
		}
	}
	cancel()
	writing.Wait()
	if settled < 10 {
		t.Errorf("only %d scans found the file settled", settled)
	}
}

func TestTheLeaseIsGivenBack(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/a.yaml", "a")
	expect(t, testReader(root).Read(t.Context()), "file a.yaml: a\ncomplete")
	// With O_NONBLOCK an open for writing fails while anybody holds a lease.
	f, err := os.OpenFile(root+"/a.yaml", os.O_WRONLY|unix.O_NONBLOCK, 0)
	must(t, err)
	must(t, f.Close())
}

func TestANameThatBecameAFIFOBlocksNobody(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/a.yaml", "a")
	info, err := os.Stat(root + "/a.yaml")
	must(t, err)
	must(t, os.Remove(root+"/a.yaml"))
	must(t, unix.Mkfifo(root+"/a.yaml", 0o644))
	top, err := os.OpenRoot(root)
	must(t, err)
	defer top.Close()
	_, err = testReader(root).load(top, candidate{path: "a.yaml", real: "a.yaml", stat: statOf(info)}, owners{})
	if r := refusal(""); !errors.As(err, &r) {
		t.Errorf("load: %v, want a refusal", err)
	}
}
