package repository

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	kopiafs "github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/maintenance"
	"github.com/kopia/kopia/repo/manifest"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/restore"
	"github.com/kopia/kopia/snapshot/snapshotfs"
	"github.com/kopia/kopia/snapshot/snapshotmaintenance"
	"golang.org/x/sys/unix"

	"thaw/blueprints/fault"
)

// ErrNoSnapshot is wrapped where a repository has no such snapshot.
var ErrNoSnapshot = errors.New("there is no such snapshot")

// Find returns the snapshot of that id, or, where id is empty, the newest one
// of that tag. Errors: ErrNoSnapshot (fault.User).
func (r *Repository) Find(ctx context.Context, id, tag string) (*Snapshot, error) {
	m, err := r.find(ctx, id, tag)
	if err != nil {
		return nil, r.named(err)
	}
	return describe(m), nil
}

func (r *Repository) find(ctx context.Context, id, tag string) (*snapshot.Manifest, error) {
	if id != "" {
		m, err := snapshot.LoadSnapshot(ctx, r.rep, manifest.ID(id))
		if errors.Is(err, snapshot.ErrSnapshotNotFound) {
			err = fault.New(fault.User, "%w: id %s", ErrNoSnapshot, id)
		}
		return m, err
	}
	all, err := r.all(ctx, map[string]string{TagName: tag})
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fault.New(fault.User, "%w: tag %s", ErrNoSnapshot, tag)
	}
	return all[len(all)-1], nil
}

// all lists the complete snapshots of these tags, the oldest first.
func (r *Repository) all(ctx context.Context, tags map[string]string) ([]*snapshot.Manifest, error) {
	ids, err := snapshot.ListSnapshotManifests(ctx, r.rep, nil, tags)
	if err != nil {
		return nil, err
	}
	list, err := snapshot.LoadSnapshots(ctx, r.rep, ids)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(m *snapshot.Manifest) bool { return m.IncompleteReason != "" })
	slices.SortFunc(list, func(a, b *snapshot.Manifest) int { return a.StartTime.ToTime().Compare(b.StartTime.ToTime()) })
	return list, nil
}

// List returns the complete snapshots, the oldest first.
func (r *Repository) List(ctx context.Context) ([]*Snapshot, error) {
	all, err := r.all(ctx, nil)
	if err != nil {
		return nil, r.named(err)
	}
	list := make([]*Snapshot, len(all))
	for i, m := range all {
		list[i] = describe(m)
	}
	return list, nil
}

// RestoreOptions of Restore.
type RestoreOptions struct {
	// Below is the path in the snapshot to restore; all of it where it is empty.
	Below    string
	Progress func(Progress)
}

// Restore writes a snapshot's files into target, which is the place of the
// snapshot's root. Files that are there are replaced; others are left alone.
// When it returns, what it wrote is on the disk.
func (r *Repository) Restore(ctx context.Context, id, target string, o RestoreOptions) (Progress, error) {
	p, err := r.restore(ctx, id, target, o)
	if err != nil {
		return p, r.named(fmt.Errorf("restore %s to %s: %w", id, target, err))
	}
	return p, nil
}

// root is what a snapshot is of.
func (r *Repository) root(ctx context.Context, id string) (*snapshot.Manifest, kopiafs.Entry, error) {
	m, err := r.find(ctx, id, "")
	if err != nil {
		return nil, nil, err
	}
	root, err := snapshotfs.SnapshotRoot(r.rep, m)
	return m, root, err
}

