// Package source reads a directory of manifest files, and looks at the archives that go with it, into one consistent scan
// and signals when a new one may exist.
package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kukeon.io/kukeon-reconciler/manifests"
)

// Reader reads one manifest directory again and again. What did not change costs a stat. It is not safe for
// concurrent use.
type Reader struct {
	root string
	// prefix begins the paths of the files; "" makes them relative to the root.
	prefix   string
	everyone bool
	decode   func(path string, data []byte) manifests.File
	now      func() time.Time
	lease    func(*os.File) error
	cache    map[string]cached
	waiting  map[string]wait
	// linked are the symlinks to directories that the last scan followed.
	linked map[string]string
	// unquiet are the archives that are being written, and since when they are known to be.
	unquiet map[string]time.Time
	// hung are the paths about which the file system has not answered yet, and where its answer arrives.
	hung map[string]any
}

// wait is what is known of a file that is not settled.
type wait struct {
	// since is when it was first found unsettled.
	since time.Time
	// version has been the file's since unchanged; only kept where leases cannot tell.
	version   version
	unchanged time.Time
}

// Option changes how a Reader reads.
type Option func(*Reader)

// WithClock replaces time.Now.
func WithClock(now func() time.Time) Option { return func(r *Reader) { r.now = now } }

// WithDecoder replaces manifests.Decode.
func WithDecoder(decode func(path string, data []byte) manifests.File) Option {
	return func(r *Reader) { r.decode = decode }
}

// NewReader returns a reader of the manifest directory root, which need not exist.
func NewReader(root string, opts ...Option) *Reader {
	r := &Reader{
		root: root, decode: manifests.Decode, now: time.Now, lease: takeLease,
		cache: map[string]cached{}, waiting: map[string]wait{}, unquiet: map[string]time.Time{}, hung: map[string]any{},
	}
	for _, opt := range opts {
		opt(r)
	}
	return r
}

// Read looks at the directory, at whatever the root's path leads to now. A directory that changes meanwhile is read
// again a few times; what still changes then stands in Unsettled. When ctx ends the scan is not Complete.
func (r *Reader) Read(ctx context.Context) manifests.Scan {
	for attempt := 1; ; attempt++ {
		scan, steady := r.look(ctx)
		if steady || attempt == attempts || ctx.Err() != nil {
			return scan
		}
	}
}

// look reads the directory once. steady means that it did not change meanwhile.
func (r *Reader) look(ctx context.Context) (scan manifests.Scan, steady bool) {
	scan = manifests.Scan{Root: r.root, At: r.now()}
	at, err := locate(r.root)
	var top *os.Root
	if err == nil {
		top, err = openDirectory(at.real)
	}
	if err != nil {
		return r.missing(scan, at, err), false // perhaps a swap removed what was located
	}
	defer top.Close()
	t, err := explore(top, bases(r.root, at))
	if errors.Is(err, errTooMany) {
		return r.refused(scan, at, err), true
	}
	if err != nil {
		return r.missing(scan, at, err), false
	}
	scan.Exists = true
	root := t.dirs[""].stat
	scan.Identity = manifests.ScanIdentity{Device: root.dev, Inode: root.ino, Links: at.links}
	scan.Directories = directories(at, t.watched())
	var o owners
	if !r.everyone {
		o = ownersOf(root)
	}
	if o.judged && root.mode&0o002 != 0 {
		p := problemAt(r.root, fmt.Sprintf("everybody may add and remove files here (mode %04o)", root.mode.Perm()))
		p.Severity = manifests.Warning
		scan.Problems = append(scan.Problems, p)
	}
	a := arrange(t, o, r.prefix, r.ripe)
	if len(a.files) > maxFiles {
		err := fmt.Errorf("%d manifest files, more than %d", len(a.files), maxFiles)
		return r.refused(scan, at, err), true
	}
	scan.Withheld, scan.Problems = a.withheld, append(scan.Problems, a.problems...)
	versions, vanished := r.loadAll(ctx, top, a, o, &scan)
	dropped := dropsBeside(r.root)
	if r.everyone { // who names a directory does not name its neighbour, which may be anybody's
		dropped = ""
	}
	r.findArchives(&scan, o, r.standsIn, dropped)
	t.vanished = t.vanished || vanished
	changed := t.changed()
	if t.vanished || at.left(r.root, root) {
		changed = append(changed, "")
	}
	for _, real := range changed {
		scan.Unsettled = append(scan.Unsettled, a.shownAt(real))
	}
	r.linked = a.linked
	scan.Fingerprint = fingerprint(at, t, a.files, versions)
	scan.Revision = revision(at.real, slices.Sorted(maps.Values(a.linked)))
	return finish(scan), len(changed) == 0
}

