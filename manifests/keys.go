package manifests

import "slices"

// laterKeys are, for each object, the keys of the format that this release does not carry out. They are refused,
// since a manifest that asks for a probe or a policy must not run without it. The text is what the key asks for.
var laterKeys = map[string]map[string]string{
	"RealmSpec": {"network": "networks and egress policies", "egress": "egress policies"},
	"ContainerSpec": {
		"imageRefresh":   "refreshing tags by time",
		"ports":          "published ports",
		"networks":       "networks",
		"network":        "networks and egress policies",
		"egress":         "egress policies",
		"cniConfigPath":  "networks",
		"secrets":        "secrets",
		"dependsOn":      "dependencies between containers",
		"startupProbe":   "probes",
		"livenessProbe":  "probes",
		"readinessProbe": "probes",
		"update":         "update strategies",
		"schedule":       "schedules",
		"ttl":            "time to live",
		"initContainers": "init containers",
	},
	"ContainerDocumentSpec": {
		"spaceId": "containers in spaces",
		"stackId": "containers in stacks",
		"cellId":  "containers in cells",
	},
}

// ignoredKeys are, for each object, the keys that Kukeon knows and that change nothing here. They are warned about.
var ignoredKeys = map[string]map[string]string{
	"ContainerSpec": {
		"attachable":      "output is always attachable with ctr tasks attach",
		"tty":             "there is no terminal wrapper",
		"repos":           "no repositories are cloned",
		"git":             "git is not set up in containers",
		"root":            "no container depends on a root container",
		"containerdId":    "the containerd id is the container's id",
		"networksAliases": "there are no networks yet",
		"hostCgroup":      "containers have a cgroup namespace of their own",
	},
}

// laterKey and ignoredKey look a key up for an object. A Container document has the container's keys as well, and
// inside a realm the scope that Kukeon writes into each container says nothing new.
func laterKey(object, key string) (string, bool) {
	what, ok := laterKeys[object][key]
	if !ok && object == "ContainerDocumentSpec" {
		what, ok = laterKeys["ContainerSpec"][key]
	}
	return what, ok
}

func ignoredKey(object, key string) (string, bool) {
	if object == "ContainerDocumentSpec" {
		object = "ContainerSpec"
	} else if object == "ContainerSpec" && slices.Contains([]string{"realmId", "spaceId", "stackId", "cellId"}, key) {
		return "a container belongs to the realm it stands in", true
	}
	why, ok := ignoredKeys[object][key]
	return why, ok
}