func (r *Repository) restore(ctx context.Context, id, target string, o RestoreOptions) (p Progress, err error) {
	m, root, err := r.root(ctx, id)
	if err != nil {
		return p, err
	}
	if below := strings.Trim(filepath.ToSlash(filepath.Clean("/"+o.Below)), "/"); below != "" {
		if root, err = snapshotfs.GetNestedEntry(ctx, root, strings.Split(below, "/")); err != nil {
			return p, fault.New(fault.User, "path %s in the snapshot: %w", o.Below, err)
		}
	}
	parent := target
	if _, ok := root.(kopiafs.Directory); !ok {
		parent = filepath.Dir(target)
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return p, fault.New(fault.Command, "%w", err)
	}
	out := &restore.FilesystemOutput{
		TargetPath: target, OverwriteDirectories: true, OverwriteFiles: true, OverwriteSymlinks: true,
		SkipOwners: os.Geteuid() != 0,
	}
	if err := out.Init(ctx); err != nil {
		return p, err
	}
	reading, done := r.blobs.readAhead(ctx)
	defer done()
	cancel := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { close(cancel) })
	defer stop()
	last := time.Now()
	progress := func(s restore.Stats) Progress {
		return Progress{Files: int64(s.RestoredFileCount), Bytes: s.RestoredTotalFileSize, Total: m.Stats.TotalFileSize}
	}
	stats, err := restore.Entry(reading, r.rep, out, root, restore.Options{
		Parallel: parallel, Cancel: cancel,
		RestoreDirEntryAtDepth: math.MaxInt32, // else deep directories come back as placeholders
		ProgressCallback: func(_ context.Context, s restore.Stats) {
			if o.Progress != nil && time.Since(last) > tellEvery {
				last = time.Now()
				o.Progress(progress(s))
			}
		},
	})
	switch {
	case ctx.Err() != nil:
		return p, fmt.Errorf("it ended before it was complete: %w", context.Cause(ctx))
	case err != nil:
		return p, ofDisk(err)
	}
	return progress(stats), ofDisk(synced(parent, target))
}

// ofDisk makes the errors of the machine's own disk known as such.
func ofDisk(err error) error {
	var known *fault.Error
	var number syscall.Errno
	if err == nil || errors.As(err, &known) || !errors.As(err, &number) {
		return err
	}
	switch {
	case number == syscall.ENOSPC, number == syscall.EDQUOT:
		return fault.New(fault.Command, "the volume is full: %w", err)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.Command, "%w; the mover must run as root, or as the owner of the files", err)
	}
	return fault.New(fault.Command, "%w", err)
}

// synced waits until what is at a path, on the file system of a directory, is
// on its disk.
func synced(dir, at string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if unix.Syncfs(int(d.Fd())) == nil {
		return nil
	}
	// It failed for some file of the file system, perhaps long before, or of
	// another volume on it: each of ours says whether it is meant.
	return filepath.WalkDir(at, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() && !d.IsDir() {
			return err
		}
		return syncFile(path)
	})
}

func syncFile(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Sync()
}

// Delete removes a snapshot. Its blocks, where no other snapshot has them, are
// freed by Maintain. It is content where there is no such snapshot.
func (r *Repository) Delete(ctx context.Context, id string) error {
	err := repo.WriteSession(ctx, r.rep, repo.WriteSessionOptions{Purpose: "delete"}, func(ctx context.Context, w repo.RepositoryWriter) error {
		return w.DeleteManifest(ctx, manifest.ID(id))
	})
	if errors.Is(err, manifest.ErrNotFound) {
		return nil
	}
	return r.named(err)
}

// Maintain frees what no snapshot needs. Blocks that became useless lately are
// kept for a day or more, since another may be writing a snapshot that has them
// (Kopia's safety rules). In a location with an object lock it makes the locks of
// what is needed longer, and says what it could not free for its lock.
func (r *Repository) Maintain(ctx context.Context) (m Maintained, err error) {
	before, err := r.size(ctx)
	if err != nil {
		return m, err
	}
	r.blobs.kept.take()
	err = repo.DirectWriteSession(ctx, r.rep, repo.WriteSessionOptions{Purpose: "maintenance"}, func(ctx context.Context, w repo.DirectRepositoryWriter) error {
		if err := own(ctx, w); err != nil {
			return err
		}
		if err := snapshotmaintenance.Run(ctx, w, maintenance.ModeFull, true, r.safety); err != nil {
			return err
		}
		return r.hold(ctx, w)
	})
	if err != nil {
		return m, r.named(fmt.Errorf("maintain: %w", err))
	}
	m.Locked, m.Until = r.blobs.kept.take()
	after, err := r.size(ctx)
	m.Freed = max(before-after, 0)
	return m, err
}

// size is what the repository takes in the location.
func (r *Repository) size(ctx context.Context) (n int64, err error) {
	err = r.blobs.ListBlobs(ctx, "", func(b blobMetadata) error {
		n += b.Length
		return nil
	})
	return n, r.named(err)
}
