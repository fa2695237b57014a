package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// chaosRealm is a realm as its manifest declares it, and what was done to it.
type chaosRealm struct {
	name, file string
	containers []*chaosContainer
	version    int // of the file
	broken     bool

	under     int       // faults that last and concern it
	disturbed time.Time // when the last fault or change that concerns it was made or has ended
}

// chaosContainer is a declared container, and what is known of it.
type chaosContainer struct {
	realm     *chaosRealm
	id, image string
	fields    []string
	rev       int
	calm      bool // neither a fault nor a change is meant for it
	once      bool // ends by itself, and is not run again

	hung    bool      // its shim is stopped
	pid     int       // last seen
	excused time.Time // until then its process may change
	waiting string    // the kind of the fault that it has to recover from
	was     int       // its process at that fault, which has to be another; 0 when any will do
	since   time.Time // of the fault
}

// declare makes up five realms of four containers. Their backoff is the shortest, since kills count like exits.
func (c *chaos) declare() {
	policies := []string{"always", "on-failure", "never"}
	const quick = "restartBackoffSeconds: 0"
	for i, name := range []string{"a", "b", "c", "d", "e"} {
		r := &chaosRealm{name: name, file: name + ".yaml"}
		add := func(d chaosContainer) {
			d.realm = r
			r.containers = append(r.containers, &d)
		}
		add(chaosContainer{id: "calm", image: "sleeps", calm: true, fields: []string{"restartPolicy: " + policies[i%3]}})
		add(chaosContainer{id: "web", image: "prints", fields: []string{quick, "logging: {maxSizeBytes: 1Mi}"}})
		add(chaosContainer{id: "data", image: "sleeps", fields: []string{
			quick, "restartPolicy: on-failure", "volumes: [{kind: volume, source: data, target: /data, ensure: true}]",
		}})
		if i == 0 {
			add(chaosContainer{id: "once", image: "busybox", calm: true, once: true, fields: []string{
				"restartPolicy: never", c.sharing(), shell("echo ran >> /host/once"),
			}})
		} else {
			add(chaosContainer{id: "deaf", image: "ignores-term", fields: []string{quick, "logging: {driver: file}"}})
		}
		c.realms = append(c.realms, r)
	}
}

// mark is in the environment of a container's processes.
func (c *chaos) mark(d *chaosContainer) string { return c.namespace(d.realm.name) + "/" + d.id }

// manifest is the file of a realm.
func (c *chaos) manifest(r *chaosRealm) string {
	var lines []string
	for _, d := range r.containers {
		env := fmt.Sprintf("env: [CHAOS=%s, REV=%d]", c.mark(d), d.rev)
		lines = append(lines, c.container(d.id, d.image, append([]string{env}, d.fields...)...))
	}
	return fmt.Sprintf("# version %d\n%s", r.version, c.realm(r.name, lines...))
}

// put writes the file of a realm anew.
func (c *chaos) put(r *chaosRealm) {
	GinkgoHelper()
	r.version++
	c.write(r.file, c.manifest(r))
}

// containers are all that are declared and meet a condition.
func (c *chaos) containers(meets func(*chaosContainer) bool) []*chaosContainer {
	var found []*chaosContainer
	for _, r := range c.realms {
		for _, d := range r.containers {
			if meets(d) {
				found = append(found, d)
			}
		}
	}
	return found
}

// disturb notes that something happens to realms.
func (c *chaos) disturb(realms ...*chaosRealm) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range realms {
		r.disturbed = time.Now()
	}
}

// last notes a fault that lasts and concerns these realms, and its end when the time has passed.
func (c *chaos) last(d time.Duration, end func(), realms ...*chaosRealm) {
	count := func(n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, r := range realms {
			r.under, r.disturbed = r.under+n, time.Now()
		}
	}
	count(1)
	c.later = append(c.later, appointment{time.Now().Add(d), func() {
		end()
		count(-1)
	}})
}

// grace is how long after a fault, or after it was last seen otherwise than declared, a container's process may still
// change: what was begun because of the fault comes to its end.
const grace = 30 * time.Second

// excuse lets the process of a container change, for it is about to be hit, and measures how long it takes until it is
// as declared with a process other than the last one.
func (c *chaos) excuse(kind string, d *chaosContainer, was int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d.excused = time.Now().Add(grace)
	d.waiting, d.was, d.since = kind, was, time.Now()
}

// disk is a file system of its own that can be full.
type disk struct{ path string }

// newDisk mounts an ext4 on a file in the suite's directory, for it is there that kills leave mounts to the sweep.
func newDisk(name, path string, size int64) *disk {
	GinkgoHelper()
	image := filepath.Join(dir, name+".img")
	file, err := os.Create(image)
	Expect(err).NotTo(HaveOccurred())
	Expect(file.Truncate(size)).To(Succeed())
	Expect(file.Close()).To(Succeed())
	Expect(os.MkdirAll(path, 0o755)).To(Succeed())
	command("mkfs.ext4", "-q", "-m", "0", image)
	command("mount", "-o", "loop", image, path)
	DeferCleanup(func() {
		mounted, err := os.ReadFile("/proc/self/mountinfo")
		Expect(err).NotTo(HaveOccurred())
		if strings.Contains(string(mounted), " "+path+" ") { // containerd's is unmounted with it
			command("umount", path)
		}
	})
	return &disk{path}
}

func (d *disk) filler() string { return filepath.Join(d.path, "filler") }

// fill writes until nothing fits any more.
func (d *disk) fill() error {
	file, err := os.Create(d.filler())
	if err != nil {
		return err
	}
	defer file.Close()
	for _, size := range []int{1 << 20, 64 << 10, 4 << 10, 1} {
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, size))
		}
	}
	_ = file.Sync() // full: that is what it is for
	return nil
}

func (d *disk) empty() error { return os.Remove(d.filler()) }

// command runs a program of the host to its end.
func command(name string, args ...string) {
	GinkgoHelper()
	out, err := exec.Command(name, args...).CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "%s %v: %s", name, args, out)
}
