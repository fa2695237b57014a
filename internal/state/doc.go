// Package state holds the nouns: what a realm should be, what its namespace holds, the field classes and the
// digests.
//
// Everything here is a value. Desired things come from manifests by way of compile and accept; observed things
// come from containerd by way of ctrd. Nothing in this package reads a clock, a file or a socket.
package state
