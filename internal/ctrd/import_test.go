package ctrd_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/fakectrd"
	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/plan"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/testenv"
)

// shelf holds archives in memory. The version of one is its content, unless it is said to be another.
type shelf map[string]book

type book struct {
	content []byte
	version string
}

type openBook struct {
	*bytes.Reader
	version string
}

func (b openBook) Close() error             { return nil }
func (b openBook) Version() (string, error) { return b.version, nil }

func (s shelf) open(path string) (ctrd.Archive, error) {
	b, ok := s[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return openBook{bytes.NewReader(b.content), b.version}, nil
}

func TestAnArchiveIsImportedOncePerContent(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		books := shelf{}
		config := config(t, r.Daemon)
		config.OpenArchive = books.open
		r.host = ctrd.New(config)
		r.settle()
		must(t, r.Import(string(ns), "docker.io/library/theirs:1", fakectrd.Image{}, true))
		books["/a.tar"] = book{fakectrd.Archive(map[string]fakectrd.Image{
			"docker.io/library/b:1": {Layers: []string{"b"}}, "docker.io/library/a:1": {}, "docker.io/library/theirs:1": {Layers: []string{"t"}},
		}), "v1"}
		op := plan.Import{Path: "/a.tar", Version: "v1"}
		r.do(op)
		o := r.observe()
		got := o.Imports["/a.tar"]
		want := state.Import{
			Path: "/a.tar", Version: "v1", Digest: got.Digest, At: got.At,
			Refs: []string{"docker.io/library/a:1", "docker.io/library/b:1", "docker.io/library/theirs:1"},
		}
		if diff := cmp.Diff(want, got); diff != "" || len(got.Digest) != len("sha256:")+64 {
			t.Errorf("digest %s, (-want +got):\n%s", got.Digest, diff)
		}
		for ref, ours := range map[string]bool{"docker.io/library/a:1": true, "docker.io/library/b:1": true, "docker.io/library/theirs:1": false} {
			if i, ok := o.FindImage(ref); !ok || (i.Owner == r.owner()) != ours {
				t.Errorf("%s: %+v", ref, i)
			}
		}
		if len(o.Leases) > 0 {
			t.Errorf("leases: %+v", o.Leases)
		}

		// Written again with the same bytes: it is read, and nothing is written.
		books["/a.tar"] = book{books["/a.tar"].content, "v2"}
		wrote := r.Writes()
		r.do(plan.Import{Path: "/a.tar", Version: "v2", Known: got})
		if again := r.observe().Imports["/a.tar"]; again.Version != "v2" || again.Digest != got.Digest || !slices.Equal(again.Refs, got.Refs) {
			t.Errorf("%+v", again)
		}
		if now := r.Writes(); now != wrote {
			t.Errorf("%d writes for a file that is the same", now-wrote)
		}
		books["/a.tar"] = book{fakectrd.Archive(map[string]fakectrd.Image{"docker.io/library/b:2": {}}), "v3"}
		r.do(plan.Import{Path: "/a.tar", Version: "v3", Known: got})
		if changed := r.observe().Imports["/a.tar"]; changed.Version != "v3" || !slices.Equal(changed.Refs, []string{"docker.io/library/b:2"}) {
			t.Errorf("%+v", changed)
		}
	})
}

func TestAnImportThatFailsIsNotRememberedAndLeavesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, fakectrd.Options{})
		books := shelf{"/a.tar": {fakectrd.Archive(map[string]fakectrd.Image{"docker.io/library/a:1": {}}), "v1"}, "/bad.tar": {[]byte("hello"), "v1"}}
		config := config(t, r.Daemon)
		config.OpenArchive = books.open
		r.host = ctrd.New(config)
		r.settle()
		do := func(path, version string) error {
			return r.host.Do(t.Context(), ns, realm, plan.Import{Path: path, Version: version})
		}
		if err := do("/a.tar", "v0"); err == nil {
			t.Errorf("a file that is another one by now: %v", err)
		}
		if err := do("/none.tar", "v1"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a file that is gone: %v", err)
		}
		if err := do("/bad.tar", "v1"); err == nil || outcome.IsStalled(err) {
			t.Errorf("no archive: %v", err)
		}
		r.Down()
		if err := do("/a.tar", "v1"); !outcome.IsUnavailable(err) {
			t.Errorf("without containerd: %v", err)
		}
		r.Up()
		time.Sleep(2 * time.Second)
		o := r.observe()
		if len(o.Imports) > 0 || len(o.Leases) > 0 {
			t.Errorf("imports %+v, leases %+v", o.Imports, o.Leases)
		}
		must(t, do("/a.tar", "v1"))
		if o := r.observe(); len(o.Imports) != 1 {
			t.Errorf("%+v", o.Imports)
		}
	})
}

