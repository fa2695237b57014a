package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/protobuf/proto"

	"kukeon.io/kukeon-reconciler/test/proxy"
)

// extracted is the object of all calls that pull and unpack: the key of a snapshot while it is being filled begins so.
const extracted = "extract"

// objectOf is what a call creates, deletes or changes, as method and name; "" as name when nobody needs to know.
func objectOf(c proxy.Call) string {
	var name string
	decode := func(m proto.Message, get func() string) {
		if proto.Unmarshal(c.Request, m) == nil {
			name = get()
		}
	}
	switch c.Method {
	case "Namespaces.Create":
		m := &namespacesapi.CreateNamespaceRequest{}
		decode(m, func() string { return "namespace" })
	case "Containers.Create":
		m := &containersapi.CreateContainerRequest{}
		decode(m, func() string { return m.GetContainer().GetID() })
	case "Containers.Delete":
		m := &containersapi.DeleteContainerRequest{}
		decode(m, m.GetID)
	case "Containers.Update":
		m := &containersapi.UpdateContainerRequest{}
		decode(m, func() string { return m.GetContainer().GetID() })
	case "Tasks.Create":
		m := &tasksapi.CreateTaskRequest{}
		decode(m, m.GetContainerID)
	case "Tasks.Start":
		m := &tasksapi.StartRequest{}
		decode(m, m.GetContainerID)
	case "Tasks.Delete":
		m := &tasksapi.DeleteTaskRequest{}
		decode(m, m.GetContainerID)
	case "Content.Write", "Content.Update", "Diff.Apply", "Snapshots.Commit": // all of the one image that is being pulled
		return extracted
	case "Images.Create":
		m := &imagesapi.CreateImageRequest{}
		decode(m, func() string { return extracted })
	case "Leases.Create":
		m := &leasesapi.CreateRequest{}
		decode(m, m.GetID)
	case "Snapshots.Prepare":
		m := &snapshotsapi.PrepareSnapshotRequest{}
		decode(m, func() string { id, _, _ := strings.Cut(m.GetKey(), "-"); return id }) // "extract-..." or "web-..."
	}
	return name
}

// creates are the calls whose number is bounded: they make something, or start it.
var creates = []string{"Namespaces.Create", "Containers.Create", "Tasks.Create", "Tasks.Start", "Images.Create", "Snapshots.Prepare"}

// summary counts what was created, by method and object.
type summary map[string]int

func (l *life) summarize(writes []proxy.Call) summary {
	s := summary{}
	for _, c := range writes {
		if c.Done && slices.Contains(creates, c.Method) {
			s[c.Method+" "+l.plain(objectOf(c))]++
		}
	}
	return s
}

// excess tells what was created more often than it may be: once more than undisturbed when the fault struck that
// object, or when it ended a process, and with it everything that was under way.
func (s summary) excess(undisturbed summary, k kind, struck string) error {
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(s)) {
		method, object, _ := strings.Cut(key, " ")
		allowed := undisturbed[key]
		switch {
		case method == "Tasks.Start": // whatever happens, what was started runs
		case object == struck, k == killUsBefore, k == killUsAfter, k == killDaemonAfter:
			allowed++
		}
		if s[key] > allowed {
			lines = append(lines, fmt.Sprintf("%s: %d times, %d undisturbed", key, s[key], undisturbed[key]))
		}
	}
	if lines == nil {
		return nil
	}
	return fmt.Errorf("created too often: %s", strings.Join(lines, "; "))
}
