package intake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/internal/source"
	"kukeon.io/kukeon-reconciler/manifests"
)

// hangLimit is how long one look may take on a busy machine.
const hangLimit = 30 * time.Second

// canary is a tree outside the manifest directory. The kernel tells of everything that is opened, read, made or removed
// in it.
type canary struct {
	dir    string
	fd     int
	before string
}

const stolen = "kind: Realm\nmetadata: {name: stolen}\nspec: {containers: []}\n"

// newCanary makes dir/outside with a manifest, a directory of manifests and a volume of somebody else.
func newCanary(t *testing.T, dir string) *canary {
	t.Helper()
	c := &canary{dir: filepath.Join(dir, "outside")}
	for _, d := range []string{"", "realms", "volumes"} {
		must(t, os.MkdirAll(filepath.Join(c.dir, d), 0o755))
	}
	for _, f := range []string{"secret.yaml", "secret", "realms/stolen.yaml", "volumes/data"} {
		must(t, os.WriteFile(filepath.Join(c.dir, f), []byte(stolen), 0o644))
	}
	var err error
	c.fd, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Close(c.fd)) })
	const all = unix.IN_ACCESS | unix.IN_OPEN | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVE
	for _, d := range []string{"", "realms", "volumes"} {
		_, err := unix.InotifyAddWatch(c.fd, filepath.Join(c.dir, d), all)
		must(t, err)
	}
	c.before = c.state(t)
	return c
}

// state is what the tree looks like to stat, which the kernel tells nobody of.
func (c *canary) state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, f := range []string{"", "secret.yaml", "secret", "realms", "realms/stolen.yaml", "volumes", "volumes/data"} {
		var s unix.Stat_t
		must(t, unix.Lstat(filepath.Join(c.dir, f), &s))
		fmt.Fprintln(&b, f, s.Ino, s.Size, s.Mode, s.Uid, s.Gid, s.Nlink, s.Mtim, s.Atim)
	}
	return b.String()
}

// touched lists what was done in the tree since the last call.
func (c *canary) touched(t *testing.T) []string {
	t.Helper()
	var out []string
	buffer := make([]byte, 64<<10)
	for {
		n, err := unix.Read(c.fd, buffer)
		if errors.Is(err, unix.EAGAIN) || n == 0 {
			break
		}
		must(t, err)
		for at := 0; at < n; {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&buffer[at]))
			name := strings.TrimRight(string(buffer[at+unix.SizeofInotifyEvent:at+unix.SizeofInotifyEvent+int(event.Len)]), "\x00")
			out = append(out, fmt.Sprintf("%s %#x", name, event.Mask))
			at += unix.SizeofInotifyEvent + int(event.Len)
		}
	}
	if is := c.state(t); is != c.before {
		out = append(out, cmp.Diff(c.before, is))
		c.before = is
	}
	return out
}

// escaped fails for everything that was done outside, and for a realm that came from there.
func (c *canary) escaped(t *testing.T, what string, scan manifests.Scan) {
	t.Helper()
	if done := c.touched(t); len(done) > 0 {
		figures.escape(t, fmt.Sprintf("%s: touched outside: %s", what, strings.Join(done, ", ")))
	}
	for _, f := range scan.Files {
		if slices.ContainsFunc(f.Documents, func(d manifests.Document) bool { return d.RealmName == "stolen" }) {
			figures.escape(t, fmt.Sprintf("%s: read from outside through %s", what, f.Path))
		}
	}
}

func (y *tally) escape(t *testing.T, why string) {
	t.Helper()
	y.escapes++
	y.failures++
	t.Error(why)
}

// TestTheCanarySees proves that a reader would be noticed.
func TestTheCanarySees(t *testing.T) {
	c := newCanary(t, scratch(t))
	if done := c.touched(t); len(done) > 0 {
		t.Fatalf("touched by nobody: %v", done)
	}
	for what, do := range map[string]func() error{
		"read":   func() error { _, err := os.ReadFile(filepath.Join(c.dir, "secret")); return err },
		"list":   func() error { _, err := os.ReadDir(filepath.Join(c.dir, "realms")); return err },
		"create": func() error { return os.WriteFile(filepath.Join(c.dir, "volumes", "x"), nil, 0o644) },
		"remove": func() error { return os.Remove(filepath.Join(c.dir, "volumes", "x")) },
		"chmod":  func() error { return os.Chmod(filepath.Join(c.dir, "secret"), 0o600) },
	} {
		if what == "remove" {
			continue // after create
		}
		must(t, do())
		if len(c.touched(t)) == 0 {
			t.Errorf("nobody sees %s", what)
		}
	}
}

