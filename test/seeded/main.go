// Command seeded puts small bugs into a copy of the product, one after the other, and says which test catches each: a
// net that catches no known bug would catch no unknown one.
//
//	go run ./test/seeded                        # all of patches, after a control run that has to catch nothing
//	go run ./test/seeded -run lease             # some of them
//	go run ./test/seeded -rungs simulation      # which of them the simulation alone catches
//
// A patch begins with the lines `Bug:` and `Expected:`, and with `Outside the simulation:` and a reason when it is in a part
// of the product in whose place the simulation has its own. Its name says what the product does wrong with it. The
// copy is of the last commit, whatever else lies in the working tree, and stands below bin/, always in the same place,
// so that Go compiles only what a patch changes. Tests that need chance print their seeds; those of the simulation
// follow -seed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// settings are the flags.
type settings struct {
	run, rungs *regexp.Regexp
	control    bool
	histories  int
	seed       uint64
	verbose    bool
}

func main() {
	s := settings{run: regexp.MustCompile(""), rungs: regexp.MustCompile("")}
	flag.Func("run", "seed only the bugs whose names match this regular expression", pattern(&s.run))
	flag.Func("rungs", "climb only the rungs whose names match: nearest tests, units, simulation, real containerd", pattern(&s.rungs))
	flag.BoolVar(&s.control, "control", true, "climb the whole ladder without a bug first; it has to catch nothing")
	flag.IntVar(&s.histories, "histories", 1500, "how many histories the simulation plays")
	flag.Uint64Var(&s.seed, "seed", 1, "the simulation's first seed")
	flag.BoolVar(&s.verbose, "v", false, "print what the tests that caught a bug said")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	all, err := run(ctx, s)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "seeded:", err)
	}
	if err != nil || !all {
		os.Exit(1)
	}
}

func pattern(into **regexp.Regexp) func(string) error {
	return func(text string) (err error) {
		*into, err = regexp.Compile(text)
		return err
	}
}

// run seeds each bug in turn. It reports whether every one was caught; an error means that the run says nothing.
func run(ctx context.Context, s settings) (all bool, err error) {
	patches, err := readPatches(s.run)
	if err != nil {
		return false, err
	}
	top, err := command(ctx, ".", nil, "git", "-c", "safe.directory=*", "rev-parse", "--show-toplevel")
	if err != nil {
		return false, err
	}
	c := &scratch{top: firstLine(top), settings: s}
	c.dir = filepath.Join(c.top, "bin", "seeded", "tree")
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return false, err
	}
	lock := flock.New(filepath.Join(filepath.Dir(c.dir), "lock"))
	if taken, err := lock.TryLock(); err != nil || !taken {
		return false, errors.Join(err, errors.New("another run uses "+c.dir))
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := c.copyProduct(ctx); err != nil {
		return false, err
	}
	if s.control {
		if err := control(ctx, c); err != nil {
			return false, err
		}
	}
	caught, outside := 0, 0
	for _, p := range patches {
		if p.outside != "" && s.rungs.String() == simulation {
			fmt.Printf("%s: outside the simulation: %s\n", p.name, p.outside)
			outside++
			continue
		}
		ok, err := seed(ctx, c, p)
		if err != nil {
			return false, fmt.Errorf("%s: %w", p.name, err)
		}
		if ok {
			caught++
		}
	}
	if outside > 0 {
		fmt.Printf("%d of %d, and %d outside the simulation\n", caught, len(patches)-outside, outside)
	} else {
		fmt.Printf("%d of %d\n", caught, len(patches))
	}
	return caught == len(patches)-outside, nil
}

// control climbs the ladder without a bug.
func control(ctx context.Context, c *scratch) error {
	began := time.Now()
	found, err := c.climb(ctx, nil)
	if err != nil {
		return fmt.Errorf("control run: %w", err)
	}
	if found != nil {
		return fmt.Errorf("control run: %s (%s) fails without any bug:\n%s", found.test, found.rung, found.output)
	}
	fmt.Printf("control run: nothing caught in %.0f s\n", time.Since(began).Seconds())
	return nil
}

// seed puts one bug in, climbs the ladder and takes the bug out again. It reports whether the bug was caught.
func seed(ctx context.Context, c *scratch, p patch) (caught bool, err error) {
	began := time.Now()
	if err := c.apply(ctx, p, false); err != nil {
		fmt.Printf("%s: does not apply: refresh it: %v\n", p.name, err)
		return false, ctx.Err()
	}
	defer func() { err = errors.Join(err, c.apply(context.WithoutCancel(ctx), p, true)) }()
	if err := c.compiles(ctx, p); err != nil {
		fmt.Printf("%s: does not compile: refresh it: %v\n", p.name, err)
		return false, ctx.Err()
	}
	found, err := c.climb(ctx, &p)
	took := time.Since(began).Seconds()
	switch {
	case err != nil:
		return false, err
	case found == nil:
		fmt.Printf("%s: NOT CAUGHT in %.0f s: a hole in the net\n", p.name, took)
		return false, nil
	}
	fmt.Printf("%s: caught by %s (%s) after %.0f s%s\n", p.name, found.test, found.rung, took, found.remark)
	if c.verbose {
		fmt.Println(found.output)
	}
	return true, nil
}
