package ctrd

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/aymanbagabas/go-udiff"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/tools/txtar"

	"kukeon.io/kukeon-reconciler/internal/outcome"
	"kukeon.io/kukeon-reconciler/internal/state"
)

var update = flag.Bool("update", false, "write what was got into the fixtures")

// plain is the container against which the fixtures are compared.
var plain = blueprint{
	ns: "kukeon-main", id: "web", spec: state.Spec{Image: "docker.io/library/web:1"},
	image: ocispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, Env: []string{"PATH=/bin", "A=1"}},
	files: "/run/kr/files/kukeon-main/web", volumes: "/var/lib/kr/volumes/main", openFiles: 1 << 20,
	rootFS: func(read func(fs.FS) error) error {
		return read(fstest.MapFS{
			"etc/passwd": {Data: []byte("root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n")},
			"etc/group":  {Data: []byte("app:x:1001:\ndisk:x:6:app\nweb:x:33:\n")},
		})
	},
}

// A fixture holds spec.json, perhaps image.json, and the lines in which the OCI spec differs from the plain one's, or
// the error.
func TestTheOCISpecOf(t *testing.T) {
	files, err := filepath.Glob("testdata/spec/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no fixtures", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b, want := plain, ""
			a.Files = slices.DeleteFunc(a.Files, func(f txtar.File) bool {
				switch f.Name {
				case "spec.json":
					decode(t, f.Data, &b.spec)
				case "image.json":
					b.image = ocispec.ImageConfig{}
					decode(t, f.Data, &b.image)
				case "want":
					want = string(f.Data)
					return true
				}
				return false
			})
			got := difference(t, b)
			if *update {
				a.Files = append(a.Files, txtar.File{Name: "want", Data: []byte(got)})
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// difference tells what a container's OCI spec has that the plain one's has not, and the other way round; for the
// plain one itself, all of it.
func difference(t *testing.T, b blueprint) string {
	s, err := b.build(t.Context())
	var stalled *outcome.Stalled
	if errors.As(err, &stalled) {
		return stalled.Error() + "\n"
	} else if err != nil {
		t.Fatal(err)
	}
	base, err := plain.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, want := text(t, s), text(t, base)
	if got == want {
		return got
	}
	var out strings.Builder
	for line := range strings.Lines(udiff.Unified("plain", "it", want, got)) {
		if !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "+++") && !strings.HasPrefix(line, "@@") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// text prints a spec, and leaves out what depends on the host.
func text(t *testing.T, s *specs.Spec) string {
	t.Helper()
	s.Linux.MaskedPaths = slices.DeleteFunc(s.Linux.MaskedPaths, func(p string) bool {
		return strings.HasPrefix(p, "/sys/devices/system/cpu")
	})
	if s.Linux.Seccomp != nil && len(s.Linux.Seccomp.Syscalls) > 10 {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "(containerd's default profile)"}
	}
	if len(s.Linux.Devices) > 5 {
		s.Linux.Devices = []specs.LinuxDevice{{Path: "(every device of the host)"}}
	}
	current, err := cap.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Effective, &s.Process.Capabilities.Permitted} {
		if slices.Equal(*set, current) {
			*set = []string{"(all of ours)"}
		}
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(s); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func TestTheSameBlueprintMakesTheSameBytes(t *testing.T) {
	b := plain
	b.spec = state.Spec{
		Image: "x", User: "app", Env: []string{"Z=1", "B=2"}, Capabilities: state.Capabilities{Add: []string{"CAP_SYS_TIME", "CAP_NET_ADMIN"}},
		Mounts: []state.Mount{{Kind: state.MountTmpfs, Target: "/x"}, {Kind: state.MountVolume, Source: "v", Target: "/v"}},
	}
	first, err := b.encode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := b.encode(t.Context())
		if err != nil || !bytes.Equal(first.Value, again.Value) {
			t.Fatal("it differs", err)
		}
	}
}

func TestFilesOfOursAreWrittenInPlaceAndOnlyWhenTheyDiffer(t *testing.T) {
	h := New(Config{FilesDir: t.TempDir()})
	refresh := func() os.FileInfo {
		t.Helper()
		if err := h.refreshFiles("kukeon-main", "web", state.Spec{HostNetwork: true}); err != nil {
			t.Fatal(err)
		}
		i, err := os.Stat(filepath.Join(h.files("kukeon-main", "web"), "hosts"))
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	first := refresh()
	if again := refresh(); again.ModTime() != first.ModTime() {
		t.Error("written without need")
	}
	path := filepath.Join(h.files("kukeon-main", "web"), "hosts")
	if err := os.WriteFile(path, []byte("127.0.0.1 old\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if again := refresh(); !os.SameFile(first, again) {
		t.Error("replaced by another file, which a running container does not see")
	}
	host, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.TrimSuffix(string(host), "\n") + "\n127.0.0.1 web\n"
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
}

func TestAContainerAsksForNoMoreOpenFilesThanTheHostHas(t *testing.T) {
	host := plain
	host.openFiles = 20000
	s, err := host.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Process.Rlimits[0]; got.Soft != 1024 || got.Hard != 20000 {
		t.Errorf("soft %d, hard %d", got.Soft, got.Hard)
	}
}
