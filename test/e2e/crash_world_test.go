package e2e

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	. "github.com/onsi/ginkgo/v2"
)

// world is everything that there is of a realm on the host, a line for each thing, in order. What differs between two
// undisturbed runs is left out of the lines: times, digests, the names of this run.
type world []string

// world looks at the daemon itself, beside the proxy, and at the host.
func (l *life) world() (world, error) {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), l.namespace()), ctrLimit)
	defer cancel()
	w := &looker{life: l, ctx: ctx}
	return w.look()
}

type looker struct {
	*life
	ctx   context.Context
	lines []string
}

func (w *looker) say(format string, args ...any) {
	w.lines = append(w.lines, w.plain(fmt.Sprintf(format, args...)))
}

func (w *looker) look() (world, error) {
	for _, part := range []func() error{
		w.namespaceAndLeases, w.containersAndTasks, w.images, w.snapshots, w.content, w.files, w.cgroups, w.mounts,
	} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	for _, id := range shims(w.namespace()) {
		w.say("shim %s", id)
	}
	slices.Sort(w.lines)
	return w.lines, nil
}

var (
	digests    = regexp.MustCompile(`sha256:[0-9a-f]{64}`)
	shortHex   = regexp.MustCompile(`\b[0-9a-f]{12}\b`)
	times      = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)`)
	bootIDs    = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	boots      = regexp.MustCompile(`@[A-Z2-7]{26}\b`)
	extraction = regexp.MustCompile(`extract-\S+`)
)

// plain replaces what is of this run only.
func (l *life) plain(text string) string {
	text = strings.NewReplacer(l.dir, "DIR", l.name(), "REALM", registry.Host, "REGISTRY").Replace(text)
	text = bootIDs.ReplaceAllString(text, "UUID")
	text = boots.ReplaceAllString(text, "@BOOT")
	text = digests.ReplaceAllString(text, "DIGEST")
	text = extraction.ReplaceAllString(text, "extract")
	text = times.ReplaceAllString(text, "TIME")
	return shortHex.ReplaceAllString(text, "HEX")
}

func (w *looker) namespaceAndLeases() error {
	all, err := w.client.NamespaceService().List(w.ctx)
	if err != nil {
		return err
	}
	if slices.Contains(all, w.namespace()) {
		found, err := w.client.NamespaceService().Labels(w.ctx, w.namespace())
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		w.say("namespace %v", found)
	}
	found, err := w.client.LeasesService().List(w.ctx)
	if err != nil {
		return err
	}
	for _, lease := range found {
		w.say("lease %s", lease.ID)
	}
	return nil
}

func (w *looker) containersAndTasks() error {
	all, err := w.client.Containers(w.ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		info, err := c.Info(w.ctx, containerd.WithoutRefreshedMetadata)
		if err != nil {
			return err
		}
		w.say("container %s image=%s snapshot=%s/%s labels=%v", info.ID, info.Image, info.Snapshotter, info.SnapshotKey, info.Labels)
		w.say("container %s spec=%x", info.ID, hash(w.plain(string(info.Spec.GetValue()))))
		for _, key := range slices.Sorted(maps.Keys(info.Extensions)) {
			w.say("container %s %s=%x", info.ID, key, hash(w.plain(string(info.Extensions[key].GetValue()))))
		}
		task, err := c.Task(w.ctx, nil)
		if errdefs.IsNotFound(err) {
			continue
		} else if err != nil {
			return err
		}
		status, err := task.Status(w.ctx)
		if err != nil {
			return err
		}
		alive := "alive"
		if !processExists(int(task.Pid())) {
			alive = "without a process"
		}
		w.say("task %s %s, %s", info.ID, status.Status, alive)
	}
	return nil
}

func (w *looker) images() error {
	all, err := w.client.ImageService().List(w.ctx)
	for _, i := range all {
		w.say("image %s labels=%v", i.Name, i.Labels)
	}
	return err
}

func (w *looker) snapshots() error {
	return w.client.SnapshotService("overlayfs").Walk(w.ctx, func(_ context.Context, i snapshots.Info) error {
		w.say("snapshot %s %s of %q labels=%v", i.Kind, i.Name, i.Parent, i.Labels)
		return nil
	})
}

func (w *looker) content() error {
	store := w.client.ContentStore()
	active, err := store.ListStatuses(w.ctx)
	if err != nil {
		return err
	}
	for _, s := range active {
		w.say("ingest %s", s.Ref)
	}
	return store.Walk(w.ctx, func(i content.Info) error {
		// The client's own note of what a layer's digest is when it is unpacked; whoever misses it looks again. When
		// containerd dies between the snapshot and the note nobody has to make it.
		delete(i.Labels, labels.LabelUncompressed)
		w.say("content of %d bytes labels=%v", i.Size, slices.Sorted(maps.Keys(i.Labels)))
		return nil
	})
}

// files are those of ours on the host that concern this realm or all.
func (w *looker) files() error {
	for _, top := range []string{w.runDir, w.state, w.logs} {
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // gone just now
			}
			if err == nil && path != top {
				w.say("file %s %s", entry.Type(), path)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// cgroups are the containers of the namespace that have one, and runc's records of them.
func (w *looker) cgroups() error {
	for _, pattern := range []string{"/sys/fs/cgroup/*/%s", "/sys/fs/cgroup/*/%s/*", "/run/containerd/runc/%s/*"} {
		paths, err := filepath.Glob(fmt.Sprintf(pattern, w.namespace()))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				w.say("directory %s", path)
			}
		}
	}
	return nil
}

// mounts are those of the realm's tasks, and ours.
func (w *looker) mounts() error {
	all, err := mountinfo.GetMounts(nil)
	for _, m := range all {
		if strings.HasPrefix(m.Mountpoint, w.dir) || strings.Contains(m.Mountpoint, "/"+w.namespace()+"/") {
			w.say("mount of %s at %s", m.FSType, strings.ReplaceAll(m.Mountpoint, w.daemon.Dir, "DAEMON"))
		}
	}
	return err
}

func hash(text string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // never fails
	return h.Sum64()
}

// collect has containerd collect its garbage: what nobody refers to is no leak of ours.
func (l *life) collect() error {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "collect-"+l.suffix), ctrLimit)
	defer cancel()
	lease, err := l.client.LeasesService().Create(ctx, leases.WithRandomID())
	if err != nil {
		return err
	}
	err = l.client.LeasesService().Delete(ctx, lease, leases.SynchronousDelete)
	return errors.Join(err, l.client.NamespaceService().Delete(ctx, "collect-"+l.suffix))
}

// difference prints what is missing of a world, and what is too much.
func difference(want, got world) string {
	var b strings.Builder
	counts := map[string]int{}
	for _, line := range want {
		counts[line]--
	}
	for _, line := range got {
		counts[line]++
	}
	for _, line := range slices.Sorted(maps.Keys(counts)) {
		for range max(0, -counts[line]) {
			fmt.Fprintf(&b, "  - %s\n", line)
		}
		for range max(0, counts[line]) {
			fmt.Fprintf(&b, "  + %s\n", line)
		}
	}
	return b.String()
}

// shims are the containers of a namespace that have a shim.
func shims(ns string) []string {
	GinkgoHelper()
	var ids []string
	for _, pid := range processes(ns) {
		line, err := os.ReadFile(proc(pid, "cmdline"))
		args := strings.Split(string(line), "\x00")
		if at := slices.Index(args, "-id"); err == nil && at >= 0 {
			ids = append(ids, args[at+1])
		}
	}
	slices.Sort(ids)
	return ids
}
