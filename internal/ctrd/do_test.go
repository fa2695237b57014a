package ctrd_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
)

func TestDoKnowsEveryOperation(t *testing.T) {
	cases := map[string]bool{}
	for _, f := range parse(t, ".", "do.go") {
		ast.Inspect(f, func(n ast.Node) bool {
			if c, ok := n.(*ast.CaseClause); ok {
				for _, e := range c.List {
					if s, ok := e.(*ast.SelectorExpr); ok {
						cases[s.Sel.Name] = true
					}
				}
			}
			return true
		})
	}
	var sealed []string
	for _, f := range parse(t, "../plan", "") {
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.TypeSpec); ok && embedsBase(s.Type) {
				sealed = append(sealed, s.Name.Name)
			}
			return true
		})
	}
	if len(sealed) < 16 {
		t.Fatalf("found only the operations %v", sealed)
	}
	for _, name := range sealed {
		if !cases[name] {
			t.Errorf("Do does not know plan.%s", name)
		}
	}
}

// parse reads a package's files, or the one named.
func parse(t *testing.T, dir, only string) []*ast.File {
	t.Helper()
	fset := token.NewFileSet()
	pkgs, err := parser.ParseDir(fset, dir, nil, 0) //nolint:staticcheck // syntax is all that is needed
	must(t, err)
	var out []*ast.File
	for _, p := range pkgs {
		for name, f := range p.Files {
			if only == "" || strings.HasSuffix(name, only) {
				out = append(out, f)
			}
		}
	}
	return out
}

func embedsBase(e ast.Expr) bool {
	s, ok := e.(*ast.StructType)
	return ok && slices.ContainsFunc(s.Fields.List, func(f *ast.Field) bool {
		id, ok := f.Type.(*ast.Ident)
		return ok && len(f.Names) == 0 && id.Name == "base"
	})
}

// life is every operation of a container's life, in order. Each may be tried again until it succeeds.
func life(owner state.Owner) []plan.Operation {
	nsLabels := map[string]string{state.LabelOwner: string(owner), state.LabelRealm: string(realm)}
	changed := spec()
	changed.Restart.BackoffSeconds = 7
	return []plan.Operation{
		plan.EnsureNamespace{Namespace: ns, Labels: nsLabels},
		plan.Pull{Ref: ref},
		create(owner, "web"),
		start("web"),
		plan.Update{
			ID: "web", Set: map[string]string{"tier": "back"}, Drop: []string{state.LabelContainer},
			Record: &state.Record{Owner: owner, Realm: realm, Spec: changed},
		},
		plan.Stop{ID: "web", Signal: "SIGTERM", Grace: 5 * time.Second},
		start("web"),
		plan.Stop{ID: "web", Grace: 5 * time.Second},
		plan.Complete{ID: "web", Labels: map[string]string{state.LabelExit: state.Exit{Code: 0}.String()}},
		plan.Remove{ID: "web", SnapshotKey: create(owner, "web").SnapshotKey},
		plan.DeleteImage{Ref: ref},
		plan.ReleaseNamespace{Namespace: ns, Drop: []string{state.LabelRealm}},
		plan.DeleteNamespace{Namespace: ns},
	}
}

// live runs a life and returns what the daemon held after each operation. Failures are followed by what the planner
// would do, on a fresh Host if asked, as after a crash.
func live(t *testing.T, d *fakectrd.Daemon, dir string, crash bool) (dumps []string) {
	cfg := config(t, d)
	cfg.FilesDir, cfg.VolumesDir = dir, dir // they stand in the OCI spec
	host := ctrd.New(cfg)
	owner, err := host.Owner(t.Context())
	must(t, err)
	for _, op := range life(owner) {
		tries := 0
		for {
			tries++
			err := host.Do(t.Context(), ns, realm, op)
			if err == nil {
				break
			}
			if tries > 6 {
				t.Fatalf("%s: %v", op, err)
			}
			if crash {
				host = ctrd.New(cfg)
			}
			time.Sleep(2 * time.Second)
			sweep(t, host)
		}
		sweep(t, host)
		synctest.Wait()
		dumps = append(dumps, timeless.ReplaceAllString(d.Dump(string(ns)), "@T@"))
	}
	if _, err := os.Stat(filepath.Join(dir, string(ns))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory of the namespace's files outlives it: %v", err)
	}
	return dumps
}