// loadAll fills the scan with the files, and returns the version of each, in order. vanished means that one was gone.
func (r *Reader) loadAll(ctx context.Context, top *os.Root, a arrangement, o owners, scan *manifests.Scan) (versions []version, vanished bool) {
	cache, waiting := make(map[string]cached, len(a.files)), map[string]wait{}
	for _, link := range a.unsettled {
		waiting[link] = r.postpone(link, scan)
	}
	for _, c := range a.files {
		if err := ctx.Err(); err != nil {
			scan.Problems = append(scan.Problems, problemAt(r.root, "reading was cut short: "+err.Error()))
			break
		}
		loaded, err := r.load(top, c, o)
		at := c.stat.version
		switch {
		case err == nil:
			at, cache[c.path] = loaded.version, loaded
			scan.Files = append(scan.Files, loaded.file)
		case errors.Is(err, fs.ErrNotExist):
			vanished = true
		case errors.Is(err, errUnsettled):
			waiting[c.path] = r.postpone(c.path, scan)
		default:
			scan.Problems = append(scan.Problems, unread(c.path, err))
		}
		versions = append(versions, at)
	}
	r.cache, r.waiting = cache, waiting
	return versions, vanished
}

// postpone notes a file that is not settled, which is a Problem only after a while.
func (r *Reader) postpone(path string, scan *manifests.Scan) wait {
	w := r.waiting[path]
	if w.since.IsZero() {
		w.since = scan.At
	}
	if scan.At.Sub(w.since) < maxUnsettled {
		scan.Unsettled = append(scan.Unsettled, path)
	} else {
		scan.Problems = append(scan.Problems, problemAt(path, fmt.Sprintf("still being written after %v", maxUnsettled)))
	}
	return w
}

// standsIn is the directory of a file of a scan.
func (r *Reader) standsIn(path string) string {
	if r.prefix == "" {
		path = filepath.Join(r.root, path)
	}
	return filepath.Dir(path)
}

// missing is the scan of a directory that is not there or cannot be listed.
func (r *Reader) missing(scan manifests.Scan, at place, err error) manifests.Scan {
	message := "the manifest directory cannot be read: " + reason(err)
	if errors.Is(err, fs.ErrNotExist) {
		message = "the manifest directory does not exist"
	}
	scan.Problems = []manifests.Problem{problemAt(r.root, message)}
	scan.Directories = directories(place{real: nearest(at.real), parents: at.parents}, []string{""})
	return scan
}

// refused is the scan of a directory that holds too much to be what was meant.
func (r *Reader) refused(scan manifests.Scan, at place, err error) manifests.Scan {
	scan.Exists = true
	scan.Problems = []manifests.Problem{problemAt(r.root, "the directory is refused as a whole: "+err.Error())}
	scan.Directories = directories(at, []string{""})
	return scan
}

// bases are the absolute paths that mean the root in the text of a symlink.
func bases(root string, at place) []string {
	if absolute, err := filepath.Abs(root); err == nil {
		return []string{at.real, absolute}
	}
	return []string{at.real}
}

// finish sorts a scan and judges it.
func finish(scan manifests.Scan) manifests.Scan {
	slices.SortFunc(scan.Files, func(a, b manifests.File) int { return strings.Compare(a.Path, b.Path) })
	slices.Sort(scan.Unsettled)
	scan.Unsettled = slices.Compact(scan.Unsettled)
	manifests.SortProblems(scan.Problems)
	opaque := slices.ContainsFunc(scan.Files, func(f manifests.File) bool { return f.Opaque })
	scan.Complete = scan.Exists && !opaque && len(scan.Unsettled) == 0 && !manifests.HasErrors(scan.Problems)
	return scan
}

