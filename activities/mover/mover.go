// Package mover moves data between files and a location, where the files are:
// it runs in a container beside them, as `kando data`. A worker gives it a
// request with the credentials in it, by a file that only it reads or by its
// standard input; it answers in the protocol of `kando output`. It knows no
// Temporal and no Kubernetes. Start with Request and Run.
package mover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"strconv"
	"strings"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/repository"
)

// What a request asks for.
const (
	Save    = "save"
	Restore = "restore"
	Delete  = "delete"
	Stats   = "stats"
	Check   = "check"
)

// Exit codes by which a mover tells the kind of its error, after
// sysexits(3): EX_USAGE and EX_TEMPFAIL. Any other is that of a failure.
const (
	ExitUser      = 64
	ExitTransient = 75
)

// Request is what a mover is to do.
type Request struct {
	Do      string            `json:"do"`
	Profile templates.Profile `json:"profile"`
	// Repository is the path of the repository below the location.
	Repository string `json:"repository"`
	Passphrase string `json:"passphrase"`

	// Path of a save: what is read. Source names what it is of, in every save
	// alike; Tag finds it again. A save whose tag is there already was made by
	// an earlier attempt, and is not made again.
	Path   string `json:"path,omitempty"`
	Source string `json:"source,omitempty"`
	Tag    string `json:"tag,omitempty"`

	// ID of the snapshot of a restore or of stats; Tag, where it is empty.
	ID string `json:"id,omitempty"`
	// Target of a restore: the directory below which the snapshot's own path
	// is written; or, with Below, the place of that path of the snapshot.
	Target string `json:"target,omitempty"`
	Below  string `json:"below,omitempty"`

	// Delete are the snapshots to delete, in repositories of their own.
	Delete []Snapshot `json:"delete,omitempty"`
	// Reclaim frees what no snapshot needs any more.
	Reclaim bool `json:"reclaim,omitempty"`
}

// Snapshot names one by id, or by tag.
type Snapshot struct {
	Repository string `json:"repository"`
	ID         string `json:"id,omitempty"`
	Tag        string `json:"tag,omitempty"`
}

// Read decodes a request, strictly.
func Read(r io.Reader) (*Request, error) {
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	var q Request
	if err := dec.Decode(&q); err != nil {
		return nil, fault.New(fault.User, "request: %w; the mover and the worker must be of one release", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.User, "request: there is more than one; a file, or the standard input, holds one alone")
	}
	return &q, nil
}

// Run does what a request asks, and returns what it puts out. Progress goes to
// the log.
func Run(ctx context.Context, q *Request, log *slog.Logger) (map[string]string, error) {
	store, err := location.Open(ctx, q.Profile)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }()
	m := &mover{q: q, store: store, log: log}
	switch q.Do {
	case Save:
		return m.save(ctx)
	case Restore:
		return m.restore(ctx)
	case Delete:
		return m.delete(ctx)
	case Stats:
		return m.stats(ctx)
	case Check:
		return m.check(ctx)
	}
	return nil, fault.New(fault.User, "request: do is %q; want save, restore, delete, stats or check", q.Do)
}

type mover struct {
	q     *Request
	store location.Store
	log   *slog.Logger
}

// Path is where an artifact of a blueprint is below the location: Kanister
// lets authors put the bucket's name before it, or not.
func Path(p templates.Profile, artifact string) string {
	artifact = strings.Trim(path.Clean("/"+artifact), "/")
	if rest, ok := strings.CutPrefix(artifact+"/", p.Location.Bucket+"/"); ok && p.Location.Type != location.TypeDirectory {
		return strings.TrimSuffix(rest, "/")
	}
	return artifact
}

// with opens a repository, and closes it after use.
func (m *mover) with(ctx context.Context, at string, create bool, use func(*repository.Repository) error) error {
	return repository.With(ctx, m.store, repository.Options{Prefix: Path(m.q.Profile, at), Passphrase: m.q.Passphrase, Create: create}, use)
}

func (m *mover) progress(what string) func(repository.Progress) {
	return func(p repository.Progress) {
		m.log.Info(what, "files", p.Files, "bytes", p.Bytes, "of", p.Total, "moved", p.Moved)
	}
}

