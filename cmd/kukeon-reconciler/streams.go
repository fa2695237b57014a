package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"kukeon.io/kukeon-reconciler/internal/ctrd"
	"kukeon.io/kukeon-reconciler/internal/logs"
	"kukeon.io/kukeon-reconciler/internal/state"
)

// streams connects the output of containers to the pump: it is ctrd's Output.
type streams struct{ runDir, logDir string }

// Prepare implements ctrd.Output.
func (s streams) Prepare(realm state.RealmName, ns state.Namespace, id state.ContainerID, spec state.Spec, run int) (ctrd.Streams, io.Closer, error) {
	cfg := logs.Config{
		Realm: string(realm), Container: string(id), MaxSizeBytes: spec.Log.MaxSizeBytes, MaxFiles: spec.Log.MaxFiles, Run: run,
		Path: logs.LogPath(s.logDir, string(realm), string(id)),
	}
	switch spec.LogDriver {
	case state.LogNone:
		return ctrd.Streams{}, nil, nil
	case state.LogFile:
		cfg.Path = logs.RawLogPath(s.logDir, string(realm), string(id))
		_, err := logs.Prepare(s.runDir, string(ns), string(id), cfg)
		return ctrd.Streams{Stdout: "file://" + cfg.Path, Stderr: "file://" + cfg.Path}, nil, err
	}
	paths, err := logs.Prepare(s.runDir, string(ns), string(id), cfg)
	if err != nil {
		return ctrd.Streams{}, nil, err
	}
	open, err := openBoth(paths)
	if err != nil {
		return ctrd.Streams{}, nil, err
	}
	return ctrd.Streams{Stdout: paths.Stdout, Stderr: paths.Stderr}, open, nil
}

// Remove implements ctrd.Output.
func (s streams) Remove(ns state.Namespace, id state.ContainerID) error {
	return logs.Remove(s.runDir, string(ns), string(id))
}

// held are FIFOs held open until the shim has them: creating a task blocks until somebody could read.
type held []*os.File

func openBoth(paths logs.IO) (held, error) {
	var out held
	for _, path := range []string{paths.Stdout, paths.Stderr} {
		f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("hold the output open: %w", err), out.Close())
		}
		out = append(out, f)
	}
	return out, nil
}

// Close implements io.Closer.
func (h held) Close() error {
	var errs []error
	for _, f := range h {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
