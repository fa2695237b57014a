package manifests

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/invopop/jsonschema"
	"golang.org/x/sys/unix"
)

const (
	// MaxNameLength is the length of a DNS label, which is what Kukeon's names become.
	MaxNameLength = 63
	// MaxNamespaceLength is containerd's limit on namespaces and on the ids in them.
	MaxNamespaceLength = 76
	// MaxLabelBytes is containerd's limit on a label's key and value together.
	MaxLabelBytes = 4096
)

// RefusedLabelPrefixes are the label keys that mean something to containerd, to Kukeon, to us or to somebody
// who shares the daemon. A manifest that uses one is refused and an image's is dropped: containerd acts on
// containerd.io/restart.* by running any host binary as root.
var RefusedLabelPrefixes = []string{
	"reconciler.kukeon.io/", "kukeon.io/", "containerd.io/", "io.containerd.", "io.cri-containerd",
	"io.kubernetes.", "nerdctl/", "com.docker.",
}

// RefusedLabel reports whether a label key has a refused prefix.
func RefusedLabel(key string) bool {
	return slices.ContainsFunc(RefusedLabelPrefixes, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

// NormalizeImage completes an image reference as docker does: caddy becomes docker.io/library/caddy:latest. A
// reference with a digest gets no tag.
func NormalizeImage(ref string) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", clip(ref), err)
	}
	return reference.TagNameOnly(named).String(), nil
}

// NormalizeRegistry returns the host, with its port if it has one, of a registry's address. Docker writes its own
// registry in several ways, and some of them are URLs.
func NormalizeRegistry(address string) (string, error) {
	if strings.Contains(address, "@") { // a password may stand before it
		return "", errors.New("a registry is written without a user; write its host, or host:port")
	}
	host := strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	named, err := reference.ParseNormalizedNamed(host + "/name")
	if err != nil || reference.Domain(named) != host {
		return "", fmt.Errorf("%q is no registry; write its host, or host:port, such as registry.example.com:5000", clip(address))
	}
	return host, nil
}

// Bytes is a size, written as a plain number or with one of the suffixes of ParseQuantity.
type Bytes int64

// UnmarshalJSON takes a number or a string.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	n, err := ParseQuantity(strings.Trim(string(data), `"`))
	*b = Bytes(n)
	return err
}

// JSONSchema lets a size be a number or a quantity.
func (Bytes) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "integer", Minimum: "1"}, {Type: "string", Format: "bytes"}}}
}

var units = map[string]int64{
	"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}

// ParseQuantity returns the bytes meant by a whole number with an optional suffix: Ki, Mi, Gi, Ti are powers
// of 1024; K (or k), M, G, T of 1000. Only sizes above zero are accepted.
func ParseQuantity(s string) (int64, error) {
	number := strings.TrimRight(s, "kKMGTi")
	unit, known := units[s[len(number):]]
	n, err := strconv.ParseUint(number, 10, 63)
	if !known || errors.Is(err, strconv.ErrSyntax) {
		return 0, fmt.Errorf("%q is no size; write bytes, or a whole number with Ki, Mi, Gi, K, M or G, such as 256Mi", clip(s))
	}
	if err != nil || n == 0 || int64(n) > math.MaxInt64/unit {
		return 0, fmt.Errorf("the size %q is out of range", clip(s))
	}
	return int64(n) * unit, nil
}

// MilliCPU is an amount of CPU time in thousandths of a core.
type MilliCPU int64

// ParseCPUs returns the thousandths of a core meant by cores ("0.5", "2") or by milli-cores ("500m").
func ParseCPUs(s string) (MilliCPU, error) {
	number, scale := strings.CutSuffix(s, "m")
	factor := 1000.0
	if scale {
		factor = 1
	}
	if !cpusPattern.MatchString(s) {
		return 0, fmt.Errorf("%q is no amount of CPU; write cores such as \"0.5\", or 500m", clip(s))
	}
	cores, err := strconv.ParseFloat(number, 64)
	if milli := math.Round(cores * factor); err == nil && milli >= 1 && milli <= 1e6 {
		return MilliCPU(milli), nil
	}
	return 0, fmt.Errorf("%q is out of range; write 0.001 to 1000 cores", clip(s))
}

// UnmarshalJSON takes a number of cores or a string.
func (m *MilliCPU) UnmarshalJSON(data []byte) error {
	n, err := ParseCPUs(strings.Trim(string(data), `"`))
	*m = n
	return err
}

// MarshalJSON writes milli-cores, so that what is written reads back.
func (m MilliCPU) MarshalJSON() ([]byte, error) { return json.Marshal(fmt.Sprintf("%dm", int64(m))) }

// JSONSchema lets an amount of CPU be a number of cores or a string.
func (MilliCPU) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "number", ExclusiveMinimum: "0"}, {Type: "string", Format: "cpus"}}}
}

// Mode is a set of permission bits.
type Mode uint32

// ParseMode reads octal permissions, such as 755 or 01777.
func ParseMode(s string) (Mode, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, fmt.Errorf("%q is no file mode; write it in octal, such as \"1777\"", clip(s))
	}
	return Mode(n), nil
}

