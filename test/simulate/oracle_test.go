package simulate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/google/go-cmp/cmp"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/internal/status"
)

// realms are all realms of the simulation.
var realms = []string{"alpha", "beta", "gamma"}

// others are the namespaces of other programs.
var others = []string{"moby", "default", "k8s.io"}

// labelKeep marks what is never removed because no file declares it.
const labelKeep = state.Prefix + "keep"

// ours counts the containers of ours in a namespace that may be removed by absence.
func (w *world) ours(ns string) int {
	all, err := w.d.Containers(person, ns)
	if err != nil {
		return 1 // the daemon is down: nobody can know
	}
	n := 0
	for _, c := range all {
		if ownerOf(&c) == owner && c.Labels[labelKeep] == "" {
			n++
		}
	}
	return n
}

// found is what there is of a container: its record, nil when there is none, and a process that lives.
type found struct {
	record             *containers.Container
	snapshotGone, live bool
}

// look looks at a container.
func (w *world) look(ns, id string) found {
	f := found{live: w.d.Run(ns, id).Live > 0}
	if c, err := w.d.Container(person, ns, id); err == nil {
		_, err = w.d.Snapshot(person, ns, c.Snapshotter, c.SnapshotKey)
		f.record, f.snapshotGone = &c, err != nil
	}
	return f
}

// foreign prints everything that is not ours, to be compared.
func (w *world) foreign() string {
	var b strings.Builder
	b.WriteString(w.d.Dump(others...))
	w.mu.Lock()
	var mine []string
	for key := range w.taken {
		mine = append(mine, key)
	}
	w.mu.Unlock()
	if !w.close && len(mine) == 0 {
		return b.String()
	}
	for _, r := range realms {
		ns := namespaceOf(r)
		for line := range strings.Lines(w.d.Dump(ns)) {
			kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			id, _, _ := strings.Cut(rest, " ")
			theirs := strings.HasPrefix(id, "guest") || slices.Contains(mine, ns+"/"+id)
			if theirs && (kind == "container" || kind == "task") || strings.HasPrefix(id, "overlayfs/theirs-") {
				b.WriteString(ns + line)
			}
		}
	}
	return b.String()
}

// untouched checks that nothing of others was touched, and that no container ever had two processes.
func (w *world) untouched() {
	w.alone(func() {
		if now := w.foreign(); now != w.baseline {
			w.check.fail("P3", "what is not ours has changed: %s", cmp.Diff(strings.Split(w.baseline, "\n"), strings.Split(now, "\n")))
			w.baseline = now
		}
	})
	w.unmarked()
	w.d.Runs(func(ns, id string, r runOf) {
		if r.MaxLive > 1 {
			w.check.fail("P5", "%s/%s had %d live processes at a time", ns, id, r.MaxLive)
		}
	})
}

// declaration is what the files say about a realm.
type declaration struct {
	head document
	all  map[string]container
}

// declared are the realms that the files declare.
func (w *world) declared() map[string]declaration {
	w.dir.mu.Lock()
	defer w.dir.mu.Unlock()
	v := view{exists: true, files: w.dir.files}
	out := map[string]declaration{}
	for _, r := range realms {
		if head, all, valid := v.declares(r); valid && !head.absent {
			out[r] = declaration{head, all}
		}
	}
	return out
}

// wrong says what is not as the files want it, reading containerd and the files alone; empty when all is. What is kept
// by prune: disabled is taken from what was accepted.
func (w *world) wrong() string {
	declared, accepted := w.declared(), w.disk.current()
	for _, r := range realms {
		want, kept := declared[r]
		is, known := accepted.Realms[state.RealmName(r)]
		switch {
		case kept && !known:
			return "realm " + r + " is declared and not accepted"
		case !kept && !known:
			if left := w.remains(r); left != "" {
				return left
			}
			continue
		case !kept && is.Suspended:
			continue // its removal waits for the end of that
		case !kept && !is.KeepAlways:
			return "realm " + r + " is accepted, and no file declares it"
		}
		all := map[string]container{}
		for _, c := range is.Containers {
			if doc, there := w.file(c.Origin.Path); (!there || doc.realm != r) && !is.KeepAlways {
				return fmt.Sprintf("%s/%s is accepted from %s", r, c.ID, c.Origin.Path)
			}
			x, said := want.all[string(c.ID)]
			stays := !kept || want.head.keep
			if m := meaning(c.Spec, c.ID); said && x != m || !said && !stays {
				return fmt.Sprintf("%s/%s is accepted as %v, and declared as %v (%v)", r, c.ID, m, x, said)
			}
			all[string(c.ID)] = meaning(c.Spec, c.ID)
		}
		for id := range want.all {
			if _, there := all[id]; !there {
				return fmt.Sprintf("%s/%s is declared and not accepted", r, id)
			}
		}
		if bad := w.realmWrong(r, all); bad != "" {
			return bad
		}
		if bad := w.archiveWrong(r); kept && bad != "" {
			return bad
		}
	}
	for _, x := range accepted.Removals {
		if !accepted.Realms[x.Realm].Suspended {
			return fmt.Sprintf("a removal has not ended: %+v", x)
		}
	}
	return ""
}

