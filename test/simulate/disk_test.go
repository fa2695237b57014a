package simulate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

// directory is the manifest directory. It outlives the processes that read it.
type directory struct {
	mu    sync.Mutex
	files map[string]document // by path
	// aside are files that stand under another name, as x.yaml.skip.
	aside map[string]document
	// under are the files that come back when the directory is mounted again.
	under map[string]document
	// half are the files that are just being written.
	half map[string]bool
	// dropped are the archives in the drop directories, by realm: one at most.
	dropped map[string]dropped
	missing bool
	inode   uint64
	edits   int
	// deaf means that nobody is told of changes, as after an unmount.
	deaf    bool
	changed chan struct{}
	// seen is what the last look showed, and after which edit.
	seen struct {
		edits int
		scan  manifests.Scan
		view  view
	}
}

func newDirectory() *directory {
	return &directory{
		files: map[string]document{}, aside: map[string]document{}, half: map[string]bool{}, dropped: map[string]dropped{}, inode: 1,
		changed: make(chan struct{}, 1),
	}
}

// dropped is an archive of one image, or of nothing.
type dropped struct {
	tag     string // bad: it is no archive
	version int
	content []byte
}

const badArchive = "bad"

// open implements ctrd.Config's OpenArchive.
func (d *directory) open(path string) (ctrd.Archive, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for realm, a := range d.dropped {
		if archivePath(realm) == path {
			return opened{bytes.NewReader(a.content), strconv.Itoa(a.version)}, nil
		}
	}
	return nil, fs.ErrNotExist
}

func archivePath(realm string) string { return "/images.d/" + realm + "/app.tar" }

// opened is an archive that is being read.
type opened struct {
	*bytes.Reader
	version string
}

func (o opened) Close() error             { return nil }
func (o opened) Version() (string, error) { return o.version, nil }

// edit changes the directory and signals it.
func (d *directory) edit(change func()) {
	d.mu.Lock()
	change()
	d.edits++ // as mtimes and inodes tell on a real one, also when everything is as before again
	deaf := d.deaf
	d.mu.Unlock()
	if deaf {
		return
	}
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// head returns the path and document of the realm's own file.
func (d *directory) head(realm string) (string, document, bool) {
	for path, doc := range d.files {
		if doc.realm == realm && !doc.part {
			return path, doc, true
		}
	}
	return "", document{}, false
}

// view is what one look at the directory showed, for the checker. It is shared: nobody changes it.
type view struct {
	exists, complete bool
	inode            uint64
	fingerprint      string
	files            map[string]document
	aside            map[string]document
}

// source is the directory as one process sees it.
type source struct {
	dir  *directory
	proc *process
}

// Changed implements controllers.Source.
func (s source) Changed() <-chan struct{} { return s.dir.changed }

// Read implements controllers.Source.
func (s source) Read(context.Context) manifests.Scan {
	scan, v := s.dir.read(s.proc.w.now())
	if !s.proc.client.Killed() {
		s.proc.w.check.looked(v)
	}
	return scan
}

// decoded remembers what files decode to, for all histories: there are not many different ones. It is emptied when
// it holds decodedLimit, so that a run takes no more memory the longer it is.
var decoded struct {
	sync.Mutex
	files map[[2]string]manifests.File // by path and content
}

const decodedLimit = 3000

func decode(path, content string) manifests.File {
	key := [2]string{path, content}
	decoded.Lock()
	defer decoded.Unlock()
	f, known := decoded.files[key]
	if known {
		return f
	}
	if decoded.files == nil || len(decoded.files) >= decodedLimit {
		decoded.files = make(map[[2]string]manifests.File, decodedLimit)
	}
	f = manifests.Decode(path, []byte(content))
	decoded.files[key] = f
	return f
}

// read looks at the directory. What did not change since the last look is not decoded anew.
func (d *directory) read(now time.Time) (manifests.Scan, view) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen.edits != d.edits || d.seen.scan.Root == "" {
		d.seen.scan, d.seen.view = d.scan()
		d.seen.edits = d.edits
	}
	s := d.seen.scan
	s.At = now
	s.Files, s.Unsettled, s.Withheld = slices.Clone(s.Files), slices.Clone(s.Unsettled), slices.Clone(s.Withheld)
	return s, d.seen.view
}

// scan makes a scan of what the directory holds. d.mu is held.
func (d *directory) scan() (manifests.Scan, view) {
	s := manifests.Scan{Root: "/realms.d", Exists: !d.missing, Complete: !d.missing && len(d.half) == 0}
	v := view{exists: !d.missing, inode: d.inode}
	if d.missing {
		return s, v
	}
	s.Identity = manifests.ScanIdentity{Device: 1, Inode: d.inode}
	sum := fnv.New64a()
	fmt.Fprintln(sum, d.inode, d.edits)
	for _, path := range slices.Sorted(maps.Keys(d.files)) {
		if d.half[path] {
			s.Unsettled = append(s.Unsettled, path)
			continue
		}
		content := d.files[path].yaml()
		fmt.Fprintln(sum, path, content)
		f := decode(path, content)
		s.Files = append(s.Files, f)
		if a, ok := d.dropped[d.files[path].realm]; ok {
			if s.Dropped == nil {
				s.Dropped = map[string][]manifests.Archive{}
			}
			s.Dropped[d.files[path].realm] = []manifests.Archive{{Path: archivePath(d.files[path].realm), Version: strconv.Itoa(a.version)}}
		}
		s.Complete = s.Complete && !f.Opaque
	}
	for _, path := range slices.Sorted(maps.Keys(d.aside)) {
		fmt.Fprintln(sum, "aside", path)
		if _, back := d.files[path]; !back {
			s.Withheld = append(s.Withheld, manifests.Withheld{Path: path, By: path + ".skip"})
		}
	}
	s.Fingerprint = fmt.Sprint(sum.Sum64())
	v.complete, v.fingerprint, v.files, v.aside = true, s.Fingerprint, maps.Clone(d.files), maps.Clone(d.aside)
	for path := range d.half {
		v.complete = false
		delete(v.files, path)
	}
	for _, doc := range v.files {
		v.complete = v.complete && !doc.opaque()
	}
	return s, v
}

