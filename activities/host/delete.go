package host

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type deleteArgs struct {
	Paths []string `arg:"paths,required" alias:"path" doc:"what to delete: in the restore point's directory, or something that Thaw made beside data (its name has .thaw- in it). Empty entries are passed over"`
}

// deletePath is idempotent: what is not there is deleted.
func deletePath() function.Function {
	return function.New(catalogue.Function{
		Name: "DeletePath", Family: family,
		Summary:    "Delete files, directories and btrfs snapshots that Thaw made. It deletes nothing else.",
		Outputs:    []catalogue.Output{{Name: "deleted", Description: "number of paths that were there"}},
		Idempotent: true,
		Timeout:    30 * time.Minute,
	}, func(_ context.Context, env *function.Env, a deleteArgs) (function.Outputs, error) {
		var paths []string
		for _, p := range a.Paths {
			if p == "" {
				continue
			}
			if err := deletable(env, p); err != nil {
				return nil, err
			}
			paths = append(paths, filepath.Clean(p))
		}
		deleted := 0
		for _, p := range paths {
			if !exists(p) {
				continue
			}
			if err := removeTree(p); err != nil {
				return nil, fmt.Errorf("delete %s: %w", p, classify(err))
			}
			deleted++
		}
		return function.Outputs{"deleted": deleted}, nil
	})
}

// deletable holds DeletePath to what is Thaw's own, symlinks seen through.
func deletable(env *function.Env, path string) error {
	if err := absolute("delete: path", path); err != nil {
		return err
	}
	path = filepath.Clean(path)
	if strings.Contains(filepath.Base(path), made) {
		return nil
	}
	dir := env.RestorePoint.Directory
	if dir != "" && filepath.IsAbs(dir) && len(filepath.Clean(dir)) > 1 {
		parent, err := filepath.EvalSymlinks(filepath.Dir(path))
		if os.IsNotExist(err) {
			parent, err = filepath.Dir(path), nil
		}
		real, err2 := filepath.EvalSymlinks(dir)
		if os.IsNotExist(err2) {
			real, err2 = filepath.Clean(dir), nil
		}
		if err == nil && err2 == nil && within(real, filepath.Join(parent, filepath.Base(path))) {
			return nil
		}
	}
	return fault.New(fault.User, "delete %s: it is not in the restore point's directory (%s), and its name does not say that Thaw made it (%s)", path, dir, made)
}

type verifyArgs struct {
	Archive string   `arg:"archive,required" doc:"archive that ExportPath wrote, or another file (a dump): of one not named .tar.zst only the digest is checked"`
	SHA256  string   `arg:"sha256,required" doc:"its SHA-256"`
	Require []string `arg:"require" doc:"names that must be in it (backup_label)"`
}

// verifyArchive reads every byte of an archive.
func verifyArchive() function.Function {
	return function.New(catalogue.Function{
		Name: "VerifyArchive", Family: family,
		Summary: "Read an archive in full: its SHA-256, its structure, and that certain files are in it. That a database starts from it is another check.",
		Outputs: []catalogue.Output{
			{Name: "files", Description: "number of files in it"},
			{Name: "size", Description: "size of its content"},
		},
		Idempotent: true, ReadOnly: true,
		Timeout: time.Hour,
	}, func(ctx context.Context, env *function.Env, a verifyArgs) (function.Outputs, error) {
		if err := absolute("verify: archive", a.Archive); err != nil {
			return nil, err
		}
		heartbeat(env, "checking %s", a.Archive)
		if err := checkDigest(ctx, a.Archive, a.SHA256); err != nil {
			return nil, fmt.Errorf("verify %s: %w", a.Archive, classify(err))
		}
		if !strings.HasSuffix(a.Archive, ".tar.zst") {
			info, err := os.Stat(a.Archive)
			if err != nil {
				return nil, fmt.Errorf("verify %s: %w", a.Archive, classify(err))
			}
			return function.Outputs{"files": 1, "size": info.Size()}, nil
		}
		missing := map[string]bool{}
		for _, r := range a.Require {
			missing[filepath.Clean(r)] = true
		}
		var files, size int64
		err := readArchive(ctx, a.Archive, func(h *tar.Header, r io.Reader) error {
			delete(missing, filepath.Clean(h.Name))
			n, err := io.Copy(io.Discard, r)
			if h.Typeflag == tar.TypeReg {
				files, size = files+1, size+n
				heartbeat(env, "%s read", bytesText(size))
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("verify %s: %w", a.Archive, classify(err))
		}
		for name := range missing {
			return nil, fault.New(fault.Permanent, "verify %s: %s is not in it; use another restore point", a.Archive, name)
		}
		return function.Outputs{"files": files, "size": size}, nil
	})
}