// directories makes the paths to watch absolute.
func directories(at place, below []string) []string {
	dirs := slices.Clone(at.parents)
	for _, real := range below {
		dirs = append(dirs, filepath.Join(at.real, real))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// problemAt makes an Error problem of a whole file or directory.
func problemAt(path, message string) manifests.Problem {
	return manifests.Problem{Position: manifests.Position{File: path}, Message: message, Severity: manifests.Error}
}

// openDirectory opens a directory, and nothing else: to open a FIFO would block.
func openDirectory(dir string) (*os.Root, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
	}
	return os.OpenRoot(dir)
}

// fingerprint hashes all that a change of the directory changes.
func fingerprint(at place, t *tree, files []candidate, versions []version) string {
	hash := sha256.New()
	for _, link := range at.links {
		fmt.Fprintf(hash, "path %q\n", link)
	}
	for _, real := range slices.Sorted(maps.Keys(t.dirs)) {
		fmt.Fprintf(hash, "directory %q %v\n", real, t.dirs[real].stat.version)
	}
	for _, real := range slices.Sorted(maps.Keys(t.spots)) {
		if text := t.spots[real].text; text != "" {
			fmt.Fprintf(hash, "link %q %q\n", real, text)
		}
	}
	for i, v := range versions {
		fmt.Fprintf(hash, "file %q %v\n", files[i].path, v)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// ReadPaths reads files and directories that somebody names, and stdin for "-", into one scan, by the same rules but
// whoever owns them; a file may have any name then. The paths of the scan's files begin with the path as given. It
// waits up to 5 s for what is being written. The error, which wraps that of the file system, is about a path that is
// not there or cannot be read; whatever is wrong with what it holds is a Problem.
func ReadPaths(paths []string, stdin io.Reader) (manifests.Scan, error) {
	whole := manifests.Scan{Exists: true, At: time.Now()}
	var revisions, prints []string
	complete := true
	for i, name := range paths {
		if slices.Contains(paths[:i], name) {
			continue
		}
		scan, err := readPath(name, stdin)
		if err != nil {
			return manifests.Scan{}, err
		}
		whole.Files = append(whole.Files, scan.Files...)
		whole.Withheld = append(whole.Withheld, scan.Withheld...)
		whole.Problems = append(whole.Problems, scan.Problems...)
		whole.Unsettled = append(whole.Unsettled, scan.Unsettled...)
		whole.Directories = append(whole.Directories, scan.Directories...)
		revisions, prints = append(revisions, scan.Revision), append(prints, scan.Fingerprint)
		complete = complete && scan.Complete
	}
	if revisions = slices.Compact(revisions); len(revisions) == 1 {
		whole.Revision = revisions[0]
	}
	whole.Fingerprint = strings.Join(prints, "+")
	whole = finish(whole)
	// A file named twice, or named and found below a directory, is one file.
	whole.Files = slices.CompactFunc(whole.Files, func(a, b manifests.File) bool { return a.Path == b.Path })
	if len(whole.Files) > maxFiles {
		whole.Problems = append(whole.Problems, problemAt(paths[0], fmt.Sprintf("%d manifest files, more than %d", len(whole.Files), maxFiles)))
		whole.Files, complete = nil, false
	}
	whole.Complete = whole.Complete && complete
	return whole, nil
}

func readPath(name string, stdin io.Reader) (manifests.Scan, error) {
	if name == "-" {
		return readStdin(stdin)
	}
	info, err := os.Stat(name)
	if err != nil {
		return manifests.Scan{}, err
	}
	r := NewReader(name)
	r.everyone = true
	read := r.readFile
	if info.IsDir() {
		if r.prefix = filepath.Clean(name); r.prefix == "." {
			r.prefix = ""
		}
		read = func() (manifests.Scan, error) { return r.Read(context.Background()), nil }
	}
	for begin := time.Now(); ; {
		scan, err := read()
		if err == nil && !scan.Exists {
			err = fmt.Errorf("%s: %s", name, scan.Problems[0].Message)
		}
		if err != nil || len(scan.Unsettled) == 0 || time.Since(begin) > 2*maxUnsettled {
			return scan, err
		}
		time.Sleep(SettleRetry)
	}
}

// readFile reads the one file that is the reader's root.
func (r *Reader) readFile() (manifests.Scan, error) {
	real, err := filepath.EvalSymlinks(r.root)
	if err != nil {
		return manifests.Scan{}, err
	}
	info, err := os.Stat(real)
	if err != nil {
		return manifests.Scan{}, err
	}
	if err := unix.Access(real, unix.R_OK); err != nil {
		return manifests.Scan{}, &fs.PathError{Op: "open", Path: r.root, Err: err}
	}
	top, err := openDirectory(filepath.Dir(real))
	if err != nil {
		return manifests.Scan{}, err
	}
	defer top.Close()
	file := candidate{path: filepath.Clean(r.root), real: filepath.Base(real), stat: statOf(info)}
	scan := manifests.Scan{Exists: true, At: r.now(), Revision: commitOf(filepath.Dir(real)), Directories: []string{filepath.Dir(real)}}
	versions, vanished := r.loadAll(context.Background(), top, arrangement{files: []candidate{file}}, owners{}, &scan)
	if vanished {
		return manifests.Scan{}, &fs.PathError{Op: "open", Path: r.root, Err: fs.ErrNotExist}
	}
	r.findArchives(&scan, owners{}, filepath.Dir, "")
	scan.Fingerprint = fingerprint(place{}, &tree{}, []candidate{file}, versions)
	return finish(scan), nil
}

// readStdin reads one file from stdin, named "-".
func readStdin(stdin io.Reader) (manifests.Scan, error) {
	scan := manifests.Scan{Exists: true}
	data, err := io.ReadAll(io.LimitReader(stdin, maxFileBytes+1))
	switch {
	case err != nil:
		return manifests.Scan{}, fmt.Errorf("read standard input: %w", err)
	case len(data) > maxFileBytes:
		p := problemAt("-", fmt.Sprintf("more than %d bytes", maxFileBytes))
		p.Line = 1
		scan.Problems = []manifests.Problem{p}
	default:
		scan.Files = []manifests.File{manifests.Decode("-", data)}
		r := NewReader("-")
		r.everyone = true
		r.findArchives(&scan, owners{}, func(string) string { return "." }, "")
	}
	return finish(scan), nil
}
