// Package repository keeps files in a location: deduplicated, compressed,
// encrypted, and only what changed. The format is Kopia's (kopia.io), nothing
// of our own: its command line opens a repository too. It knows no Temporal
// and no Kubernetes. Start with Open; save.go and restore.go have the rest.
package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"
	"github.com/kopia/kopia/repo/maintenance"

	"thaw/blueprints/fault"
	"thaw/internal/location"
)

// ErrNone is wrapped where there is no repository at the prefix.
var ErrNone = errors.New("there is no repository")

// ErrPassphrase is wrapped where the passphrase is not the repository's.
var ErrPassphrase = errors.New("the passphrase is not the repository's")

// Whoever writes is the same to Kopia: which pod or worker it was says nothing
// about what a snapshot is of.
const user = "thaw"

const (
	// hash and encryption of new repositories: of Kopia's, the fastest on a
	// processor with AES that authenticates.
	hash       = "BLAKE3-256-128"
	encryption = "AES256-GCM-HMAC-SHA256"
	// indexCache bounds what of the repository's own data is kept on disk.
	indexCache = 2 << 30
)

// Options of Open.
type Options struct {
	// Prefix below the location, without slashes at its ends.
	Prefix     string
	Passphrase string
	// Create makes the repository where there is none.
	Create bool
}

// Repository is an opened repository. Its methods are safe for concurrent use.
type Repository struct {
	rep    repo.DirectRepository
	blobs  *blobs
	dir    string
	prefix string
	safety maintenance.SafetyParameters // of Maintain, while others write
}

// Open opens the repository at a prefix of a location. The store stays the
// caller's. Errors: ErrNone, ErrPassphrase (both fault.User), and the store's.
func Open(ctx context.Context, store location.Store, o Options) (*Repository, error) {
	if o.Passphrase == "" {
		return nil, fault.New(fault.User, "repository %s: no passphrase is given", o.Prefix)
	}
	prefix := strings.Trim(path.Clean("/"+o.Prefix), "/")
	if prefix == "" {
		return nil, fault.New(fault.User, "the repository's path in the location is empty")
	}
	dir, err := os.MkdirTemp("", "thaw-repository-")
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	r := &Repository{blobs: newBlobs(store, prefix+"/"), dir: dir, prefix: prefix, safety: maintenance.SafetyFull}
	if err := r.open(ctx, o); err != nil {
		return nil, errors.Join(r.named(err), r.Close(ctx))
	}
	return r, nil
}

// With opens a repository, and closes it after use.
func With(ctx context.Context, store location.Store, o Options, use func(*Repository) error) (err error) {
	r, err := Open(ctx, store, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close(ctx)) }()
	return use(r)
}

func (r *Repository) open(ctx context.Context, o Options) error {
	config := filepath.Join(r.dir, "repository.config")
	connect := func() error {
		return repo.Connect(ctx, config, r.blobs, o.Passphrase, &repo.ConnectOptions{
			ClientOptions: repo.ClientOptions{Hostname: user, Username: user, FormatBlobCacheDuration: -1},
			CachingOptions: content.CachingOptions{
				CacheDirectory: filepath.Join(r.dir, "cache"), MetadataCacheSizeBytes: indexCache, MetadataCacheSizeLimitBytes: indexCache,
				// Data is read once: a cache would only write it to the disk.
				ContentCacheSizeBytes: 0,
			},
		})
	}
	err := connect()
	if errors.Is(err, repo.ErrRepositoryNotInitialized) && o.Create {
		if err := r.create(ctx, o.Passphrase); err != nil {
			return err
		}
		err = connect()
	}
	if err != nil {
		return err
	}
	opened, err := repo.Open(ctx, config, o.Passphrase, &repo.Options{
		DisableRepositoryLog: true,
		OnFatalError:         func(error) {}, // the call that met it returns it
	})
	if err != nil {
		return err
	}
	direct, ok := opened.(repo.DirectRepository)
	if !ok {
		return errors.New("this is no repository that can be written directly")
	}
	r.rep = direct
	return nil
}

