package manifests

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestImagesAreCompletedAsDockerDoes(t *testing.T) {
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for in, want := range map[string]string{
		"caddy":                        "docker.io/library/caddy:latest",
		"caddy:2":                      "docker.io/library/caddy:2",
		"me/app":                       "docker.io/me/app:latest",
		"127.0.0.1:5000/app:1":         "127.0.0.1:5000/app:1",
		"localhost/app":                "localhost/app:latest",
		"registry.example.com/a/b:1.4": "registry.example.com/a/b:1.4",
		"caddy@" + digest:              "docker.io/library/caddy@" + digest,
		"caddy:2@" + digest:            "docker.io/library/caddy:2@" + digest,
		"Caddy":                        "",
		"":                             "",
		"a b":                          "",
		digest[7:]:                     "",
	} {
		if got, err := NormalizeImage(in); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
}

func TestQuantities(t *testing.T) {
	for in, want := range map[string]int64{
		"1": 1, "1024": 1024, "1K": 1000, "1k": 1000, "256Mi": 256 << 20, "2Gi": 2 << 30, "3G": 3e9, "1Ti": 1 << 40,
		"9223372036854775807": 9223372036854775807,
		"0":                   0, "": 0, "-1": 0, "1.5Gi": 0, "1 Mi": 0, "Mi": 0, "1mi": 0, "1MiMi": 0, "9223372036854775807K": 0, "99999999999999999999": 0,
	} {
		if got, err := ParseQuantity(in); got != want || (err == nil) != (want != 0) {
			t.Errorf("bytes %q: got %d, %v", in, got, err)
		}
	}
	for in, want := range map[string]MilliCPU{
		"0.5": 500, "2": 2000, "500m": 500, "0.001": 1, "1m": 1,
		"0": 0, "": 0, "-1": 0, "1e3": 0, "0.0001": 0, "NaN": 0, ".5": 0, "5000": 0, "m": 0,
	} {
		if got, err := ParseCPUs(in); got != want || (err == nil) != (want != 0) {
			t.Errorf("cpus %q: got %d, %v", in, got, err)
		}
	}
}

func TestSignals(t *testing.T) {
	for in, want := range map[string]int{
		"SIGTERM": 15, "term": 15, "SigKill": 9, "9": 9, "64": 64, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "RTMAX": 64,
		"": 0, "0": 0, "65": 0, "-9": 0, "SIG": 0, "TREM": 0, "RTMIN-1": 0, "RTMIN+31": 0, "RTMAX-31": 0, "RTMIN+x": 0, "RTMIN+-1": 0,
	} {
		if got, err := ParseSignal(in); got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: got %d, %v", in, got, err)
		}
	}
}

func TestRefusedLabels(t *testing.T) {
	for key, want := range map[string]bool{
		"containerd.io/restart.status": true, "io.containerd.image": true, "io.cri-containerd.kind": true, "nerdctl/name": true,
		"com.docker.compose.project": true, "kukeon.io/realm": true, "reconciler.kukeon.io/owner": true, "io.kubernetes.pod": true,
		"team": false, "mykukeon.io/x": false, "org.opencontainers.image.version": false, "com.dockers": false,
	} {
		if got := RefusedLabel(key); got != want {
			t.Errorf("%s: got %v", key, got)
		}
	}
}

func mustRealm(t *testing.T, text string) *Realm {
	t.Helper()
	file := Decode("realm.yaml", []byte(text))
	if len(file.Problems) > 0 {
		t.Fatal(file.Problems)
	}
	return file.Documents[0].Realm
}

