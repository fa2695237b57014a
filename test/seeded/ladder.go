package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// rung is one step of the ladder, from the cheap to the dear.
type rung struct {
	name string
	args []string
}

// units are the packages whose tests need no containerd and look at behaviour; the command only wires them.
var units = []string{
	"./manifests", "./controllers", "./internal/accept", "./internal/api", "./internal/apply", "./internal/compile", "./internal/ctrd",
	"./internal/logs", "./internal/plan", "./internal/source", "./internal/state", "./internal/status", "./internal/store",
}

// simulation is the rung that can be asked alone.
const simulation = "simulation"

// realTests are those with a real containerd: they cost more, and are a rung of their own.
const realTests = "Real"

// ladder is what is climbed for a patch; nil is the control run.
func (c *scratch) ladder(p *patch) []rung {
	var own []string
	var rungs []rung
	if p != nil {
		own = p.nearest()
		rungs = append(rungs, rung{"nearest tests", append([]string{"-skip", realTests}, own...)})
	}
	rest := slices.DeleteFunc(slices.Clone(units), func(pkg string) bool { return slices.Contains(own, pkg) })
	return append(rungs,
		rung{"units", append([]string{"-skip", realTests}, rest...)},
		rung{simulation, []string{"./test/simulate", "-args", "-histories", strconv.Itoa(c.histories), "-seed", strconv.FormatUint(c.seed, 10), "-shrink", "0"}},
		rung{"real containerd", []string{"-run", realTests, "./internal/ctrd"}},
	)
}

// violated finds the property that the simulation names, and the seed of the history that violates it.
var violated = regexp.MustCompile(`_test\.go:\d+: ((?:seed \d+: )?P\d+)`)

// finding is a test that failed.
type finding struct {
	rung, test, output string
	// remark tells when another test was expected.
	remark string
}

// climb runs one rung after the other until a test fails. Nothing found is nil; an error means that tests could not be
// run at all.
func (c *scratch) climb(ctx context.Context, p *patch) (*finding, error) {
	for _, r := range c.ladder(p) {
		if !c.rungs.MatchString(r.name) {
			continue
		}
		failed, output, err := c.test(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		if len(failed) == 0 {
			continue
		}
		f := &finding{rung: r.name, test: failed[0], output: output}
		if law := violated.FindStringSubmatch(output); law != nil {
			f.test += ", " + law[1]
		}
		if p == nil {
			return f, nil
		}
		if i := slices.IndexFunc(failed, func(test string) bool { return strings.HasPrefix(test, p.expected) }); i >= 0 {
			f.test = failed[i]
		} else if c.rungs.String() == "" {
			f.remark = "; expected was " + p.expected
		}
		return f, nil
	}
	return nil, nil
}

// event is a line of `go test -json`.
type event struct {
	Action, Package, Test, Output, FailedBuild string
}

// test runs one rung and returns the tests that failed, as `internal/plan.TestPlans/a-sentence`.
func (c *scratch) test(ctx context.Context, r rung) (failed []string, output string, err error) {
	out, err := command(ctx, c.dir, nil, "go", append([]string{"test", "-json", "-count=1", "-timeout", "30m"}, r.args...)...)
	if err == nil {
		return nil, "", nil
	}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || ctx.Err() != nil {
		return nil, "", err
	}
	var said strings.Builder
	parents, ran := map[string]bool{}, map[string]string{}
	for line := range bytes.Lines(out) {
		var e event
		if json.Unmarshal(line, &e) != nil {
			continue // a line of the linker's, say
		}
		pkg := strings.TrimPrefix(e.Package, "kukeon.io/kukeon-reconciler/")
		name := pkg + "." + e.Test
		switch {
		case e.FailedBuild != "":
			return nil, "", fmt.Errorf("the tests of %s do not build: %w", e.FailedBuild, err)
		case e.Action == "output":
			said.WriteString(e.Output)
		case e.Action == "run":
			ran[pkg] = name
		case e.Action == "fail" && e.Test == "":
			if !slices.ContainsFunc(failed, func(f string) bool { return strings.HasPrefix(f, pkg+".") }) {
				failed = append(failed, cmp.Or(ran[pkg], pkg)) // it crashed, timed out, or left something behind
			}
		case e.Action == "fail" && !parents[name]:
			failed = append(failed, name)
		}
		if parent, _, sub := cutLast(name, "/"); e.Action == "fail" && sub {
			parents[parent] = true // told by its part
		}
	}
	if len(failed) == 0 {
		return nil, "", err
	}
	return failed, said.String(), nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
