package host

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type restoreArgs struct {
	Archive string  `arg:"archive" doc:"archive that ExportPath wrote; required, unless undo is given"`
	SHA256  string  `arg:"sha256" doc:"its SHA-256; all of it is checked before anything is replaced; required, unless undo is given"`
	Path    string  `arg:"path,required" doc:"directory to restore; it need not exist"`
	Owner   string  `arg:"owner" doc:"user:group that everything is to belong to (default: as in the archive)"`
	Undo    *string `arg:"undo" type:"string" doc:"the output previous of an earlier RestorePath: swaps that back, for compensate"`
}

// restorePath replaces a directory by an archive's content, in one rename. What
// was there is kept beside it. It is idempotent by the call's key: a second
// attempt finds the first's swap and is done.
func restorePath() function.Function {
	return function.New(catalogue.Function{
		Name: "RestorePath", Family: family,
		Summary: "Restore a directory from an archive: checked, extracted beside it and synced, then swapped in by one rename. What was there is kept as <path>.thaw-before-<key>.",
		Outputs: []catalogue.Output{
			{Name: "path", Description: "the restored directory"},
			{Name: "previous", Description: "where the former content is now; empty where there was none"},
			{Name: "files", Description: "number of files restored"},
		},
		Idempotent: true,
		Timeout:    2 * time.Hour,
	}, func(ctx context.Context, env *function.Env, a restoreArgs) (function.Outputs, error) {
		act := restore
		switch {
		case a.Undo != nil && *a.Undo != "":
			act = swapBack
		case a.Undo != nil && a.Archive == "":
			// There was nothing before, or the restore never came to its swap.
			return function.Outputs{"path": a.Path, "previous": ""}, nil
		}
		out, err := act(ctx, env, a)
		if err != nil {
			return nil, fmt.Errorf("restore %s: %w", a.Path, classify(err))
		}
		return out, nil
	})
}

func restore(ctx context.Context, env *function.Env, a restoreArgs) (function.Outputs, error) {
	if a.Archive == "" || a.SHA256 == "" {
		return nil, fault.New(fault.User, "archive and sha256 are required")
	}
	for what, p := range map[string]string{"path": a.Path, "archive": a.Archive} {
		if err := absolute(what, p); err != nil {
			return nil, err
		}
	}
	target := filepath.Clean(a.Path)
	if isMountPoint(target) {
		return nil, fault.New(fault.User, "it is a mount point, which cannot be renamed: keep the data in a directory below it, and restore that")
	}
	previous := target + made + "before-" + env.Key
	fresh := target + made + "new-" + env.Key
	out := function.Outputs{"path": target, "previous": ""}
	if exists(previous) && exists(target) { // an earlier attempt swapped
		out["previous"] = previous
		return out, os.RemoveAll(fresh)
	}
	if swapped(env, target) { // an earlier attempt did, and maybe no more
		return restored(env, out, target, fresh, previous)
	}
	owner, err := parseOwner(a.Owner)
	if err != nil {
		return nil, err
	}
	heartbeat(env, "checking %s", a.Archive)
	if err := checkDigest(ctx, a.Archive, a.SHA256); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(fresh); err != nil {
		return nil, err
	}
	files, err := extract(ctx, env, a.Archive, fresh, owner)
	if err != nil {
		_ = os.RemoveAll(fresh)
		return nil, err
	}
	out["files"] = files
	return restored(env, out, target, fresh, previous)
}

// restored swaps the fresh content in, and keeps the former.
func restored(env *function.Env, out function.Outputs, target, fresh, previous string) (function.Outputs, error) {
	if err := swap(env, target, fresh, previous); err != nil {
		return nil, err
	}
	if exists(previous) {
		out["previous"] = previous
	}
	return out, nil
}

// swap puts a directory in the target's place, so that the path is never
// absent, and keeps the former content under another name. It is idempotent
// after a death at any of its steps: which directory is to be the target is
// noted on disk before. Without that, a second attempt takes the former
// content for the new one that an attempt before it left half done.
func swap(env *function.Env, target, with, kept string) error {
	if !swapped(env, target) {
		if err := noteSwap(env, with); err != nil {
			return fmt.Errorf("note the swap: %w", err)
		}
		flags := uint(0)
		if exists(target) {
			flags = unix.RENAME_EXCHANGE
		}
		if err := unix.Renameat2(unix.AT_FDCWD, with, unix.AT_FDCWD, target, flags); err != nil {
			return fmt.Errorf("swap in %s: %w", with, err)
		}
	}
	if exists(with) {
		if err := os.Rename(with, kept); err != nil {
			return fmt.Errorf("keep the former content: %w; it is at %s", err, with)
		}
	}
	return syncDir(filepath.Dir(target))
}

func swapNote(env *function.Env) string { return filepath.Join(env.StateDir, "restored", env.Key) }

