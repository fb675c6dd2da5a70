package location

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
)

// partial is where a directory's objects are while they are written: on the
// same file system as all of them, and nowhere that a listing looks.
const partial = ".thaw-partial"

// directory keeps objects as files. Names cannot leave it, through links
// neither.
type directory struct{ root *os.Root }

func openDirectory(p templates.Profile) (*directory, error) {
	root, err := os.OpenRoot(p.Location.Bucket)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.User, "the directory does not exist: create it, or mount what holds it")
	}
	if err != nil {
		return nil, err
	}
	d := &directory{root}
	d.sweep()
	return d, nil
}

func (d *directory) close() error { return d.root.Close() }

// sweep removes what writers left that are gone: who writes holds a lock on its
// file, which its end releases.
func (d *directory) sweep() {
	dir, err := d.root.Open(partial)
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, n := range names {
		name := partial + "/" + n
		f, err := d.root.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = d.root.Remove(name)
		}
		f.Close()
	}
}

func (d *directory) put(_ context.Context, key string, r io.Reader, o PutOptions) (at time.Time, err error) {
	if o.New { // before anything is read; the link below decides
		if _, err := d.root.Lstat(key); err == nil {
			return at, ErrExists
		}
	}
	f, name, err := d.create()
	if err != nil {
		return at, err
	}
	defer func() {
		f.Close()
		if err != nil {
			_ = d.root.Remove(name)
		}
	}()
	// Not by the file's own ReadFrom, which could pass by the end of r.
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{r}, make([]byte, 1<<20)); err != nil {
		return at, err
	}
	if err := f.Sync(); err != nil {
		return at, err
	}
	st, err := f.Stat()
	if err != nil {
		return at, err
	}
	if err := d.place(name, key, o.New); err != nil {
		return at, err
	}
	return st.ModTime(), d.syncDirs(path.Dir(key))
}

func (d *directory) create() (*os.File, string, error) {
	if err := d.root.Mkdir(partial, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, "", err
	}
	for {
		name := partial + "/" + rand.Text()
		f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
		if err != nil {
			return nil, "", err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) { // without locks, nobody sweeps
			if _, err := d.root.Lstat(name); err == nil {
				return f, name, nil
			}
		}
		f.Close() // a sweep came between
	}
}

// place gives a written file its name. A Delete may remove the directory again
// that was made for it.
func (d *directory) place(name, key string, only bool) (err error) {
	for range 10 {
		if dir := path.Dir(key); dir != "." {
			if err := d.root.MkdirAll(dir, 0o750); err != nil {
				return err
			}
		}
		if only {
			if err = d.root.Link(name, key); err == nil {
				return d.root.Remove(name)
			}
		} else if err = d.root.Rename(name, key); err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if only && errors.Is(err, fs.ErrExist) {
		return ErrExists
	}
	return err
}

// syncDirs makes names last: that of the file, and of the directories above it.
func (d *directory) syncDirs(dir string) error {
	for ; ; dir = path.Dir(dir) {
		f, err := d.root.Open(dir)
		if err != nil {
			return err
		}
		err = f.Sync()
		f.Close()
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
		if dir == "." {
			return nil
		}
	}
}

func (d *directory) get(_ context.Context, key string, offset, length int64, _ string) (stream, error) {
	f, err := d.root.Open(key)
	if err != nil {
		return stream{}, absent(err)
	}
	st, err := f.Stat()
	switch {
	case err == nil && !st.Mode().IsRegular():
		err = ErrNotFound
	case err == nil && offset > st.Size():
		err = ErrRange
	}
	if err != nil {
		f.Close()
		return stream{}, err
	}
	left := st.Size() - offset
	if length >= 0 {
		left = min(left, length)
	}
	return stream{file{f, io.NewSectionReader(f, offset, left)}, "", left}, nil
}

// absent holds of a name that goes on where another's file is, too.
func absent(err error) error {
	if errors.Is(err, unix.ENOTDIR) {
		return ErrNotFound
	}
	return err
}

type file struct {
	*os.File
	part *io.SectionReader
}

func (f file) Read(b []byte) (int, error) { return f.part.Read(b) }

func (d *directory) stat(_ context.Context, key string) (Object, error) {
	st, err := d.root.Stat(key)
	if err == nil && !st.Mode().IsRegular() {
		err = ErrNotFound
	}
	if err != nil {
		return Object{}, absent(err)
	}
	return Object{Name: key, Size: st.Size(), Modified: st.ModTime()}, nil
}

func (d *directory) delete(_ context.Context, key string) error {
	st, err := d.root.Lstat(key)
	if err == nil && st.IsDir() {
		err = ErrNotFound
	}
	if err == nil {
		err = d.root.Remove(key)
	}
	if err != nil {
		return absent(err)
	}
	// Up to the first that is not empty.
	for dir := path.Dir(key); dir != "." && d.root.Remove(dir) == nil; dir = path.Dir(dir) {
	}
	return nil
}

func (d *directory) extend(context.Context, string, time.Time) error { return nil }

func (d *directory) list(ctx context.Context, prefix string, each func(Object) error) error {
	// Below the last whole directory of the prefix, if that is one.
	dir := "."
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		if dir = prefix[:i]; !fs.ValidPath(dir) {
			return nil // no name begins so
		}
	}
	return d.walk(ctx, dir, prefix, each)
}

// walk calls each in the order of the names, in which a directory's is followed
// by a slash: "a-b" comes before "a/b".
func (d *directory) walk(ctx context.Context, dir, prefix string, each func(Object) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := d.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	f.Close()
	if err != nil && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	name := func(e fs.DirEntry) string {
		n := e.Name()
		if dir != "." {
			n = dir + "/" + n
		}
		if e.IsDir() {
			n += "/"
		}
		return n
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(name(a), name(b)) })
	for _, e := range entries {
		n := name(e)
		if n == partial+"/" || !strings.HasPrefix(n, prefix) && !strings.HasPrefix(prefix, n) {
			continue
		}
		if e.IsDir() {
			if err := d.walk(ctx, strings.TrimSuffix(n, "/"), prefix, each); err != nil {
				return err
			}
			continue
		}
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && (!st.Mode().IsRegular() || !strings.HasPrefix(n, prefix)) {
			continue
		}
		if err != nil {
			return err
		}
		if err := each(Object{Name: n, Size: st.Size(), Modified: st.ModTime()}); err != nil {
			return err
		}
	}
	return nil
}

func (d *directory) explain(err error) cause { return explainDirectory(err) }

func explainDirectory(err error) cause {
	said := ""
	if errno := unix.Errno(0); errors.As(err, &errno) {
		said = paren(errno.Error())
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG):
		return full(said)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENOTEMPTY):
		return cause{fault.Permanent, nil, "a directory cannot hold an object where another's name goes on: choose another name" + said}
	case errors.Is(err, fs.ErrNotExist):
		return causeNotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return cause{fault.User, nil, "the directory cannot be used by this program's user: correct its owner, mode or mount" + said}
	case errors.Is(err, unix.ESTALE), errors.Is(err, unix.EIO), errors.Is(err, unix.ETIMEDOUT):
		return cause{fault.Transient, nil, "the file system failed: check what it is mounted from" + said}
	case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EMLINK):
		return cause{fault.User, nil, "the file system knows no hard links: use another" + said}
	case said != "":
		return cause{fault.Permanent, nil, "the file system refused" + said}
	}
	return common(err)
}
