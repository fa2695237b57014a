package fakectrd

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Dump prints everything the daemon holds in the given namespaces, or in all of them, in a canonical form without
// times and pids: two histories that come to the same end give the same text.
func (d *Daemon) Dump(namespaces ...string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(namespaces) == 0 {
		all := map[string]bool{}
		for ns := range d.namespaces {
			all[ns] = true
		}
		for k := range d.tasks {
			all[k.ns] = true
		}
		namespaces = sortedKeys(all)
	}
	var b strings.Builder
	for _, ns := range namespaces {
		d.dumpNamespace(&b, ns)
	}
	return b.String()
}

func (d *Daemon) dumpNamespace(b *strings.Builder, ns string) {
	n, ok := d.namespaces[ns]
	if !ok {
		n = &namespace{}
		fmt.Fprintf(b, "namespace %s (none)\n", ns)
	} else {
		fmt.Fprintf(b, "namespace %s%s\n", ns, printLabels(n.labels))
	}
	for _, id := range sortedKeys(n.containers) {
		c := n.containers[id]
		fmt.Fprintf(b, "  container %s image=%s snapshot=%s/%s spec=%s%s\n", id, c.Image, c.Snapshotter, c.SnapshotKey,
			printBytes(c.Spec.GetValue()), printLabels(c.Labels))
		for _, k := range sortedKeys(c.Extensions) {
			fmt.Fprintf(b, "    extension %s %s\n", k, printBytes(c.Extensions[k].GetValue()))
		}
	}
	for _, k := range d.sortedTasks() {
		if k.ns != ns {
			continue
		}
		t := d.tasks[k]
		fmt.Fprintf(b, "  task %s %s", k.id, t.Status)
		if t.Status == stopped {
			fmt.Fprintf(b, " exit=%d", t.ExitCode)
		}
		if t.hung != nil {
			b.WriteString(" hung")
		}
		b.WriteByte('\n')
	}
	for _, ref := range sortedKeys(n.images) {
		i := n.images[ref]
		fmt.Fprintf(b, "  image %s %s%s\n", ref, i.Target.Digest.Encoded()[:12], printLabels(i.Labels))
	}
	for _, dig := range sortedKeys(n.blobs) {
		fmt.Fprintf(b, "  content %s\n", digest.Digest(dig).Encoded()[:12])
	}
	for _, id := range n.sortedSnapshots() {
		s := n.snapshots[id]
		fmt.Fprintf(b, "  snapshot %s/%s %s parent=%s%s\n", id.snapshotter, id.key, s.Kind, s.Parent, printLabels(s.Labels))
	}
	for _, id := range sortedKeys(n.leases) {
		l := n.leases[id]
		fmt.Fprintf(b, "  lease %s", id)
		for _, s := range slices.SortedFunc(maps.Keys(l.snapshots), snapshotID.compare) {
			fmt.Fprintf(b, " %s/%s", s.snapshotter, s.key)
		}
		for _, dig := range sortedKeys(l.blobs) {
			fmt.Fprintf(b, " %s", digest.Digest(dig).Encoded()[:12])
		}
		b.WriteByte('\n')
	}
}

// printLabels prints labels in order, each with a blank before it.
func printLabels(labels map[string]string) string {
	var b strings.Builder
	for _, k := range sortedKeys(labels) {
		fmt.Fprintf(&b, " %s=%q", k, labels[k])
	}
	return b.String()
}

// printBytes prints what identifies a value of any length.
func printBytes(v []byte) string {
	return fmt.Sprintf("%s(%d)", digest.FromBytes(v).Encoded()[:12], len(v))
}
