package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"
)

var _ = Describe("The output of containers", func() {
	var h *host
	BeforeEach(func() { h = newHost() })

	It("is in a log file with time and stream, and as it was written by `logs`", func() {
		h.write("main.yaml", h.realm("main", h.container("talks", "busybox",
			shell("for i in 1 2 3; do echo out $i; done; usleep 200000; echo err >&2; exec sleep 1000000"))))
		h.start()
		h.running("main", "talks")
		ref := h.name("main") + "/talks"
		Eventually(func() string { return h.cli("logs", ref).stdout }).Should(Equal("out 1\nout 2\nout 3\nerr\n"))
		Expect(h.cli("logs", ref, "--tail", "2").stdout).To(Equal("out 3\nerr\n"))
		const stamp = `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z `
		Expect(h.cli("logs", ref, "-t").stdout).To(MatchRegexp(
			"^" + stamp + "stdout out 1\n" + stamp + "stdout out 2\n" + stamp + "stdout out 3\n" + stamp + "stderr err\n$"))
		Expect(os.ReadFile(h.logOf("main", "talks"))).To(MatchRegexp("(?m)^" + stamp + "stdout out 3$"))
		Expect(h.cli("logs", ref, "--since", "1h").stdout).To(Equal("out 1\nout 2\nout 3\nerr\n"))
		Expect(h.cli("logs", h.name("main")+"/nobody").code).To(Equal(1))
	})

	It("is followed live, and the run before the last is there after a crash", func() {
		h.write("main.yaml", h.realm("main", h.container("twice", "busybox", h.sharing(), shell(
			`echo x >> /host/runs; n=$(wc -l < /host/runs); echo "run $n"; [ $n -gt 1 ] || exit 1; `+
				`while ! [ -e /host/go ]; do usleep 50000; done; echo went; exec sleep 1000000`))))
		h.start()
		Eventually(h.lines).WithArguments("runs").Should(HaveLen(2))
		ref := h.name("main") + "/twice"
		followed := h.follow("logs", ref, "-f")
		Eventually(followed).Should(gbytes.Say("run 1\nrun 2\n"))
		h.touch("go")
		Eventually(followed).Should(gbytes.Say("went\n"))
		Eventually(func() string { return h.cli("logs", ref, "--previous").stdout }).Should(Equal("run 1\n"))
	})

	It("goes to whoever attaches with ctr, live, and the log marks the gap", func() {
		h.write("main.yaml", h.realm("main", h.container("counts", "prints", "env: [LINES=50]")))
		h.start()
		before := h.running("main", "counts")
		Eventually(h.logged).WithArguments("main", "counts").ShouldNot(BeEmpty())

		By("attaching until lines come, then leaving")
		ctx, leave := context.WithCancel(context.Background())
		defer leave()
		attached := h.attach(ctx, "main", "counts")
		Eventually(attached).Should(gbytes.Say(`line \d+\nline \d+\nline \d+\n`))
		Eventually(func() string { return string(attached.Contents()) }).Should(WithTransform(countLines, BeNumerically(">=", 50)))
		leave()

		By("the log marks what it did not get, and goes on behind it")
		var log string
		Eventually(func(g Gomega) {
			data, err := os.ReadFile(h.logOf("main", "counts"))
			g.Expect(err).NotTo(HaveOccurred())
			log = string(data)
			g.Expect(log).To(MatchRegexp(`system stdout.* attached elsewhere from [^\n]*\n(.*stdout line \d+\n){20}`))
		}).Should(Succeed())
		Expect(h.running("main", "counts")).To(Equal(before))
		By("each line is at one of the two places")
		there, here := lineNumbers(log), lineNumbers(string(attached.Contents()))
		all := slices.Sorted(slices.Values(slices.Concat(there, here)))
		for i, n := range all {
			Expect(n).To(Equal(i+1), "attached: %v\nlog: %v", here, there)
		}
	})

	It("flows on while `run` is down, at 1 MB/s, and no line is lost", func() {
		const rounds = 90 // of 100 KB each, ten a second: far more than pipe and buffers hold
		h.write("main.yaml", h.realm("main", h.container("chatty", "busybox", h.sharing(), "logging: {maxSizeBytes: 64Mi}", shell(
			`n=0; while [ $n -lt `+fmt.Sprint(rounds)+` ]; do `+
				`awk -v n=$n 'BEGIN { for (i = 1; i <= 500; i++) printf "line %d %0190d\n", n*500+i, 0 }'; `+
				`n=$((n+1)); echo $n >> /host/rounds; usleep 80000; done; exec sleep 1000000`))))
		h.start()
		h.running("main", "chatty")
		Eventually(h.lines).WithArguments("rounds").Should(Not(BeEmpty()))
		h.stop()
		down := len(h.lines("rounds"))
		Eventually(h.lines).WithArguments("rounds").WithTimeout(40 * time.Second).Should(HaveLen(rounds))
		Expect(rounds-down).To(BeNumerically(">", 40), "it had written most of it before `run` was down")
		h.start()
		Eventually(h.logged).WithArguments("main", "chatty").Should(HaveLen(rounds * 500))
		for i, n := range h.logged("main", "chatty") {
			Expect(n).To(Equal(i + 1))
		}
	})

	It("is drained by `run` when logd is gone, as status says, and handed over without a loss", func() {
		h.write("main.yaml", h.realm("main", h.container("counts", "prints", "env: [LINES=200]")))
		h.start()
		before := h.running("main", "counts")
		status := func() string { return h.cli("status").stdout }
		Eventually(status).Should(ContainSubstring("pumped by logd"))

		By("killing logd")
		for _, pid := range h.logd() {
			Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
		}
		Eventually(status).Should(And(ContainSubstring("pumped by run"), ContainSubstring("logd is absent")))
		drained := len(h.logged("main", "counts"))
		Eventually(func() int { return len(h.logged("main", "counts")) }).Should(BeNumerically(">", drained+200))

		By("starting another")
		Expect(exec.Command(binary, append([]string{"logd", "--detach"}, h.flags()...)...).Run()).To(Succeed())
		Eventually(status).Should(ContainSubstring("pumped by logd"))
		h.stop()
		drained = len(h.logged("main", "counts"))
		Eventually(func() int { return len(h.logged("main", "counts")) }).Should(BeNumerically(">", drained+200))

		By("each line is in the log, once")
		for i, n := range h.logged("main", "counts") {
			Expect(n).To(Equal(i + 1))
		}
		Expect(h.running("main", "counts")).To(Equal(before))
	})

	It("depends on nobody with the driver file, and goes nowhere with none", func() {
		h.write("main.yaml", h.realm("main",
			h.container("raw", "prints", "logging: {driver: file}"), h.container("quiet", "prints", "logging: {driver: none}")))
		h.start()
		before := h.running("main", "raw", "quiet")
		h.kill()
		h.endLogd()
		raw := func() string {
			data, err := os.ReadFile(filepath.Join(h.logs, h.name("main"), "raw.raw.log"))
			Expect(err).NotTo(HaveOccurred())
			return string(data)
		}
		size := len(raw())
		Eventually(func() int { return len(raw()) }).Should(BeNumerically(">", size))
		Expect(raw()).To(HavePrefix("line 1\nline 2\n"))
		Expect(h.cli("logs", h.name("main")+"/raw", "--tail", "1").stdout).To(MatchRegexp(`^line \d+\n$`))
		Expect(h.logOf("main", "quiet")).NotTo(BeAnExistingFile())
		Expect(h.running("main", "raw", "quiet")).To(Equal(before))
	})

	It("of a removed container ends, and its log stays", func() {
		h.write("main.yaml", h.realm("main", h.container("counts", "prints"), h.container("web", "sleeps")))
		h.start()
		h.running("main", "counts", "web")
		Eventually(h.logged).WithArguments("main", "counts").ShouldNot(BeEmpty())
		h.write("main.yaml", h.realm("main", h.container("web", "sleeps")))
		Eventually(h.outputs).WithArguments("main").Should(Equal([]string{"web"}))
		Expect(h.logged("main", "counts")).NotTo(BeEmpty())
	})
})

