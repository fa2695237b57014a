package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kukeon.io/kukeon-reconciler/internal/api"
	"kukeon.io/kukeon-reconciler/internal/status"
)

func (a *app) describeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "describe", Short: "tell everything about one object, and why it is as it is", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usage("describe what? realm NAME or container REALM/NAME")
		}}
	cmd.AddCommand(
		&cobra.Command{Use: "realm NAME", Short: "tell everything about a realm", Args: cobra.ExactArgs(1),
			ValidArgsFunction: a.completeRealms,
			RunE: func(cmd *cobra.Command, args []string) error {
				r, err := a.findRealm(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.describeRealm(cmd.Context(), r)
			}},
		&cobra.Command{Use: "container REALM/NAME", Short: "tell everything about a container", Args: cobra.ExactArgs(1),
			ValidArgsFunction: a.completeContainers,
			RunE: func(cmd *cobra.Command, args []string) error {
				c, err := a.findContainer(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.describeContainer(cmd.Context(), c)
			}},
	)
	return cmd
}

func (a *app) findRealm(ctx context.Context, name string) (status.Realm, error) {
	realms, err := a.realms(ctx)
	if err != nil {
		return status.Realm{}, err
	}
	i := slices.IndexFunc(realms, func(r status.Realm) bool { return string(r.Name) == name })
	if i < 0 {
		return status.Realm{}, status.Refuse(api.ErrNotFound, "there is no realm %q; `%s get realms` lists them", name, program)
	}
	return realms[i], nil
}

func (a *app) findContainer(ctx context.Context, ref string) (status.Container, error) {
	realm, name, err := splitRef(ref)
	if err == nil && name == "" {
		err = usage("%q is no REALM/CONTAINER", ref)
	}
	if err != nil {
		return status.Container{}, err
	}
	r, err := a.findRealm(ctx, realm)
	if err != nil {
		return status.Container{}, err
	}
	c, ok := r.Find(name)
	if !ok {
		return c, status.Refuse(api.ErrNotFound, "realm %s has no container %q; `%s get containers -r %s` lists them",
			realm, name, program, realm)
	}
	return c, nil
}

// page collects what describe prints, so that there is one place that can fail.
type page struct {
	a   *app
	err error
}

func (p *page) line(format string, args ...any) {
	if p.err == nil {
		p.err = p.a.print(format+"\n", args...)
	}
}

// field prints a name and what it is, unless that is nothing.
func (p *page) field(name, value string) {
	if value != "" {
		p.line("%-14s %s", name+":", value)
	}
}

func (p *page) section(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	p.line("\n%s:", title)
	for _, l := range lines {
		p.line("  %s", l)
	}
}

func (p *page) table(title string, heads []string, rows [][]string) {
	if len(rows) == 0 || p.err != nil {
		return
	}
	p.line("\n%s:", title)
	if p.err == nil {
		p.err = p.a.printTable("  ", heads, rows)
	}
}

func (a *app) describeRealm(ctx context.Context, r status.Realm) error {
	p := &page{a: a}
	p.field("Name", string(r.Name))
	p.field("Namespace", string(r.Namespace))
	p.field("", r.NamespaceReason)
	p.field("State", a.paint(string(r.State)))
	p.field("Ready", yesNo(r.Ready))
	p.field("In sync", yesNo(r.InSync))
	p.field("Reason", r.Reason)
	p.field("Message", r.Message)
	p.field("Generation", fmt.Sprintf("%d, observed %d", r.Generation, r.ObservedGeneration))
	p.field("Revision", r.Revision)
	p.field("Manifests", strings.Join(r.Paths, ", "))
	p.field("Suspended", r.Suspended)
	p.field("Frozen", r.Frozen)

	var conditions, containers, images [][]string
	for _, c := range r.Conditions {
		conditions = append(conditions, []string{string(c.Type), c.Status, a.age(c.LastTransitionTime), c.Reason, c.Message})
	}
	for _, c := range r.Containers {
		containers = append(containers, []string{c.Name, string(c.Phase), strconv.Itoa(c.Restarts), yesNo(c.InSync), a.age(c.Since), c.Image, c.Message})
	}
	for _, i := range r.Images {
		images = append(images, []string{i.Ref, orDash(i.Digest), yesNo(i.Unpacked), yesNo(i.Owned), i.Message})
	}
	var left []string
	for _, l := range r.LeftAlone {
		left = append(left, l.Object+": "+l.Message)
	}
	p.table("Conditions", []string{"TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"}, conditions)
	p.table("Containers", []string{"NAME", "PHASE", "RESTARTS", "SYNCED", "SINCE", "IMAGE", "MESSAGE"}, containers)
	p.table("Images", []string{"IMAGE", "DIGEST", "UNPACKED", "OURS", "MESSAGE"}, images)
	p.section("Plan", r.Plan)
	p.section("Waits", r.Waits)
	p.section("Left alone", left)
	p.section("Problems", r.Problems)
	p.events(ctx, string(r.Name), "")
	p.section("Next", r.Hints)
	return p.err
}

func (a *app) describeContainer(ctx context.Context, c status.Container) error {
	p := &page{a: a}
	p.field("Name", c.Name)
	p.field("Realm", string(c.Realm))
	p.field("Namespace", string(c.Namespace))
	p.field("Container ID", string(c.ContainerID))
	p.field("Phase", fmt.Sprintf("%s since %s (%s ago)", a.paint(string(c.Phase)), c.Since.Format(time.RFC3339), a.age(c.Since)))
	p.field("Reason", c.Reason)
	p.field("Message", c.Message)
	p.field("In sync", yesNo(c.InSync))
	p.field("Image", c.Image)
	p.field("Runs image", c.RunningImage)
	p.field("Digest", c.Digest)
	if c.Pid != 0 {
		p.field("Pid", strconv.FormatUint(uint64(c.Pid), 10))
	}
	p.field("Restart policy", string(c.RestartPolicy))
	p.field("Restarts", strconv.Itoa(c.Restarts))
	if c.ExitCode != nil {
		code := strconv.Itoa(*c.ExitCode)
		if *c.ExitCode < 0 {
			code = "unknown"
		}
		p.field("Last exit", code+" at "+c.FinishedAt.Format(time.RFC3339))
	}
	p.field("Health", c.Health)
	if c.Line > 0 {
		p.field("Source", fmt.Sprintf("%s:%d", c.Source, c.Line))
	} else {
		p.field("Source", c.Source)
	}
	p.field("Revision", c.Revision)
	p.field("Owner", string(c.Owner))
	p.field("Suspended", c.Suspended)
	p.events(ctx, string(c.Realm), string(c.ContainerID))
	p.section("Next", []string{
		fmt.Sprintf("%s logs %s", program, c.Ref()),
		fmt.Sprintf("ctr -n %s tasks attach %s", c.Namespace, c.ContainerID),
	})
	return p.err
}

// events prints the recent events of a realm, or of one object in it. Without a daemon there are none.
func (p *page) events(ctx context.Context, realm, object string) {
	events, err := p.a.client().Events(ctx, realm, time.Time{})
	if err != nil {
		if !errors.Is(err, api.ErrUnreachable) && p.err == nil {
			p.err = err
		}
		return
	}
	var rows [][]string
	for _, e := range events {
		if object == "" || e.Object == object {
			rows = append(rows, []string{p.a.age(e.Time), orDash(e.Object), e.Reason, e.Message})
		}
	}
	const recent = 20
	p.table("Events", []string{"AGE", "OBJECT", "REASON", "MESSAGE"}, rows[max(0, len(rows)-recent):])
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
