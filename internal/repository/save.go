package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	kopiafs "github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/fs/localfs"
	"github.com/kopia/kopia/fs/virtualfs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/compression"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/policy"
	"github.com/kopia/kopia/snapshot/upload"

	"thaw/blueprints/fault"
)

// Blocks are small, since a database changes pages here and there: of larger
// ones nearly all are new each time. A volume's files keep their places, so
// fixed blocks find what is unchanged, and cost no rolling hash; a dump moves
// what follows a change, so its blocks must follow the content.
const (
	ofVolume = "FIXED-128K"
	ofStream = "DYNAMIC-128K-BUZHASH"
)

const (
	codec = "zstd-fastest"
	// checkpoint is how much work a mover that is killed loses at most.
	checkpoint = 2 * time.Minute
	// parallel is how many files are read at once; more cost memory, and save
	// nothing on a store that takes what one core compresses.
	parallel = 4
	// above is the size of a file from which on it is read in several places at
	// once, as most of a database may be in one. A multiple of the blocks'.
	above = 32 << 20
)

// TagName is the tag by which a snapshot is found again.
const TagName = "tag:thaw"

// SaveOptions of Save.
type SaveOptions struct {
	// Source names what the files are of, in every backup alike: what changed
	// since the last of the same source is moved.
	Source string
	// Tag finds the snapshot again.
	Tag string
	// Root is the path that the snapshot says it is of, where it is not the
	// path that is read.
	Root string
	// Progress is told now and then, from another goroutine. May be nil.
	Progress func(Progress)
	// Warn is told of files that went away while they were read. May be nil.
	Warn func(path string, err error)
}

// Progress of a save or a restore.
type Progress struct {
	Files int64 // done
	Bytes int64 // read, or written
	Moved int64 // bytes sent to the location; 0 in a restore
	Total int64 // bytes, as far as it is known
}

// Snapshot is a saved state of some files.
type Snapshot struct {
	ID     string
	Tag    string
	Root   string // path that was saved
	Object string // Kopia's id of what is at the root
	Files  int64
	Size   int64 // bytes of all files
	Moved  int64 // bytes that the location got for it; known by Save alone
	Start  time.Time
	End    time.Time
	Source string
}

// Save reads a directory or a file. A file that goes away while the tree is
// read is left out, and Warn is told; any other file that cannot be read fails
// the save (fault.Command), and nothing is kept of it but what a next try can
// use. A save that is cut off goes on, the next time, near where it was.
func (r *Repository) Save(ctx context.Context, dir string, o SaveOptions) (*Snapshot, error) {
	entry, err := localfs.NewEntry(dir)
	if err != nil {
		kind := fault.Command
		if errors.Is(err, fs.ErrNotExist) {
			kind = fault.User
		}
		return nil, fault.New(kind, "save %s: %w", dir, err)
	}
	entry, err = followed(ctx, entry)
	if err != nil {
		return nil, fault.New(fault.Command, "save %s: %w", dir, err)
	}
	return r.save(ctx, dir, entry, ofVolume, o)
}

// SaveStream saves what comes from a reader as one file, at a path below the
// root, without keeping it anywhere before. A reader that fails fails the save,
// and nothing is kept; the kind of the error is the reader's.
func (r *Repository) SaveStream(ctx context.Context, in io.Reader, file string, o SaveOptions) (*Snapshot, error) {
	file = strings.Trim(path.Clean("/"+file), "/")
	if file == "" {
		return nil, fault.New(fault.User, "save a stream: the file has no name")
	}
	s := &told{Reader: in}
	entry := virtualfs.StreamingFileFromReader(path.Base(file), io.NopCloser(s))
	var tree kopiafs.Entry = entry
	for dir := path.Dir(file); ; dir = path.Dir(dir) {
		tree = virtualfs.NewStaticDirectory(path.Base(path.Join("/", o.Root, dir)), []kopiafs.Entry{tree})
		if dir == "." {
			break
		}
	}
	saved, err := r.save(ctx, o.Root, tree, ofStream, o)
	if s.err != nil {
		return nil, fmt.Errorf("save %s: read the stream: %w", path.Join(o.Root, file), s.err)
	}
	return saved, err
}

// told remembers why a reader ended.
type told struct {
	io.Reader
	err error
}

func (t *told) Read(b []byte) (int, error) {
	n, err := t.Reader.Read(b)
	if err != nil && err != io.EOF { //nolint:errorlint // an end is io.EOF itself
		t.err = err
		// Its text alone: verdict forgives some errors of files, and Kopia takes
		// any that wraps io.EOF for the end.
		err = fault.New(fault.Of(err), "%s", err)
	}
	return n, err
}

