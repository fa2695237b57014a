package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEveryCommandHasItsSection(t *testing.T) {
	texts := map[string]string{
		"prog": "does it all\n\nUsage:\n  prog [command]\n\nAvailable Commands:\n  get         list\n  help        Help about any command\n\n" +
			"Flags:\n  -h, --help   help\n\nUse \"prog [command] --help\" for more information about a command.\n",
		"prog get":        "list\n\nUsage:\n  prog get [command]\n\nAvailable Commands:\n  things      list things\n\nGlobal Flags:\n      --dir string\n",
		"prog get things": "list things\n\nUsage:\n  prog get things\n",
	}
	var b strings.Builder
	err := section(&b, []string{"prog"}, func(path []string) (string, error) { return texts[strings.Join(path, " ")], nil })
	if err != nil {
		t.Fatal(err)
	}
	want := "\n## prog\n\n```text\ndoes it all\n\nUsage:\n  prog [command]\n\nAvailable Commands:\n  get         list\n" +
		"  help        Help about any command\n\nFlags:\n  -h, --help   help\n```\n" +
		"\n### prog get\n\n```text\nlist\n\nUsage:\n  prog get [command]\n\nAvailable Commands:\n  things      list things\n```\n" +
		"\n### prog get things\n\n```text\nlist things\n\nUsage:\n  prog get things\n```\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
