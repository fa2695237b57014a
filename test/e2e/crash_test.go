package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"kukeon.io/kukeon-reconciler/internal/testenv"
)

// What of the matrix is played; everything by default.
var (
	onlyKinds = flag.String("crash.kinds", "", "only these kinds of faults, with commas between them")
	onlyNames = flag.String("crash.scenarios", "", "only these scenarios, with commas between them")
	onlyWrite = flag.Int("crash.write", 0, "only this write of each scenario")
	fromWrite = flag.Int("crash.from", 1, "only from this write of each scenario on")
	keepDir   = flag.String("crash.keep", "", "directory for the logs of what fails")
)

const (
	// sharers and owners are how many points are played at a time, on the suite's containerd and on one each. More than
	// cores, since much of a point is waiting.
	sharers = 4
	owners  = 2
	// rehearsals is how often a course is played undisturbed, to see what differs between two runs.
	rehearsals = 2
	// rare is how often containerd may forget a shim.
	rare = 3
	// tooMany failures end a run early.
	tooMany = 25
)

// expected is how a scenario goes undisturbed.
type expected struct {
	writes  []string // methods, of the longest run
	counts  []int    // of writes, of each run
	world   world
	created summary
	fds     descriptors
}

// last is the number of the last write to strike. When the number varies it is one more than the highest, to see that
// nothing comes after it.
func (e *expected) last() int {
	most := slices.Max(e.counts)
	if slices.Min(e.counts) < most {
		most++
	}
	return most
}

// matrix is what has been found out.
type matrix struct {
	mu       sync.Mutex
	began    time.Time
	expected map[string]*expected
	points   int
	failures []failure
}

type failure struct {
	scenario string
	write    int
	method   string
	kind     kind
	what     string
}

var _ = Describe("A crash at any write leaves nothing undone and nothing behind", Label("crash"), func() {
	It("in every scenario, at every write, of every kind", func() {
		fmt.Println() // after Ginkgo's own marks
		m := &matrix{began: time.Now(), expected: map[string]*expected{}}
		defer m.report()
		shared := []*rig{newRig(daemon)}
		for range rehearsals {
			for _, c := range courses {
				m.rehearse(shared[0], c)
			}
		}
		m.tell("undisturbed: %s", m.sizes())
		for len(shared) < sharers {
			shared = append(shared, newRig(daemon))
		}
		var own []*rig
		if wanted(*onlyKinds, string(killDaemonAfter)) {
			for range owners {
				d, err := testenv.Start(GinkgoT().Context(), testenv.Options{})
				Expect(err).NotTo(HaveOccurred())
				DeferCleanup(func(ctx SpecContext) {
					Expect(d.Stop(ctx)).To(Succeed())
					Expect(d.Leftovers()).To(BeEmpty())
				})
				own = append(own, newRig(d))
			}
		}
		var working sync.WaitGroup
		m.work(&working, shared, m.jobs(func(k kind) bool { return k != killDaemonAfter }))
		m.work(&working, own, m.jobs(func(k kind) bool { return k == killDaemonAfter }))
		working.Wait()
		Expect(len(m.failures)).To(BeZero(), "see the table above")
		Expect(len(reminders.lines)).To(BeNumerically("<=", rare), "containerd forgets shims too often")
	})
})

// wanted reports whether a flag, when it is set, names this.
func wanted(list, name string) bool {
	return list == "" || slices.Contains(strings.Split(list, ","), name)
}

// tell prints a line of progress at once.
func (m *matrix) tell(format string, args ...any) {
	fmt.Fprintf(os.Stdout, "[%6.1fs] %s\n", time.Since(m.began).Seconds(), fmt.Sprintf(format, args...))
}

// rehearse plays a course without a fault and notes how it goes.
func (m *matrix) rehearse(r *rig, c course) {
	GinkgoHelper()
	l := r.newLife(c)
	for range c {
		name := l.course[l.next].name
		s, got, err := l.play(undisturbed, 0, nil)
		Expect(err).NotTo(HaveOccurred(), name)
		var methods []string
		writes := l.proxy.Writes()
		for _, w := range writes {
			methods = append(methods, w.Method)
		}
		Expect(l.quiet()).To(Succeed(), name)
		_ = s
		e := m.expected[name]
		if e == nil {
			e = &expected{world: got, created: l.summarize(writes), fds: l.descriptors()}
			m.expected[name] = e
		}
		Expect(difference(e.world, got)).To(BeEmpty(), "two undisturbed runs of %q differ", name)
		e.counts = append(e.counts, len(methods))
		if len(methods) > len(e.writes) {
			e.writes = methods
		}
		for what, n := range l.descriptors() {
			e.fds[what] = max(e.fds[what], n)
		}
		l.next++
	}
	l.finish()
}

// sizes tells how many writes each scenario has.
func (m *matrix) sizes() string {
	var parts []string
	for _, c := range courses {
		for _, s := range c {
			parts = append(parts, fmt.Sprintf("%s %v", s.name, m.expected[s.name].counts))
		}
	}
	return strings.Join(parts, ", ")
}

