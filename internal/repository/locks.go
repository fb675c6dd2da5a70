package repository

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"
	"golang.org/x/sync/errgroup"

	"thaw/internal/location"
)

// lasting says of which blobs a lock makes sense, as Kopia does: packs,
// indexes and the repository's format. Others are written over, or go with the
// session that made them.
func lasting(id blob.ID) bool {
	return slices.ContainsFunc(repo.GetLockingStoragePrefixes(), func(p blob.ID) bool { return strings.HasPrefix(string(id), string(p)) })
}

// retention is a location's lock, as a repository's own format says it to
// Kopia's tools.
func retention(l location.Lock) format.BlobStorageConfiguration {
	return format.BlobStorageConfiguration{RetentionMode: blob.RetentionMode(strings.ToUpper(l.Mode)), RetentionPeriod: l.For}
}

// kept are the blobs that could not be deleted, for their locks.
type kept struct {
	mu    sync.Mutex
	bytes int64
	until time.Time
}

// keep notes a blob that is locked. Kopia is not told: it deletes what nothing
// refers to, and finds it again the next time.
func (b *blobs) keep(ctx context.Context, id blob.ID) error {
	o, err := b.store.Stat(ctx, b.name(id))
	if errors.Is(err, location.ErrNotFound) { // hidden meanwhile: it is in no list any more
		return nil
	}
	if err != nil {
		return err
	}
	b.kept.mu.Lock()
	defer b.kept.mu.Unlock()
	b.kept.bytes += o.Size
	if o.LockedUntil.After(b.kept.until) {
		b.kept.until = o.LockedUntil
	}
	return nil
}

// take returns what was kept, and forgets it.
func (k *kept) take() (bytes int64, until time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	bytes, until = k.bytes, k.until
	k.bytes, k.until = 0, time.Time{}
	return bytes, until
}

// hold makes the locks of all that snapshots refer to as long as that of what
// is written now: a new snapshot has blocks of old ones. Packs that nothing
// refers to are left out, or they would be locked for ever; this is why it is
// not left to Kopia's own way, which extends all.
func (r *Repository) hold(ctx context.Context, w repo.DirectRepositoryWriter) error {
	lock := r.blobs.store.Lock()
	if lock.Mode == "" {
		return nil
	}
	var mu sync.Mutex
	useless := map[blob.ID]bool{}
	err := w.ContentManager().IterateUnreferencedPacks(ctx, content.PackBlobIDPrefixes, parallel, func(b blob.Metadata) error {
		mu.Lock()
		defer mu.Unlock()
		useless[b.BlobID] = true
		return nil
	})
	if err != nil {
		return err
	}
	const atOnce = 16
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, prefix := range repo.GetLockingStoragePrefixes() {
		err = r.blobs.ListBlobs(ctx, prefix, func(b blob.Metadata) error {
			if !useless[b.BlobID] {
				g.Go(func() error {
					return r.blobs.ExtendBlobRetention(ctx, b.BlobID, blob.ExtendOptions{RetentionPeriod: lock.For})
				})
			}
			return ctx.Err()
		})
		if err != nil {
			break
		}
	}
	if failed := g.Wait(); failed != nil {
		return failed // which may be why the list ended
	}
	return err
}

// Maintained is what Maintain did.
type Maintained struct {
	Freed int64 // bytes that the location holds less
	// Locked are the bytes that nobody needs, and that the location's lock
	// holds; the last of them until Until. A later Maintain frees them.
	Locked int64
	Until  time.Time
}
