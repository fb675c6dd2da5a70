package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"strings"
	"sync"

	kopiafs "github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/object"

	"thaw/blueprints/fault"
)

const (
	// shownFaults bounds what one verification says.
	shownFaults = 20
	// sampled is the length of what is read of a file at a time, where not all
	// of it is: of a volume with one large file a sample of files would be all
	// or nothing.
	sampled = 4 << 20
)

// Verify checks that all that a snapshot needs is in the location, and reads
// back that percentage of its bytes, at random; what is read is decrypted and
// authenticated, and so proven to be what was written. It returns what it read.
// Errors: ErrNoSnapshot; fault.Permanent with every file that is damaged; the
// store's.
func (r *Repository) Verify(ctx context.Context, id string, percent float64) (Progress, error) {
	p, err := r.verify(ctx, id, percent)
	if err != nil {
		return p, r.named(fmt.Errorf("verify %s: %w", id, err))
	}
	return p, nil
}

func (r *Repository) verify(ctx context.Context, id string, percent float64) (p Progress, err error) {
	m, root, err := r.root(ctx, id)
	if err != nil {
		return p, err
	}
	v := &verifier{r: r, part: percent / 100, there: map[blob.ID]bool{}, files: make(chan file)}
	if err := r.blobs.ListBlobs(ctx, "", func(b blobMetadata) error {
		v.there[b.BlobID] = true
		return nil
	}); err != nil {
		return p, err
	}
	reading, done := r.blobs.readAhead(ctx)
	defer done()
	var all sync.WaitGroup
	for range parallel {
		all.Go(func() {
			for f := range v.files {
				v.note(f.path, v.file(reading, f))
			}
		})
	}
	v.walk(reading, root, "/")
	close(v.files)
	all.Wait()
	p = Progress{Files: v.read.Files, Bytes: v.read.Bytes, Total: m.Stats.TotalFileSize}
	switch {
	case ctx.Err() != nil:
		return p, fmt.Errorf("it ended before it was complete: %w", context.Cause(ctx))
	case v.store != nil:
		return p, v.store
	case len(v.damaged) > shownFaults:
		v.damaged = append(v.damaged[:shownFaults], fmt.Sprintf("and %d more", len(v.damaged)-shownFaults))
	}
	if len(v.damaged) > 0 {
		return p, fault.New(fault.Permanent, "it is damaged: %s; restore another restore point", strings.Join(v.damaged, "; "))
	}
	return p, nil
}

type verifier struct {
	r     *Repository
	part  float64 // of the bytes, that is read
	there map[blob.ID]bool
	files chan file

	mu      sync.Mutex
	read    Progress
	damaged []string
	store   error // the store failed, and says nothing of what it has
}

// file is anything but a directory.
type file struct {
	path string
	id   object.ID
	size int64
}

func (v *verifier) note(path string, err error) {
	if err == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var known *fault.Error
	if errors.As(err, &known) && known.Kind == fault.Transient {
		v.store = fmt.Errorf("%s: %w", path, err)
		return
	}
	v.damaged = append(v.damaged, path+": "+err.Error())
}

// walk reads the directories itself, since they name all else.
func (v *verifier) walk(ctx context.Context, e kopiafs.Entry, at string) {
	if ctx.Err() != nil {
		return
	}
	if dir, ok := e.(kopiafs.Directory); ok {
		it, err := dir.Iterate(ctx)
		if err != nil {
			v.note(at, err)
			return
		}
		defer it.Close()
		for {
			child, err := it.Next(ctx)
			if err != nil {
				v.note(at, err)
				return
			}
			if child == nil {
				return
			}
			v.walk(ctx, child, path.Join(at, child.Name()))
		}
	}
	has, ok := e.(object.HasObjectID)
	if !ok {
		return
	}
	select {
	case v.files <- file{at, has.ObjectID(), e.Size()}:
	case <-ctx.Done():
	}
}

func (v *verifier) file(ctx context.Context, f file) error {
	contents, err := v.r.rep.VerifyObject(ctx, f.id)
	if err != nil {
		return err
	}
	for _, c := range contents {
		info, err := v.r.rep.ContentInfo(ctx, c)
		if err != nil {
			return err
		}
		if !v.there[info.PackBlobID] {
			return fmt.Errorf("its data in %s is missing", v.r.blobs.name(info.PackBlobID))
		}
	}
	if v.part <= 0 {
		return nil
	}
	in, err := v.r.rep.OpenObject(ctx, f.id)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	var n int64
	for at := int64(0); at == 0 || at < f.size; at += sampled {
		if rand.Float64() >= v.part { //nolint:gosec // a sample
			continue
		}
		if _, err := in.Seek(at, io.SeekStart); err != nil {
			return err
		}
		one, err := io.CopyN(io.Discard, in, min(sampled, max(f.size-at, 0)))
		n += one
		if err != nil {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.read.Files++
	v.read.Bytes += n
	return nil
}