// UnmarshalJSON takes a string of octal digits.
func (m *Mode) UnmarshalJSON(data []byte) error {
	n, err := ParseMode(strings.Trim(string(data), `"`))
	*m = n
	return err
}

// MarshalJSON writes octal digits.
func (m Mode) MarshalJSON() ([]byte, error) { return json.Marshal(fmt.Sprintf("%04o", uint32(m))) }

// JSONSchema makes a mode a string: an unquoted 755 would be the decimal number, which nobody means.
func (Mode) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Format: "mode"}
}

// Command is an executable with its first arguments. In a manifest a single string is the executable alone:
// it is not split at spaces and no shell looks at it.
type Command []string

// UnmarshalJSON takes a string or a list.
func (c *Command) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		if *c = nil; one != "" { // Kukeon writes "" for "the image's entrypoint"
			*c = Command{one}
		}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(c))
}

// JSONSchema lets a command be a string or a list.
func (Command) JSONSchema() *jsonschema.Schema {
	text := &jsonschema.Schema{Type: "string"}
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{text, {Type: "array", Items: text}}}
}

// ParseSignal returns the number of a signal written as a name, with or without SIG, as RTMIN+n or RTMAX-n, or
// as a number.
func ParseSignal(s string) (int, error) {
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	n, err := strconv.Atoi(name)
	switch {
	case err == nil:
	case name == "RTMIN" || strings.HasPrefix(name, "RTMIN+"):
		n = realtimeOffset(rtMin, strings.TrimPrefix(name, "RTMIN"))
	case name == "RTMAX" || strings.HasPrefix(name, "RTMAX-"):
		n = realtimeOffset(rtMax, strings.TrimPrefix(name, "RTMAX"))
	default:
		n = int(unix.SignalNum("SIG" + name))
	}
	if n < 1 || n > rtMax {
		return 0, fmt.Errorf("%q is no signal; write a name such as SIGTERM, or a number from 1 to %d", clip(s), rtMax)
	}
	return n, nil
}

const rtMin, rtMax = 34, 64 // as glibc and docker count them

// realtimeOffset adds an offset such as "", "+3" or "-1" to a realtime signal; 0 means that it is none.
func realtimeOffset(base int, offset string) int {
	n := 0
	if offset != "" {
		digits, err := strconv.ParseUint(offset[1:], 10, 8)
		if n = int(digits); err != nil {
			return 0
		}
		if offset[0] == '-' {
			n = -n
		}
	}
	if n += base; n < rtMin || n > rtMax {
		return 0
	}
	return n
}

// SecurityOptions is what a list of securityOpts asks for; zero values mean "not written".
type SecurityOptions struct {
	NoNewPrivileges *bool
	// Seccomp is "unconfined" or the absolute path of a profile on the host.
	Seccomp string
	// AppArmor is the name of a loaded profile, or "unconfined".
	AppArmor string
}

var appArmorPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_./-]*$`)

// ParseSecurityOpts reads securityOpts and refuses words it does not know, and two that say the same thing.
func ParseSecurityOpts(opts []string) (SecurityOptions, error) {
	var out SecurityOptions
	seen := map[string]bool{}
	for _, opt := range opts {
		word, value, _ := strings.Cut(opt, "=")
		if seen[word] {
			return out, fmt.Errorf("%s is given twice; keep one", clip(word))
		}
		seen[word] = true
		switch {
		case opt == "no-new-privileges" || opt == "no-new-privileges=true" || opt == "no-new-privileges=false":
			on := value != "false"
			out.NoNewPrivileges = &on
		case word == "seccomp" && (value == "unconfined" || cleanAbsolute(value)):
			out.Seccomp = value
		case word == "apparmor" && appArmorPattern.MatchString(value):
			out.AppArmor = value
		default:
			return out, fmt.Errorf("%q is not known; write no-new-privileges[=true|false], seccomp=unconfined, seccomp=/absolute/file or apparmor=PROFILE", clip(opt))
		}
	}
	return out, nil
}

var capabilities = strings.Fields(`AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN
	DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE
	MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_BOOT
	SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG SYSLOG WAKE_ALARM`)

// ParseCapability returns a capability's full name, such as CAP_NET_ADMIN, for net_admin or cap_net_admin.
func ParseCapability(s string) (string, error) {
	name := strings.TrimPrefix(strings.ToUpper(s), "CAP_")
	if !slices.Contains(capabilities, name) {
		return "", fmt.Errorf("unknown capability %q%s", clip(s), didYouMean(name, capabilities))
	}
	return "CAP_" + name, nil
}

// cleanAbsolute reports whether p is absolute and has no .., no double and no trailing slash.
func cleanAbsolute(p string) bool { return path.IsAbs(p) && path.Clean(p) == p }

// clip shortens what a message quotes from a manifest.
func clip(s string) string {
	const most = 60
	if runes := []rune(s[:min(len(s), 4*most)]); len(runes) > most {
		return string(runes[:most]) + "..."
	}
	return s
}
