// Command gendocs writes the pages of docs/ that follow from the code: the manifest reference and the command line.
//
//	go run ./hack/gendocs          writes them
//	go run ./hack/gendocs -check   compares, prints what differs and exits 1
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"

	"github.com/aymanbagabas/go-udiff"

	"kukeon.io/kukeon-reconciler/internal/testenv"
	"kukeon.io/kukeon-reconciler/manifests"
)

// pages are what is generated, by path below the top of the source tree.
var pages = []struct {
	path string
	make func() (string, error)
}{
	{"docs/manifest-reference.md", func() (string, error) { return manifests.Reference(), nil }},
	{"docs/cli.md", commandLine},
}

func main() {
	check := flag.Bool("check", false, "compare and write nothing")
	flag.Parse()
	stale, err := generate(*check)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
	}
	if stale {
		fmt.Fprintln(os.Stderr, "gendocs: pages are out of date, please run `go run ./hack/gendocs`")
	}
	if stale || err != nil {
		os.Exit(1)
	}
}

// generate makes every page and writes those that differ; with check it prints the differences instead and reports
// whether there are any.
func generate(check bool) (stale bool, err error) {
	root, err := testenv.Root()
	if err != nil {
		return false, err
	}
	if err := os.Chdir(root); err != nil {
		return false, err
	}
	for _, page := range pages {
		text, err := page.make()
		if err != nil {
			return false, fmt.Errorf("%s: %w", page.path, err)
		}
		old, err := os.ReadFile(page.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		switch {
		case string(old) == text:
		case check:
			stale = true
			fmt.Print(udiff.Unified(page.path, page.path+" (generated)", string(old), text))
		default:
			if err := os.WriteFile(page.path, []byte(text), 0o644); err != nil {
				return false, err
			}
		}
	}
	return stale, nil
}
