package proxy

import (
	"fmt"
	"path"
	"strings"

	"google.golang.org/grpc/mem"
)

// frame is a message nobody looked into.
type frame []byte

// codec passes frames through.
type codec struct{}

// Name implements encoding.CodecV2: on the wire nothing differs from protobuf.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("%T is not a frame", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*f)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("%T is not a frame", v)
	}
	*f = data.Materialize()
	return nil
}

// shortName makes "Tasks.Create" of "/containerd.services.tasks.v1.Tasks/Create".
func shortName(full string) string {
	service, method := path.Split(full)
	service = strings.TrimSuffix(service, "/")
	return service[strings.LastIndexAny(service, "./")+1:] + "." + method
}

// reads are the calls that change nothing. Whatever is not among them counts as a write.
var reads = names(`
	Containers.Get Containers.List Containers.ListStream
	Content.Info Content.List Content.Read Content.Status Content.ListStatuses
	Events.Subscribe
	Health.Check Health.Watch
	Images.Get Images.List
	Introspection.Plugins Introspection.PluginInfo Introspection.Server
	Leases.List Leases.ListResources
	Mounts.List Mounts.Info
	Namespaces.Get Namespaces.List
	Snapshots.Stat Snapshots.List Snapshots.Usage Snapshots.Mounts
	Tasks.Get Tasks.List Tasks.ListPids Tasks.Metrics Tasks.Wait
	Version.Version`)

// streams are the calls whose client has to see a reply before the call has ended.
var streams = names(`
	Containers.ListStream Content.List Content.Read Events.Subscribe Health.Watch Snapshots.List Streaming.Stream`)

// dialogues are the streams in which each message is answered by one, before the next is sent.
var dialogues = names(`Content.Write`)

func names(list string) map[string]bool {
	set := map[string]bool{}
	for _, name := range strings.Fields(list) {
		set[name] = true
	}
	return set
}
