package host

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"thaw/blueprints/fault"
)

// An archive is a POSIX tar compressed with zstd: `tar --zstd -xf` reads it
// with Thaw gone. Names are relative to the exported path. Owners are kept by
// number, extended attributes in PAX records as GNU tar writes them.
const xattrRecord = "SCHILY.xattr."

// archiveWriter writes one archive.
type archiveWriter struct {
	tar     *tar.Writer
	zstd    *zstd.Encoder
	sum     hash.Hash
	stored  countWriter
	content int64
	files   int64
	links   map[[2]uint64]string
	seen    map[string]bool
	tick    func(done int64)
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func newArchiveWriter(w io.Writer, tick func(int64)) (*archiveWriter, error) {
	a := &archiveWriter{sum: sha256.New(), links: map[[2]uint64]string{}, seen: map[string]bool{}, tick: tick}
	a.stored.w = io.MultiWriter(w, a.sum)
	z, err := zstd.NewWriter(&a.stored, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return nil, err
	}
	a.zstd, a.tar = z, tar.NewWriter(z)
	return a, nil
}

// digest is valid after close.
func (a *archiveWriter) digest() string { return hex.EncodeToString(a.sum.Sum(nil)) }

func (a *archiveWriter) close() error {
	if err := a.tar.Close(); err != nil {
		return err
	}
	return a.zstd.Close()
}

// tree adds a selected tree under a name; "." is the archive's root.
func (a *archiveWriter) tree(ctx context.Context, root, under string, s selection) error {
	return s.walk(root, false, func(e entry) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		name := path.Join(under, e.rel)
		if e.rel == "." && !e.info.IsDir() && under == "." {
			name = filepath.Base(root)
		}
		return a.entry(ctx, filepath.Join(root, e.rel), name, e.info)
	})
}

func (a *archiveWriter) entry(ctx context.Context, file, name string, info fs.FileInfo) error {
	mode := info.Mode()
	if mode&(fs.ModeSocket|fs.ModeNamedPipe) != 0 {
		return nil // they hold no data
	}
	if mode&(fs.ModeDevice|fs.ModeCharDevice) != 0 {
		return fault.New(fault.User, "%s is a device: exclude it", file)
	}
	if a.seen[name] {
		return nil // given in files or add: those win
	}
	a.seen[name] = true
	target := ""
	if mode&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(file); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return fmt.Errorf("archive %s: %w", file, err)
	}
	h.Format, h.Name = tar.FormatPAX, name
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	h.Uname, h.Gname = "", ""
	if info.IsDir() {
		h.Name += "/"
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && mode.IsRegular() && st.Nlink > 1 {
		id := [2]uint64{st.Dev, st.Ino}
		if first, linked := a.links[id]; linked {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return a.tar.WriteHeader(h)
		}
		a.links[id] = name
	}
	addXattrs(h, file)
	if !mode.IsRegular() {
		return a.tar.WriteHeader(h)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h.Size = st.Size()
	if err := a.tar.WriteHeader(h); err != nil {
		return err
	}
	return a.copy(ctx, f, file, h.Size)
}

func (a *archiveWriter) copy(ctx context.Context, f io.Reader, name string, size int64) error {
	for left := size; left > 0; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := io.CopyN(a.tar, f, min(left, 8<<20))
		left -= n
		a.content += n
		if errors.Is(err, io.EOF) {
			return fault.New(fault.Permanent, "%s became shorter while it was read: export a snapshot, not live files", name)
		}
		if err != nil {
			return fmt.Errorf("archive %s: %w", name, err)
		}
		a.tick(a.content)
	}
	a.files++
	return nil
}

// literals adds files with these contents, sorted by name. They belong to the
// owner of the exported tree, whose program will read them.
func (a *archiveWriter) literals(files map[string]string, owner fs.FileInfo) error {
	uid, gid := os.Geteuid(), os.Getegid()
	if st, ok := owner.Sys().(*syscall.Stat_t); ok {
		uid, gid = int(st.Uid), int(st.Gid)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		clean, err := archiveName(name)
		if err != nil {
			return err
		}
		a.seen[clean] = true
		h := &tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: clean, Mode: 0o600, Size: int64(len(files[name])), Uid: uid, Gid: gid, ModTime: owner.ModTime()}
		if err := a.tar.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.WriteString(a.tar, files[name]); err != nil {
			return err
		}
		a.content += int64(len(files[name]))
		a.files++
	}
	return nil
}

func archiveName(name string) (string, error) {
	clean := path.Clean(name)
	if path.IsAbs(name) || clean == "." || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fault.New(fault.User, "name %q in the archive: want a relative path inside it", name)
	}
	return clean, nil
}

func addXattrs(h *tar.Header, file string) {
	size, err := unix.Llistxattr(file, nil)
	if err != nil || size == 0 {
		return
	}
	buf := make([]byte, size)
	if size, err = unix.Llistxattr(file, buf); err != nil {
		return
	}
	for _, name := range splitNul(buf[:size]) {
		if v, err := xattr(file, name); err == nil {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[xattrRecord+name] = string(v)
		}
	}
}

// readArchive calls visit for each entry; visit reads the content from r.
func readArchive(ctx context.Context, file string, visit func(h *tar.Header, r io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return err
	}
	defer z.Close()
	t := tar.NewReader(z)
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fault.New(fault.Permanent, "read archive %s: %w", file, err)
		}
		if err := visit(h, t); err != nil {
			return err
		}
	}
}

// checkDigest reads a file in full and compares its SHA-256.
func checkDigest(ctx context.Context, file, want string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if _, err := io.CopyN(sum, f, 16<<20); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); !strings.EqualFold(got, strings.TrimPrefix(want, "sha256:")) {
		return fault.New(fault.Permanent, "%s is not what was exported: its sha256 is %s, the restore point says %s; it was changed or damaged, use another restore point", file, got, want)
	}
	return nil
}
