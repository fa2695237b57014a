// Package intake throws bad manifests and hostile directories at everything between the manifest directory and
// containerd, and checks that nothing of it changes, stops or escapes.
package intake