var timeless = regexp.MustCompile(`@[-0-9T:]+Z@`)

// sweep deletes leftovers as the planner does.
func sweep(t *testing.T, host *ctrd.Host) {
	o, err := host.Observe(t.Context(), ns)
	must(t, err)
	for _, l := range o.Leases {
		must(t, host.Do(t.Context(), ns, realm, plan.DeleteLease{ID: l.ID}))
	}
	for _, s := range o.Snapshots {
		must(t, host.Do(t.Context(), ns, realm, plan.RemoveSnapshot{Key: s.Key}))
	}
}

func newRegistered(version string) *fakectrd.Daemon {
	d := fakectrd.New(fakectrd.Options{Version: version})
	d.Registry.Put(ref, fakectrd.Image{})
	return d
}

func TestEveryOperationCanBeDoneAgainAfterAnyWriteFailed(t *testing.T) {
	var want []string
	dir, writes := t.TempDir(), 0
	inBubble(t, func(t *testing.T) {
		d := newRegistered("2.4")
		want = live(t, d, dir, false)
		writes = d.Writes()
	})
	if writes < 20 {
		t.Fatalf("a life is only %d writes", writes)
	}
	kinds := map[string]error{
		"deadline": context.DeadlineExceeded, "unavailable": errdefs.ErrUnavailable, "other": errors.New("disk full"),
	}
	for kind, fault := range kinds {
		for _, after := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				for k := 1; k <= writes; k++ {
					inBubble(t, func(t *testing.T) {
						d := newRegistered("2.4")
						call := ""
						d.Hook(func(c fakectrd.Call) fakectrd.Fault {
							if !c.Write || c.N != k {
								return fakectrd.Fault{}
							}
							call = c.Method
							if after {
								return fakectrd.Fault{After: fault}
							}
							return fakectrd.Fault{Before: fault}
						})
						got := live(t, d, dir, crash)
						if diff := cmp.Diff(want, got); diff != "" {
							t.Errorf("%s at write %d (%s), after=%v crash=%v:\n%s", kind, k, call, after, crash, diff)
						}
						if r := d.Run(string(ns), "web"); r.MaxLive > 1 {
							t.Errorf("%s at write %d (%s): two processes at a time", kind, k, call)
						}
					})
				}
			}
		}
	}
}

func TestFailuresHaveKinds(t *testing.T) {
	for name, c := range map[string]struct {
		fault fakectrd.Fault
		want  func(error) bool
	}{
		"a lost reply is unknown":  {fakectrd.Fault{After: context.DeadlineExceeded}, is[*outcome.Unknown]},
		"no daemon is unavailable": {fakectrd.Fault{Before: errdefs.ErrUnavailable}, is[*outcome.Unavailable]},
		"a slow answer is unknown": {fakectrd.Fault{Delay: time.Minute}, is[*outcome.Unknown]},
		"anything else is tried again": {fakectrd.Fault{Before: errors.New("disk full")}, func(err error) bool {
			return !is[*outcome.Unknown](err) && !is[*outcome.Unavailable](err) && !is[*outcome.Stalled](err)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				r := newRig(t, fakectrd.Options{})
				r.settle()
				r.do(create(r.owner(), "web"))
				r.Hook(func(call fakectrd.Call) fakectrd.Fault {
					if call.Method == "CreateTask" {
						return c.fault
					}
					return fakectrd.Fault{}
				})
				if err := r.host.Do(t.Context(), ns, realm, start("web")); err == nil || !c.want(err) {
					t.Errorf("%T %v", err, err)
				}
			})
		})
	}
}

