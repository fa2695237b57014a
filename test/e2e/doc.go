// Package e2e proves the promises with the real binary on a real containerd, and looks at the world with ctr and /proc.
//
// A file holds one promise. Every spec makes itself a [host] in its BeforeEach: directories of its own, a proxy in
// front of the suite's one containerd, and realms whose names end in the host's suffix, so that nothing is shared.
//
//	h = newHost()                                               // ended and swept after the spec
//	h.write("main.yaml", h.realm("main", h.container("web", "sleeps")))
//	h.start()                                                   // or h.start("--observe")
//	Eventually(h.pids).WithArguments("main").Should(HaveKey("web")) // `ctr tasks ls`: running tasks, id to pid
//	before := h.running("main", "web", "db")                    // waits until exactly these run
//	h.ctr("main", "tasks", "kill", "-s", "KILL", "web")
//	h.cli("status").code                                        // any other command, against this host
//	h.proxy.Writes()                                            // what was written to containerd so far
//	h.kill(); h.start(); h.stop()                               // SIGKILL, again, SIGTERM
//
// The images are testenv.SmallImages and "busybox", pulled from the suite's registry (image), or imported from an
// archive (archive). CONTAINERD_VERSION chooses the daemon. When a spec fails, the end of the reconciler's log and
// what ctr shows of its namespaces are printed.
package e2e
