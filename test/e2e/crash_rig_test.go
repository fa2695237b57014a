package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/internal/api"
	"kukeon.io/kukeon-reconciler/internal/testenv"
	"kukeon.io/kukeon-reconciler/test/proxy"
)

// quick are flags of a daemon that may remove its last realm, and need not wait to do so.
var quick = []string{"--allow-empty", "--rescan", "300ms", "--prune-settle", "100ms"}

// rig is a host with a daemon that may be its own, and with eyes that look past the proxy. One worker has it.
type rig struct {
	*host
	daemon *testenv.Daemon
	client *containerd.Client
	lives  int // begun
}

// newRig makes a rig that ends with the spec.
func newRig(d *testenv.Daemon) *rig {
	GinkgoHelper()
	client, err := containerd.New(d.Address)
	Expect(err).NotTo(HaveOccurred())
	r := &rig{daemon: d, client: client}
	r.begin()
	DeferCleanup(func(ctx SpecContext) {
		r.end(ctx)
		Expect(client.Close()).To(Succeed())
	})
	return r
}

// begin makes an empty host of the rig and starts us on it.
func (r *rig) begin() {
	GinkgoHelper()
	top, err := os.MkdirTemp(dir, "")
	Expect(err).NotTo(HaveOccurred())
	h := &host{
		suffix: testenv.Suffix(), dir: top, manifests: filepath.Join(top, "realms.d"), state: filepath.Join(top, "state"),
		runDir: filepath.Join(top, "run"), logs: filepath.Join(top, "logs"), address: filepath.Join(top, "proxy.sock"),
	}
	Expect(os.Mkdir(h.manifests, 0o755)).To(Succeed())
	h.proxy, err = proxy.Start(h.address, r.daemon.Address)
	Expect(err).NotTo(HaveOccurred())
	r.host = h
	h.start(quick...)
}

// end ends us and removes what we made, whatever it is like.
func (r *rig) end(ctx context.Context) {
	GinkgoHelper()
	if r.alive() {
		r.kill()
	}
	r.endLogd()
	r.proxy.Hook(nil)
	if r.daemon.Pid() == 0 {
		Expect(r.daemon.Restart(ctx)).To(Succeed())
	}
	all, err := r.client.NamespaceService().List(ctx)
	Expect(err).NotTo(HaveOccurred())
	for _, ns := range all {
		if strings.HasSuffix(ns, r.suffix) {
			sweepAt(ctx, r.daemon.Address, ns)
		}
	}
	Expect(r.proxy.Close()).To(Succeed())
	Expect(processes(r.runDir)).To(BeEmpty(), "processes of ours are left")
	Expect(os.RemoveAll(r.dir)).To(Succeed())
}

// renew replaces a host on which something went wrong.
func (r *rig) renew() {
	GinkgoHelper()
	r.end(context.Background())
	r.begin()
}

// api asks us on our socket: what the commands do, without the price of starting one.
func (r *rig) api() *api.Client { return api.NewClient(filepath.Join(r.runDir, "api.sock")) }

// newLife begins a realm on the rig.
func (r *rig) newLife(c course) *life {
	r.lives++
	realm := fmt.Sprintf("life%d", r.lives)
	return &life{rig: r, realm: realm, course: c, file: "realm.yaml"}
}

// play plays the next scenario with a fault and waits until the world is as wanted.
func (l *life) play(k kind, write int, want world) (*injection, world, error) {
	GinkgoHelper()
	scenario := l.course[l.next]
	if scenario.arrange != nil {
		if err := scenario.arrange(l); err != nil {
			return nil, nil, err
		}
	}
	s := l.arm(k, write)
	defer l.proxy.Hook(nil)
	err := scenario.act(l)
	var got world
	if err == nil {
		got, err = l.converge(s, want)
	}
	return s, got, err
}

// until plays a life undisturbed until a scenario is next; it begins a new one when that is over already.
func (l *life) until(name string) (*life, error) {
	GinkgoHelper()
	at := slices.IndexFunc(l.course, func(s scenario) bool { return s.name == name })
	if l.next > at {
		l.finish()
		l = l.rig.newLife(l.course)
	}
	for ; l.next < at; l.next++ {
		if _, _, err := l.play(undisturbed, 0, nil); err != nil {
			return l, fmt.Errorf("before the fault, %s: %w", l.course[l.next].name, err)
		}
	}
	return l, nil
}

// again gives a life up and begins a new one on a new host.
func (l *life) again() *life {
	GinkgoHelper()
	l.renew()
	return l.rig.newLife(l.course)
}

// keep saves the logs of a failure and the writes that led to it.
func (l *life) keep(dir, name string) {
	GinkgoHelper()
	if dir == "" {
		return
	}
	var text strings.Builder
	for _, c := range l.proxy.Writes() {
		fmt.Fprintf(&text, "%d %s %s done=%t\n", c.Write, c.Method, l.plain(objectOf(c)), c.Done)
	}
	for _, path := range []string{l.logPath(), filepath.Join(l.daemon.Dir, "containerd.log")} {
		log, err := os.ReadFile(path)
		Expect(err).NotTo(HaveOccurred())
		fmt.Fprintf(&text, "--- %s\n%s", path, log)
	}
	Expect(os.MkdirAll(dir, 0o755)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, " ", "-")), []byte(text.String()), 0o600)).To(Succeed())
}

// finish removes what is left of a life.
func (l *life) finish() {
	GinkgoHelper()
	if l.next == 0 {
		return
	}
	if l.containers != nil {
		Expect(l.remove()).To(Succeed())
	}
	Eventually(l.said).WithTimeout(convergeLimit).Should(Succeed())
	sweepAt(context.Background(), l.daemon.Address, l.namespace())
	Expect(os.RemoveAll(filepath.Join(l.logs, l.name()))).To(Succeed())
}
