package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
)

func namespace(realm string) string { return "kukeon-" + realm }

// newRealm names a realm that was never there, and imports the image into its namespace.
func (h *host) newRealm(ctx context.Context) (string, error) {
	h.realms++
	realm := fmt.Sprintf("b%s-%d", h.suffix, h.realms)
	return realm, h.importImage(ctx, namespace(realm))
}

func (h *host) importImage(ctx context.Context, namespace string) error {
	_, err := h.daemon.Ctr(ctx, namespace, "images", "import", h.dir("image.tar"))
	return err
}

// sleepers declares n containers, c0 and up, that do nothing. They die of KILL at once when they are stopped, for
// nothing that is measured with them is about stopping.
func sleepers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "    - {id: c%d, image: %q, command: [sleep, \"2147483647\"], stopSignal: SIGKILL}\n", i, image)
	}
	return b.String()
}

// declare renames a realm's manifest with these containers into the directory, and returns when.
func (h *host) declare(realm, containers string) (time.Time, error) {
	text := fmt.Sprintf("apiVersion: v1beta1\nkind: Realm\nmetadata: {name: %s}\nspec:\n", realm)
	if containers == "" {
		text += "  containers: []\n"
	} else {
		text += "  containers:\n" + containers
	}
	return h.place(realm, text)
}

// place renames a realm's file into the directory.
func (h *host) place(realm, text string) (time.Time, error) {
	temp := filepath.Join(h.dir("staging"), realm)
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		return time.Time{}, err
	}
	at := time.Now()
	return at, os.Rename(temp, h.file(realm))
}

func (h *host) file(realm string) string { return filepath.Join(h.dir("realms.d"), realm+".yaml") }

// declareAndAwait declares a realm and waits until n tasks of it were started, which took so long; then until the
// daemon has nothing more to do about it.
func (h *host) declareAndAwait(ctx context.Context, realm, containers string, n int) (time.Duration, error) {
	at, err := h.declare(realm, containers)
	if err != nil {
		return 0, err
	}
	started, err := h.events.await(ctx, taskStarted, namespace(realm), "", at, n)
	if err != nil {
		return 0, fmt.Errorf("%w%s", err, h.lastWords())
	}
	return started[n-1].at.Sub(at), h.settle(ctx, realm)
}

// settle waits until a realm is ready and nothing is to be done about it, and a moment longer.
func (h *host) settle(ctx context.Context, realm string) error {
	err := h.until(ctx, realm+" has settled", func() bool {
		r, err := h.api.Realm(ctx, realm)
		return err == nil && r.Ready && r.InSync
	})
	if err != nil {
		return err
	}
	return pause(ctx, quiet)
}

// withdraw removes a realm by a tombstone, which no guard holds up, and then its file. The namespace stays, since the
// image in it is not ours.
func (h *host) withdraw(ctx context.Context, realm string) error {
	text := fmt.Sprintf("apiVersion: v1beta1\nkind: Realm\nmetadata: {name: %s}\nspec: {state: Absent}\n", realm)
	if _, err := h.place(realm, text); err != nil {
		return err
	}
	store := h.client.ContainerService()
	inside := namespaces.WithNamespace(ctx, namespace(realm))
	err := h.until(ctx, realm+" is removed", func() bool {
		left, err := store.List(inside)
		return err == nil && len(left) == 0
	})
	if err != nil {
		return err
	}
	if err := os.Remove(h.file(realm)); err != nil {
		return err
	}
	return pause(ctx, quiet)
}

// floorResult is what the floor program prints.
type floorResult struct{ RunningMs, RepairMs float64 }

// runFloor makes n containers like the model in a new namespace, and repairs some of them.
func (h *host) runFloor(ctx context.Context, n, repairs int) (r floorResult, err error) {
	h.realms++
	ns := fmt.Sprintf("kr-floor-%s-%d", h.suffix, h.realms)
	if err := h.importImage(ctx, ns); err != nil {
		return r, err
	}
	if err := pause(ctx, quiet); err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, h.floor, "-address", h.daemon.Address, "-namespace", ns, "-image", image,
		"-spec", h.spec, "-n", strconv.Itoa(n), "-repairs", strconv.Itoa(repairs))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("the floor: %w", err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("the floor: %w", err)
	}
	return r, pause(ctx, quiet)
}
