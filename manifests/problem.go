package manifests

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Position is a place in a manifest file. Line and Column count from 1; 0 means "not known", as for a
// problem of the file as a whole.
type Position struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// String prints file, file:line or file:line:column, whichever is known, in printable characters.
func (p Position) String() string {
	file := printable(p.File)
	switch {
	case p.Line == 0:
		return file
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", file, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", file, p.Line, p.Column)
}

// Printable reports whether a text can be shown as it is.
func Printable(s string) bool { return !strings.ContainsFunc(s, notPrintable) }

func notPrintable(r rune) bool { return r == utf8.RuneError || !strconv.IsPrint(r) }

// printable escapes what a terminal would carry out, or a person could not see: control characters, marks that change
// the direction of text, blanks that are none, and bytes that are not UTF-8. Whoever writes a manifest, or names its
// file, must not write on the screen of whoever looks at it.
func printable(s string) string {
	if Printable(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if r != utf8.RuneError && strconv.IsPrint(r) {
			b.WriteString(s[:size])
		} else {
			quoted := strconv.QuoteToASCII(s[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// Severity tells whether a problem keeps a manifest from being accepted.
type Severity string

const (
	// Error keeps every realm that the file names or contributed to at its accepted state.
	Error Severity = "error"
	// Warning names something that is ignored or risky; the manifest is carried out all the same.
	Warning Severity = "warning"
)

// Problem is one thing wrong with a manifest, told to a person.
type Problem struct {
	Position
	// Field is the path inside the document, such as spec.containers[0].image; empty when the whole
	// document or file is meant.
	Field    string   `json:"field,omitempty"`
	Message  string   `json:"message"`
	Severity Severity `json:"severity"`
}

// String prints file:line:column: field: message, leaving out what is not known, in printable characters and on one
// line. Warnings say so.
func (p Problem) String() string {
	parts := []string{p.Position.String()}
	if p.Severity == Warning {
		parts = append(parts, "warning")
	}
	if p.Field != "" {
		parts = append(parts, clipField(p.Field))
	}
	return printable(strings.Join(append(parts, p.Message), ": "))
}

// clipField shortens a field's path, whose keys may be of any length.
func clipField(field string) string {
	const most = 300
	if runes := []rune(field[:min(len(field), 4*most)]); len(runes) > most {
		return string(runes[:most]) + "..."
	}
	return field
}

// HasErrors reports whether any of the problems is an Error.
func HasErrors(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return p.Severity == Error })
}

// SortProblems orders problems by place, so that output is the same at every run.
func SortProblems(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Field, b.Field), cmp.Compare(a.Message, b.Message))
	})
}
