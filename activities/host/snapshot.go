package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type snapshotArgs struct {
	Path           string   `arg:"path,required" doc:"file or directory to snapshot"`
	Siblings       []string `arg:"siblings" doc:"suffixes of files beside the path that belong to it, where they exist (SQLite's -wal)"`
	Include        []string `arg:"include" doc:"patterns, relative to the path, of what to copy (default: all); ** is any number of directories. An atomic snapshot holds all; give the patterns to ExportPath then"`
	Exclude        []string `arg:"exclude" doc:"patterns, relative to the path, of what to leave out"`
	NameFrom       string   `arg:"nameFrom" doc:"first file name of a range, in order of names; it must exist when it is copied (the first WAL segment)"`
	NameTo         string   `arg:"nameTo" doc:"last file name of the range; it must exist"`
	RequireAtomic  bool     `arg:"requireAtomic" default:"false" doc:"fail, before the freeze, where the file system cannot snapshot all of it at one instant"`
	Writable       bool     `arg:"writable" default:"false" doc:"let the snapshot be written to (a database that recovers in it); copies always can"`
	IgnoreVanished bool     `arg:"ignoreVanished" default:"false" doc:"leave out files that disappear during a copy, instead of failing"`
	Destination    string   `arg:"destination" doc:"where the snapshot goes (default: snapshot-<phase> in the restore point's directory). A btrfs snapshot or a reflink must lie on the path's own file system: where the default does not, it goes beside the path, named .thaw-<key>"`
}

// The ways to cut, best first.
const (
	methodBtrfs   = "btrfs"
	methodReflink = "reflink"
	methodCopy    = "copy"
)

// snapshotPath is the cut. Everything is looked up and checked before; inside
// the window there is one ioctl (btrfs), one a file (reflink), or the copy.
//
// Idempotent: the destination derives from the call's key, and another attempt
// replaces what an earlier one left half done.
func snapshotPath() function.Function {
	return function.Prepared(catalogue.Function{
		Name: "SnapshotPath", Family: family,
		Summary: "Snapshot a file or a directory: atomically by a btrfs subvolume snapshot, else file by file, by reflink or copy. Run it in a freeze. It is not synced to disk: ExportPath makes it durable.",
		Outputs: []catalogue.Output{
			{Name: "path", Description: "the snapshot of the path"},
			{Name: "method", Description: "btrfs, reflink or copy"},
			{Name: "atomic", Description: "true where all of it is of one instant"},
			{Name: "remove", Description: "what to give to DeletePath when the snapshot is no longer needed"},
			{Name: "subvolume", Description: "the snapshot of the subvolume that holds the path (btrfs)"},
			{Name: "bytes", Description: "bytes copied (not for btrfs)"},
			{Name: "files", Description: "files copied (not for btrfs)"},
		},
		Cut:        true,
		Idempotent: true,
		Timeout:    10 * time.Minute,
	}, func(ctx context.Context, env *function.Env, a snapshotArgs) (function.Act, func(), error) {
		s := &snapshot{snapshotArgs: a, env: env, selection: selection{include: a.Include, exclude: a.Exclude, from: a.NameFrom, to: a.NameTo}}
		if err := s.prepare(ctx); err != nil {
			return nil, nil, fmt.Errorf("snapshot %s: %w", a.Path, classify(err))
		}
		return func(ctx context.Context) (function.Outputs, error) {
			out, err := s.cut(ctx)
			if err != nil {
				return nil, fmt.Errorf("snapshot %s by %s: %w", a.Path, s.method, classify(err))
			}
			return out, nil
		}, nil, nil
	})
}

type snapshot struct {
	snapshotArgs
	selection
	env       *function.Env
	method    string
	dest      string // of the tree, or of the subvolume's snapshot
	subvolume string // to snapshot
	single    bool   // the path is a file
}

func (s *snapshot) prepare(ctx context.Context) error {
	if err := absolute("path", s.Path); err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return err
	}
	// A symlink as the path itself means what it points to.
	real, err := filepath.EvalSymlinks(s.Path)
	if err != nil {
		return err
	}
	s.Path = real
	info, err := os.Stat(real)
	if err != nil {
		return err
	}
	s.single = !info.IsDir()
	if s.single && (s.include != nil || s.exclude != nil || s.from != "") {
		return fault.New(fault.User, "it is a file: include, exclude, nameFrom and nameTo are for directories")
	}
	wanted := s.Destination
	if wanted == "" {
		if wanted, err = inRestorePoint(s.env, "snapshot-"+s.env.Phase); err != nil {
			return err
		}
	}
	if err := absolute("destination", wanted); err != nil {
		return err
	}
	if within(real, wanted) || within(wanted, real) {
		return fault.New(fault.User, "destination %s and path lie in each other", wanted)
	}
	if err := os.MkdirAll(filepath.Dir(wanted), 0o700); err != nil {
		return err
	}
	if err := s.choose(wanted); err != nil {
		return err
	}
	if err := removeTree(s.dest); err != nil { // of an earlier attempt
		return fmt.Errorf("remove what an earlier attempt left: %w", err)
	}
	if s.method == methodCopy {
		return s.room(ctx)
	}
	return nil
}

