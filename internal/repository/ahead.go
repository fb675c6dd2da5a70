package repository

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/kopia/kopia/repo/blob"

	"thaw/internal/location"
)

// A restore, or a verification, reads blocks of 128 KiB, mostly in the order in which they are in
// their packs: a request for each would wait for the network eight times for
// each MiB. So packs are read in windows, and the next one before it is asked
// for. Larger windows read more that nobody wants, where a file's blocks are
// scattered over the packs of many backups.
const (
	window = 1 << 20
	// windows bounds how many are kept.
	windows = 64
)

// ahead keeps windows of packs, which never change under their names.
type ahead struct {
	store location.Store
	name  func(blob.ID) string

	mu    sync.Mutex
	sizes map[blob.ID]int64
	kept  map[place]*piece
	used  []place // the one used last is the last
	fetch sync.WaitGroup
}

type place struct {
	id    blob.ID
	index int64
}

// piece is a window's content, once done is closed.
type piece struct {
	done chan struct{}
	data []byte
	err  error
}

// readAhead has packs read in windows until done is called, in the context that
// it returns.
func (b *blobs) readAhead(ctx context.Context) (reading context.Context, done func()) {
	reading, drop := context.WithCancel(ctx)
	a := &ahead{store: b.store, name: b.name, sizes: map[blob.ID]int64{}, kept: map[place]*piece{}}
	b.ahead.Store(a)
	return reading, func() { b.ahead.CompareAndSwap(a, nil); drop(); a.close() }
}

// of says whether a read is one for windows: of packs of files' blocks.
func (a *ahead) of(id blob.ID, length int64) bool {
	return strings.HasPrefix(string(id), "p") && length > 0 && length <= window
}

// read writes a range of a pack. Its error says no more than that it is to be
// read in another way, which tells why.
func (a *ahead) read(ctx context.Context, id blob.ID, offset, length int64, out io.Writer) error {
	size, err := a.size(ctx, id)
	if err != nil {
		return err
	}
	if offset+length > size {
		return blob.ErrInvalidRange
	}
	for end := offset + length; offset < end; {
		index := offset / window
		p := a.piece(ctx, place{id, index}, size)
		if (index+1)*window < size {
			a.piece(ctx, place{id, index + 1}, size)
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if p.err != nil {
			return p.err
		}
		from := offset - index*window
		part := p.data[from:min(from+end-offset, int64(len(p.data)))]
		if _, err := out.Write(part); err != nil {
			return err
		}
		offset += int64(len(part))
	}
	return nil
}

func (a *ahead) size(ctx context.Context, id blob.ID) (int64, error) {
	a.mu.Lock()
	size, ok := a.sizes[id]
	a.mu.Unlock()
	if ok {
		return size, nil
	}
	o, err := a.store.Stat(ctx, a.name(id))
	if err != nil {
		return 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sizes[id] = o.Size
	return o.Size, nil
}

// piece returns a window, which is being fetched where it was not kept.
func (a *ahead) piece(ctx context.Context, at place, size int64) *piece {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(a.used, at); i >= 0 {
		a.used = append(slices.Delete(a.used, i, i+1), at)
		return a.kept[at]
	}
	if len(a.used) == windows {
		delete(a.kept, a.used[0])
		a.used = slices.Delete(a.used, 0, 1)
	}
	p := &piece{done: make(chan struct{})}
	a.kept[at], a.used = p, append(a.used, at)
	a.fetch.Go(func() {
		defer close(p.done)
		p.data = make([]byte, min(window, size-at.index*window))
		if p.err = a.get(ctx, at, p.data); p.err != nil {
			a.forget(at, p)
		}
	})
	return p
}

func (a *ahead) get(ctx context.Context, at place, data []byte) error {
	r, err := a.store.Get(ctx, a.name(at.id), at.index*window, int64(len(data)))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(r, data)
	return errors.Join(err, r.Close())
}

func (a *ahead) forget(at place, p *piece) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(a.used, at); i >= 0 && a.kept[at] == p {
		a.used = slices.Delete(a.used, i, i+1)
		delete(a.kept, at)
	}
}

// close waits for what is being fetched.
func (a *ahead) close() { a.fetch.Wait() }