func TestDefaultsFillWhatAContainerDoesNotSay(t *testing.T) {
	realm := mustRealm(t, `
kind: Realm
metadata: {name: main}
spec:
  defaults:
    container:
      image: busybox
      args: [from, defaults]
      env: [A=default]
      hostNetwork: true
      labels: {a: default, b: default}
      resources: {memoryLimitBytes: 1024, pidsLimit: 10}
      capabilities: {drop: [ALL]}
      logging: {maxFiles: 2}
  containers:
    - {id: plain}
    - id: own
      image: caddy
      command: sh
      env: []
      hostNetwork: false
      labels: {a: own}
      resources: {memory: 2048}
      capabilities: {add: [NET_RAW]}
      logging: {driver: none}
`)
	defaults := realm.Spec.Defaults.Container
	before, err := json.Marshal(defaults)
	if err != nil {
		t.Fatal(err)
	}
	plain := realm.Spec.Containers[0].WithDefaults(defaults)
	want := *defaults
	want.ID = "plain"
	if diff := cmp.Diff(want, plain); diff != "" {
		t.Error(diff)
	}
	off, files, memory, pids := false, 2, Bytes(2048), int64(10)
	want = ContainerSpec{
		ID: "own", Image: "caddy", Command: Command{"sh"}, Env: []string{}, HostNetwork: &off,
		Labels:       map[string]string{"a": "own", "b": "default"},
		Resources:    &Resources{Memory: &memory, PidsLimit: &pids},
		Capabilities: &Capabilities{Drop: []string{"ALL"}, Add: []string{"NET_RAW"}},
		Logging:      &Logging{Driver: LogNone, MaxFiles: &files},
	}
	if diff := cmp.Diff(want, realm.Spec.Containers[1].WithDefaults(defaults)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(realm.Spec.Containers[1], realm.Spec.Containers[1].WithDefaults(nil)); diff != "" {
		t.Error(diff)
	}
	if after, err := json.Marshal(defaults); err != nil || string(after) != string(before) {
		t.Errorf("the defaults changed to %s, %v", after, err)
	}
}

// What is written as JSON, for the store or for a person, reads back as the same realm.
func TestTypedValuesSurviveAJSONRoundTrip(t *testing.T) {
	realm := mustRealm(t, `
kind: Realm
metadata: {name: main, annotations: {kukeon.io/take-over: "true"}}
spec:
  containers:
    - id: a
      image: a
      command: [sh, -c]
      resources: {memory: 1Gi, cpus: 0.25, memorySwap: 2Gi}
      volumes: [{kind: tmpfs, target: /a, mode: 01777, sizeBytes: 1Mi}, {source: /x, target: /y}]
      logging: {maxSizeBytes: 10Mi}
`)
	text, err := json.Marshal(realm)
	if err != nil {
		t.Fatal(err)
	}
	back := Decode("realm.json", text)
	if len(back.Problems) > 0 {
		t.Fatalf("%v\n%s", back.Problems, text)
	}
	if diff := cmp.Diff(realm, back.Documents[0].Realm); diff != "" {
		t.Error(diff)
	}
}

func TestContainersTellAbsentFromEmpty(t *testing.T) {
	for text, want := range map[string]bool{"": false, "spec: {}\n": false, "spec: {containers: []}\n": true, "spec: {containers: [{id: a, image: a}]}\n": true} {
		if got := mustRealm(t, "kind: Realm\nmetadata: {name: main}\n"+text).Spec.ContainersDeclared; got != want {
			t.Errorf("%q: declared %v", text, got)
		}
	}
}

func TestAContainerDocumentIsAnInlineContainer(t *testing.T) {
	file := Decode("web.yaml", []byte(`
kind: Container
metadata: {name: web, labels: {a: outer, b: outer}, annotations: {kukeon.io/prune: disabled}}
spec: {realmId: main, image: caddy, labels: {a: inner}}
`))
	if len(file.Problems) > 0 {
		t.Fatal(file.Problems)
	}
	want := ContainerSpec{ID: "web", Image: "caddy", Labels: map[string]string{"a": "inner", "b": "outer"},
		Annotations: map[string]string{AnnotationPrune: "disabled"}}
	if diff := cmp.Diff(want, file.Documents[0].Container.Inline()); diff != "" {
		t.Error(diff)
	}
	if got := file.Documents[0].At("spec.image").String(); got != "web.yaml:4:30" {
		t.Errorf("the image stands at %s", got)
	}
	if got := file.Documents[0].At("spec.env[3]").String(); got != "web.yaml:4:7" {
		t.Errorf("a field that is not there is looked for at %s", got)
	}
}