func is[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

func TestWhatIsNotOursIsNeverTouched(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		foreign := ctrd.New(config(t, otherOwner{r.Daemon}))
		must(t, foreign.Do(t.Context(), ns, realm, create("somebody", "web")))
		must(t, foreign.Do(t.Context(), ns, realm, start("web")))
		before := r.Dump(string(ns))
		key := create("", "web").SnapshotKey
		for _, op := range []plan.Operation{
			create(r.owner(), "web"), start("web"), plan.Stop{ID: "web"}, plan.Resume{ID: "web"}, plan.Complete{ID: "web"},
			plan.Remove{ID: "web"}, plan.Update{ID: "web", Set: map[string]string{"a": "b"}}, plan.DeleteImage{Ref: ref},
		} {
			if err := r.host.Do(t.Context(), ns, realm, op); !is[*outcome.Conflict](err) {
				t.Errorf("%s: %v", op, err)
			}
		}
		if err := r.host.Do(t.Context(), ns, realm, plan.RemoveSnapshot{Key: key}); err == nil {
			t.Error("a snapshot in use was removed")
		}
		// Conflicts found in the middle of a create leave nothing behind either.
		if diff := cmp.Diff(before, r.Dump(string(ns))); diff != "" {
			t.Error(diff)
		}
		r.do(plan.Update{ID: "web", Adopt: true, Set: map[string]string{state.LabelOwner: string(r.owner())}})
		r.do(plan.Stop{ID: "web", Grace: time.Second})
	})
}

// otherOwner is the same daemon under another identity.
type otherOwner struct{ *fakectrd.Daemon }

func (otherOwner) ServerID(context.Context) (string, error) { return "somebody", nil }

func TestNoRefusedLabelIsEverWritten(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.do(create(r.owner(), "db"))
		writes := r.Writes()
		for _, key := range []string{
			"containerd.io/restart.status", "io.containerd.image.config.stop-signal", "kukeon.io/spec-hash", "nerdctl/x",
			"io.cri-containerd.kind", "io.kubernetes.pod", "com.docker.x",
		} {
			c, s := create(r.owner(), "web"), start("db")
			c.Labels[key], s.Labels = "x", map[string]string{key: "x"}
			for _, op := range []plan.Operation{
				c, s, plan.Update{ID: "db", Set: s.Labels}, plan.EnsureNamespace{Namespace: ns, Labels: s.Labels},
				plan.Complete{ID: "db", Labels: s.Labels},
			} {
				if err := r.host.Do(t.Context(), ns, realm, op); !outcome.IsStalled(err) {
					t.Errorf("%s with %s: %v", op, key, err)
				}
			}
		}
		if got := r.Writes() - writes; got > 0 {
			t.Errorf("%d writes", got)
		}
		// Adopting takes those away on which the restart monitor acts.
		must(t, r.SetContainerLabel("db", "containerd.io/restart.status", "running"))
		r.do(plan.Update{ID: "db", Adopt: true})
		if l := r.see("db").Labels; l["containerd.io/restart.status"] != "" || l["tier"] != "front" {
			t.Errorf("labels are %v", l)
		}
	})
}