// look reads a directory within bounds.
func look(t *testing.T, what string, r *source.Reader) manifests.Scan {
	t.Helper()
	done := make(chan manifests.Scan, 1)
	go func() { done <- r.Read(context.Background()) }()
	timer := time.NewTimer(hangLimit)
	defer timer.Stop()
	select {
	case scan := <-done:
		return scan
	case <-timer.C:
		figures.hangs++
		figures.failures++
		t.Fatalf("%s: a look does not end", what)
	}
	return manifests.Scan{}
}

// attack is one hostile thing in a manifest directory.
type attack struct {
	name string
	// lay makes it at the path; outside is the canary tree.
	lay  func(t *testing.T, at, outside string)
	path string // x.yaml when empty
}

var attacks = []attack{
	{name: "absolute symlink to a file", lay: func(t *testing.T, at, outside string) { must(t, os.Symlink(outside+"/secret.yaml", at)) }},
	{name: "relative symlink to a file", lay: func(t *testing.T, at, _ string) { must(t, os.Symlink("../outside/secret.yaml", at)) }},
	{name: "symlink to a file of another name", lay: func(t *testing.T, at, outside string) { must(t, os.Symlink(outside+"/secret", at)) }},
	{name: "absolute symlink to a directory", path: "d", lay: func(t *testing.T, at, outside string) { must(t, os.Symlink(outside+"/realms", at)) }},
	{name: "relative symlink to a directory", path: "d", lay: func(t *testing.T, at, _ string) { must(t, os.Symlink("../outside/realms", at)) }},
	{name: "symlink through the root's own name", lay: func(t *testing.T, at, _ string) {
		must(t, os.Symlink("../realms.d/../outside/secret.yaml", at))
	}},
	{name: "absolute symlink that begins with the root", lay: func(t *testing.T, at, _ string) {
		must(t, os.Symlink(filepath.Dir(at)+"/../outside/secret.yaml", at))
	}},
	{name: "symlink to a neighbour with the same beginning", lay: func(t *testing.T, at, outside string) {
		must(t, os.MkdirAll(filepath.Dir(at)+"-other", 0o755))
		must(t, os.Symlink(outside, filepath.Dir(at)+"-other/o"))
		must(t, os.Symlink(filepath.Dir(at)+"-other/o/secret.yaml", at))
	}},
	{name: "chain of symlinks", lay: func(t *testing.T, at, outside string) {
		previous := outside + "/secret.yaml"
		for i := range 20 {
			link := fmt.Sprintf("%s/.l%d", filepath.Dir(at), i)
			must(t, os.Symlink(previous, link))
			previous = fmt.Sprintf(".l%d", i)
		}
		must(t, os.Symlink(previous, at))
	}},
	{name: "symlink to itself", lay: func(t *testing.T, at, _ string) { must(t, os.Symlink(filepath.Base(at), at)) }},
	{name: "loop of symlinks", lay: func(t *testing.T, at, _ string) {
		must(t, os.Symlink(filepath.Base(at), filepath.Dir(at)+"/.y"))
		must(t, os.Symlink(".y", at))
	}},
	{name: "symlink to the directory itself", path: "d", lay: func(t *testing.T, at, _ string) { must(t, os.Symlink(".", at)) }},
	{name: "symlink up and down again", path: "d", lay: func(t *testing.T, at, _ string) { must(t, os.Symlink("../realms.d", at)) }},
	{name: "symlink to /proc/self/root", lay: func(t *testing.T, at, outside string) {
		must(t, os.Symlink("/proc/self/root"+outside+"/secret.yaml", at))
	}},
	{name: "symlink to /proc/self/cwd", path: "d", lay: func(t *testing.T, at, _ string) { must(t, os.Symlink("/proc/self/cwd", at)) }},
	{name: "symlink to nothing", lay: func(t *testing.T, at, outside string) { must(t, os.Symlink(outside+"/none.yaml", at)) }},
	{name: "symlink to an endless device", lay: func(t *testing.T, at, _ string) { must(t, os.Symlink("/dev/zero", at)) }},
	{name: "fifo", lay: func(t *testing.T, at, _ string) { must(t, unix.Mkfifo(at, 0o644)) }},
	{name: "fifo with a writer", lay: func(t *testing.T, at, _ string) {
		must(t, unix.Mkfifo(at, 0o644))
		f, err := os.OpenFile(at, os.O_RDWR|unix.O_NONBLOCK, 0)
		must(t, err)
		t.Cleanup(func() { must(t, f.Close()) })
		_, err = f.WriteString(stolen)
		must(t, err)
	}},
	{name: "socket", lay: func(t *testing.T, at, _ string) {
		l, err := net.Listen("unix", at)
		must(t, err)
		t.Cleanup(func() { must(t, l.Close()) })
	}},
	{name: "character device", lay: func(t *testing.T, at, _ string) { must(t, unix.Mknod(at, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5)))) }},
	{name: "block device", lay: func(t *testing.T, at, _ string) { must(t, unix.Mknod(at, unix.S_IFBLK|0o644, int(unix.Mkdev(7, 200)))) }},
	{name: "directory named like a manifest", lay: func(t *testing.T, at, _ string) {
		must(t, os.MkdirAll(at, 0o755))
		must(t, os.WriteFile(at+"/y.yaml", []byte(stolen), 0o644))
	}},
	{name: "hard link to a file of somebody else", lay: func(t *testing.T, at, _ string) {
		must(t, os.WriteFile(at+".tmp", []byte(stolen), 0o644))
		must(t, os.Chown(at+".tmp", 12345, 12345))
		must(t, os.Link(at+".tmp", at))
	}},
	{name: "hard link to a file that everybody may write", lay: func(t *testing.T, at, _ string) {
		must(t, os.WriteFile(at+".tmp", []byte(stolen), 0o644))
		must(t, os.Chmod(at+".tmp", 0o666))
		must(t, os.Link(at+".tmp", at))
	}},
	{name: "file of somebody else", lay: func(t *testing.T, at, _ string) {
		must(t, os.WriteFile(at, []byte(stolen), 0o600))
		must(t, os.Chown(at, 12345, 0))
	}},
	{name: "file that another group may write", lay: func(t *testing.T, at, _ string) {
		must(t, os.WriteFile(at, []byte(stolen), 0o644))
		must(t, os.Chown(at, 0, 12345))
		must(t, os.Chmod(at, 0o664))
	}},
	{name: "file in a directory of somebody else", path: "d", lay: func(t *testing.T, at, _ string) {
		must(t, os.MkdirAll(at, 0o755))
		must(t, os.WriteFile(at+"/y.yaml", []byte(stolen), 0o644))
		must(t, os.Chown(at, 12345, 0))
	}},
	{name: "file in a directory that everybody may write", path: "d", lay: func(t *testing.T, at, _ string) {
		must(t, os.MkdirAll(at, 0o755))
		must(t, os.WriteFile(at+"/y.yaml", []byte(stolen), 0o644))
		must(t, os.Chmod(at, 0o777))
	}},
	{name: "symlink into a directory of somebody else", lay: func(t *testing.T, at, _ string) {
		hidden := filepath.Dir(at) + "/.theirs"
		must(t, os.MkdirAll(hidden, 0o755))
		must(t, os.WriteFile(hidden+"/y.yaml", []byte(stolen), 0o644))
		must(t, os.Chown(hidden, 12345, 0))
		must(t, os.Symlink(".theirs/y.yaml", at))
	}},
	{name: "directories without end", path: "d", lay: func(t *testing.T, at, _ string) {
		must(t, os.MkdirAll(at+strings.Repeat("/d", 200), 0o755))
		must(t, os.WriteFile(at+strings.Repeat("/d", 200)+"/y.yaml", []byte(stolen), 0o644))
	}},
	{name: "name with an escape sequence", path: "\x1b[31mred.yaml", lay: layStolen},
	{name: "name that is not UTF-8", path: "\xff.yaml", lay: layStolen},
	{name: "name of two lines", path: "a\nb.yaml", lay: layStolen},
	{name: "name that hides its end", path: "a\u202elmay.yaml", lay: layStolen},
}

