// Command bench measures the reconciler's speed and size against the least that the same work costs, and prints a
// table; `make bench` runs it.
//
// Every row starts a private containerd and the built binary on it. Rounds alternate between us and the floor, so
// that whatever else the machine does disturbs both; each figure is the median of the rounds, the ratio that of the
// two medians. It ends with 0 also when a limit is missed, unless -strict is given.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"

	"kukeon.io/kukeon-reconciler/internal/testenv"
)

// bench is one run.
type bench struct {
	rounds int
	binary string // kukeon-reconciler
	floor  string // the floor program
	say    func(format string, args ...any)
}

// rows are what is measured, by the name that -run selects.
var rows = []struct {
	name    string
	measure func(*bench, context.Context) ([]figure, error)
}{
	{"start", (*bench).start},
	{"repair", (*bench).repair},
	{"beside", (*bench).beside},
	{"removal", (*bench).removal},
	{"noop", (*bench).noop},
	{"idle", (*bench).idle},
	{"output", (*bench).output},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// errMissed is the end of a strict run.
var errMissed = errors.New("a limit is missed")

// command is main with an error.
func command(ctx context.Context) error {
	b := &bench{say: func(string, ...any) {}}
	only := flag.String("run", "", "measure only the rows whose name matches this regular expression")
	strict := flag.Bool("strict", false, "fail when a limit is missed")
	verbose := flag.Bool("v", false, "print every round")
	flag.StringVar(&b.binary, "binary", "", "what is measured (default: bin/kukeon-reconciler)")
	flag.IntVar(&b.rounds, "rounds", defaultRounds(), "rounds of each row (default: BENCH_ROUNDS)")
	flag.Parse()
	selected, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if b.rounds < 1 {
		return errors.New("at least one round, please")
	}
	if *verbose {
		b.say = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	}
	dir, err := os.MkdirTemp("", "kr-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a file of ours in the temporary directory
	if err := b.build(ctx, dir); err != nil {
		return err
	}
	before := machineLoad()
	var all []figure
	for _, row := range rows {
		if !selected.MatchString(row.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring: %s\n", row.name)
		figures, err := row.measure(b, ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
		all = append(all, figures...)
	}
	printTable(os.Stdout, all)
	fmt.Printf("\n%s\nload average before %s, after %s; rounds: %d\n", machine(), before, machineLoad(), b.rounds)
	if *strict && anyMissed(all) {
		return errMissed
	}
	return nil
}

// defaultRounds is what BENCH_ROUNDS says, else 5.
func defaultRounds() int {
	if n, err := strconv.Atoi(os.Getenv("BENCH_ROUNDS")); err == nil {
		return n
	}
	return 5
}

// build makes the floor program and looks for ours.
func (b *bench) build(ctx context.Context, dir string) error {
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	if b.binary == "" {
		b.binary = filepath.Join(root, "bin", "kukeon-reconciler")
	}
	if _, err := os.Stat(b.binary); err != nil {
		return fmt.Errorf("please run `make build`: %w", err)
	}
	b.floor = filepath.Join(dir, "floor")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.floor, "./test/bench/floor")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	return cmd.Run()
}
