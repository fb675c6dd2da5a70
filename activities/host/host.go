// Package host is the family of functions that work on the host that the
// worker runs on: they snapshot, export, restore and delete files, and run the
// commands that the worker's configuration allows. Start with snapshot.go, the
// cut; archive.go is the format of exports.
package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"thaw/activities/function"
	"thaw/blueprints/fault"
)

const family = "host"

// Config is what a worker lets these functions do.
type Config struct {
	// Allow lists the commands that Exec may run: absolute paths, or patterns
	// of them (path.Match). Nothing is allowed by default.
	Allow []string `yaml:"allow" json:"allow,omitempty"`
}

// Functions of this family.
func Functions(cfg Config) []function.Function {
	return []function.Function{
		execute(cfg), snapshotPath(), exportPath(), restorePath(), deletePath(), verifyArchive(),
	}
}

// made starts the names of what Thaw makes beside an application's data.
const made = ".thaw-"

func absolute(what, path string) error {
	if !filepath.IsAbs(path) {
		return fault.New(fault.User, "%s %q is not an absolute path", what, path)
	}
	return nil
}

// inRestorePoint is where a file of the run's restore point goes.
func inRestorePoint(env *function.Env, name string) (string, error) {
	if env.RestorePoint.Directory == "" {
		return "", fault.New(fault.User, "this run has no restore point to put %s into; give the path as an argument", name)
	}
	return filepath.Join(env.RestorePoint.Directory, name), nil
}

func heartbeat(env *function.Env, format string, args ...any) {
	if env.Heartbeat != nil {
		env.Heartbeat(fmt.Sprintf(format, args...))
	}
}

// classify gives an error of a file operation its kind: what is missing, or
// forbidden, or full, stays so until a person acts.
func classify(err error) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) {
		return err
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.Transient, "%w", err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EROFS):
		return fault.New(fault.Permanent, "%w", err)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission), errors.Is(err, unix.ENOTDIR):
		return fault.New(fault.User, "%w", err)
	}
	return fault.New(fault.Transient, "%w", err)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	div, exp := int64(unit), 0
	for m := n / unit; m >= unit; m /= unit {
		div *= unit
		exp++
	}
	return fmt.Sprintf("%.1f %ciB", float64(n)/float64(div), "KMGTPE"[exp])
}
