package manifests

import "time"

// Scan is one consistent look at a manifest directory. Its files are shared with later scans: do not change them.
type Scan struct {
	// Root is the directory as configured; empty when explicit paths were read.
	Root string
	// Exists means that the directory could be opened and listed; else Problems says why not.
	Exists bool
	// Identity is what the root is; zero when it does not exist.
	Identity ScanIdentity
	// Files are the readable, settled manifest files, sorted by Path: relative to the root, before symlinks.
	Files []File
	// Withheld are the files that somebody set aside by renaming, sorted by Path.
	Withheld []Withheld
	// Problems are those of the scan itself; their File is the path of the file or directory below the root, or the
	// root as configured when all of it is meant. Those inside a file stand in Files.
	Problems []Problem
	// Complete means that every file was read, settled and parsed: only then does absence mean anything.
	Complete bool
	// Unsettled are the files that are just being written, and the directories that changed while being read
	// ("." is the root): their absence from Files means nothing.
	Unsettled []string
	// Fingerprint is equal in two scans only if the directory did not change between them. Empty when the root
	// does not exist or was refused as a whole.
	Fingerprint string
	// Dropped are the archives of images that lie in the drop directory of a realm, by its name, sorted by path.
	Dropped map[string][]Archive
	// LookAgain is when something that was too new to be judged may be; zero when there is nothing.
	LookAgain time.Time
	// Revision is the git commit of what was read, or empty.
	Revision string
	// Directories are where to watch for changes: absolute paths, sorted.
	Directories []string
	// At is when the scan began.
	At time.Time
}

// ScanIdentity tells what a manifest root is: a root whose device or inode changed while the symlinks on its path
// did not was unmounted, mounted over or replaced. Device numbers of some file systems change at a reboot.
type ScanIdentity struct {
	Device uint64
	Inode  uint64
	// Links are the symlinks on the root's path, each as "path -> text".
	Links []string
}

// Archive is a file of images as it stands in the file system.
type Archive struct {
	// Path is absolute.
	Path string
	// Version is another one whenever the file's content may be; empty when it is not to be imported, and Problem says why.
	Version string
	Problem string
	// Settling means that the problem is only that it has just changed: it may be still being written.
	Settling bool
}

// Withheld is a manifest file that is missing while a renamed one stands beside it: what it declared is suspended,
// not removed.
type Withheld struct {
	// Path is the missing file, as it would stand in Scan.Files.
	Path string
	// By is the file beside it, such as x.yaml.skip.
	By string
}
