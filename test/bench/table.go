package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// figure is one line of the table.
type figure struct {
	what, unit string
	// ours and floor have a value for each round; floor may be empty.
	ours, floor []float64
	// times limits ours / floor, most limits ours. At most one is set; none means that the figure is only shown.
	times float64
	most  *float64
}

// atMost is a limit of ours.
func atMost(limit float64) *float64 { return &limit }

// highest is that of ours; 0 when there is none yet.
func (f figure) highest() float64 { return slices.Max(append([]float64{0}, f.ours...)) }

func (f figure) ratio() float64 { return median(f.ours) / median(f.floor) }

// verdict is ok, MISSED, or nothing when there is no limit.
func (f figure) verdict() string {
	switch {
	case f.times > 0 && f.ratio() > f.times, f.most != nil && median(f.ours) > *f.most:
		return "MISSED"
	case f.times > 0, f.most != nil:
		return "ok"
	}
	return ""
}

func anyMissed(all []figure) bool {
	return slices.ContainsFunc(all, func(f figure) bool { return f.verdict() == "MISSED" })
}

func printTable(w io.Writer, all []figure) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "WHAT\tOURS\tFLOOR\tRATIO\tLIMIT\t")
	for _, f := range all {
		floor, ratio, limit := "-", "-", "-"
		if len(f.floor) > 0 {
			floor, ratio = value(median(f.floor), f.unit), fmt.Sprintf("%.2f", f.ratio())
		}
		switch {
		case f.times > 0:
			limit = fmt.Sprintf("%.2f x", f.times)
		case f.most != nil:
			limit = value(*f.most, f.unit)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", f.what, value(median(f.ours), f.unit), floor, ratio, limit, f.verdict())
	}
	t.Flush() //nolint:errcheck // to a terminal
}

// value prints three significant digits, and whole numbers in full.
func value(v float64, unit string) string {
	digits := 2
	switch {
	case v == float64(int64(v)) || v >= 100:
		digits = 0
	case v >= 10:
		digits = 1
	case v < 1:
		digits = 3
	}
	return strings.TrimSpace(fmt.Sprintf("%.*f %s", digits, v, unit))
}

// median is the middle value, the upper one of two.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// machine names what the figures were measured on.
func machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // an empty release says nothing, which is right
	model := "unknown CPU"
	info, _ := os.ReadFile("/proc/cpuinfo") // likewise
	for line := range strings.Lines(string(info)) {
		if key, name, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(name)
			break
		}
	}
	return fmt.Sprintf("%d x %s, Linux %s, %s", runtime.NumCPU(), model, bytes.TrimRight(u.Release[:], "\x00"), runtime.Version())
}

// machineLoad is the load average of the last minute.
func machineLoad() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(text))[0]
}
