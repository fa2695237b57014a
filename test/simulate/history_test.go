package simulate

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// history is everything that happens to one host, in order. Nothing else is left to chance but the order in which
// goroutines run, so a history that broke something breaks it again, if not at the first try.
type history struct {
	// version is the containerd that is played: 2.4 or 1.6.
	version string
	// epilogue is what follows once everything is as declared: rest, repair, deaf, stubborn or clock; empty means all.
	epilogue string
	actions  []action
}

// ends reports whether an epilogue follows.
func (h history) ends(epilogue string) bool { return h.epilogue == "" || h.epilogue == epilogue }

// action is one thing that somebody or something does, after a pause.
type action struct {
	pause time.Duration
	verb  string
	args  []string
}

// String prints the action as a line of a history's file.
func (a action) String() string {
	return strings.Join(append([]string{a.pause.String(), a.verb}, a.args...), " ")
}

// arg returns an argument; empty when there are fewer.
func (a action) arg(i int) string {
	if i < len(a.args) {
		return a.args[i]
	}
	return ""
}

// number returns an argument that is a number; 0 when it is none.
func (a action) number(i int) int {
	n, err := strconv.Atoi(a.arg(i))
	if err != nil {
		return 0
	}
	return n
}

// duration returns an argument that is a duration; 0 when it is none.
func (a action) duration(i int) time.Duration {
	d, err := time.ParseDuration(a.arg(i))
	if err != nil {
		return 0
	}
	return d
}

// String prints the history: the version and the epilogue, then an action a line.
func (h history) String() string {
	var b strings.Builder
	fmt.Fprintln(&b, strings.TrimSpace("containerd "+h.version+" "+h.epilogue))
	for _, a := range h.actions {
		fmt.Fprintln(&b, a)
	}
	return b.String()
}

// parseHistory reads what String prints; empty lines and those that begin with # are passed over.
func parseHistory(text string) (history, error) {
	var h history
	for i, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || fields[0][0] == '#':
		case len(fields) < 2:
			return h, fmt.Errorf("line %d: an action is a pause, a verb and its arguments", i+1)
		case h.version == "":
			h.version, h.epilogue = fields[1], strings.Join(fields[2:], " ")
		default:
			pause, err := time.ParseDuration(fields[0])
			if err != nil {
				return h, fmt.Errorf("line %d: %w", i+1, err)
			}
			if _, known := verbs[fields[1]]; !known {
				return h, fmt.Errorf("line %d: nobody can %q", i+1, fields[1])
			}
			h.actions = append(h.actions, action{pause, fields[1], fields[2:]})
		}
	}
	return h, nil
}

// container is what a manifest of the simulation says about one container.
type container struct {
	id, image, policy string
	env               int // a value that differs is a change of meaning
	grace             int // seconds
}

// String prints id:image:policy:env:grace.
func (c container) String() string {
	return fmt.Sprintf("%s:%s:%s:%d:%d", c.id, c.image, c.policy, c.env, c.grace)
}

// parseContainer reads what String prints.
func parseContainer(s string) (container, bool) {
	f := strings.Split(s, ":")
	if len(f) != 5 {
		return container{}, false
	}
	env, err1 := strconv.Atoi(f[3])
	grace, err2 := strconv.Atoi(f[4])
	return container{f[0], f[1], f[2], env, grace}, err1 == nil && err2 == nil
}

// ref is the image's full name.
func (c container) ref() string { return "docker.io/library/web:" + c.image }

// runs reports whether the container is to run for ever.
func (c container) runs() bool { return c.policy == "always" }

func (c container) yaml() string {
	return fmt.Sprintf("{id: %s, image: 'web:%s', restartPolicy: %s, env: ['GEN=%d'], stopGracePeriodSeconds: %d, labels: {app: %[1]s}}",
		c.id, c.image, c.policy, c.env, c.grace)
}

// document is one manifest file as the simulation means it.
type document struct {
	realm string
	// part means a container in a document of its own.
	part bool
	// broken is how the file is damaged; empty when it is fine.
	broken string
	// absent is a tombstone, keep is prune: disabled, suspended is reconcile: disabled.
	absent, keep, suspended bool
	// retain is deletionPolicy: Retain.
	retain     bool
	containers []container
	// comment changes the file and means nothing.
	comment int
	// elsewhere is another namespace than the realm's.
	elsewhere string
}

// flags are the words of an edit that are no containers.
func (d *document) flag(word string) {
	switch word {
	case "keep":
		d.keep = true
	case "suspended":
		d.suspended = true
	case "retain":
		d.retain = true
	}
}

// opaque reports whether nobody can tell what the file declares.
func (d document) opaque() bool {
	return d.broken == "empty" || d.broken == "cut" || d.broken == "open"
}

// yaml is the file's content.
func (d document) yaml() string {
	if d.broken == "empty" {
		return ""
	}
	var b strings.Builder
	for range d.comment {
		b.WriteString("# a comment\n")
	}
	if d.part {
		c := d.containers[0]
		fmt.Fprintf(&b, "apiVersion: v1beta1\nkind: Container\nmetadata: {name: %s}\nspec: {realmId: %s, %s\n", c.id, d.realm, c.yaml()[1:])
		return d.damage(b.String())
	}
	fmt.Fprintf(&b, "apiVersion: v1beta1\nkind: Realm\nmetadata:\n  name: %s\n", d.realm)
	var annotations []string
	if d.keep {
		annotations = append(annotations, "'kukeon.io/prune': disabled")
	}
	if d.suspended {
		annotations = append(annotations, "'kukeon.io/reconcile': disabled")
	}
	if len(annotations) > 0 {
		fmt.Fprintf(&b, "  annotations: {%s}\n", strings.Join(annotations, ", "))
	}
	b.WriteString("spec:\n")
	if d.absent {
		b.WriteString("  state: Absent\n")
	}
	if d.elsewhere != "" {
		fmt.Fprintf(&b, "  namespace: %s\n", d.elsewhere)
	}
	if d.retain {
		b.WriteString("  deletionPolicy: Retain\n")
	}
	switch {
	case d.broken == "null":
		b.WriteString("  containers:\n")
	case len(d.containers) == 0:
		b.WriteString("  containers: []\n")
	default:
		b.WriteString("  containers:\n")
		for _, c := range d.containers {
			fmt.Fprintf(&b, "  - %s\n", c.yaml())
		}
	}
	return d.damage(b.String())
}

// damage does to a whole file what broken says.
func (d document) damage(text string) string {
	switch d.broken {
	case "cut":
		return text[:24]
	case "unknown":
		return strings.Replace(text, "spec:", "imgae: x\nspec:", 1)
	}
	return text
}
