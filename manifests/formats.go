package manifests

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// format is the rule of a string field: what the schema can say about it, and the check that tells a person.
type format struct {
	pattern *regexp.Regexp // nil: no pattern says it
	check   func(string) error
	length  uint64 // 0: no limit
}

var (
	namePattern      = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	namespacePattern = regexp.MustCompile(`^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$`)
	userPattern      = regexp.MustCompile(`^[^:\s]+(:[^:\s]+)?$`)
	envPattern       = regexp.MustCompile(`^[^=]+=`)
	absolutePattern  = regexp.MustCompile(`^/`)
	devicePattern    = regexp.MustCompile(`^/dev/.`)
	modePattern      = regexp.MustCompile(`^[0-7]{1,5}$`)
	bytesPattern     = regexp.MustCompile(`^[0-9]+(Ki|Mi|Gi|Ti|k|K|M|G|T)?$`)
	cpusPattern      = regexp.MustCompile(`^([0-9]{1,7}m|[0-9]{1,4}(\.[0-9]{1,3})?)$`)
)

// formats are the rules that the types name in their tags.
var formats = map[string]format{
	"name":              {pattern: namePattern, check: checkName, length: MaxNameLength},
	"namespace":         {pattern: namespacePattern, check: checkNamespace, length: MaxNamespaceLength},
	"image":             {check: func(s string) error { _, err := NormalizeImage(s); return err }},
	"registry":          {check: func(s string) error { _, err := NormalizeRegistry(s); return err }},
	"archive":           {check: checkArchive},
	"secret-file":       {pattern: absolutePattern, check: checkSecretFile},
	"secret":            {check: func(string) error { return nil }}, // what is wrong with it is told without it
	"path":              {pattern: absolutePattern, check: checkAbsolute},
	"target":            {pattern: absolutePattern, check: checkTarget},
	"device":            {pattern: devicePattern, check: checkDevice},
	"user":              {pattern: userPattern, check: sentence(userPattern, "write uid, uid:gid, or names in their place")},
	"env":               {pattern: envPattern, check: sentence(envPattern, "write K=V")},
	"signal":            {check: func(s string) error { _, err := ParseSignal(s); return err }},
	"security-option":   {check: func(s string) error { _, err := ParseSecurityOpts([]string{s}); return err }},
	"capability":        {check: func(s string) error { _, err := ParseCapability(s); return err }},
	"capability-or-all": {check: checkCapabilityOrAll},
	"tmpfs-option":      {check: checkTmpfsOption},
	"bytes":             {pattern: bytesPattern, check: func(s string) error { _, err := ParseQuantity(s); return err }},
	"cpus":              {pattern: cpusPattern, check: func(s string) error { _, err := ParseCPUs(s); return err }},
	"mode":              {pattern: modePattern, check: func(s string) error { _, err := ParseMode(s); return err }},
}

func sentence(pattern *regexp.Regexp, advice string) func(string) error {
	return func(s string) error {
		if pattern.MatchString(s) {
			return nil
		}
		return fmt.Errorf("%q does not fit; %s", clip(s), advice)
	}
}

func checkName(s string) error {
	if len(s) > MaxNameLength || !namePattern.MatchString(s) {
		return fmt.Errorf("%q is no name; use lower-case letters, digits and -, beginning and ending with a letter or digit, at most %d characters", clip(s), MaxNameLength)
	}
	return nil
}

func checkNamespace(s string) error {
	if len(s) > MaxNamespaceLength || !namespacePattern.MatchString(s) {
		return fmt.Errorf("%q is no containerd namespace; use letters and digits, separated by single . _ or -, at most %d characters", clip(s), MaxNamespaceLength)
	}
	return nil
}

func checkAbsolute(s string) error {
	if !cleanAbsolute(s) {
		return fmt.Errorf("%q is not usable; write an absolute path without .. or doubled slashes", clip(s))
	}
	return nil
}

func checkArchive(s string) error {
	if path.Clean(s) != s || s == "." || slices.Contains(strings.Split(s, "/"), "..") || !Printable(s) {
		return fmt.Errorf("%q is no file; write its path without .. or doubled slashes, absolute or relative to this manifest", clip(s))
	}
	return nil
}

// checkSecretFile does not repeat what it refuses: it may be the secret itself.
func checkSecretFile(s string) error {
	if !cleanAbsolute(s) {
		return errors.New("write the absolute path of a file, without .. or doubled slashes")
	}
	return nil
}

// checkTarget keeps mounts off the places that the runtime itself fills.
func checkTarget(s string) error {
	if err := checkAbsolute(strings.TrimSuffix(s, "/")); err != nil && s != "/" {
		return err
	}
	clean := path.Clean(s)
	if clean == "/" || clean == "/dev" || clean == "/sys" || clean == "/proc" || strings.HasPrefix(clean, "/proc/") {
		return fmt.Errorf("%s cannot be mounted over; choose another path", clean)
	}
	return nil
}

func checkDevice(s string) error {
	if !cleanAbsolute(s) || !devicePattern.MatchString(s) {
		return fmt.Errorf("%q is no device; write its path on the host, such as /dev/ttyUSB0", clip(s))
	}
	return nil
}

func checkCapabilityOrAll(s string) error {
	if strings.EqualFold(s, "ALL") {
		return nil
	}
	_, err := ParseCapability(s)
	return err
}

var (
	tmpfsFlags  = strings.Fields("ro rw noexec exec nosuid suid nodev dev noatime relatime strictatime")
	tmpfsValues = regexp.MustCompile(`^(mode=[0-7]{1,5}|(uid|gid|nr_inodes)=[0-9]{1,10})$`)
)

func checkTmpfsOption(s string) error {
	switch {
	case slices.Contains(tmpfsFlags, s) || tmpfsValues.MatchString(s):
		return nil
	case strings.HasPrefix(s, "size="):
		return errors.New("write the size in sizeBytes")
	}
	return fmt.Errorf("unknown mount option %q%s", clip(s), didYouMean(s, tmpfsFlags))
}

// didYouMean returns `, did you mean ...?` with the known word nearest to word, or nothing when none is near.
func didYouMean(word string, known []string) string {
	best, least := "", 1+max(1, len(word)/3)
	for _, k := range slices.SortedFunc(slices.Values(known), cmp.Compare[string]) {
		if strings.EqualFold(word, k) {
			return fmt.Sprintf(", did you mean `%s`?", k)
		}
		if d := distance(word, k, least); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean `%s`?", best)
}

// distance is the number of insertions, deletions, substitutions and swaps of neighbours between two words,
// or most when their lengths alone say that it is no less.
func distance(a, b string, most int) int {
	if max(len(a)-len(b), len(b)-len(a)) >= most {
		return most
	}
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
