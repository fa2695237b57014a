package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"kukeon.io/kukeon-reconciler/internal/testenv"
)

func TestFloorMeasuresAndRemovesWhatItMade(t *testing.T) {
	const image = "docker.io/library/busybox:1.36"
	for _, version := range []string{testenv.Current, testenv.Debian} {
		t.Run(version, func(t *testing.T) {
			d := testenv.NewTB(t, version)
			namespace := "kr-floor-" + testenv.Suffix()
			ctr := func(args ...string) string {
				t.Helper()
				out, err := d.Ctr(t.Context(), namespace, args...)
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			archive := filepath.Join(t.TempDir(), "busybox.tar")
			if err := testenv.SaveArchive(testenv.BusyboxImage(), image, archive); err != nil {
				t.Fatal(err)
			}
			ctr("images", "import", archive)
			ctr("containers", "create", image, "model", "sleep", "1000")
			spec := filepath.Join(t.TempDir(), "spec.json")
			if err := os.WriteFile(spec, []byte(ctr("containers", "info", "--spec", "model")), 0o600); err != nil {
				t.Fatal(err)
			}
			ctr("containers", "rm", "model")

			f := &floor{snapshotter: "overlayfs", namespace: namespace}
			r, err := f.run(namespaces.WithNamespace(t.Context(), namespace), d.Address, image, spec, 6, 3)
			if err != nil {
				t.Fatal(err)
			}
			if r.Containers != 6 || r.RunningMs <= 0 || r.RepairMs <= 0 {
				t.Errorf("got %+v", r)
			}
			t.Logf("%+v", r)
			for _, kind := range []string{"tasks", "containers", "leases"} {
				if left := ctr(kind, "ls", "--quiet"); left != "" {
					t.Errorf("%s left behind: %q", kind, left)
				}
			}
		})
	}
}
