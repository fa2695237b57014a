package compile

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

// DefaultTemplate makes the namespace kukeon-main out of the realm main.
const DefaultTemplate = "kukeon-" + placeholder

// placeholder is what a template has in the place of the realm's name.
const placeholder = "{realm}"

// namespaceForm is what containerd takes for a namespace.
var namespaceForm = regexp.MustCompile(`^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$`)

// neverOurs are namespaces of other programs, or names that containerd's own paths use; those with a star are
// prefixes.
var neverOurs = []string{"default", "k8s.io", "moby*", "plugins.moby*", "buildkit*", "nerdctl", "version", "system"}

// refusedName is the realm that the default template would give Kukeon's own namespace.
const refusedName state.RealmName = "system"

var errRefusedName = errors.New("a realm cannot be called system, for its namespace could be taken for Kukeon's own; choose another name")

// CheckTemplate reports whether a template makes a different, valid namespace out of every realm's name.
func CheckTemplate(template string) error {
	if strings.Count(template, placeholder) != 1 {
		return fmt.Errorf("namespace template %q: write %s once, in the place of the realm's name", template, placeholder)
	}
	return checkNamespace(state.Namespace(strings.Replace(template, placeholder, "x", 1)))
}

func checkNamespace(ns state.Namespace) error {
	if len(ns) > state.MaxNamespace || !namespaceForm.MatchString(string(ns)) {
		return fmt.Errorf("%q is no containerd namespace: letters and digits, separated by single . _ or -, at most %d characters", ns, state.MaxNamespace)
	}
	return nil
}

// reserved tells why no realm, or not this realm, may have the namespace.
func reserved(realm state.RealmName, ns state.Namespace) error {
	for _, never := range neverOurs {
		prefix, isPrefix := strings.CutSuffix(never, "*")
		if string(ns) == never || isPrefix && strings.HasPrefix(string(ns), prefix) {
			return fmt.Errorf("namespace %s belongs to other programs; choose another", ns)
		}
	}
	if (ns == state.SystemNamespace || ns == state.OldSystemNamespace) && realm != state.SystemRealm {
		return fmt.Errorf("namespace %s is for the realm %s alone; choose another", ns, state.SystemRealm)
	}
	return nil
}

// Claimed lists the namespaces that manifests name themselves. Whether one may be taken over depends on the containers
// in it, whoever they belong to: the summaries given to Compile have to count those.
func Claimed(scan manifests.Scan) []state.Namespace {
	var out []state.Namespace
	for _, f := range scan.Files {
		for _, doc := range f.Documents {
			if doc.Realm != nil && doc.Realm.Spec.Namespace != "" {
				out = append(out, state.Namespace(doc.Realm.Spec.Namespace))
			}
		}
	}
	return out
}

// settleNamespaces gives each realm its namespace, or refuses it.
func (c *compiler) settleNamespaces() {
	claims := map[state.Namespace][]*draft{}
	for _, name := range c.names() {
		d := c.drafts[name]
		if !d.built {
			continue
		}
		if d.realm.Tombstone { // it claims nothing, and takes away what was accepted
			d.realm.Namespace = c.home(name, "")
			continue
		}
		if err := c.resolve(d); err != nil {
			c.refuse(d.heads[0], namespaceField(d), err.Error())
			continue
		}
		claims[d.realm.Namespace] = append(claims[d.realm.Namespace], d)
	}
	for _, name := range c.names() { // in order, so that each claim is judged once and in the same order
		d := c.drafts[name]
		if all := claims[d.realm.Namespace]; len(all) > 0 && all[0] == d {
			c.judge(all)
		}
	}
}

// resolve sets the namespace of a realm: what its manifest and the host's template say, which must be where the
// realm lives when it does already.
func (c *compiler) resolve(d *draft) error {
	if d.name == refusedName {
		return errRefusedName
	}
	r := &d.realm
	switch explicit := d.heads[0].Realm.Spec.Namespace; {
	case explicit != "":
		r.Namespace, r.Explicit = state.Namespace(explicit), true
		r.NamespaceReason = "spec.namespace"
	default:
		c.inferNamespace(r)
	}
	if home := c.home(d.name, r.Namespace); home != "" && home != r.Namespace {
		return fmt.Errorf("the namespace of a live realm cannot change; remove the realm first (it lives in %s, and this makes it %s)", home, r.Namespace)
	}
	if err := checkNamespace(r.Namespace); err != nil {
		return err
	}
	return reserved(d.name, r.Namespace)
}

// inferNamespace gives a realm the namespace that it gets when it names none.
func (c *compiler) inferNamespace(r *state.Realm) {
	if r.Name == state.SystemRealm {
		c.systemNamespace(r)
		return
	}
	template := c.opts.Template
	if template == "" {
		template = DefaultTemplate
	}
	r.Namespace = state.Namespace(strings.ReplaceAll(template, placeholder, string(r.Name)))
	if template != DefaultTemplate {
		r.NamespaceReason = "namespace template " + template
	}
}

// NamespaceOf is where a realm lives, or would live if a manifest declared it now without naming a namespace. The
// namespaces and the owner are as for Compile.
func NamespaceOf(name state.RealmName, opts Options, namespaces []state.NamespaceSummary, owner state.Owner) (ns state.Namespace, lives bool, err error) {
	c := compiler{opts: opts, owner: owner, namespaces: map[state.Namespace]state.NamespaceSummary{}}
	for _, n := range namespaces {
		c.namespaces[n.Name] = n
	}
	r := state.Realm{Name: name}
	c.inferNamespace(&r)
	if home := c.home(name, r.Namespace); home != "" {
		return home, true, nil
	}
	if name == refusedName {
		return "", false, errRefusedName
	}
	if err := checkNamespace(r.Namespace); err != nil {
		return "", false, err
	}
	return r.Namespace, false, reserved(name, r.Namespace)
}