func noteSwap(env *function.Env, with string) error {
	dev, ino, err := inode(with)
	if err != nil {
		return err
	}
	note := swapNote(env)
	if err := os.MkdirAll(filepath.Dir(note), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(note, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d:%d", dev, ino)
	return errors.Join(err, f.Sync(), f.Close(), syncDir(filepath.Dir(note)))
}

// swapped reports whether the target is what this call was to put there.
func swapped(env *function.Env, target string) bool {
	b, err := os.ReadFile(swapNote(env))
	if err != nil {
		return false
	}
	dev, ino, err := inode(target)
	return err == nil && string(b) == fmt.Sprintf("%d:%d", dev, ino)
}

// swapBack puts the former content back. What was restored is kept as
// <path>.thaw-undone-<key>.
func swapBack(_ context.Context, env *function.Env, a restoreArgs) (function.Outputs, error) {
	target := filepath.Clean(a.Path)
	former := *a.Undo
	if !strings.HasPrefix(former, target+made+"before-") {
		return nil, fault.New(fault.User, "undo %q is not what an earlier restore of it kept", former)
	}
	undone := target + made + "undone-" + env.Key
	out := function.Outputs{"path": target, "previous": undone}
	switch {
	case !exists(former) && exists(target):
		return out, nil // swapped back before
	case !exists(former):
		return nil, fault.New(fault.Permanent, "neither it nor its former content %s is there", former)
	}
	return out, swap(env, target, former, undone)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func isMountPoint(path string) bool {
	dev, _, err1 := inode(path)
	up, _, err2 := inode(filepath.Dir(path))
	return err1 == nil && err2 == nil && dev != up && !isSubvolume(path)
}

// extract unpacks an archive into a new directory and syncs it to disk. It is
// confined to that directory by os.Root: no name and no symlink in the archive
// leads out.
func extract(ctx context.Context, env *function.Env, archive, dir string, owner *ownership) (files int64, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	x := &extraction{root: root, owner: owner}
	err = readArchive(ctx, archive, func(h *tar.Header, r io.Reader) error {
		if err := x.entry(ctx, h, r); err != nil {
			return fmt.Errorf("extract %s: %w", h.Name, err)
		}
		if h.Typeflag == tar.TypeReg {
			files++
			if files%256 == 0 {
				heartbeat(env, "%d files restored", files)
			}
		}
		return nil
	})
	if err != nil {
		return files, err
	}
	return files, x.finish(dir)
}

type extraction struct {
	root  *os.Root
	owner *ownership
	dirs  []*tar.Header // their times are set last
}

func (x *extraction) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	name := path.Clean(h.Name)
	if !filepath.IsLocal(name) {
		return fault.New(fault.Permanent, "its name leads out of the archive")
	}
	if parent := path.Dir(name); parent != "." {
		if err := x.root.MkdirAll(parent, 0o700); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if name != "." {
			if err := x.root.MkdirAll(name, 0o700); err != nil {
				return err
			}
		}
		x.dirs = append(x.dirs, h)
		return nil
	case tar.TypeReg:
		if err := x.file(ctx, name, r); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := x.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return x.own(name, h)
	case tar.TypeLink:
		return x.root.Link(path.Clean(h.Linkname), name)
	default:
		return fault.New(fault.Permanent, "type %q: an export of Thaw has none of it", h.Typeflag)
	}
	return x.meta(name, h)
}

func (x *extraction) file(ctx context.Context, name string, r io.Reader) error {
	f, err := x.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if _, err := io.CopyN(f, r, 8<<20); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	return f.Close()
}

func (x *extraction) own(name string, h *tar.Header) error {
	uid, gid := h.Uid, h.Gid
	if x.owner != nil {
		uid, gid = x.owner.uid, x.owner.gid
	}
	err := x.root.Lchown(name, uid, gid)
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return nil // only root gives files away
	}
	return err
}

func (x *extraction) meta(name string, h *tar.Header) error {
	if err := x.own(name, h); err != nil {
		return err
	}
	full := filepath.Join(x.root.Name(), name)
	for k, v := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(k, xattrRecord); ok {
			_ = unix.Lsetxattr(full, attr, []byte(v), 0) // as far as rights and file system go
		}
	}
	if err := x.root.Chmod(name, h.FileInfo().Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	return x.root.Chtimes(name, h.ModTime, h.ModTime)
}

// finish sets the directories' metadata, and makes all of it durable with one
// syncfs: thousands of fsyncs take minutes.
func (x *extraction) finish(dir string) error {
	for i := len(x.dirs) - 1; i >= 0; i-- {
		if err := x.meta(path.Clean(x.dirs[i].Name), x.dirs[i]); err != nil {
			return fmt.Errorf("extract %s: %w", x.dirs[i].Name, err)
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}