// choose picks the best way that works here.
func (s *snapshot) choose(wanted string) error {
	why := "it is not on btrfs"
	if sub := subvolumeOf(s.Path); sub != "" {
		nested, err := nestedSubvolume(s.Path)
		if err != nil {
			return err
		}
		dest := s.place(wanted, sub, filepath.Dir(sub), sub)
		switch {
		case nested != "":
			why = fmt.Sprintf("%s in it is another subvolume or file system", nested)
		case dest == "":
			why = "there is no place for a snapshot on its file system"
		default:
			s.method, s.subvolume, s.dest = methodBtrfs, sub, dest
			return nil
		}
	}
	if s.RequireAtomic {
		return fault.New(fault.User, "it cannot be snapshotted atomically: %s; put the data in a btrfs subvolume of its own, or use a blueprint that holds writers for as long as a copy takes", why)
	}
	if dest := s.place(wanted, s.Path, filepath.Dir(s.Path)); dest != "" && canReflink(filepath.Dir(dest)) {
		s.method, s.dest = methodReflink, dest
		return nil
	}
	s.method, s.dest = methodCopy, wanted
	return nil
}

// place returns the wanted destination where it lies on the same file system
// as what is snapshotted; else, unless a person chose it, a hidden name in one
// of the other directories.
func (s *snapshot) place(wanted, of string, others ...string) string {
	if sameFilesystem(filepath.Dir(wanted), of) {
		return wanted
	}
	if s.Destination != "" {
		return ""
	}
	for _, dir := range others {
		if sameFilesystem(dir, of) {
			return filepath.Join(dir, made+s.env.Key)
		}
	}
	return ""
}

// sameFilesystem compares file systems, not devices: each btrfs subvolume has
// a device number of its own, and the lower half of the file system's id too.
func sameFilesystem(a, b string) bool {
	if onBtrfs(a) && onBtrfs(b) {
		var x, y unix.Statfs_t
		return unix.Statfs(a, &x) == nil && unix.Statfs(b, &y) == nil && x.Fsid.Val[0] == y.Fsid.Val[0]
	}
	da, _, err1 := inode(a)
	db, _, err2 := inode(b)
	return err1 == nil && err2 == nil && da == db
}

// canReflink tries it, in the destination's directory.
func canReflink(dir string) bool {
	src, err := os.CreateTemp(dir, made+"probe-")
	if err != nil {
		return false
	}
	defer func() { src.Close(); os.Remove(src.Name()) }()
	dst, err := os.CreateTemp(dir, made+"probe-")
	if err != nil {
		return false
	}
	defer func() { dst.Close(); os.Remove(dst.Name()) }()
	if _, err := src.WriteString("probe"); err != nil {
		return false
	}
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}

// room checks that a copy fits.
func (s *snapshot) room(context.Context) error {
	need, _, err := s.measure(s.Path)
	if err != nil {
		return err
	}
	for _, suffix := range s.Siblings {
		if info, err := os.Stat(s.Path + suffix); err == nil {
			need += info.Size()
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(s.dest), &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return fault.New(fault.Permanent, "%s has %s free, the copy needs %s; free space there, or set destination", filepath.Dir(s.dest), bytesText(free), bytesText(need))
	}
	return nil
}

func (s *snapshot) cut(ctx context.Context) (function.Outputs, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := removeTree(s.dest); err != nil { // of a first run of this act
		return nil, err
	}
	out := function.Outputs{"method": s.method, "atomic": s.method == methodBtrfs, "remove": s.dest}
	if s.method == methodBtrfs {
		if err := snapshotSubvolume(s.subvolume, s.dest, !s.Writable); err != nil {
			return nil, err
		}
		rel, err := filepath.Rel(s.subvolume, s.Path)
		if err != nil {
			return nil, err
		}
		out["path"], out["subvolume"] = filepath.Join(s.dest, rel), s.dest
		return out, s.rangeExists(filepath.Join(s.dest, rel))
	}
	c := &copier{selection: s.selection, reflink: s.method == methodReflink, ignoreVanished: s.IgnoreVanished}
	path := s.dest
	if s.single {
		path = filepath.Join(s.dest, filepath.Base(s.Path))
		if err := s.copyFiles(ctx, c); err != nil {
			return nil, err
		}
	} else {
		if err := c.tree(ctx, s.Path, s.dest); err != nil {
			return nil, err
		}
		if err := s.rangeExists(s.dest); err != nil {
			return nil, err
		}
	}
	out["path"], out["bytes"], out["files"] = path, c.bytes, c.files
	return out, nil
}

// copyFiles copies a file and its siblings into the destination.
func (s *snapshot) copyFiles(ctx context.Context, c *copier) error {
	if err := os.MkdirAll(s.dest, 0o700); err != nil {
		return err
	}
	for _, suffix := range append([]string{""}, s.Siblings...) {
		from := s.Path + suffix
		info, err := os.Stat(from)
		if errors.Is(err, fs.ErrNotExist) && suffix != "" {
			continue
		}
		if err != nil {
			return err
		}
		if err := c.file(ctx, from, filepath.Join(s.dest, filepath.Base(from)), info); err != nil {
			return err
		}
	}
	return nil
}

// rangeExists checks the ends of a range of names in the snapshot.
func (s *snapshot) rangeExists(dir string) error {
	if s.from == "" {
		return nil
	}
	for _, name := range []string{s.from, s.to} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			return fault.New(fault.Permanent, "%s is not in it: the range %s to %s is not complete (was it removed or recycled meanwhile?)", name, s.from, s.to)
		}
	}
	return nil
}