// systemNamespace chooses between the two layouts of Kukeon's own realm.
func (c *compiler) systemNamespace(r *state.Realm) {
	_, old := c.namespaces[state.OldSystemNamespace]
	_, current := c.namespaces[state.SystemNamespace]
	r.Namespace = state.SystemNamespace
	switch home := c.home(r.Name, state.SystemNamespace); {
	case home == state.OldSystemNamespace:
		r.Namespace, r.NamespaceReason = home, fmt.Sprintf("the realm lives in %s", home)
	case home == "" && old && !current:
		r.Namespace = state.OldSystemNamespace
		r.NamespaceReason = fmt.Sprintf("%s exists on this host and %s does not", state.OldSystemNamespace, state.SystemNamespace)
	}
}

// home is the namespace in which a realm lives: as accepted, else one that carries our owner and the realm's name,
// preferably the given one; empty when it lives nowhere. A realm that is just being removed lives nowhere: its
// next declaration waits for the end of that.
func (c *compiler) home(name state.RealmName, prefer state.Namespace) state.Namespace {
	if r, ok := c.prev.Realms[name]; ok {
		return r.Namespace
	}
	if _, leaving := c.removal(func(r state.Removal) bool { return r.Realm == name }); leaving {
		return ""
	}
	var home state.Namespace
	for ns := range c.namespaces {
		switch {
		case c.stamp(ns) != name:
		case ns == prefer:
			return ns
		case home == "" || ns < home:
			home = ns
		}
	}
	return home
}

// judge decides between the realms that resolve to one namespace and whoever holds it.
func (c *compiler) judge(claimants []*draft) {
	ns := claimants[0].realm.Namespace
	holder, leaving := c.holder(ns)
	var rivals []*draft
	for _, d := range claimants {
		if d.name != holder {
			rivals = append(rivals, d)
		}
	}
	for _, d := range rivals {
		switch {
		case len(claimants) > 1:
			c.refuse(d.heads[0], namespaceField(d), fmt.Sprintf("namespace %s is claimed by %s as well; choose another", ns, others(claimants, d)))
		case holder == "":
			c.takeOver(d)
		case leaving:
			c.wait(d, fmt.Sprintf("realm %s waits for namespace %s, which realm %s still holds until its removal has ended", d.name, ns, holder))
		default:
			c.refuse(d.heads[0], namespaceField(d), fmt.Sprintf("namespace %s belongs to realm %s; choose another, or remove that realm first", ns, holder))
		}
	}
	for _, d := range claimants {
		old, leaving := c.removal(func(r state.Removal) bool { return r.Realm == d.name && r.Namespace != ns })
		if leaving {
			c.wait(d, fmt.Sprintf("realm %s waits until its removal from namespace %s has ended", d.name, old.Namespace))
		}
	}
}

// holder is the realm that a namespace belongs to already, and whether that is about to end.
func (c *compiler) holder(ns state.Namespace) (name state.RealmName, leaving bool) {
	for name, r := range c.prev.Realms {
		if r.Namespace == ns {
			d, declared := c.drafts[name]
			return name, !declared || d.realm.Tombstone
		}
	}
	if r, ok := c.removal(func(r state.Removal) bool { return r.Namespace == ns }); ok {
		return r.Realm, true
	}
	return c.stamp(ns), false
}

// removal finds a realm on the removal list.
func (c *compiler) removal(match func(state.Removal) bool) (state.Removal, bool) {
	i := slices.IndexFunc(c.prev.Removals, func(r state.Removal) bool { return r.Container == "" && match(r) })
	if i < 0 {
		return state.Removal{}, false
	}
	return c.prev.Removals[i], true
}

// stamp is the realm whose name stands on a namespace beside our owner; empty when there is none.
func (c *compiler) stamp(ns state.Namespace) state.RealmName {
	labels := c.namespaces[ns].Labels
	if c.owner == "" || labels[state.LabelOwner] != string(c.owner) {
		return ""
	}
	return state.RealmName(labels[state.LabelRealm])
}

// takeOver judges the first acceptance of a realm whose namespace nobody of ours holds.
func (c *compiler) takeOver(d *draft) {
	there, exists := c.namespaces[d.realm.Namespace]
	switch {
	case c.owner == "":
		c.waits[d.name] = d.heads[0].Position.String() + ": containerd has not answered yet"
	case !exists || !d.realm.Explicit || d.realm.TakeOver:
	case there.Incomplete:
		c.wait(d, fmt.Sprintf("namespace %s exists and cannot be read just now; whether it may be taken over is not known", there.Name))
	case there.Containers > 0:
		c.refuse(d.heads[0], namespaceField(d), fmt.Sprintf("namespace %s already holds %d containers that are not ours; to use it all the same, and leave them alone, annotate the realm with %s: \"true\"",
			there.Name, there.Containers, manifests.AnnotationTakeOver))
	}
}

// namespaceField is what a person has to change to move a realm elsewhere.
func namespaceField(d *draft) string {
	if d.heads[0].Realm.Spec.Namespace != "" && d.name != refusedName {
		return "spec.namespace"
	}
	return "metadata.name"
}

// others names the other claimants and their places.
func others(claimants []*draft, but *draft) string {
	var out []string
	for _, d := range claimants {
		if d != but {
			out = append(out, fmt.Sprintf("realm %s (%s)", d.name, place(d.heads[0], namespaceField(d))))
		}
	}
	return strings.Join(out, " and ")
}