func TestRealArchivesOfAllKindsAreImported(t *testing.T) {
	versions(t, func(t *testing.T, r *realHost) {
		dir := t.TempDir()
		refs := map[name.Reference]v1.Image{}
		for i, n := range []string{"one", "two"} {
			tag, err := name.NewTag("archived-" + n + ":1")
			must(t, err)
			refs[tag] = testenv.Unique(testenv.SmallImages()["sleeps"], 1000+i, 1)
		}
		docker := filepath.Join(dir, "docker.tar")
		must(t, tarball.MultiRefWriteToFile(docker, refs))
		plain, err := os.ReadFile(docker)
		must(t, err)
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		_, err = w.Write(plain)
		must(t, errors.Join(err, w.Close()))
		must(t, os.WriteFile(docker+".gz", zipped.Bytes(), 0o600))
		both := []string{"docker.io/library/archived-one:1", "docker.io/library/archived-two:1"}

		imports := func(file string, want ...string) state.Import {
			t.Helper()
			version := r.version(file)
			must(t, r.host.Do(t.Context(), r.ns, "main", plan.Import{Path: file, Version: version}))
			o, err := r.host.Observe(t.Context(), r.ns)
			must(t, err)
			got := o.Imports[file]
			if !slices.Equal(got.Refs, want) || got.Version != version || len(o.Leases) > 0 {
				t.Errorf("%s: %+v, leases %+v", file, got, o.Leases)
			}
			for _, ref := range want {
				if i, ok := o.FindImage(ref); !ok || i.Owner != r.owner() || i.Unpacked || i.Incomplete {
					t.Errorf("%s: %+v", ref, i)
				}
			}
			return got
		}
		imports(docker+".gz", both...)
		for _, ref := range both {
			must(t, r.host.Do(t.Context(), r.ns, "main", plan.DeleteImage{Ref: ref}))
		}
		imports(docker, both...)
		oci := filepath.Join(dir, "oci.tar")
		must(t, testenv.SaveArchive(testenv.Unique(testenv.SmallImages()["sleeps"], 1002, 1), "docker.io/library/archived-oci:1", oci))
		imports(oci, "docker.io/library/archived-oci:1")

		// What arrives in halves is told, leaves no image, and comes in full the next time.
		must(t, os.WriteFile(filepath.Join(dir, "cut.tar"), plain[:len(plain)/2], 0o600))
		cut := filepath.Join(dir, "cut.tar")
		if err := r.host.Do(t.Context(), r.ns, "main", plan.Import{Path: cut, Version: r.version(cut)}); err == nil || errdefs.IsNotFound(err) {
			t.Errorf("cut short: %v", err)
		}
		must(t, os.WriteFile(cut, plain, 0o600))
		imports(cut, both...)
		// What lacks a part, or is made for another machine, is told at once, and not when it is needed.
		unfit := filepath.Join(dir, "unfit.tar")
		for kind, save := range map[string]func(){
			"incomplete": func() {
				image := testenv.Unique(testenv.SmallImages()["sleeps"], 1003, 1)
				must(t, testenv.SaveArchive(image, "docker.io/library/archived-unfit:1", unfit))
				leaveOut(t, image, unfit)
			},
			"foreign": func() {
				config, err := testenv.SmallImages()["sleeps"].ConfigFile()
				must(t, err)
				config = config.DeepCopy()
				config.Architecture = "s390x"
				image, err := mutate.ConfigFile(testenv.SmallImages()["sleeps"], config)
				must(t, err)
				must(t, testenv.SaveArchive(image, "docker.io/library/archived-unfit:1", unfit))
			},
		} {
			save()
			err := r.host.Do(t.Context(), r.ns, "main", plan.Import{Path: unfit, Version: r.version(unfit)})
			if errors.Is(err, ctrd.ErrIncomplete) != (kind == "incomplete") || errors.As(err, new(*ctrd.PlatformError)) != (kind == "foreign") {
				t.Errorf("%s: %v", kind, err)
			}
			must(t, r.host.Do(t.Context(), r.ns, "main", plan.DeleteImage{Ref: "docker.io/library/archived-unfit:1"}))
		}
		for _, ref := range append(both, "docker.io/library/archived-oci:1") {
			must(t, r.host.Do(t.Context(), r.ns, "main", plan.DeleteImage{Ref: ref}))
		}
		// Deletions wait for the garbage collection: nothing is left of what was cut short.
		if active, err := r.Ctr(t.Context(), string(r.ns), "content", "active"); err != nil || strings.Count(active, "\n") > 1 {
			t.Errorf("%v; left behind:\n%s", err, active)
		}
	})
}

// version is that of a file now.
func (r *realHost) version(path string) string {
	r.Helper()
	f, err := openArchive(path)
	must(r, err)
	v, err := f.Version()
	must(r, errors.Join(err, f.Close()))
	return v
}

// leaveOut takes an image's last layer out of its archive.
func leaveOut(t *testing.T, image v1.Image, file string) {
	t.Helper()
	layers, err := image.Layers()
	must(t, err)
	digest, err := layers[len(layers)-1].Digest()
	must(t, err)
	whole, err := os.ReadFile(file)
	must(t, err)
	var out bytes.Buffer
	w, r := tar.NewWriter(&out), tar.NewReader(bytes.NewReader(whole))
	for header, err := r.Next(); !errors.Is(err, io.EOF); header, err = r.Next() {
		must(t, err)
		if strings.HasSuffix(header.Name, digest.Hex) {
			continue
		}
		must(t, w.WriteHeader(header))
		_, err = io.Copy(w, r)
		must(t, err)
	}
	must(t, w.Close())
	must(t, os.WriteFile(file, out.Bytes(), 0o600))
}