func (m *mover) save(ctx context.Context) (out map[string]string, err error) {
	_, missing := os.Lstat(m.q.Path)
	err = m.with(ctx, m.q.Repository, missing == nil, func(r *repository.Repository) error {
		if had, err := r.Find(ctx, "", m.q.Tag); err == nil {
			m.log.Info("an earlier attempt saved it", "snapshot", had.ID)
			out = saved(had)
			return nil
		} else if !errors.Is(err, repository.ErrNoSnapshot) {
			return err
		}
		s, err := r.Save(ctx, m.q.Path, repository.SaveOptions{
			Source: m.q.Source, Tag: m.q.Tag, Root: m.q.Path, Progress: m.progress("saving"),
			Warn: func(path string, err error) {
				m.log.Warn("a file went away while it was read; it is not in the backup", "path", path, "error", err)
			},
		})
		if err != nil {
			return err
		}
		m.log.Info("saved", "snapshot", s.ID, "files", s.Files, "bytes", s.Size, "moved", s.Moved, "took", s.End.Sub(s.Start))
		out = saved(s)
		return nil
	})
	if missing != nil && errors.Is(err, repository.ErrNone) { // and none is made for nothing
		return nil, fault.New(fault.User, "nothing to save: %w", missing)
	}
	return out, err
}

func saved(s *repository.Snapshot) map[string]string {
	return map[string]string{
		"backupID": s.ID, "backupTag": s.Tag, "fileCount": strconv.FormatInt(s.Files, 10), "size": size(s.Size), "phySize": size(s.Moved),
	}
}

// size writes bytes as restic does, whose words Kanister hands on.
func size(n int64) string {
	const unit = 1024
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= unit && i < len(units)-1 {
		f, i = f/unit, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.3f %s", f, units[i])
}

func (m *mover) restore(ctx context.Context) (map[string]string, error) {
	return nil, m.with(ctx, m.q.Repository, false, func(r *repository.Repository) error {
		s, err := r.Find(ctx, m.q.ID, m.q.Tag)
		if err != nil {
			return err
		}
		target, below := path.Join(m.q.Target, s.Root), ""
		if m.q.Below != "" {
			target = m.q.Target
			below = strings.TrimPrefix(path.Clean("/"+m.q.Below), path.Clean(s.Root))
		}
		m.log.Info("restoring", "snapshot", s.ID, "of", s.Root, "to", target, "files", s.Files, "bytes", s.Size)
		p, err := r.Restore(ctx, s.ID, target, repository.RestoreOptions{Below: below, Progress: m.progress("restoring")})
		if err == nil {
			m.log.Info("restored", "files", p.Files, "bytes", p.Bytes)
		}
		return err
	})
}

func (m *mover) delete(ctx context.Context) (map[string]string, error) {
	var freed int64
	for _, d := range m.q.Delete {
		err := m.with(ctx, d.Repository, false, func(r *repository.Repository) error {
			id := d.ID
			if id == "" {
				s, err := r.Find(ctx, "", d.Tag)
				if errors.Is(err, repository.ErrNoSnapshot) {
					return nil // deleted already
				}
				if err != nil {
					return err
				}
				id = s.ID
			}
			if err := r.Delete(ctx, id); err != nil {
				return err
			}
			m.log.Info("deleted", "snapshot", id, "repository", d.Repository)
			if !m.q.Reclaim {
				return nil
			}
			done, err := r.Maintain(ctx)
			freed += done.Freed
			if done.Locked > 0 {
				m.log.Warn("what nobody needs is locked, and is freed by a later delete", "bytes", done.Locked, "until", done.Until, "repository", d.Repository)
			}
			return err
		})
		if errors.Is(err, repository.ErrNone) {
			m.log.Info("there is no repository any more", "repository", d.Repository)
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	return map[string]string{"spaceFreed": fmt.Sprintf("%d B", freed)}, nil
}

func (m *mover) stats(ctx context.Context) (out map[string]string, err error) {
	err = m.with(ctx, m.q.Repository, false, func(r *repository.Repository) error {
		s, err := r.Find(ctx, m.q.ID, m.q.Tag)
		if err == nil {
			out = map[string]string{"fileCount": strconv.FormatInt(s.Files, 10), "size": size(s.Size)}
		}
		return err
	})
	return out, err
}

// check tells of a repository that cannot be used, in its outputs and not by
// an error, as Kanister's CheckRepository does.
func (m *mover) check(ctx context.Context) (map[string]string, error) {
	err := m.with(ctx, m.q.Repository, false, func(*repository.Repository) error { return nil })
	out := map[string]string{
		"passwordIncorrect": strconv.FormatBool(errors.Is(err, repository.ErrPassphrase)),
		"repoUnavailable":   strconv.FormatBool(errors.Is(err, repository.ErrNone)),
	}
	if errors.Is(err, repository.ErrPassphrase) || errors.Is(err, repository.ErrNone) {
		err = nil
	}
	return out, err
}
