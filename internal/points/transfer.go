package points

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/location"
)

// Publish copies a restore point from its directory to a location: its files,
// then its record, with the files' sums, and its seal, then its entry. It may be
// repeated; until the entry is there, no list shows it.
func Publish(ctx context.Context, s location.Store, rp plan.RestorePoint, key Key, note func(string)) error {
	if key == nil {
		return fault.New(fault.Permanent, "publish restore point %q to %s: there is no key to seal it with", rp.ID, s)
	}
	dir := rp.Directory
	rp.Files = nil
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		if name = filepath.ToSlash(name); name == recordFile || name == sealFile {
			return nil
		}
		if !d.Type().IsRegular() {
			return fault.New(fault.User, "%s is neither a file nor a directory: a location keeps files", name)
		}
		f, err := put(ctx, s, rp.ID, name, file)
		if err == nil {
			rp.Files = append(rp.Files, f)
			note("published " + name)
		}
		return err
	})
	if err == nil {
		err = write(ctx, s, &rp, key)
	}
	if err != nil {
		return fmt.Errorf("publish restore point %q to %s: %w", rp.ID, s, err)
	}
	return nil
}

func put(ctx context.Context, s location.Store, id, name, file string) (f plan.File, err error) {
	in, err := os.Open(file)
	if err != nil {
		return f, fault.New(fault.Permanent, "%w", err)
	}
	defer func() { _ = in.Close() }()
	sum := sha256.New()
	o, err := s.Put(ctx, at(id, name), io.TeeReader(in, sum), location.PutOptions{})
	return plan.File{Name: name, Size: o.Size, SHA256: hex.EncodeToString(sum.Sum(nil))}, err
}

// Fetch copies a restore point into a directory, which it makes, and checks
// what it copies against the record, and the record by its seal. The directory's
// own record is written last: while it is missing, the copy is not whole.
func Fetch(ctx context.Context, s location.Store, id, dir string, key Key, note func(string)) (*plan.RestorePoint, error) {
	rp, err := Read(ctx, s, id, key)
	if err != nil {
		return nil, err
	}
	return rp, fetchAll(ctx, s, rp, rp.Files, dir, note)
}

// FetchRecords is Fetch of the record, and of those that it has of its parts:
// enough to delete what they name. The record that it returns says, by its
// Files, what was not fetched.
func FetchRecords(ctx context.Context, s location.Store, id, dir string, key Key, note func(string)) (*plan.RestorePoint, error) {
	rp, err := Read(ctx, s, id, key)
	if err != nil {
		return nil, err
	}
	var records []plan.File
	for _, f := range rp.Files {
		if path.Base(f.Name) == recordFile {
			records = append(records, f)
		}
	}
	return rp, fetchAll(ctx, s, rp, records, dir, note)
}

func fetchAll(ctx context.Context, s location.Store, rp *plan.RestorePoint, files []plan.File, dir string, note func(string)) error {
	rp.Relocate(dir)
	for _, f := range files {
		if err := fetch(ctx, s, rp.ID, f, dir); err != nil {
			return fmt.Errorf("fetch restore point %q from %s: %w", rp.ID, s, err)
		}
		note("fetched " + f.Name)
	}
	return nil
}

func fetch(ctx context.Context, s location.Store, id string, f plan.File, dir string) (err error) {
	if !filepath.IsLocal(f.Name) {
		return fault.New(fault.User, "the record names %q, which leaves its directory: somebody changed it", f.Name)
	}
	target := filepath.Join(dir, filepath.FromSlash(f.Name))
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return fault.New(fault.Permanent, "%w", err)
	}
	out, err := os.CreateTemp(filepath.Dir(target), ".fetch-*")
	if err != nil {
		return fault.New(fault.Permanent, "%w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(out.Name()))
		}
	}()
	err = check(ctx, s, id, f, out)
	if err == nil {
		err = out.Sync()
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), target)
}

// check reads a file of a restore point, and compares it with the record.
func check(ctx context.Context, s location.Store, id string, f plan.File, to io.Writer) error {
	r, err := s.Get(ctx, at(id, f.Name), 0, -1)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, sum), r)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n != f.Size || got != f.SHA256 {
		return fault.New(fault.Permanent, "%s is damaged: it has %d bytes with the SHA-256 %s; the record says %d and %s; restore another restore point", f.Name, n, got, f.Size, f.SHA256)
	}
	return nil
}

// Parts are the records of the parts of a restore point, which are among its
// files: of an application the members' own.
func Parts(ctx context.Context, s location.Store, rp *plan.RestorePoint) (all []*plan.RestorePoint, err error) {
	for _, f := range rp.Files {
		if path.Base(f.Name) != recordFile {
			continue
		}
		var b bytes.Buffer
		if f.Size > recordLimit {
			return nil, fault.New(fault.User, "restore point %q: %s has %d bytes: that is no record", rp.ID, f.Name, f.Size)
		}
		if err := check(ctx, s, rp.ID, f, &b); err != nil {
			return nil, fmt.Errorf("restore point %q: %w", rp.ID, err)
		}
		part, err := plan.ParseRestorePoint(b.Bytes())
		if err != nil {
			return nil, fault.New(fault.User, "restore point %q: %s: %w", rp.ID, f.Name, err)
		}
		all = append(all, part)
	}
	return all, nil
}
