// Package archtest holds the import rules of the table in docs/design.md as a test.
package archtest