func TestStopAsksThenKills(t *testing.T) {
	for name, c := range map[string]struct {
		process fakectrd.Process
		paused  bool
		thawed  bool // while its shim calls it paused
		took    time.Duration
		stalled bool
	}{
		"a polite process ends at once":         {process: fakectrd.Process{}},
		"a slow one within its grace":           {process: fakectrd.Process{TermAfter: 4 * time.Second}, took: 4 * time.Second},
		"a deaf one is killed at the end of it": {process: fakectrd.Process{IgnoreTerm: true}, took: 10 * time.Second},
		"a paused one is resumed":               {process: fakectrd.Process{IgnoreTerm: true}, paused: true, took: 10 * time.Second},
		"one that was paused and thawed by a signal to all": {
			process: fakectrd.Process{IgnoreTerm: true}, paused: true, thawed: true, took: 10 * time.Second,
		},
		"one that survives SIGKILL is told as such": {process: fakectrd.Process{Unkillable: true}, took: 20 * time.Second, stalled: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				r := newRig(t, fakectrd.Options{})
				r.settle()
				r.Behave(func(string, string, int) (fakectrd.Process, bool) { return c.process, true })
				r.run("web")
				if c.paused {
					must(t, r.Pause(string(ns), "web"))
				}
				if c.thawed {
					must(t, r.KillTask(t.Context(), string(ns), "web", 15, true))
				}
				began := time.Now()
				err := r.host.Do(t.Context(), ns, realm, plan.Stop{ID: "web", Grace: 10 * time.Second})
				if c.stalled != outcome.IsStalled(err) || !c.stalled && err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("took %s, not %s", took, c.took)
				}
			})
		})
	}
}

func TestTheStopSignalIsTheManifestsElseTheImagesElseTerm(t *testing.T) {
	for _, c := range []struct{ declared, image, want string }{
		{"SIGUSR1", "SIGINT", "10"}, {"3", "", "3"}, {"", "SIGINT", "2"}, {"", "", "15"}, {"", "nonsense", "15"},
	} {
		inBubble(t, func(t *testing.T) {
			d := recorder{Daemon: fakectrd.New(fakectrd.Options{})}
			host := ctrd.New(config(t, &d))
			must(t, d.Import(string(ns), ref, fakectrd.Image{Config: ocispec.Image{Config: ocispec.ImageConfig{StopSignal: c.image}}}, true))
			owner, err := host.Owner(t.Context())
			must(t, err)
			for _, op := range []plan.Operation{
				create(owner, "web"), start("web"), plan.Stop{ID: "web", Signal: c.declared, Grace: time.Second},
			} {
				must(t, host.Do(t.Context(), ns, realm, op))
			}
			if got := fmt.Sprint(d.signals[0]); got != c.want {
				t.Errorf("%+v: signal %s", c, got)
			}
		})
	}
}

// recorder notes the signals that are sent.
type recorder struct {
	*fakectrd.Daemon
	signals []uint32
}

func (r *recorder) KillTask(ctx context.Context, ns, id string, signal uint32, all bool) error {
	r.signals = append(r.signals, signal)
	return r.Daemon.KillTask(ctx, ns, id, signal, all)
}

func TestAfterAKilledShimAStartWaitsForTheRemains(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.run("web")
		must(t, r.KillShim(string(ns), "web"))
		began := time.Now()
		r.do(start("web"))
		if took := time.Since(began); took > 400*time.Millisecond {
			t.Errorf("took %s", took)
		}
		if run := r.Daemon.Run(string(ns), "web"); run.MaxLive > 1 || run.Live != 1 {
			t.Errorf("%+v", run)
		}
	})
}

func TestAStartThatFailsLeavesNoTaskAndNoMark(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.Behave(func(string, string, int) (fakectrd.Process, bool) { return fakectrd.Process{FailStart: true}, true })
		r.do(create(r.owner(), "web"))
		if err := r.host.Do(t.Context(), ns, realm, start("web")); err == nil {
			t.Fatal("it started")
		}
		if c := r.see("web"); c.Task.Status != state.TaskNone || c.Labels[state.LabelStarted] != "" {
			t.Errorf("%+v", c)
		}
	})
}

