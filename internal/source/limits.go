package source

import "time"

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