// job is a course of which the same write is struck in every scenario that has as many.
type job struct {
	course course
	kind   kind
	write  int
	names  []string // of the scenarios that are struck
}

// jobs are those of some kinds, the longest first.
func (m *matrix) jobs(of func(kind) bool) []job {
	var jobs []job
	for _, k := range kinds {
		for _, c := range courses {
			for write := 1; of(k) && wanted(*onlyKinds, string(k)); write++ {
				j := job{c, k, write, nil}
				more := false
				for _, s := range c {
					has := write <= m.expected[s.name].last()
					more = more || has
					if has && wanted(*onlyNames, s.name) && (*onlyWrite == 0 || *onlyWrite == write) && write >= *fromWrite {
						j.names = append(j.names, s.name)
					}
				}
				if !more {
					break
				}
				if j.names != nil {
					jobs = append(jobs, j)
				}
			}
		}
	}
	slices.SortStableFunc(jobs, func(a, b job) int { return len(b.names) - len(a.names) })
	return jobs
}

// work lets the rigs do the jobs.
func (m *matrix) work(working *sync.WaitGroup, rigs []*rig, jobs []job) {
	queue := make(chan job, len(jobs))
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	for _, r := range rigs {
		working.Go(func() {
			defer GinkgoRecover()
			for j := range queue {
				if !m.hopeless() {
					m.do(r, j)
				}
			}
		})
	}
}

// hopeless reports whether so much has failed that the rest would only take time.
func (m *matrix) hopeless() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.failures) >= tooMany
}

// do does one job.
func (m *matrix) do(r *rig, j job) {
	began, failed := time.Now(), 0
	l := r.newLife(j.course)
	for _, name := range j.names {
		var err error
		if l, err = m.cover(l, j, name); err != nil {
			failed++
			m.fail(j, name, err)
			l.keep(*keepDir, fmt.Sprintf("%s-%s-%d", name, j.kind, j.write))
			l = l.again()
		}
	}
	l.finish()
	m.tell("%s, write %d: %d points, %d failures, %.1fs", j.kind, j.write, len(j.names), failed, time.Since(began).Seconds())
}

// errNotReached is the failure of a point that no run has reached.
var errNotReached = errors.New("not covered: no run has come to this write")

// cover plays a point until a run comes to its write. The number of writes varies a little, with the order in which
// those for two containers come: not to come to one that not every undisturbed run had is the end of the scenario.
func (m *matrix) cover(l *life, j job, name string) (*life, error) {
	const attempts = 3
	for range attempts {
		var err error
		if l, err = l.until(name); err != nil {
			return l, err
		}
		reached, err := m.point(l, j)
		if reached {
			m.count()
		}
		if err != nil {
			return l, err
		}
		l.next++
		if reached {
			return l, nil
		}
		if j.write > slices.Min(m.expected[name].counts) {
			m.tell("%s, write %d, %s: beyond the last write of this run", name, j.write, j.kind)
			return l, nil
		}
	}
	return l, errNotReached
}

func (m *matrix) count() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.points++
}

// point plays the next scenario of a life with a fault, and checks everything.
func (m *matrix) point(l *life, j job) (reached bool, err error) {
	e := m.expected[l.course[l.next].name]
	s, _, err := l.play(j.kind, j.write, e.world)
	if err != nil {
		return true, err
	}
	hit := s.hit.Load()
	if hit == nil {
		return false, nil
	}
	err = l.summarize(l.proxy.Writes()).excess(e.created, j.kind, l.plain(objectOf(*hit)))
	return true, errors.Join(err, l.quiet(), l.leaked(e.fds))
}

func (m *matrix) fail(j job, name string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := failure{name, j.write, "", j.kind, err.Error()}
	if e := m.expected[name]; j.write <= len(e.writes) {
		f.method = e.writes[j.write-1]
	}
	m.failures = append(m.failures, f)
	m.tell("FAILED: %s, write %d (%s), %s: %s", f.scenario, f.write, f.method, f.kind, f.what)
}

// report prints the table, and the line that counts.
func (m *matrix) report() {
	for _, line := range reminders.lines {
		m.tell("containerd had forgotten a shim: %s", line)
	}
	if len(m.failures) > 0 {
		fmt.Fprintf(os.Stdout, "%-32s %5s  %-20s %-22s %s\n", "SCENARIO", "WRITE", "METHOD", "KIND", "WHAT DIFFERS")
	}
	for _, f := range m.failures {
		fmt.Fprintf(os.Stdout, "%-32s %5d  %-20s %-22s %s\n", f.scenario, f.write, f.method, f.kind, f.what)
	}
	chaosResult = fmt.Sprintf("crash matrix: %d points, %d failures (containerd %s)", m.points, len(m.failures), testenv.DefaultVersion())
}
