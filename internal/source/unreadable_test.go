package source

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// asNobody runs f without root's rights over files. They are the thread's, which f has for itself.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const nobody = 65534
	must(t, unix.Setfsuid(nobody))
	defer func() { must(t, unix.Setfsuid(os.Getuid())) }()
	f()
}

func TestADirectoryThatCannotBeListedProvesNothing(t *testing.T) {
	root := t.TempDir()
	must(t, os.Chmod(filepath.Dir(root), 0o755)) // as the test makes it, nobody else gets that far
	write(t, root+"/a.yaml", "a")
	must(t, os.Mkdir(root+"/sub", 0o755))
	write(t, root+"/sub/b.yaml", "b")
	r := testReader(root)
	expect(t, r.Read(t.Context()), "file a.yaml: a\nfile sub/b.yaml: b\ncomplete")
	must(t, os.Chmod(root+"/sub", 0))
	asNobody(t, func() {
		expect(t, r.Read(t.Context()), "file a.yaml: a\nproblem sub: the directory cannot be read: openat sub: permission denied\nincomplete")
	})
	must(t, os.Chmod(root, 0o711))
	asNobody(t, func() {
		expect(t, r.Read(t.Context()), "problem "+root+": the manifest directory cannot be read: permission denied\nmissing")
	})
}
