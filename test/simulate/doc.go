// Package simulate plays random histories of faults on the whole controller, on a containerd in memory and in fake
// time, and checks after each of them what must always hold.
package simulate
