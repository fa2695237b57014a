package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"kukeon.io/kukeon-reconciler/internal/status"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "show daemon, containerd, manifests and realms on one screen", Args: cobra.NoArgs,
		Long: "Shows daemon, containerd, manifests and realms on one screen, with a hint under each line that is not OK.\n\n" +
			"Exit status: 0 all is well, 1 something needs a look, 2 no daemon answers.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, err := a.client().Host(cmd.Context())
			if err != nil {
				return unreachable(err)
			}
			realms, err := a.client().Realms(cmd.Context())
			if err != nil {
				return unreachable(err)
			}
			p := &page{a: a}
			well := p.host(host)
			if !p.realms(realms) {
				well = false
			}
			if p.err == nil && !well {
				return &exitError{code: exitFailed}
			}
			return p.err
		},
	}
}

// unreachable gives errors on the way to the daemon the code 2, whatever their kind.
func unreachable(err error) error { return &exitError{exitUsage, err} }

// host prints the lines about the daemon and what it stands on, and reports whether all is well.
func (p *page) host(h status.Host) bool {
	well := true
	part := func(name, text string, ok bool, hints ...string) {
		p.line("%-12s %s", name, text)
		if ok {
			return
		}
		well = false
		for _, hint := range hints {
			p.line("%-12s %s", "", p.a.alarm(hint))
		}
	}
	part("daemon", fmt.Sprintf("%s, pid %d, mode %s, up %s", h.Daemon.Version, h.Daemon.Pid, h.Daemon.Mode, p.a.age(h.Daemon.Started)),
		len(h.Daemon.Problems) == 0, h.Daemon.Problems...)
	if h.Containerd.Connected {
		part("containerd", fmt.Sprintf("%s at %s, connected for %s", orDash(h.Containerd.Version), h.Containerd.Address, p.a.age(h.Containerd.Since)), true)
	} else {
		part("containerd", "not connected to "+h.Containerd.Address, false, h.Containerd.Error, "`systemctl status containerd` says more; what runs goes on")
	}
	switch {
	case !h.Source.Exists:
		part("manifests", h.Source.Root+" cannot be read", false,
			append(h.Source.Problems, "nothing is removed; what was accepted before is kept up")...)
	default:
		text := fmt.Sprintf("%s: %d files, read %s ago", h.Source.Root, h.Source.Files, p.a.age(h.Source.ScannedAt))
		if h.Source.Revision != "" {
			text += ", revision " + shortRevision(h.Source.Revision)
		}
		part("manifests", text, h.Source.Complete && len(h.Source.Problems) == 0,
			append(h.Source.Problems, "`"+program+" validate "+h.Source.Root+"` checks them")...)
	}
	part("logs", "pumped by "+orDash(h.Logs.Pump), true) // a fallback is no trouble yet
	if h.Logs.Message != "" {
		p.line("%-12s %s", "", p.a.alarm(h.Logs.Message))
	}
	for _, hold := range h.Holds {
		names := make([]string, len(hold.Realms))
		for i, r := range hold.Realms {
			names[i] = string(r)
		}
		part("removal held", fmt.Sprintf("%s, for %s: %s", strings.Join(names, ", "), p.a.age(hold.Since), hold.Why), false, hold.Hint)
	}
	for _, o := range h.Orphans {
		part("orphan", fmt.Sprintf("%s in namespace %s: ours, but neither declared nor accepted for removal", o.ContainerID, o.Namespace), false, o.Hint)
	}
	for _, r := range h.Released {
		part("released", fmt.Sprintf("namespace %s of realm %s, %s ago: %s", r.Namespace, r.Realm, p.a.age(r.At), r.Why), true)
	}
	return well
}

// realms prints a line per realm, and reports whether all of them are well or getting there.
func (p *page) realms(realms []status.Realm) bool {
	p.line("%-12s %d, %d ready, %d in sync\n", "realms", len(realms), status.Count(realms).Ready, status.Count(realms).InSync)
	if len(realms) == 0 || p.err != nil {
		return true
	}
	const columns = 6
	rows := make([][]string, len(realms))
	for i, r := range realms {
		rows[i] = realmRow(p.a, r)[:columns]
	}
	t := &table{a: p.a}
	p.err = t.head([]string{"NAME", "NAMESPACE", "STATE", "READY", "SYNCED", "RUNNING"}, rows)
	well := true
	for i, r := range realms {
		if p.err == nil {
			p.err = t.row(rows[i])
		}
		switch r.State {
		case status.Degraded, status.Failed, status.Unknown:
			well = false
		}
		if !r.Ready || !r.InSync || r.Suspended != "" || r.Condition(status.ConditionStalled).Status == status.True {
			p.line("  %s: %s", p.a.alarm(r.Reason), r.Message)
		}
		for _, hint := range r.Hints {
			p.line("    %s", hint)
		}
	}
	return well
}

// alarm colors what a person should see first.
func (a *app) alarm(text string) string {
	if text == "" || !a.colored() {
		return text
	}
	return "\x1b[33m" + text + "\x1b[0m"
}
