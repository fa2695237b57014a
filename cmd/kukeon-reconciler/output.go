package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// apiVersion of the lists that `get -o json` prints.
const apiVersion = "reconciler.kukeon.io/v1"

// list is what `get -o json` prints. Its keys never change meaning.
type list[T any] struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Items      []T    `json:"items"`
}

// outputFlag adds -o.
func outputFlag(cmd *cobra.Command, format *string, formats ...string) {
	cmd.Flags().StringVarP(format, "output", "o", formats[0], "format: "+strings.Join(formats, ", "))
	check := func(*cobra.Command, []string) error {
		if err := oneOf("output", *format, formats...); err != nil {
			return &exitError{exitUsage, err}
		}
		return nil
	}
	cmd.PreRunE = check
}

// structured prints a value as JSON or YAML.
func (a *app) structured(format string, v any) error {
	if format == "yaml" {
		b, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode as YAML: %w", err)
		}
		_, err = a.out.Write(b)
		return err
	}
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints rows in columns. Widths only grow, so that rows that a watch adds stay in line.
type table struct {
	a      *app
	indent string
	widths []int
}

const columnGap = "   "

// head prints the column heads and makes room for the rows to come.
func (t *table) head(heads []string, rows [][]string) error {
	t.fit(heads)
	for _, r := range rows {
		t.fit(r)
	}
	return t.row(heads)
}

func (t *table) fit(cells []string) {
	for i, c := range cells {
		if i == len(t.widths) {
			t.widths = append(t.widths, 0)
		}
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(c))
	}
}

func (t *table) row(cells []string) error {
	t.fit(cells)
	var b strings.Builder
	for i, c := range cells {
		b.WriteString(t.a.paint(c))
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(c)) + columnGap)
		}
	}
	return t.a.print("%s%s\n", t.indent, strings.TrimRight(b.String(), " "))
}

// printTable prints a whole table.
func (a *app) printTable(indent string, heads []string, rows [][]string) error {
	t := &table{a: a, indent: indent}
	if err := t.head(heads, rows); err != nil {
		return err
	}
	for _, r := range rows {
		if err := t.row(r); err != nil {
			return err
		}
	}
	return nil
}

// colors of the words that say how something is.
var colors = map[string]string{
	"Ready": "32", "Running": "32", "Completed": "32", "True": "32", "yes": "32",
	"Pending": "33", "Creating": "33", "Pulling": "33", "Stopping": "33", "Deleting": "33", "Unknown": "33", "no": "33",
	"Degraded": "31", "Failed": "31", "Backoff": "31", "Conflict": "31", "Orphaned": "31", "False": "31",
}

// paint colors a word when the person wants that.
func (a *app) paint(word string) string {
	code := colors[word]
	if code == "" || !a.colored() {
		return word
	}
	return "\x1b[" + code + "m" + word + "\x1b[0m"
}

func (a *app) colored() bool {
	switch a.settings.color {
	case "always":
		return true
	case "never":
		return false
	}
	return a.terminal && a.getenv("NO_COLOR") == ""
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// age says how long ago something was, in at most two units.
func (a *app) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return shortDuration(a.now().Sub(t))
}

func shortDuration(d time.Duration) string {
	const day = 24 * time.Hour
	d = max(d, 0) // a clock that was set back
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 10*time.Minute:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < day:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}

// shortRevision is enough of a commit to recognise it.
func shortRevision(r string) string {
	if r == "" {
		return "-"
	}
	return r[:min(8, len(r))]
}
