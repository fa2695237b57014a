package intake

import (
	"fmt"
	"strings"
)

// mainManifest is what was accepted before a bad file takes its place, and edgeManifest stands beside it all the time.
const mainManifest = `apiVersion: v1beta1
kind: Realm
metadata:
  name: main
  labels: {team: "edge"}
spec:
  defaults:
    container: {stopGracePeriodSeconds: 2}
  containers:
    - id: db
      image: web:1
      env: [A=b, "C=d e"]
      resources: {memory: 64Mi, cpus: "0.5"}
      volumes:
        - {kind: tmpfs, target: /scratch, sizeBytes: 1Mi, mode: "1777"}
    - id: web
      image: web:1
      command: [sh, -c, "sleep 1000000"]
      restartPolicy: always
---
kind: Container
metadata: {name: guest}
spec: {realmId: main, image: web:1}
`

const edgeManifest = `apiVersion: v1beta1
kind: Realm
metadata: {name: edge}
spec:
  containers:
    - {id: one, image: web:1}
`

// good makes a manifest by the format's grammar.
func (g *generator) good() []byte {
	var b strings.Builder
	name := pick(g, "main", "main", "blue", "a", "x-1", "r"+strings.Repeat("e", 62))
	fmt.Fprintf(&b, "apiVersion: %s\nkind: Realm\nmetadata:\n  name: %s\n", pick(g, "v1beta1", "kukeon.io/v1beta1"), name)
	if g.IntN(2) == 0 {
		fmt.Fprintf(&b, "  annotations: {kukeon.io/%s}\n", pick(g, "prune: disabled", "reconcile: disabled", `take-over: "true"`))
	}
	b.WriteString("spec:\n")
	if g.IntN(4) == 0 {
		b.WriteString("  images:\n    - image: web:2\n    - image: registry.example.com:5000/a/b@sha256:" + strings.Repeat("0a", 32) + "\n")
	}
	if g.IntN(4) == 0 {
		b.WriteString("  deletionPolicy: Retain\n")
	}
	b.WriteString("  containers:\n")
	for i := range 1 + g.IntN(4) {
		fmt.Fprintf(&b, "    - id: c%d\n      image: web:1\n", i)
		for _, field := range goodFields {
			if g.IntN(4) == 0 {
				b.WriteString("      " + field + "\n")
			}
		}
	}
	if g.IntN(3) == 0 {
		fmt.Fprintf(&b, "---\nkind: Container\nmetadata: {name: guest}\nspec:\n  realmId: %s\n  image: web:1\n", name)
	}
	return []byte(b.String())
}

// goodFields are fields of a container, a line each, that do not contradict each other.
var goodFields = []string{
	"imagePullPolicy: Always", "command: [sh, -c, 'sleep 1']", "args: [\"-v\"]", "workingDir: /srv", `user: "1000:1000"`, "env: [A=b, C=]",
	"volumes: [{kind: bind, source: /etc, target: /host/etc, readOnly: true}, {kind: volume, source: data, target: /data, ensure: true}]",
	"tmpfs: [{path: /tmp, sizeBytes: 1Mi, options: [noexec, mode=1777]}]", "devices: [/dev/fuse]", "privileged: false",
	"hostNetwork: true", "hostPID: false", "readOnlyRootFilesystem: true", "capabilities: {drop: [ALL], add: [NET_ADMIN]}",
	"securityOpts: [no-new-privileges, seccomp=unconfined]", "resources: {memory: 128Mi, memorySwap: 256Mi, cpuShares: 512, pidsLimit: 9}",
	"restartPolicy: on-failure\n      restartMaxRetries: 3", "restartBackoffSeconds: 2", "stopSignal: SIGINT", "stopGracePeriodSeconds: 30",
	"labels: {tier: front}", "annotations: {kukeon.io/prune: disabled, note: mine}", "logging: {driver: file, maxSizeBytes: 1Mi, maxFiles: 2}",
}
