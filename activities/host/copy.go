package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"thaw/blueprints/fault"
)

// copier copies a selected tree, by reflink where it is told to. It keeps
// modes, owners, times, extended attributes and hard links, as far as the
// worker's rights and the file system go. It does not sync: it runs while the
// database is frozen, and what is durable is the export.
type copier struct {
	selection
	reflink        bool
	ignoreVanished bool
	bytes, files   int64
	links          map[uint64]string // inode -> where its first name was copied to
}

func (c *copier) tree(ctx context.Context, from, to string) error {
	c.links = map[uint64]string{}
	var dirs []entry
	err := c.walk(from, c.ignoreVanished, func(e entry) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if e.info.IsDir() {
			dirs = append(dirs, e)
			return os.MkdirAll(filepath.Join(to, e.rel), 0o700)
		}
		err := c.entry(ctx, filepath.Join(from, e.rel), filepath.Join(to, e.rel), e.info)
		if errors.Is(err, fs.ErrNotExist) && c.ignoreVanished {
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w; a file that vanishes during the copy is no consistent copy: freeze what deletes it, exclude it, or set ignoreVanished", err)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := len(dirs) - 1; i >= 0; i-- { // children first: each changes its parent's time
		src, dst := filepath.Join(from, dirs[i].rel), filepath.Join(to, dirs[i].rel)
		if err := keepMeta(src, dst, dirs[i].info); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) entry(ctx context.Context, from, to string, info fs.FileInfo) error {
	mode := info.Mode()
	switch {
	case mode.IsRegular():
		st, _ := info.Sys().(*syscall.Stat_t)
		if st != nil && st.Nlink > 1 {
			if first, ok := c.links[st.Ino]; ok {
				return os.Link(first, to)
			}
			c.links[st.Ino] = to
		}
		return c.file(ctx, from, to, info)
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, to); err != nil {
			return err
		}
		return keepOwner(to, info)
	case mode&(fs.ModeSocket|fs.ModeNamedPipe) != 0:
		return nil // they hold no data
	default:
		return fault.New(fault.User, "%s is a device: exclude it", from)
	}
}

// chunk is how much is copied between two looks at the context.
const chunk = 64 << 20

func (c *copier) file(ctx context.Context, from, to string, info fs.FileInfo) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	var n int64
	if c.reflink {
		if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
			return fmt.Errorf("reflink %s: %w", from, err)
		}
		st, err := dst.Stat()
		if err != nil {
			return err
		}
		n = st.Size()
	} else {
		for {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			w, err := io.CopyN(dst, src, chunk) // copy_file_range, where it can
			n += w
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("copy %s: %w", from, err)
			}
		}
	}
	c.bytes += n
	c.files++
	if err := keepMeta(from, to, info); err != nil {
		return err
	}
	return dst.Close()
}

// keepMeta gives a copy the owner, mode, times and extended attributes of its
// original.
func keepMeta(from, to string, info fs.FileInfo) error {
	if err := keepOwner(to, info); err != nil {
		return err
	}
	copyXattrs(from, to)
	if err := os.Chmod(to, info.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}

func keepOwner(to string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	err := os.Lchown(to, int(st.Uid), int(st.Gid))
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return nil // only root gives files away
	}
	return err
}

// copyXattrs does what the file system and the worker's rights allow.
func copyXattrs(from, to string) {
	size, err := unix.Llistxattr(from, nil)
	if err != nil || size == 0 {
		return
	}
	buf := make([]byte, size)
	if size, err = unix.Llistxattr(from, buf); err != nil {
		return
	}
	for _, name := range splitNul(buf[:size]) {
		if v, err := xattr(from, name); err == nil {
			_ = unix.Lsetxattr(to, name, v, 0)
		}
	}
}

func xattr(path, name string) ([]byte, error) {
	size, err := unix.Lgetxattr(path, name, nil)
	if err != nil {
		return nil, err
	}
	v := make([]byte, size)
	size, err = unix.Lgetxattr(path, name, v)
	return v[:max(size, 0)], err
}

func splitNul(b []byte) []string {
	var out []string
	start := 0
	for i, c := range b {
		if c == 0 {
			if i > start {
				out = append(out, string(b[start:i]))
			}
			start = i + 1
		}
	}
	return out
}