// logOf is the file that the pump drains a container's output into.
func (h *host) logOf(realm, id string) string { return filepath.Join(h.logs, h.name(realm), id+".log") }

// logged are the numbers of the lines "line N" in a container's log.
func (h *host) logged(realm, id string) []int {
	data, err := os.ReadFile(h.logOf(realm, id))
	if err != nil {
		return nil
	}
	return lineNumbers(string(data))
}

var numbered = regexp.MustCompile(`(?m)(?:^|stdout )line (\d+)(?: 0+)?$`)

func lineNumbers(text string) []int {
	var numbers []int
	for _, m := range numbered.FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[1])
		Expect(err).NotTo(HaveOccurred())
		numbers = append(numbers, n)
	}
	return numbers
}

func countLines(text string) int { return len(lineNumbers(text)) }

// logd are the pids of this host's log pump.
func (h *host) logd() []int {
	return slices.DeleteFunc(processes(h.runDir), func(pid int) bool { return h.alive() && pid == h.process.Process.Pid })
}

// follow runs a command of ours that does not end by itself, until the spec does.
func (h *host) follow(args ...string) *gbytes.Buffer {
	GinkgoHelper()
	cmd := exec.Command(binary, append(args, h.flags()...)...)
	return run(cmd)
}

// attach is `ctr tasks attach`, ended with SIGKILL when ctx is: on any other signal ctr passes it to the container.
func (h *host) attach(ctx context.Context, realm, id string) *gbytes.Buffer {
	GinkgoHelper()
	exe, err := os.Readlink(proc(daemon.Pid(), "exe"))
	Expect(err).NotTo(HaveOccurred())
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(exe), "ctr"),
		"--address", daemon.Address, "--namespace", h.namespace(realm), "tasks", "attach", id)
	return run(cmd)
}

// run starts a command, whose stdout is in the buffer, and kills it after the spec if it still runs.
func run(cmd *exec.Cmd) *gbytes.Buffer {
	GinkgoHelper()
	out := gbytes.NewBuffer()
	cmd.Stdout, cmd.Stderr = out, GinkgoWriter
	Expect(cmd.Start()).To(Succeed(), strings.Join(cmd.Args, " "))
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed
		close(ended)
	}()
	DeferCleanup(func() {
		_ = cmd.Process.Kill() // or it has ended
		Eventually(ended).Should(BeClosed())
	})
	return out
}