// file returns what stands under a path.
func (w *world) file(path string) (document, bool) {
	w.dir.mu.Lock()
	defer w.dir.mu.Unlock()
	doc, there := w.dir.files[path]
	return doc, there
}

// remains says what is left of ours of a realm that nobody declares.
func (w *world) remains(realm string) string {
	ns := namespaceOf(realm)
	labels, err := w.d.NamespaceLabels(person, ns)
	if w.stateLost && (err != nil || labels[state.LabelOwner] != owner) {
		return "" // neither the disk nor the namespace tells any more that it was ours
	}
	if n := w.ours(ns); n > 0 {
		return fmt.Sprintf("%d containers of ours are left in %s", n, ns)
	}
	if w.stateLost {
		return ""
	}
	return w.leaks(ns)
}

// realmWrong compares a namespace with what it should hold.
func (w *world) realmWrong(realm string, want map[string]container) string {
	ns := namespaceOf(realm)
	labels, err := w.d.NamespaceLabels(person, ns)
	stamped := labels[state.LabelOwner] == owner && labels[state.LabelRealm] == realm && labels[state.LabelManagedBy] == state.ManagedByDaemon
	if err != nil || !stamped {
		return fmt.Sprintf("namespace %s is labelled %v (%v)", ns, labels, err)
	}
	all, err := w.d.Containers(person, ns)
	if err != nil {
		return err.Error()
	}
	tasks, err := w.d.Tasks(person, ns)
	if err != nil {
		return err.Error()
	}
	have, live := map[string]containers.Container{}, map[string]string{}
	for _, t := range tasks {
		live[t.ID] = t.Status
	}
	for _, c := range all {
		have[c.ID] = c
		if _, wanted := want[c.ID]; !wanted && ownerOf(&c) == owner && c.Labels[labelKeep] == "" {
			return fmt.Sprintf("%s/%s is ours and nobody declares it", ns, c.ID)
		}
	}
	for id, c := range want {
		if _, taken := w.taken[ns+"/"+id]; taken {
			continue
		}
		record, there := have[id]
		bad := w.containerWrong(realm, c, record, there, live[id])
		if x, _ := w.disk.current().Realms[state.RealmName(realm)].Find(state.ContainerID(id)); bad == "" && there && record.Labels[state.LabelSource] != x.Origin.Path {
			bad = fmt.Sprintf("its source is %s instead of %s", record.Labels[state.LabelSource], x.Origin.Path)
		}
		if bad != "" {
			return fmt.Sprintf("%s/%s: %s", ns, id, bad)
		}
		delete(live, id)
	}
	for id := range live {
		if _, recorded := have[id]; !recorded && !w.stateLost { // else nothing tells that it was ours
			return fmt.Sprintf("%s/%s is a task without a container", ns, id)
		}
	}
	return w.leaks(ns)
}

// archiveWrong says whether the image of a realm's archive is missing, or another archive is accepted.
func (w *world) archiveWrong(realm string) string {
	w.dir.mu.Lock()
	a, ok := w.dir.dropped[realm]
	w.dir.mu.Unlock()
	accepted := w.disk.current().Realms[state.RealmName(realm)].Archives
	if !ok {
		if len(accepted) > 0 {
			return "an archive of " + realm + " is accepted that is gone"
		}
		return ""
	}
	if len(accepted) != 1 || accepted[0].Version != strconv.Itoa(a.version) {
		return fmt.Sprintf("archive %d of %s is not accepted: %+v", a.version, realm, accepted)
	}
	if _, err := w.d.Image(person, namespaceOf(realm), archivedRef(a.tag)); err != nil {
		return fmt.Sprintf("the image of the archive of %s: %v", realm, err)
	}
	return ""
}

