package archtest

// module is the prefix of all our import paths.
const module = "kukeon.io/kukeon-reconciler/"

// rule says what a package may import.
type rule struct {
	// ours are the packages of this module that may be imported; all stands for every one but the command's.
	ours []string
	// pure packages decide and never look: see impure.
	pure bool
	// containerd packages may talk to containerd, or pretend to be one.
	containerd bool
}

const all = "*"

// table is the one of docs/design.md, "The rooms". A package below a room follows the room's rule. Every package
// of ours has to stand here or in a room that does.
var table = map[string]rule{
	"cmd/kukeon-reconciler": {ours: []string{all}},
	"manifests":             {pure: true},
	"controllers": {ours: []string{
		"manifests", "internal/source", "internal/compile", "internal/accept", "internal/state", "internal/plan",
		"internal/apply", "internal/outcome", "internal/logs", "internal/store", "internal/status",
	}},
	"internal/accept":  {ours: []string{"manifests", "internal/state", "internal/compile"}, pure: true},
	"internal/api":     {ours: []string{"internal/state", "internal/status"}},
	"internal/apply":   {ours: []string{"internal/state", "internal/plan", "internal/outcome"}},
	"internal/compile": {ours: []string{"manifests", "internal/state"}, pure: true},
	"internal/ctrd": {
		ours:       []string{"internal/state", "internal/plan", "internal/outcome"},
		containerd: true,
	},
	"internal/logs":    {ours: []string{"internal/state"}},
	"internal/outcome": {pure: true},
	"internal/plan":    {ours: []string{"internal/state"}, pure: true},
	"internal/source":  {ours: []string{"manifests"}},
	"internal/state":   {pure: true},
	"internal/status":  {ours: []string{"internal/state", "internal/plan", "internal/accept", "internal/outcome"}, pure: true},
	"internal/store":   {ours: []string{"internal/state"}},

	// What tests stand on.
	"internal/archtest":  {},
	"internal/fakectrd":  {ours: []string{"internal/ctrd"}, containerd: true},
	"internal/hosttest":  {ours: []string{"internal/ctrd"}, containerd: true},
	"internal/testenv":   {containerd: true},
	"internal/tracetest": {ours: []string{"internal/ctrd"}, containerd: true},
	"test":               {ours: []string{all}, containerd: true},
	"hack":               {ours: []string{all}, containerd: true},
}

// impure are the imports, with all below them, that a pure package may not have: with them a decision could depend
// on something that is not an argument.
var impure = []string{
	"os", "net", "context", "log", "math/rand", "crypto/rand", "syscall",
	"github.com/containerd", "github.com/fsnotify/fsnotify", "github.com/go-logr", "go.uber.org/zap",
	"github.com/sirupsen/logrus", "google.golang.org/grpc",
}

// values are the exceptions below the impure: packages that only define and parse values.
var values = []string{"net/netip", "net/url"}

// clocks are the functions of package time that read the clock or wait for it.
var clocks = map[string]bool{
	"Now": true, "Since": true, "Until": true, "Sleep": true, "After": true, "AfterFunc": true, "Tick": true,
	"NewTimer": true, "NewTicker": true,
}

// containerdClient is what only the packages marked containerd may import. Its neighbours that hold mere types are
// free to all packages that are not pure.
const containerdClient = "github.com/containerd/containerd/v2/client"
