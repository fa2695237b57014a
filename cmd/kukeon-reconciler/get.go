package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kukeon.io/kukeon-reconciler/internal/api"
	"kukeon.io/kukeon-reconciler/internal/status"
	"kukeon.io/kukeon-reconciler/manifests"
)

var getFormats = []string{"table", "wide", "json", "yaml", "name"}

func (a *app) getCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "get", Short: "list what is desired, what is there, and whether it is in sync", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return usage("get what? realms, containers or images") }}
	cmd.AddCommand(a.getRealmsCommand(), a.getContainersCommand(), a.getImagesCommand())
	return cmd
}

func (a *app) getRealmsCommand() *cobra.Command {
	var format string
	var watch bool
	cmd := &cobra.Command{
		Use: "realms [NAME]", Aliases: []string{"realm"}, Short: "list realms", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeRealms,
		RunE: func(cmd *cobra.Command, args []string) error {
			l := &listing[status.Realm]{a: a, kind: "RealmList", format: format,
				name:  func(r status.Realm) string { return string(r.Name) },
				heads: []string{"NAME", "NAMESPACE", "STATE", "READY", "SYNCED", "RUNNING", "REASON"},
				wide:  []string{"GENERATION", "OBSERVED", "REVISION", "MESSAGE"},
				row:   realmRow,
				pick: func(realms []status.Realm) []status.Realm {
					return slices.DeleteFunc(slices.Clone(realms), func(r status.Realm) bool {
						return len(args) > 0 && string(r.Name) != args[0]
					})
				}}
			if len(args) > 0 {
				l.sought = "realm " + args[0]
			}
			return l.run(cmd.Context(), watch)
		},
	}
	outputFlag(cmd, &format, getFormats...)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on with what changes")
	return cmd
}

func realmRow(_ *app, r status.Realm) []string {
	return []string{
		string(r.Name), string(r.Namespace), string(r.State), yesNo(r.Ready), yesNo(r.InSync),
		fmt.Sprintf("%d/%d", r.Running, r.Desired), r.Reason,
		strconv.FormatInt(r.Generation, 10), strconv.FormatInt(r.ObservedGeneration, 10), shortRevision(r.Revision), r.Message,
	}
}

func (a *app) getContainersCommand() *cobra.Command {
	var format, realm string
	var watch bool
	cmd := &cobra.Command{
		Use: "containers [NAME | REALM/NAME]", Aliases: []string{"container"}, Short: "list containers", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			l := &listing[status.Container]{a: a, kind: "ContainerList", format: format, name: status.Container.Ref,
				heads: []string{"REALM", "NAME", "PHASE", "RESTARTS", "SYNCED", "SINCE", "IMAGE"},
				wide:  []string{"PID", "HEALTH", "NAMESPACE", "ID", "SOURCE", "REVISION", "REASON", "MESSAGE"},
				row:   containerRow, ages: 5,
				pick: func(realms []status.Realm) []status.Container { return pickContainers(realms, realm, args) }}
			if len(args) > 0 {
				l.sought = "container " + args[0]
			}
			l.within = realm
			return l.run(cmd.Context(), watch)
		},
	}
	outputFlag(cmd, &format, getFormats...)
	cmd.Flags().StringVarP(&realm, "realm", "r", "", "of this realm only")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on with what changes")
	return cmd
}

func pickContainers(realms []status.Realm, realm string, args []string) []status.Container {
	var out []status.Container
	for _, r := range realms {
		for _, c := range r.Containers {
			if (realm == "" || string(c.Realm) == realm) && (len(args) == 0 || c.Name == args[0] || c.Ref() == args[0]) {
				out = append(out, c)
			}
		}
	}
	return out
}

func containerRow(a *app, c status.Container) []string {
	source := c.Source
	if c.Line > 0 {
		source = fmt.Sprintf("%s:%d", c.Source, c.Line)
	}
	return []string{
		string(c.Realm), c.Name, string(c.Phase), strconv.Itoa(c.Restarts), yesNo(c.InSync), a.age(c.Since), c.Image,
		strconv.FormatUint(uint64(c.Pid), 10), c.Health, string(c.Namespace), string(c.ContainerID), source,
		shortRevision(c.Revision), c.Reason, c.Message,
	}
}

func (a *app) getImagesCommand() *cobra.Command {
	var format, realm string
	var watch bool
	cmd := &cobra.Command{
		Use: "images [REF]", Aliases: []string{"image"}, Short: "list the images of each realm, and who uses them", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			l := &listing[status.Image]{a: a, kind: "ImageList", format: format, within: realm,
				name:  func(i status.Image) string { return string(i.Realm) + " " + i.Ref },
				heads: []string{"REALM", "IMAGE", "DIGEST", "STATE", "USED BY"},
				wide:  []string{"OURS", "MESSAGE"},
				row:   imageRow,
				pick:  func(realms []status.Realm) []status.Image { return pickImages(realms, realm, args) }}
			if len(args) > 0 {
				l.sought = "image " + args[0]
			}
			return l.run(cmd.Context(), watch)
		},
	}
	outputFlag(cmd, &format, getFormats...)
	cmd.Flags().StringVarP(&realm, "realm", "r", "", "of this realm only")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on with what changes")
	return cmd
}