// containerWrong compares one container with what it should be.
func (w *world) containerWrong(realm string, want container, c containers.Container, there bool, task string) string {
	ns := namespaceOf(realm)
	done, finished := w.disk.completion(realm, want.id)
	accepted, _ := w.disk.current().Realms[state.RealmName(realm)].Find(state.ContainerID(want.id))
	finished = finished && !want.runs() && done.Digest == accepted.Spec.Digest()
	switch {
	case !there && finished:
		return ""
	case !there:
		return "there is none"
	case ownerOf(&c) != owner || c.Labels[state.LabelOwner] != owner:
		return "it is not labelled as ours"
	case c.Labels["app"] != want.id:
		return fmt.Sprintf("its label app is %q", c.Labels["app"])
	case c.Image != want.ref():
		return "its image is " + c.Image
	}
	r := recordOf(&c)
	if r == nil || meaning(r.Spec, state.ContainerID(want.id)) != want {
		return fmt.Sprintf("its record says %+v", r)
	}
	snapshot, err := w.d.Snapshot(person, ns, c.Snapshotter, c.SnapshotKey)
	if err != nil && !(finished && task == "") {
		return err.Error()
	}
	switch {
	case err == nil && snapshot.Labels[state.LabelOwner] != owner:
		return "its snapshot is not labelled as ours"
	case finished && task == "":
		return ""
	case !want.runs() || task != string(state.TaskRunning):
		return fmt.Sprintf("its task is %q, finished: %v", task, finished)
	}
	return ""
}

// leaks says what operations left behind in a namespace.
func (w *world) leaks(ns string) string {
	leases, err := w.d.Leases(person, ns)
	if err != nil {
		return err.Error()
	}
	for _, l := range leases {
		if strings.HasPrefix(l.ID, "kukeon/") {
			return "lease " + l.ID + " is left in " + ns
		}
	}
	all, err := w.d.Containers(person, ns)
	if err != nil {
		return err.Error()
	}
	named := map[string]bool{}
	for _, c := range all {
		named[c.SnapshotKey] = true
	}
	snapshots, err := w.d.Snapshots(person, ns, "overlayfs")
	if err != nil {
		return err.Error()
	}
	for _, s := range snapshots {
		if s.Labels[state.LabelOwner] == owner && !named[s.Name] {
			return "snapshot " + s.Name + " is left in " + ns
		}
	}
	return ""
}

// untruthful says what the status tells that is not so.
func (w *world) untruthful() string {
	told := map[string]bool{}
	for _, r := range w.proc.manager.Realms() {
		told[string(r.Name)] = true
		accepted, ok := w.disk.current().Realms[r.Name]
		if !ok {
			return fmt.Sprintf("status tells of realm %s, which is gone", r.Name)
		}
		if accepted.Suspended {
			continue
		}
		ready, stuck := true, false
		tasks := map[string]ctrd.TaskInfo{}
		all, err := w.d.Tasks(person, string(r.Namespace))
		if err != nil {
			return err.Error()
		}
		for _, t := range all {
			tasks[t.ID] = t
		}
		for _, c := range accepted.Containers {
			done, finished := w.disk.completion(string(r.Name), string(c.ID))
			_, taken := w.taken[string(r.Namespace)+"/"+string(c.ID)]
			stuck = stuck || taken
			switch {
			case taken:
				ready = false
				if told, _ := r.Find(string(c.ID)); told.Phase != status.PhaseConflict {
					return fmt.Sprintf("status says that %s/%s is %s, and it is somebody else's", r.Name, c.ID, told.Phase)
				}
			case c.Spec.Restart.Policy == state.RestartAlways:
				ready = ready && tasks[string(c.ID)].Status == string(state.TaskRunning)
			default:
				ready = ready && finished && done.Code == 0
			}
		}
		if r.Ready != ready {
			return fmt.Sprintf("status says that %s is ready: %v (%s), and it is %v", r.Name, r.Ready, r.Message, ready)
		}
		if r.InSync == stuck && (ready || stuck) {
			return fmt.Sprintf("status says that %s is in sync: %v (%s %v %v)", r.Name, r.InSync, r.Message, r.Plan, r.Waits)
		}
	}
	for name := range w.disk.current().Realms {
		if !told[string(name)] {
			return fmt.Sprintf("status does not tell of realm %s", name)
		}
	}
	return ""
}