// create makes the repository; of several at once, one. Kopia looks whether one
// is there and then writes two blobs: of two movers that begin together each
// could write one, and nobody would open what they made. So it writes drafts,
// and whose format is in the location first has made it.
func (r *Repository) create(ctx context.Context, passphrase string) error {
	var block format.ContentFormat
	block.Hash, block.Encryption = hash, encryption
	held := retention(r.blobs.store.Lock())
	d := &draft{blobs: r.blobs, of: map[blob.ID][]byte{}}
	err := repo.Initialize(ctx, d, &repo.NewRepositoryOptions{
		BlockFormat: block, ObjectFormat: format.ObjectFormat{Splitter: ofVolume},
		RetentionMode: held.RetentionMode, RetentionPeriod: held.RetentionPeriod,
	}, passphrase)
	if errors.Is(err, repo.ErrAlreadyInitialized) {
		return nil
	}
	if err != nil {
		return err
	}
	switch err := d.put(ctx, format.KopiaRepositoryBlobID, blob.PutOptions{DoNotRecreate: true}); {
	case errors.Is(err, blob.ErrBlobAlreadyExists):
		return nil
	case err != nil:
		return err
	}
	// Without it the format's defaults hold: whoever opens it now can.
	return d.put(ctx, format.KopiaBlobCfgBlobID, blob.PutOptions{})
}

// draft is the blobs of a repository that is not there yet.
type draft struct {
	*blobs
	of map[blob.ID][]byte
}

func (d *draft) PutBlob(_ context.Context, id blob.ID, data blob.Bytes, _ blob.PutOptions) (err error) {
	r := data.Reader()
	defer func() { _ = r.Close() }()
	d.of[id], err = io.ReadAll(r)
	return err
}

// GetBlob finds no configuration where there is no format: it is left of one
// whose creation was cut off.
func (d *draft) GetBlob(ctx context.Context, id blob.ID, offset, length int64, out blob.OutputBuffer) error {
	if id == format.KopiaBlobCfgBlobID {
		return blob.ErrBlobNotFound
	}
	return d.blobs.GetBlob(ctx, id, offset, length, out)
}

func (d *draft) put(ctx context.Context, id blob.ID, o blob.PutOptions) error {
	return d.blobs.PutBlob(ctx, id, plain(d.of[id]), o)
}

// plain is a blob's content in one piece.
type plain []byte

func (p plain) Length() int                        { return len(p) }
func (p plain) Reader() io.ReadSeekCloser          { return plainReader{bytes.NewReader(p)} }
func (p plain) WriteTo(w io.Writer) (int64, error) { return bytes.NewReader(p).WriteTo(w) }

type plainReader struct{ *bytes.Reader }

func (plainReader) Close() error { return nil }

// named says which repository an error is of, and makes a person's mistakes
// known as such.
func (r *Repository) named(err error) error {
	at := r.blobs.store.String() + ", path " + r.prefix
	switch {
	case err == nil:
		return nil
	case errors.Is(err, repo.ErrRepositoryNotInitialized):
		return fault.New(fault.User, "%s: %w", at, ErrNone)
	case errors.Is(err, repo.ErrInvalidPassword), errors.Is(err, format.ErrInvalidPassword):
		return fault.New(fault.User, "%s: %w; it was made with another key", at, ErrPassphrase)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.User, "%s: %w", at, err)
	case strings.Contains(err.Error(), "clock skew detected"): // Kopia has no word of its own for it
		return fault.New(fault.User, "%s: %w; set this machine's clock and the store's by NTP", at, err)
	}
	return fmt.Errorf("%s: %w", at, err)
}

// Written is how many bytes were written to the location.
func (r *Repository) Written() int64 { return r.blobs.put.Load() }

// Close ends the use of the repository.
func (r *Repository) Close(ctx context.Context) error {
	var err error
	if r.rep != nil {
		err = r.rep.Close(context.WithoutCancel(ctx))
	}
	r.blobs.forget()
	return errors.Join(err, os.RemoveAll(r.dir))
}

// own makes this the owner of the repository's maintenance, once.
func own(ctx context.Context, w repo.RepositoryWriter) error {
	p, err := maintenance.GetParams(ctx, w)
	if err != nil {
		return err
	}
	if p.Owner == user+"@"+user {
		return nil
	}
	p.Owner = user + "@" + user
	return maintenance.SetParams(ctx, w, p)
}