func layStolen(t *testing.T, at, _ string) { must(t, os.WriteFile(at, []byte(stolen), 0o644)) }

// TestNothingOutsideIsRead lays each attack beside good manifests: it is told of, nothing comes of it, and the good
// manifests are read all the same.
func TestNothingOutsideIsRead(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			dir := scratch(t)
			root := filepath.Join(dir, "realms.d")
			d := newDesk(t, root)
			c := newCanary(t, dir)
			name := a.path
			if name == "" {
				name = "x.yaml"
			}
			a.lay(t, filepath.Join(root, name), c.dir)
			c.before = c.state(t) // a hard link is one more
			c.touched(t)
			scan := look(t, a.name, d.reader)
			c.escaped(t, a.name, scan)
			if scan.Complete || len(scan.Problems) == 0 {
				t.Errorf("nobody is told: %+v", scan.Problems)
			}
			if len(scan.Files) != 2 {
				t.Errorf("%d files were read: %v", len(scan.Files), scan.Problems)
			}
			v := d.look()
			if diff := cmp.Diff(substance(d.accepted), substance(v.decision.Accepted)); diff != "" {
				t.Error(diff)
			}
			for _, p := range v.decision.Problems {
				if why := unfit(p, specimen{}); why != "" {
					t.Errorf("%s: %+q", why, p)
				}
			}
		})
	}
}