// pickImages finds images by their full names, or by what their manifests may write in its place.
func pickImages(realms []status.Realm, realm string, args []string) []status.Image {
	ref := ""
	if len(args) > 0 {
		ref = args[0]
		if full, err := manifests.NormalizeImage(ref); err == nil {
			ref = full
		}
	}
	var out []status.Image
	for _, r := range realms {
		for _, i := range r.Images {
			if (realm == "" || string(r.Name) == realm) && (ref == "" || i.Ref == ref) {
				out = append(out, i)
			}
		}
	}
	return out
}

func imageRow(_ *app, i status.Image) []string {
	_, hex, _ := strings.Cut(i.Digest, ":")
	what := "unpacked"
	switch {
	case i.Digest == "":
		what = "missing"
	case !i.Unpacked:
		what = "packed"
	}
	return []string{string(i.Realm), i.Ref, hex[:min(12, len(hex))], what, strings.Join(i.UsedBy, ","), yesNo(i.Owned), i.Message}
}

// listing prints one kind of objects, once or for as long as somebody watches.
type listing[T any] struct {
	a           *app
	kind        string
	format      string
	sought      string // what has to be there, in words; empty when nothing has to
	within      string // the realm that has to be there; empty when none has to
	heads, wide []string
	pick        func([]status.Realm) []T
	name        func(T) string
	row         func(*app, T) []string

	table  table
	headed bool
	last   map[string]string // by name: what was printed, without what time alone changes
	ages   int               // the column that time alone changes; 0 is none
}

func (l *listing[T]) run(ctx context.Context, watch bool) error {
	if watch {
		err := l.a.client().Watch(ctx, l.print)
		if ctx.Err() != nil {
			return nil // Ctrl-C is how a watch ends
		}
		return err
	}
	realms, err := l.a.realms(ctx)
	if err != nil {
		return err
	}
	known := func(r status.Realm) bool { return string(r.Name) == l.within }
	switch {
	case l.within != "" && !slices.ContainsFunc(realms, known):
		return status.Refuse(api.ErrNotFound, "there is no realm %s", l.within)
	case l.sought != "" && len(l.pick(realms)) == 0:
		return status.Refuse(api.ErrNotFound, "there is no %s", l.sought)
	}
	return l.print(realms)
}

// realms asks the daemon, and containerd itself when there is none.
func (a *app) realms(ctx context.Context) ([]status.Realm, error) {
	realms, err := a.client().Realms(ctx)
	if err == nil || !errors.Is(err, api.ErrUnreachable) {
		return realms, err
	}
	realms, direct := a.realmsWithoutDaemon(ctx)
	if direct != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("%w; and without it: %w", err, direct)}
	}
	a.talk("no daemon answers: this is what containerd shows")
	return realms, nil
}

// print prints everything at the first time, and after that what has changed.
func (l *listing[T]) print(realms []status.Realm) error {
	items := l.pick(realms)
	changed, err := l.changes(items)
	if err != nil {
		return err
	}
	switch l.format {
	case "json", "yaml":
		if l.headed && len(changed) == 0 {
			return nil
		}
		if l.format == "yaml" && l.headed {
			if err := l.a.print("---\n"); err != nil {
				return err
			}
		}
		l.headed = true
		if items == nil {
			items = []T{}
		}
		return l.a.structured(l.format, list[T]{apiVersion, l.kind, items})
	case "name":
		for _, item := range changed {
			if err := l.a.print("%s\n", l.name(item)); err != nil {
				return err
			}
		}
		return nil
	}
	return l.rows(changed)
}

func (l *listing[T]) rows(items []T) error {
	heads := l.columns()
	rows := make([][]string, len(items))
	for i, item := range items {
		rows[i] = l.row(l.a, item)[:len(heads)]
	}
	if !l.headed {
		l.headed = true
		l.table.a = l.a
		if err := l.table.head(heads, rows); err != nil {
			return err
		}
	}
	for _, r := range rows {
		if err := l.table.row(r); err != nil {
			return err
		}
	}
	return nil
}

// changes returns the items that are not as they were at the last call, and tells of those that are gone.
func (l *listing[T]) changes(items []T) ([]T, error) {
	var changed []T
	now := map[string]string{}
	for _, item := range items {
		text, err := l.looks(item)
		if err != nil {
			return nil, err
		}
		name := l.name(item)
		now[name] = text
		if l.last[name] != text {
			changed = append(changed, item)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.last)) {
		if _, there := now[name]; !there {
			l.a.talk("%s is gone", name)
		}
	}
	l.last = now
	return changed, nil
}

// looks is how the item is printed, as far as a change of it is worth printing it again.
func (l *listing[T]) looks(item T) (string, error) {
	if l.format == "name" {
		return l.name(item), nil
	}
	if l.format == "json" || l.format == "yaml" {
		text, err := json.Marshal(item)
		return string(text), err
	}
	cells := slices.Clone(l.row(l.a, item)[:len(l.columns())])
	if l.ages > 0 {
		cells[l.ages] = ""
	}
	return strings.Join(cells, "\x00"), nil
}

// columns are the heads of the columns that are printed.
func (l *listing[T]) columns() []string {
	if l.format == "wide" {
		return slices.Concat(l.heads, l.wide)
	}
	return l.heads
}
