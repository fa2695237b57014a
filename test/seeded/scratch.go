package main

import (
	"archive/tar"
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

//go:embed patches/*.patch
var embedded embed.FS

// patch is one seeded bug.
type patch struct {
	// name says what the product does wrong with it.
	name string
	text []byte
	// expected is the test that should catch it, or how its name begins, as internal/plan.TestPlans/a-sentence.
	expected string
	// packages are those that it changes, as ./internal/plan.
	packages []string
	// outside says why the simulation cannot see it; empty when it can.
	outside string
}

var (
	header  = regexp.MustCompile(`(?s)\ABug: .+?\nExpected: (\S[^\n]*)\n(?:Outside the simulation: (\S[^\n]*)\n)?`)
	changed = regexp.MustCompile(`(?m)^\+\+\+ b/(\S+)$`)
)

// readPatches returns the patches whose names match, sorted by name.
func readPatches(match *regexp.Regexp) ([]patch, error) {
	files, err := fs.Glob(embedded, "patches/*.patch")
	if err != nil {
		return nil, err
	}
	var out []patch
	for _, file := range files {
		p := patch{name: strings.TrimSuffix(path.Base(file), ".patch")}
		if !match.MatchString(p.name) {
			continue
		}
		if p.text, err = embedded.ReadFile(file); err != nil {
			return nil, err
		}
		head := header.FindSubmatch(p.text)
		if head == nil {
			return nil, fmt.Errorf("%s does not begin with the lines `Bug:` and `Expected:`", file)
		}
		p.expected, p.outside = string(head[1]), string(head[2])
		for _, m := range changed.FindAllSubmatch(p.text, -1) {
			p.packages = append(p.packages, "./"+path.Dir(string(m[1])))
		}
		slices.Sort(p.packages)
		p.packages = slices.Compact(p.packages)
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil, errors.New("no patch has such a name")
	}
	return out, nil
}

// nearest are the packages whose tests are run first: those that it changes, and that of the test that should catch it.
func (p patch) nearest() []string {
	pkg, _, _ := strings.Cut(p.expected, ".")
	out := append(slices.Clone(p.packages), "./"+pkg)
	slices.Sort(out)
	return slices.Compact(out)
}

// scratch is the copy of the product.
type scratch struct {
	settings
	// top is the checkout, dir the copy.
	top, dir string
}

// copyProduct makes the copy equal to the last commit, and lends it the tools that are built already.
func (c *scratch) copyProduct(ctx context.Context) error {
	if err := os.RemoveAll(c.dir); err != nil {
		return err
	}
	archive, err := command(ctx, c.top, nil, "git", "-c", "safe.directory=*", "archive", "HEAD")
	if err != nil {
		return err
	}
	if err := unpack(archive, c.dir); err != nil {
		return err
	}
	bin := filepath.Join(c.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	return os.Symlink(filepath.Join(c.top, "bin", "tools"), filepath.Join(bin, "tools"))
}

// unpack writes the files of a tar archive below dir.
func unpack(archive []byte, dir string) error {
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(name, 0o755)
		case tar.TypeReg:
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(name, data, h.FileInfo().Mode().Perm())
			}
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, name)
		}
		if err != nil {
			return err
		}
	}
}

// apply puts a patch in, or takes it out.
func (c *scratch) apply(ctx context.Context, p patch, out bool) error {
	args := []string{"apply", "-C1", "--whitespace=nowarn"}
	if out {
		args = append(args, "--reverse")
	}
	_, err := command(ctx, c.dir, p.text, "git", args...)
	return err
}

// compiles reports what is wrong with the patched product before any test looks at it.
func (c *scratch) compiles(ctx context.Context, p patch) error {
	if _, err := command(ctx, c.dir, nil, "go", "build", "./manifests", "./internal/...", "./controllers"); err != nil {
		return err
	}
	_, err := command(ctx, c.dir, nil, "go", append([]string{"vet"}, p.packages...)...)
	return err
}

// command runs a program to its end, with all that it starts, and returns what it prints.
func command(ctx context.Context, dir string, stdin []byte, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
	// The copy lies inside of a checkout, of which git must not think here: it would apply the patch to nothing. And a
	// module of its own needs no version of the outer one.
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir), "GOFLAGS=-buildvcs=false", "GOWORK=off")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return out.Bytes(), fmt.Errorf("%s %s: %w\n%s", name, args[0], err, bytes.TrimSpace(complaints.Bytes()))
	}
	return out.Bytes(), nil
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}
