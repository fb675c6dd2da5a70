package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of linux/btrfs.h that the driver needs. They are called directly,
// and not by the btrfs command, because only they tell when exactly, and in
// which transaction, a snapshot was cut.
const (
	iocStartSync       = 0x80089418
	iocSnapDestroy     = 0x5000940f
	iocSnapCreateV2    = 0x50009417
	iocSubvolCreateV2  = 0x50009418
	iocQuotaCtl        = 0xc0109428
	iocQgroupLimit     = 0x8030942b
	iocGetSubvolInfo   = 0x81f8943c
	subvolReadOnly     = 1 << 1
	qgroupLimitMaxRfer = 1 << 0
	quotaEnable        = 1
)

type volArgs struct {
	fd   int64
	name [4088]byte
}

type volArgsV2 struct {
	fd      int64
	transid uint64
	flags   uint64
	unused  [4]uint64
	name    [4040]byte
}

type timespec struct {
	sec  uint64
	nsec uint32
	_    uint32
}

type subvolInfo struct {
	treeID, parentID, dirID                uint64
	name                                   [256]byte
	generation, flags                      uint64
	uuid, parentUUID, receivedUUID         [16]byte
	ctransid, otransid, stransid, rtransid uint64
	ctime, otime, stime, rtime             timespec
	reserved                               [8]uint64
}

type qgroupLimit struct {
	qgroupID                                            uint64 // 0: that of the open subvolume
	flags, maxRfer, maxExcl, reservedRfer, reservedExcl uint64
}

type quotaCtl struct{ cmd, status uint64 }

func ioctl(dir *os.File, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), request, uintptr(arg))
		switch e {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return e
		}
	}
}

// in calls f with the open directory path.
func in(path string, f func(*os.File) error) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	err = f(d)
	runtime.KeepAlive(d)
	return err
}

func createSubvolume(path string) error {
	args := volArgsV2{}
	copy(args.name[:], filepath.Base(path))
	if err := in(filepath.Dir(path), func(d *os.File) error { return ioctl(d, iocSubvolCreateV2, unsafe.Pointer(&args)) }); err != nil {
		return fmt.Errorf("create subvolume %s: %w", path, err)
	}
	return nil
}

// snapshotSubvolume makes to a snapshot of from. What was written to from
// before, by any process, is in it, in the page cache or not.
func snapshotSubvolume(from, to string, readOnly bool) error {
	s, err := aimSnapshot(from, to, readOnly)
	if err != nil {
		return err
	}
	return s.fire()
}

// aimed is a snapshot for which all is ready but the cut.
type aimed struct {
	from, to string
	src, dir *os.File
	args     volArgsV2
}

func aimSnapshot(from, to string, readOnly bool) (s *aimed, err error) {
	s = &aimed{from: from, to: to}
	if s.src, err = os.Open(from); err != nil {
		return nil, fmt.Errorf("snapshot subvolume: %w", err)
	}
	if s.dir, err = os.Open(filepath.Dir(to)); err != nil {
		return nil, errors.Join(fmt.Errorf("snapshot subvolume: %w", err), s.src.Close())
	}
	s.args.fd = int64(s.src.Fd())
	if readOnly {
		s.args.flags = subvolReadOnly
	}
	copy(s.args.name[:], filepath.Base(to))
	return s, nil
}

// fire cuts, once.
func (s *aimed) fire() error {
	err := ioctl(s.dir, iocSnapCreateV2, unsafe.Pointer(&s.args))
	_, _ = s.src.Close(), s.dir.Close()
	if err != nil {
		return fmt.Errorf("snapshot subvolume %s as %s: %w", s.from, s.to, err)
	}
	return nil
}

// destroySubvolume is idempotent.
func destroySubvolume(path string) error {
	if _, err := os.Lstat(path); os.IsNotExist(err) {
		return nil
	}
	args := volArgs{}
	copy(args.name[:], filepath.Base(path))
	if err := in(filepath.Dir(path), func(d *os.File) error { return ioctl(d, iocSnapDestroy, unsafe.Pointer(&args)) }); err != nil {
		return fmt.Errorf("delete subvolume %s: %w", path, err)
	}
	return nil
}

// cut is when a subvolume came to be, as the file system has noted it: for a
// snapshot, the moment of the cut. Subvolumes of one transaction were cut at
// one point in time: no write is between them.
type cut struct {
	at          time.Time
	transaction uint64
}

func subvolumeCut(path string) (cut, error) {
	info := subvolInfo{}
	if err := in(path, func(d *os.File) error { return ioctl(d, iocGetSubvolInfo, unsafe.Pointer(&info)) }); err != nil {
		return cut{}, fmt.Errorf("read subvolume %s: %w", path, err)
	}
	return cut{at: time.Unix(int64(info.otime.sec), int64(info.otime.nsec)), transaction: info.otransid}, nil
}

// limitSubvolume sets how much a subvolume may hold, what it shares with others
// included.
func limitSubvolume(path string, bytes int64) error {
	args := qgroupLimit{flags: qgroupLimitMaxRfer, maxRfer: uint64(bytes)}
	if err := in(path, func(d *os.File) error { return ioctl(d, iocQgroupLimit, unsafe.Pointer(&args)) }); err != nil {
		return fmt.Errorf("limit subvolume %s to %s bytes: %w", path, strconv.FormatInt(bytes, 10), err)
	}
	return nil
}

// startCommit has the running transaction committed, and does not wait for its
// end.
func startCommit(path string) error {
	var transid uint64
	if err := in(path, func(d *os.File) error { return ioctl(d, iocStartSync, unsafe.Pointer(&transid)) }); err != nil {
		return fmt.Errorf("start a commit on %s: %w", path, err)
	}
	return nil
}

func enableQuota(path string) error {
	args := quotaCtl{cmd: quotaEnable}
	if err := in(path, func(d *os.File) error { return ioctl(d, iocQuotaCtl, unsafe.Pointer(&args)) }); err != nil {
		return fmt.Errorf("enable quotas on %s: %w", path, err)
	}
	return nil
}
