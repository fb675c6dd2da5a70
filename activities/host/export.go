package host

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/go-viper/mapstructure/v2"

	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type exportArgs struct {
	Path     string            `arg:"path,required" doc:"file or directory to export: a snapshot, since live files change while they are read"`
	Name     string            `arg:"name" default:"data" doc:"name of the archive in the restore point's directory, without .tar.zst"`
	Archive  string            `arg:"archive" doc:"path of the archive, in place of name"`
	Include  []string          `arg:"include" doc:"patterns, relative to the path, of what to export (default: all); ** is any number of directories"`
	Exclude  []string          `arg:"exclude" doc:"patterns, relative to the path, of what to leave out; pg_wal/* leaves the directory itself in"`
	Files    map[string]string `arg:"files" doc:"more files for the archive: name in the archive to content (backup_label)"`
	Add      map[string]string `arg:"add" doc:"more files for the archive: name in the archive to the path of a file or directory"`
	AddRange map[string]any    `arg:"addRange" type:"object" doc:"a range of a directory's files for the archive, {as, path, nameFrom, nameTo}: those whose names are in that order between the two, which must exist (WAL segments)"`
}

// nameRange is the argument addRange.
type nameRange struct {
	As       string `arg:"as"`
	Path     string `arg:"path"`
	NameFrom string `arg:"nameFrom"`
	NameTo   string `arg:"nameTo"`
}

func parseRange(raw map[string]any) (*nameRange, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var r nameRange
	dec, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{Result: &r, TagName: "arg", WeaklyTypedInput: true, ErrorUnused: true})
	if err != nil {
		return nil, err
	}
	if err := dec.Decode(raw); err != nil {
		return nil, fault.New(fault.User, "addRange: %w", err)
	}
	if r.NameFrom == "" || r.NameTo == "" {
		return nil, fault.New(fault.User, "addRange: nameFrom and nameTo are required")
	}
	if r.As, err = archiveName(r.As); err != nil {
		return nil, fmt.Errorf("addRange: as: %w", err)
	}
	return &r, absolute("addRange: path", r.Path)
}

// addRange adds the range's files. A symlink is followed: pg_wal often is one.
func (w *archiveWriter) addRange(ctx context.Context, r *nameRange) error {
	if r == nil {
		return nil
	}
	dir, err := filepath.EvalSymlinks(r.Path)
	if err != nil {
		return err
	}
	s := selection{from: r.NameFrom, to: r.NameTo}
	if err := s.check(); err != nil {
		return err
	}
	if err := w.tree(ctx, dir, r.As, s); err != nil {
		return err
	}
	for _, name := range []string{r.NameFrom, r.NameTo} {
		if !w.seen[path.Join(r.As, name)] {
			return fault.New(fault.Permanent, "%s is not in %s: the range %s to %s is not complete; it was removed or recycled", name, r.Path, r.NameFrom, r.NameTo)
		}
	}
	return nil
}

// exportPath makes the snapshot durable: the archive has its name only when
// all of it is on disk. Idempotent: another attempt writes it anew.
func exportPath() function.Function {
	return function.New(catalogue.Function{
		Name: "ExportPath", Family: family,
		Summary: "Write a file or directory into one archive (tar, zstd), durably, and return its SHA-256.",
		Outputs: []catalogue.Output{
			{Name: "archive", Description: "path of the archive"},
			{Name: "sha256", Description: "of the archive, in hex"},
			{Name: "bytes", Description: "size of the archive"},
			{Name: "size", Description: "size of its content"},
			{Name: "files", Description: "number of files in it"},
		},
		Idempotent: true,
		Timeout:    2 * time.Hour,
	}, func(ctx context.Context, env *function.Env, a exportArgs) (function.Outputs, error) {
		out, err := export(ctx, env, a)
		if err != nil {
			return nil, fmt.Errorf("export %s: %w", a.Path, classify(err))
		}
		return out, nil
	})
}

func export(ctx context.Context, env *function.Env, a exportArgs) (function.Outputs, error) {
	if err := absolute("path", a.Path); err != nil {
		return nil, err
	}
	archive := a.Archive
	if archive == "" {
		if a.Name == "" || a.Name != filepath.Base(a.Name) {
			return nil, fault.New(fault.User, "name %q: want a file name; for a path use archive", a.Name)
		}
		var err error
		if archive, err = inRestorePoint(env, a.Name+".tar.zst"); err != nil {
			return nil, err
		}
	}
	if err := absolute("archive", archive); err != nil {
		return nil, err
	}
	s := selection{include: a.Include, exclude: a.Exclude}
	if err := s.check(); err != nil {
		return nil, err
	}
	rng, err := parseRange(a.AddRange)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o700); err != nil {
		return nil, err
	}
	partial := archive + ".partial"
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	done := false
	defer func() {
		f.Close()
		if !done {
			os.Remove(partial)
		}
	}()
	w, err := newArchiveWriter(f, func(n int64) { heartbeat(env, "%s read", bytesText(n)) })
	if err != nil {
		return nil, err
	}
	root, err := os.Stat(a.Path)
	if err != nil {
		return nil, err
	}
	if err := w.literals(a.Files, root); err != nil {
		return nil, err
	}
	if err := w.addRange(ctx, rng); err != nil {
		return nil, fmt.Errorf("addRange %s: %w", rng.Path, err)
	}
	for name, from := range a.Add {
		clean, err := archiveName(name)
		if err != nil {
			return nil, err
		}
		if err := absolute("add: "+name+":", from); err != nil {
			return nil, err
		}
		if err := w.tree(ctx, from, clean, selection{}); err != nil {
			return nil, fmt.Errorf("add %s: %w", name, err)
		}
	}
	if err := w.tree(ctx, a.Path, ".", s); err != nil {
		return nil, err
	}
	if w.files == 0 {
		return nil, fault.New(fault.User, "nothing is selected: it holds no file, or include and exclude leave none")
	}
	if err := w.close(); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if err := os.Rename(partial, archive); err != nil {
		return nil, err
	}
	done = true
	if err := syncDir(filepath.Dir(archive)); err != nil {
		return nil, err
	}
	return function.Outputs{"archive": archive, "sha256": w.digest(), "bytes": w.stored.n, "size": w.content, "files": w.files}, nil
}