func TestAMissingImageSaysWhereItIs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		const other = "docker.io/library/other:1"
		err := r.host.Do(t.Context(), ns, realm, plan.Pull{Ref: other})
		if !outcome.IsStalled(err) || !strings.Contains(err.Error(), "does not exist in its registry") {
			t.Errorf("%v", err)
		}
		must(t, r.Import("default", other, fakectrd.Image{Layers: []string{"o"}}, false))
		synctest.Wait()
		err = r.host.Do(t.Context(), ns, realm, plan.Pull{Ref: other})
		const line = "`kukeon-reconciler images copy --from default --to main docker.io/library/other:1`"
		if !outcome.IsStalled(err) || !strings.HasSuffix(err.Error(), line) {
			t.Errorf("%v", err)
		}
		r.Registry.SetUnreachable(true)
		err = r.host.Do(t.Context(), ns, realm, plan.Pull{Ref: other})
		if err == nil || outcome.IsStalled(err) || !strings.HasSuffix(err.Error(), line) {
			t.Errorf("%v", err)
		}
		// A create says what it waits for.
		c := create(r.owner(), "web")
		c.Spec.Image = other
		if err := r.host.Do(t.Context(), ns, realm, c); !is[*outcome.Waiting](err) {
			t.Errorf("%v", err)
		}
	})
}

func TestARefreshThatFailsKeepsTheLocalImage(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.Registry.SetUnreachable(true)
		r.do(plan.Pull{Ref: ref, Refresh: true})
		i, _ := r.observe().FindImage(ref)
		if !i.LookedUp.Equal(time.Now()) || !i.Unpacked || i.Owner != "" {
			t.Errorf("%+v", i)
		}
		r.Registry.SetUnreachable(false)
		r.Registry.Put(ref, fakectrd.Image{Layers: []string{"newer"}})
		r.do(plan.Pull{Ref: ref, Refresh: true})
		j, _ := r.observe().FindImage(ref)
		if j.Digest == i.Digest || !j.Unpacked || j.Owner != "" {
			t.Errorf("%+v", j) // somebody else's record is never stamped
		}
	})
}

func TestContentThatIsMissingOfAnImageIsFetchedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.Registry.Put(ref, fakectrd.Image{Layers: []string{"newer"}})
		r.do(plan.Pull{Ref: ref, Refresh: true})
		must(t, r.LoseContent(string(ns), ref))
		r.Registry.SetUnreachable(true)
		if err := r.host.Do(t.Context(), ns, realm, plan.Pull{Ref: ref}); err == nil || errdefs.IsNotFound(err) {
			t.Errorf("the registry is away, and the pull says: %v", err)
		}
		r.Registry.SetUnreachable(false)
		r.do(plan.Pull{Ref: ref})
		if i, _ := r.observe().FindImage(ref); !i.Unpacked || i.Incomplete {
			t.Errorf("%+v", i)
		}
		if left, err := r.Leases(t.Context(), string(ns)); err != nil || len(left) > 0 {
			t.Errorf("%v %v", left, err)
		}
	})
}

func TestARegistryThatDoesNotAnswerInTimeCannotBeReached(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		const slow = "registry.example.com/slow:1"
		// The timeout of a dial counts as that of a context, too.
		dial := &net.OpError{Op: "dial", Net: "tcp", Err: context.DeadlineExceeded}
		r.Registry.Fail(slow, &url.Error{Op: "Head", URL: "https://registry.example.com/v2/?token=" + canary, Err: dial})
		err := r.host.Do(t.Context(), ns, realm, plan.Pull{Ref: slow})
		wantError(t, err, false, "registry registry.example.com cannot be reached: dial tcp: ")
		if strings.Contains(err.Error(), canary) {
			t.Errorf("a token is told: %v", err)
		}
	})
}

