// Package source reads a directory of manifest files into one consistent scan and signals when a new one may exist.
package source

import (
	"time"

	"kukeon.io/kukeon-reconciler/manifests"
)

const (
	// maxFileBytes bounds one manifest file. A YAML list of 64 MB takes minutes and gigabytes to decode, while a
	// realm of a thousand containers fits in a fraction of this.
	maxFileBytes = 1 << 20
	// maxFiles bounds the manifest files of a scan: a hundred times a busy host, and small enough that a
	// directory pointed at by mistake is refused at once.
	maxFiles = 1000
	// maxEntries bounds what is listed at all, since a checkout may hold much that is no manifest.
	maxEntries = 100_000
	// maxDepth bounds how deep directories nest, as each level costs an open.
	maxDepth = 32
	// maxLinks is the kernel's own bound on the symlinks of one path.
	maxLinks = 40
	// maxUnsettled is how long a file may be in the writing before it counts as one that does not parse.
	maxUnsettled = 5 * time.Second
	// leaselessQuiet is how long a file must stand unchanged where the file system knows no leases.
	leaselessQuiet = 300 * time.Millisecond
	// timestampDoubt is how young a timestamp may be to prove nothing: a second write within the same tick of
	// the file system's clock (2 s on FAT) leaves it as it is.
	timestampDoubt = 2 * time.Second
	// attempts is how often a directory that changes while it is read is read again at once.
	attempts = 3
)

// SettleRetry is how soon a scan with Unsettled files is worth repeating: the kernel sends no event that fsnotify
// passes on when a writer closes its file.
const SettleRetry = 50 * time.Millisecond

// Scan is one consistent look at the manifest directory. Its files are shared with later scans: do not change them.
type Scan struct {
	// Root is the directory as configured; empty when explicit paths were read.
	Root string
	// Exists means that the directory could be opened and listed; else Problems says why not.
	Exists bool
	// Identity is what the root is; zero when it does not exist.
	Identity Identity
	// Files are the readable, settled manifest files, sorted by Path: relative to the root, before symlinks.
	Files []manifests.File
	// Withheld are the files that somebody set aside by renaming, sorted by Path.
	Withheld []Withheld
	// Problems are those of the scan itself; their File is the path of the file or directory below the root, or the
	// root as configured when all of it is meant. Those inside a file stand in Files.
	Problems []manifests.Problem
	// Complete means that every file was read, settled and parsed: only then does absence mean anything.
	Complete bool
	// Unsettled are the files in the writing for less than 5 s, new symlinks that may be one step of a swap, and
	// the directories that changed while being read ("." is the root). Read again after SettleRetry.
	Unsettled []string
	// Fingerprint is equal in two scans only if the directory did not change between them: a hash of paths,
	// devices, inodes, sizes, mtimes and ctimes. Empty when the root does not exist or was refused as a whole.
	Fingerprint string
	// Revision is the git commit of what was read, or empty. A ref that git moves after it wrote the files shows
	// one scan late.
	Revision string
	// Directories are where to watch for changes: absolute paths, sorted.
	Directories []string
	// At is when the scan began.
	At time.Time
}

// Withheld is a manifest file that is missing while a renamed one stands beside it: what it declared is suspended,
// not removed.
type Withheld struct {
	// Path is the missing file, as it would stand in Scan.Files.
	Path string
	// By is the file beside it, such as x.yaml.skip.
	By string
}

// Identity tells what a manifest root is: a root whose device or inode changed while the symlinks on its path did
// not was unmounted, mounted over or replaced. Device numbers of some file systems change at a reboot.
type Identity struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	// Links are the symlinks on the root's path, one "path -> text" a line.
	Links string `json:"links,omitempty"`
}

// problemAt makes an Error problem of a whole file or directory.
func problemAt(path, message string) manifests.Problem {
	return manifests.Problem{Position: manifests.Position{File: path}, Message: message, Severity: manifests.Error}
}
