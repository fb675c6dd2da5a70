package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What linux/btrfs.h says.
const (
	btrfsMagic           = 0x9123683e
	btrfsRootInode       = 256
	btrfsSnapCreateV2    = 0x50009417
	btrfsSnapDestroy     = 0x5000940f
	btrfsSubvolReadOnly  = 1 << 1
	btrfsNameMax         = 255
	btrfsArgsV2NameField = 4040
)

type btrfsArgsV2 struct {
	fd      int64
	transid uint64
	flags   uint64
	unused  [4]uint64
	name    [btrfsArgsV2NameField]byte
}

type btrfsArgs struct {
	fd   int64
	name [4088]byte
}

func onBtrfs(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == btrfsMagic
}

func inode(path string) (dev, ino uint64, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, 0, err
	}
	return st.Dev, st.Ino, nil
}

func isSubvolume(path string) bool {
	_, ino, err := inode(path)
	return err == nil && ino == btrfsRootInode && onBtrfs(path)
}

// subvolumeOf returns the subvolume that the path lies in; "" where it is not
// on btrfs.
func subvolumeOf(path string) string {
	if !onBtrfs(path) {
		return ""
	}
	for dir := path; ; dir = filepath.Dir(dir) {
		if isSubvolume(dir) {
			return dir
		}
		if dir == "/" {
			return ""
		}
	}
}

// nestedSubvolume returns a subvolume, or another file system, below a
// directory: a snapshot has an empty directory in its place.
func nestedSubvolume(root string) (string, error) {
	dev, _, err := inode(root)
	if err != nil {
		return "", err
	}
	found := ""
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if !d.IsDir() {
			return nil
		}
		if strings.HasPrefix(d.Name(), made) {
			return filepath.SkipDir
		}
		if other, _, err := inode(path); err == nil && other != dev {
			found = path
			return filepath.SkipAll
		}
		return nil
	})
	return found, err
}

// snapshotSubvolume makes `to` a snapshot of the subvolume `from`: atomic, and
// in no time.
func snapshotSubvolume(from, to string, readOnly bool) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	parent, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer parent.Close()
	args := btrfsArgsV2{fd: int64(src.Fd())}
	if readOnly {
		args.flags = btrfsSubvolReadOnly
	}
	name := filepath.Base(to)
	if len(name) > btrfsNameMax {
		return fmt.Errorf("snapshot %s: the name is too long", to)
	}
	copy(args.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, parent.Fd(), btrfsSnapCreateV2, uintptr(unsafe.Pointer(&args))); errno != 0 {
		return fmt.Errorf("snapshot btrfs subvolume %s as %s: %w", from, to, errno)
	}
	return nil
}

func destroySubvolume(path string) error {
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.Close()
	var args btrfsArgs
	copy(args.name[:], filepath.Base(path))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, parent.Fd(), btrfsSnapDestroy, uintptr(unsafe.Pointer(&args))); errno != 0 {
		return fmt.Errorf("delete btrfs subvolume %s: %w", path, errno)
	}
	return nil
}

// removeTree removes a file, a directory, or a btrfs subvolume. What is not
// there is no error.
func removeTree(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if isSubvolume(path) {
		return destroySubvolume(path)
	}
	err := os.RemoveAll(path)
	var pe *fs.PathError
	if err == nil || !errors.As(err, &pe) || (!errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EPERM)) {
		return err
	}
	// A read-only snapshot below it: take that away and try again.
	for dir := pe.Path; within(path, dir); dir = filepath.Dir(dir) {
		if isSubvolume(dir) {
			if err := destroySubvolume(dir); err != nil {
				return err
			}
			return removeTree(path)
		}
	}
	return err
}
