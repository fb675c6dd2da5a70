package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kopia/kopia/repo/blob"

	"thaw/blueprints/fault"
	"thaw/internal/location"
)

// blobs is Kopia's storage on a location. A blob is the object <prefix>/<id>,
// as Kopia's own stores for S3, GCS and Azure name it, so that Kopia's tools
// can open a repository without Thaw.
type blobs struct {
	blob.DefaultProviderImplementation
	store  location.Store
	prefix string // with a slash at its end
	handle string
	put    *atomic.Int64          // bytes written
	ahead  *atomic.Pointer[ahead] // while something is restored, or verified
	kept   *kept
	// patience bounds how long a call waits for a store that is away: a backup
	// of hours does not fail over a network of minutes.
	patience time.Duration
}

// storageType is how Kopia finds the storage again that it was opened with. A
// handle in this process, not the location: Kopia writes it to a file.
const storageType = "thaw"

type blobMetadata = blob.Metadata

type handle struct {
	Handle string `json:"handle"`
}

var (
	open     sync.Map // handle -> *blobs
	handles  atomic.Int64
	register = sync.OnceFunc(func() {
		blob.AddSupportedStorage(storageType, handle{}, func(_ context.Context, o *handle, _ bool) (blob.Storage, error) {
			if b, ok := open.Load(o.Handle); ok {
				return b.(*blobs), nil
			}
			return nil, fmt.Errorf("no open location %s in this process", o.Handle)
		})
	})
)

func newBlobs(store location.Store, prefix string) *blobs {
	register()
	b := &blobs{store: store, prefix: prefix, handle: strconv.FormatInt(handles.Add(1), 10), put: &atomic.Int64{}, ahead: &atomic.Pointer[ahead]{}, kept: &kept{}, patience: 15 * time.Minute}
	open.Store(b.handle, b)
	return b
}

func (b *blobs) forget() { open.Delete(b.handle) }

func (b *blobs) name(id blob.ID) string { return b.prefix + string(id) }

func (b *blobs) insist(ctx context.Context, call func() error) error {
	end := time.Now().Add(b.patience)
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 15*time.Second) {
		err := call()
		if err == nil || fault.Of(err) != fault.Transient || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// asKopia gives an error the words that Kopia looks for.
func asKopia(err error) error {
	for ours, theirs := range map[error]error{location.ErrNotFound: blob.ErrBlobNotFound, location.ErrExists: blob.ErrBlobAlreadyExists, location.ErrRange: blob.ErrInvalidRange} {
		if errors.Is(err, ours) {
			return fmt.Errorf("%w: %w", theirs, err)
		}
	}
	return err
}

func (b *blobs) PutBlob(ctx context.Context, id blob.ID, data blob.Bytes, o blob.PutOptions) error {
	if !o.SetModTime.IsZero() {
		return blob.ErrSetTimeUnsupported
	}
	return asKopia(b.insist(ctx, func() error {
		r := data.Reader()
		defer func() { _ = r.Close() }()
		made, err := b.store.Put(ctx, b.name(id), r, location.PutOptions{New: o.DoNotRecreate, Size: int64(data.Length()), Unlocked: !lasting(id)})
		if err == nil {
			b.put.Add(int64(data.Length()))
			if o.GetModTime != nil {
				*o.GetModTime = made.Modified
			}
		}
		return err
	}))
}

func (b *blobs) GetBlob(ctx context.Context, id blob.ID, offset, length int64, out blob.OutputBuffer) error {
	if offset < 0 {
		return fmt.Errorf("%w: %d", blob.ErrInvalidRange, offset)
	}
	if a := b.ahead.Load(); a != nil && a.of(id, length) {
		out.Reset()
		if a.read(ctx, id, offset, length, out) == nil {
			return blob.EnsureLengthExactly(out.Length(), length)
		}
	}
	err := b.insist(ctx, func() error {
		out.Reset()
		r, err := b.store.Get(ctx, b.name(id), offset, length)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, r)
		return errors.Join(err, r.Close())
	})
	if err != nil {
		return asKopia(err)
	}
	return blob.EnsureLengthExactly(out.Length(), length)
}

func (b *blobs) GetMetadata(ctx context.Context, id blob.ID) (blob.Metadata, error) {
	var o location.Object
	err := b.insist(ctx, func() (err error) {
		o, err = b.store.Stat(ctx, b.name(id))
		return err
	})
	return blob.Metadata{BlobID: id, Length: o.Size, Timestamp: o.Modified}, asKopia(err)
}

func (b *blobs) DeleteBlob(ctx context.Context, id blob.ID) error {
	err := b.insist(ctx, func() error { return b.store.Delete(ctx, b.name(id)) })
	if errors.Is(err, location.ErrLocked) { // what frees space tries again the next time
		return b.keep(ctx, id)
	}
	return asKopia(err)
}

func (b *blobs) ListBlobs(ctx context.Context, prefix blob.ID, each func(blob.Metadata) error) error {
	var all []blob.Metadata // told once: a list that is begun again would tell some twice
	err := b.insist(ctx, func() error {
		all = all[:0]
		return b.store.List(ctx, b.name(prefix), func(o location.Object) error {
			all = append(all, blob.Metadata{BlobID: blob.ID(o.Name[len(b.prefix):]), Length: o.Size, Timestamp: o.Modified})
			return nil
		})
	})
	if err != nil {
		return asKopia(err)
	}
	for _, m := range all {
		if err := each(m); err != nil {
			return err
		}
	}
	return nil
}

func (b *blobs) ExtendBlobRetention(ctx context.Context, id blob.ID, o blob.ExtendOptions) error {
	err := b.insist(ctx, func() error { return b.store.Extend(ctx, b.name(id), time.Now().Add(o.RetentionPeriod)) })
	if errors.Is(err, location.ErrNotFound) { // it went since it was listed
		return nil
	}
	return asKopia(err)
}

func (b *blobs) DisplayName() string { return b.store.String() + "/" + b.prefix }

func (b *blobs) ConnectionInfo() blob.ConnectionInfo {
	return blob.ConnectionInfo{Type: storageType, Config: &handle{b.handle}}
}
