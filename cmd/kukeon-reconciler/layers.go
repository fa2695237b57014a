package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// twin is the environment variable of a flag: --run-dir is KUKEON_RUN_DIR.
func twin(flag string) string {
	return "KUKEON_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// layer fills in the flags that the command line leaves out: from the environment, else from the config file.
// Variables and keys that belong to other commands are passed over; keys that no command has are an error.
func (a *app) layer(cmd *cobra.Command) error {
	if err := a.fromEnvironment(cmd.Flags().Lookup("config")); err != nil {
		return err
	}
	file, err := a.readConfig(cmd)
	if err != nil {
		return err
	}
	var failed error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if failed != nil || f.Changed || f.Name == "help" || f.Name == "config" {
			return
		}
		if failed = a.fromEnvironment(f); failed != nil || f.Changed {
			return
		}
		if value, ok := file[f.Name]; ok {
			if err := cmd.Flags().Set(f.Name, value); err != nil {
				failed = fmt.Errorf("%s: %s: %w", a.settings.config, f.Name, err)
			}
		}
	})
	return failed
}

// fromEnvironment sets a flag from its twin; an empty variable counts as none.
func (a *app) fromEnvironment(f *pflag.Flag) error {
	value := a.getenv(twin(f.Name))
	if f.Changed || value == "" {
		return nil
	}
	if err := f.Value.Set(value); err != nil {
		return fmt.Errorf("%s=%q: %w", twin(f.Name), value, err)
	}
	f.Changed = true
	return nil
}

// readConfig reads the config file. Only one that nobody asked for may be missing.
func (a *app) readConfig(cmd *cobra.Command) (map[string]string, error) {
	path := a.settings.config
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Lookup("config").Changed {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the config file: %w", err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(data, &values); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	known := map[string]bool{}
	knownFlags(cmd.Root(), known)
	out := map[string]string{}
	for key, value := range values {
		if !known[key] {
			return nil, fmt.Errorf("%s: unknown key %q: keys are the names of flags", path, key)
		}
		if out[key], err = scalar(value); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, key, err)
		}
	}
	return out, nil
}

// knownFlags collects the flags of a command and of all below it.
func knownFlags(cmd *cobra.Command, known map[string]bool) {
	add := func(f *pflag.Flag) { known[f.Name] = true }
	cmd.PersistentFlags().VisitAll(add)
	cmd.LocalFlags().VisitAll(add)
	for _, sub := range cmd.Commands() {
		knownFlags(sub, known)
	}
	delete(known, "help")
	delete(known, "config") // a file does not say where it is
}

func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	}
	return "", errors.New("the value is neither text, number nor true or false")
}
