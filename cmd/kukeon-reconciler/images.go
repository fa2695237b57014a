package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"kukeon.io/kukeon-reconciler/internal/compile"
	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/state"
	"kukeon.io/kukeon-reconciler/manifests"
)

func (a *app) imagesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "images", Short: "bring images into a realm's own namespace",
		Long: "A realm takes its images from its own containerd namespace, and from no other one. These commands bring them there\n" +
			"without a registry. What they bring is yours: it is never deleted by us.",
	}
	cmd.AddCommand(a.imagesCopyCommand(), a.imagesImportCommand())
	return cmd
}

func (a *app) imagesCopyCommand() *cobra.Command {
	var from, to string
	cmd := &cobra.Command{
		Use: "copy --from NAMESPACE --to REALM REF", Short: "copy an image from another namespace of this host", Args: cobra.ExactArgs(1),
		Long: "Gives a realm an image that another namespace of this host has, such as default or moby. Neither network nor disk\n" +
			"space is needed: containerd shares the content.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if from == "" || to == "" {
				return usage("--from NAMESPACE and --to REALM are needed")
			}
			ref, err := manifests.NormalizeImage(args[0])
			if err != nil {
				return usage("%v", err)
			}
			return a.bring(cmd.Context(), to, func(ctx context.Context, client *ctrd.Client, ns state.Namespace) ([]ctrd.Brought, error) {
				if state.Namespace(from) == ns {
					return nil, usage("--from %s is the namespace of realm %s itself", from, to)
				}
				b, err := client.CopyImage(ctx, from, string(ns), ref)
				if errdefs.IsNotFound(err) {
					return nil, fmt.Errorf("namespace %s does not have all of image %s: %w; `ctr -n %[1]s images ls` lists what it has", from, ref, err)
				}
				return []ctrd.Brought{b}, err
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "namespace that has the image")
	cmd.Flags().StringVar(&to, "to", "", "realm that needs it")
	return cmd
}

func (a *app) imagesImportCommand() *cobra.Command {
	var realm string
	cmd := &cobra.Command{
		Use: "import -r REALM ARCHIVE", Short: "import an archive of images into a realm's namespace", Args: cobra.ExactArgs(1),
		Long: "Imports an OCI or docker archive, also a compressed one, into a realm's namespace. - reads it from stdin.",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if realm == "" {
				return usage("-r REALM is needed: every realm has images of its own")
			}
			file := os.Stdin
			if args[0] != "-" {
				if file, err = os.Open(args[0]); err != nil {
					return usage("%v", err)
				}
				defer closing(file, &err)
			}
			return a.bring(cmd.Context(), realm, func(ctx context.Context, client *ctrd.Client, ns state.Namespace) ([]ctrd.Brought, error) {
				out, err := client.ImportImages(ctx, string(ns), file)
				if errors.Is(err, ctrd.ErrNoName) {
					err = fmt.Errorf("%w: save it with one, as `docker save app:1` does and `docker save IMAGE-ID` does not", err)
				}
				if err != nil {
					return nil, fmt.Errorf("%s: %w", args[0], err)
				}
				return out, nil
			})
		},
	}
	cmd.Flags().StringVarP(&realm, "realm", "r", "", "realm that needs the images")
	return cmd
}

// bring finds a realm's namespace, has images brought there and prints them. Big images take long: only the caller's
// context bounds it.
func (a *app) bring(
	ctx context.Context, realm string, do func(context.Context, *ctrd.Client, state.Namespace) ([]ctrd.Brought, error),
) (err error) {
	client, host, err := a.looker()
	if err != nil {
		return err
	}
	defer closing(client, &err)
	ns, err := a.namespaceOf(ctx, host, realm)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	brought, err := do(ctx, client, ns)
	if err != nil {
		return err
	}
	for _, b := range brought {
		what := "brought to " + string(ns)
		if b.Unchanged {
			what = "is in " + string(ns) + " already"
		}
		if err := a.print("%s %s\n", b.Ref, what); err != nil {
			return err
		}
	}
	return nil
}

// namespaceOf is the namespace of a realm: the one that the daemon or containerd knows, else the one that it would get.
func (a *app) namespaceOf(ctx context.Context, host *ctrd.Host, realm string) (state.Namespace, error) {
	if realms, err := a.client().Realms(ctx); err == nil { // without a daemon the namespaces tell
		for _, r := range realms {
			if string(r.Name) == realm {
				return r.Namespace, nil
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	owner, err := host.Owner(ctx)
	if err != nil {
		return "", err
	}
	namespaces, err := host.Summaries(ctx)
	if err != nil {
		return "", err
	}
	ns, lives, err := compile.NamespaceOf(state.RealmName(realm), compile.Options{Template: a.settings.template}, namespaces, owner)
	if err != nil {
		return "", fmt.Errorf("realm %q: %w", realm, err)
	}
	if !lives {
		a.talk("realm %s is not there yet; its namespace will be %s unless its manifest names another one", realm, ns)
	}
	return ns, nil
}