func TestOneReferenceIsFetchedOnceAtATimeWhoeverWantsIt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		const delay = 10 * time.Second
		r.Registry.SetDelay(delay)
		pull := func(ctx context.Context, ns state.Namespace, ref string, ended chan<- time.Duration) {
			must(t, r.CreateNamespace(t.Context(), string(ns), nil))
			began := time.Now()
			go func() {
				_ = r.host.Do(ctx, ns, realm, plan.Pull{Ref: ref, Refresh: true}) // that it ends is enough
				ended <- time.Since(began)
			}()
			synctest.Wait()
		}
		short, cancel := context.WithTimeout(t.Context(), delay/2)
		defer cancel()
		ended := map[string]chan time.Duration{}
		for _, who := range []string{"first", "second", "gives-up", "elsewhere"} {
			ended[who] = make(chan time.Duration, 1)
		}
		pull(t.Context(), "kukeon-first", ref, ended["first"])
		pull(t.Context(), "kukeon-second", ref, ended["second"])
		pull(short, "kukeon-gives-up", ref, ended["gives-up"])
		pull(t.Context(), "kukeon-elsewhere", "docker.io/library/other:1", ended["elsewhere"])
		for who, want := range map[string]time.Duration{"first": delay, "second": 2 * delay, "gives-up": delay / 2, "elsewhere": delay} {
			if took := <-ended[who]; took.Round(time.Second) != want {
				t.Errorf("%s took %s, not %s", who, took, want)
			}
		}
	})
}

func TestAPullThatIsCancelledEndsAndKeepsItsLease(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		r.Registry.SetDelay(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.host.Do(ctx, ns, realm, plan.Pull{Ref: "docker.io/library/big:1"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		want := []state.ObservedLease{{ID: "kukeon/main/pull/docker.io_library_big_1"}}
		if d := cmp.Diff(want, r.observe().Leases); d != "" {
			t.Error(d)
		}
	})
}

func TestABurstOfCreatesSharesOneLeaseAndLosesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{GCDelay: time.Microsecond})
		r.settle()
		errs := make(chan error)
		for _, id := range names(50) {
			go func() { errs <- r.host.Do(t.Context(), ns, realm, create(r.owner(), id)) }()
		}
		for range 50 {
			must(t, <-errs)
			r.GC()
		}
		leases, err := r.Leases(t.Context(), string(ns))
		must(t, err)
		if len(leases) > 0 {
			t.Errorf("left %v", leases)
		}
		for _, c := range r.observe().Containers {
			if c.SnapshotMissing {
				t.Errorf("%s lost its snapshot", c.ID)
			}
		}
	})
}

func TestALeaseInUseIsNeitherShownNorSwept(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		const id = "kukeon/main/create/containers"
		must(t, r.CreateLease(t.Context(), string(ns), id, time.Minute)) // left by an ended process
		r.host.Resync(ns)
		if d := cmp.Diff([]state.ObservedLease{{ID: id}}, r.observe().Leases); d != "" {
			t.Error(d)
		}
		r.Hook(func(c fakectrd.Call) fakectrd.Fault {
			if c.Method != "CreateContainer" {
				return fakectrd.Fault{}
			}
			r.Hook(nil)
			// The create holds the lease right now.
			if left := r.observe().Leases; len(left) > 0 {
				t.Errorf("shown: %v", left)
			}
			must(t, r.host.Do(t.Context(), ns, realm, plan.DeleteLease{ID: id}))
			r.GC()
			return fakectrd.Fault{}
		})
		r.do(create(r.owner(), "web"))
		if r.see("web").SnapshotMissing {
			t.Error("the snapshot was lost")
		}
	})
}

func TestAMissingBindSourceIsNamed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		r.settle()
		c := create(r.owner(), "web")
		c.Spec.Mounts = []state.Mount{{Kind: state.MountBind, Source: t.TempDir() + "/absent", Target: "/data"}}
		err := r.host.Do(t.Context(), ns, realm, c)
		if !outcome.IsStalled(err) || !strings.Contains(err.Error(), "/absent, to be mounted at /data, does not exist") {
			t.Errorf("%v", err)
		}
		must(t, os.MkdirAll(c.Spec.Mounts[0].Source, 0o755))
		r.do(c)
	})
}