// swap makes one path be two things in turn, as fast as it can, until stop is closed.
func swap(t *testing.T, at string, stop <-chan struct{}, makers ...func(string) error) (wait func() int) {
	var running sync.WaitGroup
	swapped := 0
	running.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			next := fmt.Sprintf("%s/.next-%s-%d", filepath.Dir(at), filepath.Base(at), i%len(makers))
			err := makers[i%len(makers)](next)
			if err == nil {
				err = unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, at, unix.RENAME_EXCHANGE)
			}
			if err == nil {
				err = os.RemoveAll(next)
			}
			if err != nil {
				t.Error(err)
				return
			}
			swapped++
		}
	})
	return func() int {
		running.Wait()
		return swapped
	}
}

// TestNothingOutsideIsReadWhileItIsSwapped reads again and again while good things turn into symlinks that lead out, and
// into what would block, and back.
func TestNothingOutsideIsReadWhileItIsSwapped(t *testing.T) {
	tries := *swaps
	if tries == 0 {
		tries = min(10_000, max(100, *count))
	}
	good := func(at string) error { return os.WriteFile(at, []byte(edgeManifest), 0o644) }
	tree := func(at string) error {
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		return os.WriteFile(at+"/y.yaml", []byte(edgeManifest), 0o644)
	}
	for name, c := range map[string]struct {
		path string
		good func(string) error
		bad  func(outside string) func(at string) error
	}{
		"a file and a symlink out": {"x.yaml", good, func(o string) func(string) error {
			return func(at string) error { return os.Symlink(o+"/secret.yaml", at) }
		}},
		"a file and a relative symlink": {"x.yaml", good, func(string) func(string) error {
			return func(at string) error { return os.Symlink("../outside/secret.yaml", at) }
		}},
		"a file and a fifo":             {"x.yaml", good, func(string) func(string) error { return func(at string) error { return unix.Mkfifo(at, 0o644) } }},
		"a directory and a symlink out": {"d", tree, func(o string) func(string) error { return func(at string) error { return os.Symlink(o+"/realms", at) } }},
		"a directory on the way":        {"d", func(at string) error { return errors.Join(os.MkdirAll(at, 0o755), tree(at+"/e")) }, func(o string) func(string) error { return func(at string) error { return os.Symlink(o, at) } }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := scratch(t)
			root := filepath.Join(dir, "realms.d")
			must(t, os.MkdirAll(root, 0o755))
			outside := newCanary(t, dir)
			at := filepath.Join(root, c.path)
			must(t, c.good(at))
			stop := make(chan struct{})
			wait := swap(t, at, stop, c.bad(outside.dir), c.good)
			saw := map[string]int{}
			for range tries / 5 {
				r := source.NewReader(root)
				scan := look(t, name, r)
				outside.escaped(t, name, scan)
				saw[fmt.Sprintf("%d files", len(scan.Files))]++
			}
			close(stop)
			t.Logf("%d looks, %d swaps, %v", tries/5, wait(), saw)
		})
	}
	figures.note(t, fmt.Sprintf("%d looks at paths that were swapped meanwhile, in 5 ways; %d attacks that stand still", tries/5*5, len(attacks)))
}