func (r *Repository) save(ctx context.Context, dir string, entry kopiafs.Entry, splitter string, o SaveOptions) (*Snapshot, error) {
	source := snapshot.SourceInfo{Host: user, UserName: user, Path: o.Source}
	written := r.Written()
	var saved *snapshot.Manifest
	err := repo.DirectWriteSession(ctx, r.rep, repo.WriteSessionOptions{Purpose: "save"}, func(ctx context.Context, w repo.DirectRepositoryWriter) error {
		if err := own(ctx, w); err != nil {
			return err
		}
		previous, err := snapshot.FindPreviousManifests(ctx, w, source, nil)
		if err != nil {
			return err
		}
		u := upload.NewUploader(w)
		u.ParallelUploads, u.DisableIgnoreRules, u.CheckpointInterval = parallel, true, checkpoint
		p := &progress{tell: o.Progress, moved: func() int64 { return r.Written() - written }}
		u.Progress = p
		stop := context.AfterFunc(ctx, u.Cancel)
		defer stop()
		done := p.run()
		man, err := u.Upload(ctx, fresh(entry, previous), tree(splitter), source, previous...)
		done()
		if err != nil {
			return err
		}
		if man.IncompleteReason != "" {
			return fmt.Errorf("it ended before it was complete: %s: %w", man.IncompleteReason, context.Cause(ctx))
		}
		if err := p.verdict(dir, o.Warn); err != nil {
			return err
		}
		if err := r.hold(ctx, w); err != nil { // before it counts as saved
			return err
		}
		man.Tags = map[string]string{TagName: o.Tag}
		man.Description = o.Root
		if man.Description == "" {
			man.Description = dir
		}
		if _, err := snapshot.SaveSnapshot(ctx, w, man); err != nil {
			return err
		}
		for _, old := range previous { // checkpoints that this one makes useless
			if old.IncompleteReason != "" {
				if err := w.DeleteManifest(ctx, old.ID); err != nil {
					return err
				}
			}
		}
		saved = man
		return nil
	})
	if err != nil {
		return nil, r.named(fmt.Errorf("save %s: %w", dir, err))
	}
	s := describe(saved)
	s.Moved = r.Written() - written
	return s, nil
}

// followed is what a symbolic link at the root points to.
func followed(ctx context.Context, e kopiafs.Entry) (kopiafs.Entry, error) {
	for range 8 {
		link, ok := e.(kopiafs.Symlink)
		if !ok {
			return e, nil
		}
		to, err := link.Resolve(ctx)
		if err != nil {
			return nil, err
		}
		e = to
	}
	return nil, errors.New("too many symbolic links")
}

func tree(splitter string) *policy.Tree {
	no := policy.OptionalBool(false)
	p := *policy.DefaultPolicy
	p.CompressionPolicy = policy.CompressionPolicy{CompressorName: compression.Name(codec)}
	p.SplitterPolicy = policy.SplitterPolicy{Algorithm: splitter}
	parts := policy.OptionalInt64(above)
	p.UploadPolicy.ParallelUploadAboveSize = &parts
	p.ErrorHandlingPolicy = policy.ErrorHandlingPolicy{IgnoreFileErrors: &no, IgnoreDirectoryErrors: &no, IgnoreUnknownTypes: policy.NewOptionalBool(true)}
	return policy.BuildTree(nil, &p)
}

func describe(m *snapshot.Manifest) *Snapshot {
	files, size := int64(m.Stats.TotalFileCount), m.Stats.TotalFileSize
	if m.RootEntry != nil && m.RootEntry.DirSummary != nil { // which counts no part of a file, and those that were not read again
		files, size = m.RootEntry.DirSummary.TotalFileCount, m.RootEntry.DirSummary.TotalFileSize
	}
	return &Snapshot{
		ID: string(m.ID), Object: m.RootObjectID().String(), Tag: m.Tags[TagName], Root: m.Description, Files: files, Size: size,
		Start: m.StartTime.ToTime(), End: m.EndTime.ToTime(), Source: m.Source.Path,
	}
}

// progress is what Kopia's uploader tells.
type progress struct {
	upload.NullUploadProgress
	tell  func(Progress)
	moved func() int64

	files, bytes, total atomic.Int64

	mu       sync.Mutex
	failures []failure
}

// failure is a file that could not be saved.
type failure struct {
	path string
	err  error
}

func (p *progress) Enabled() bool                  { return true }
func (p *progress) HashedBytes(n int64)            { p.bytes.Add(n) }
func (p *progress) CachedFile(_ string, n int64)   { p.bytes.Add(n) }
func (p *progress) FinishedFile(_ string, _ error) { p.files.Add(1) }
func (p *progress) EstimatedDataSize(_, n int64)   { p.total.Store(n) }
func (p *progress) Error(path string, err error, ignored bool) {
	if !ignored {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.failures = append(p.failures, failure{path, err})
	}
}

// run tells the progress until done is called.
func (p *progress) run() (done func()) {
	if p.tell == nil {
		return func() {}
	}
	stop := make(chan struct{})
	over := make(chan struct{})
	go func() {
		defer close(over)
		t := time.NewTicker(tellEvery)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case <-t.C:
				p.tell(Progress{Files: p.files.Load(), Bytes: p.bytes.Load(), Moved: p.moved(), Total: p.total.Load()})
			}
		}
	}()
	return func() { close(stop); <-over }
}

const tellEvery = 10 * time.Second

// verdict fails where a file could not be read, and forgives those that went
// away: a database deletes files while it runs.
func (p *progress) verdict(dir string, warn func(string, error)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var bad []error
	for _, f := range p.failures {
		var known *fault.Error
		if errors.As(f.err, &known) { // the location's, not the file's
			return f.err
		}
		if errors.Is(f.err, fs.ErrNotExist) || errors.Is(f.err, syscall.ESTALE) {
			if warn != nil {
				warn(f.path, f.err)
			}
			continue
		}
		bad = append(bad, fmt.Errorf("%s: %w", filepath.Join(dir, f.path), f.err))
	}
	const shown = 10
	if len(bad) > shown {
		bad = append(bad[:shown], fmt.Errorf("and %d more", len(bad)-shown))
	}
	if err := errors.Join(bad...); err != nil {
		return fault.New(fault.Command, "files cannot be read: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}
