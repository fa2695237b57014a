package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kukeon.io/kukeon-reconciler/internal/api"
)

const program = "kukeon-reconciler"

// Where things are on a host, unless said otherwise.
const (
	defaultConfig     = "/etc/kukeon/reconciler.yaml"
	defaultManifests  = "/etc/kukeon/realms.d"
	defaultContainerd = "/run/containerd/containerd.sock"
	defaultStateDir   = "/var/lib/kukeon-reconciler"
	defaultRunDir     = "/run/kukeon-reconciler"
	defaultLogDir     = "/var/log/kukeon"
	defaultTemplate   = "kukeon-{realm}"
	defaultRegistries = "/etc/containerd/certs.d"
)

// settings are what every command may be told about the host.
type settings struct {
	config, manifests, containerd string
	stateDir, runDir, logDir      string
	template, snapshotter         string
	registryConfig                string
	color, logLevel, logFormat    string
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   program,
		Short: "keeps a host's containerd namespaces equal to a directory of realm manifests",
		Long: "kukeon-reconciler keeps a host's containerd namespaces equal to a directory of realm manifests.\n\n" +
			"Every flag has an environment twin (--run-dir is KUKEON_RUN_DIR) and may stand in the --config file.\n" +
			"What the command line says goes before the environment, and that before the file.",
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.layer(cmd); err != nil {
				return err
			}
			if err := a.checkSettings(); err != nil {
				return err
			}
			a.began = true
			return nil
		},
	}
	s, f := &a.settings, root.PersistentFlags()
	f.StringVar(&s.config, "config", defaultConfig, "YAML file of flag names and values")
	f.StringVar(&s.manifests, "manifests", defaultManifests, "directory of realm manifests")
	f.StringVar(&s.containerd, "containerd-address", defaultContainerd, "containerd's socket")
	f.StringVar(&s.stateDir, "state-dir", defaultStateDir, "what survives a reboot: the accepted state, volumes")
	f.StringVar(&s.runDir, "run-dir", defaultRunDir, "what does not: the API's socket, the containers' output pipes")
	f.StringVar(&s.logDir, "log-dir", defaultLogDir, "logs of the containers")
	f.StringVar(&s.template, "namespace-template", defaultTemplate, "namespace of a realm that names none")
	f.StringVar(&s.snapshotter, "snapshotter", "", "containerd's snapshotter (default: the namespace's, else overlayfs)")
	f.StringVar(&s.registryConfig, "registry-config-dir", defaultRegistries, "<registry>/hosts.toml for mirrors, certificates and plain HTTP")
	f.StringVar(&s.color, "color", "auto", "colors in tables: auto, always or never")
	f.StringVar(&s.logLevel, "log-level", "info", "how much run, logd and apply log to stderr: error, info or debug")
	f.StringVar(&s.logFormat, "log-format", "json", "how they log: json or console")

	root.AddCommand(
		a.runCommand(), a.logdCommand(), a.applyCommand(), a.planCommand(), a.validateCommand(),
		a.getCommand(), a.describeCommand(), a.statusCommand(), a.waitCommand(), a.logsCommand(),
		a.reconcileCommand(), a.suspendCommand(), a.resumeCommand(), a.confirmCommand(), a.adoptCommand(), a.releaseCommand(),
		a.imagesCommand(), a.schemaCommand(), a.versionCommand(), a.completionCommand(),
	)
	return root
}

func (a *app) checkSettings() error {
	for _, choice := range []struct {
		flag, value string
		allowed     []string
	}{
		{"color", a.settings.color, []string{"auto", "always", "never"}},
		{"log-level", a.settings.logLevel, []string{"error", "info", "debug"}},
		{"log-format", a.settings.logFormat, []string{"json", "console"}},
	} {
		if err := oneOf(choice.flag, choice.value, choice.allowed...); err != nil {
			return err
		}
	}
	if !strings.Contains(a.settings.template, "{realm}") {
		return fmt.Errorf("--namespace-template %q lacks {realm}: every realm needs a namespace of its own", a.settings.template)
	}
	return nil
}

// oneOf checks the value of a flag that takes a word.
func oneOf(flag, value string, allowed ...string) error {
	for _, word := range allowed {
		if value == word {
			return nil
		}
	}
	return fmt.Errorf("--%s %q: it is one of %s", flag, value, strings.Join(allowed, ", "))
}

func (a *app) client() *api.Client { return api.NewClient(api.SocketPath(a.settings.runDir)) }

// splitRef takes REALM or REALM/CONTAINER apart.
func splitRef(ref string) (realm, container string, err error) {
	realm, container, slash := strings.Cut(ref, "/")
	if realm == "" || slash && (container == "" || strings.Contains(container, "/")) {
		return "", "", usage("%q is neither REALM nor REALM/CONTAINER", ref)
	}
	return realm, container, nil
}

// usage is an error in the command line that only the command itself can see.
func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// completionLimit keeps the shell from hanging when the daemon does.
const completionLimit = time.Second

// completeRealms offers the names of realms, completeContainers those of REALM/CONTAINER as well.
func (a *app) completeRealms(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, true, false)
}

func (a *app) completeContainers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, false, true)
}

func (a *app) completeBoth(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, args, true, true)
}

func (a *app) complete(cmd *cobra.Command, args []string, realms, containers bool) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || a.layer(cmd) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionLimit)
	defer cancel()
	list, err := a.client().Realms(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, r := range list {
		if realms {
			out = append(out, string(r.Name))
		}
		for _, c := range r.Containers {
			if containers {
				out = append(out, c.Ref())
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