var (
	errFull = errors.New("no space left on device")
	errDead = errors.New("the process is dead")
)

// disk is the state directory. What is saved goes through JSON, as on a real one.
type disk struct {
	mu        sync.Mutex
	saved     []byte
	accepted  state.Accepted // what saved holds
	done      map[state.RealmName]map[state.ContainerID]state.Completion
	imports   map[state.RealmName][]state.Import
	suspended []state.Suspension
	full      bool
	// killAt has the next save kill the process: "before" or "after" it is on the disk.
	killAt string
}

func newDisk() *disk {
	return &disk{done: map[state.RealmName]map[state.ContainerID]state.Completion{}, imports: map[state.RealmName][]state.Import{}}
}

// lose empties the state directory.
func (d *disk) lose() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.saved, d.accepted, d.suspended = nil, state.Accepted{}, nil
	clear(d.done)
	clear(d.imports)
}

// completion returns what is remembered of a one-shot.
func (d *disk) completion(realm, id string) (state.Completion, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, ok := d.done[state.RealmName(realm)][state.ContainerID(id)]
	return c, ok
}

func (d *disk) current() state.Accepted {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.accepted
}

// store is the disk as one process sees it.
type store struct {
	*disk
	proc *process
}

// Load implements controllers.Store.
func (s store) Load() (state.Accepted, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var a state.Accepted
	if s.saved == nil {
		return a, nil
	}
	err := json.Unmarshal(s.saved, &a)
	return a, err
}

// write refuses writes of the dead, and on a full disk.
func (s store) write(change func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.proc.client.Killed():
		return errDead
	case s.full:
		s.proc.w.fired("store full")
		return errFull
	}
	change()
	return nil
}

// holds reports whether an accepted state is what is saved already.
func (s store) holds(a state.Accepted) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saved != nil && reflect.DeepEqual(a, s.accepted)
}

// Save implements controllers.Store.
func (s store) Save(a state.Accepted) error {
	if s.holds(a) {
		return s.write(func() {})
	}
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	var killed error
	err = s.write(func() {
		if string(data) == string(s.saved) {
			return
		}
		kill := s.killAt
		s.killAt = ""
		if kill != "" {
			s.proc.w.fired("killed at a save")
			s.proc.kill()
			killed = errDead
		}
		if kill != "before" {
			s.proc.w.check.saved(s.accepted, a)
			s.saved, s.accepted = data, a
		}
	})
	return errors.Join(err, killed)
}

// Completions implements controllers.Store.
func (s store) Completions(realm state.RealmName) map[state.ContainerID]state.Completion {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.done[realm])
}

// Complete implements controllers.Store.
func (s store) Complete(realm state.RealmName, id state.ContainerID, c state.Completion) error {
	s.proc.w.check.ends(string(realm), string(id))
	return s.write(func() {
		s.proc.w.check.remembered(string(realm), string(id), c)
		if s.done[realm] == nil {
			s.done[realm] = map[state.ContainerID]state.Completion{}
		}
		s.done[realm][id] = c
	})
}

// Imports implements controllers.Store.
func (s store) Imports(realm state.RealmName) []state.Import {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.imports[realm]
}

// SetImports implements controllers.Store.
func (s store) SetImports(realm state.RealmName, imports []state.Import) error {
	if reflect.DeepEqual(imports, s.Imports(realm)) {
		return nil
	}
	return s.write(func() { s.imports[realm] = imports })
}

// Forget implements controllers.Store.
func (s store) Forget(realm state.RealmName, ids ...state.ContainerID) error {
	return s.write(func() {
		s.proc.w.check.forgot(string(realm), ids)
		if len(ids) == 0 {
			delete(s.done, realm)
			delete(s.imports, realm)
		}
		for _, id := range ids {
			delete(s.done[realm], id)
		}
	})
}

// Suspensions implements controllers.Store.
func (s store) Suspensions() []state.Suspension {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.suspended)
}

// Suspend implements controllers.Store.
func (s store) Suspend(x state.Suspension) error {
	return s.write(func() { s.suspended = append(s.suspended, x) })
}

// Resume implements controllers.Store.
func (s store) Resume(realm state.RealmName, id state.ContainerID) error {
	return s.write(func() {
		s.suspended = slices.DeleteFunc(s.suspended, func(x state.Suspension) bool { return x.Realm == realm && x.Container == id })
	})
}
