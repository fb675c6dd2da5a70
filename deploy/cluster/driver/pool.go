package driver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Claim is the PersistentVolumeClaim that a volume was made for.
type Claim struct{ Namespace, Name string }

// volume is what the pool notes of one, beside its data.
type volume struct {
	ID     string
	Name   string
	Size   int64
	Source string // of a clone: the volume or snapshot
	Claim  Claim
}

type snapshot struct {
	ID     string
	Name   string
	Volume string
	Size   int64
	Cut    time.Time
	Group  string // of which it is a member, if it is
	Claim  Claim  // of the volume, which may be gone
}

type group struct {
	ID        string
	Name      string
	Cut       time.Time
	Snapshots []string
}

// pool is the btrfs file system that holds volumes/, snapshots/ and meta/.
type pool struct {
	dir   string
	locks locks
}

// openPool makes and mounts the pool where it is not: an image file of size
// bytes, sparse, on a loop device that the kernel lets go with the mount.
func openPool(image, dir string, size int64) (*pool, error) {
	p := &pool{dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make pool: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("look at pool %s: %w", dir, err)
	}
	if st.Type != unix.BTRFS_SUPER_MAGIC || !mounted(dir) {
		if err := mountPool(image, dir, size); err != nil {
			return nil, err
		}
	}
	for _, d := range []string{"volumes", "snapshots", "meta/volumes", "meta/snapshots", "meta/groups"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("make pool: %w", err)
		}
	}
	return p, enableQuota(dir)
}

func mountPool(image, dir string, size int64) error {
	if _, err := os.Stat(image); errors.Is(err, fs.ErrNotExist) {
		partial := image + ".partial"
		f, err := os.Create(partial)
		if err != nil {
			return fmt.Errorf("make pool image: %w", err)
		}
		err = errors.Join(f.Truncate(size), f.Close())
		if err != nil {
			return fmt.Errorf("make pool image %s of %d bytes: %w", image, size, err)
		}
		if err := command("mkfs.btrfs", "-q", "-f", "-m", "single", partial); err != nil {
			return err
		}
		if err := os.Rename(partial, image); err != nil {
			return fmt.Errorf("make pool image: %w", err)
		}
	}
	return command("mount", "-t", "btrfs", "-o", "loop,discard=async", image, dir)
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

type mount struct{ root, path string }

func mounts() []mount {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	var list []mount
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 {
			list = append(list, mount{root: unescape(f[3]), path: unescape(f[4])})
		}
	}
	return list
}

// mounted says whether something is mounted at path.
func mounted(path string) bool {
	return slices.ContainsFunc(mounts(), func(m mount) bool { return m.path == path })
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// sync writes out all that is dirty.
func (p *pool) sync() error {
	return in(p.dir, func(d *os.File) error {
		if err := unix.Syncfs(int(d.Fd())); err != nil {
			return fmt.Errorf("sync pool: %w", err)
		}
		return nil
	})
}

func (p *pool) volumePath(id string) string { return filepath.Join(p.dir, "volumes", id) }

// snapshotPath is in a directory of its own: the file system makes two snapshots
// in one directory only after another, never in one transaction.
func (p *pool) snapshotPath(id string) string { return filepath.Join(p.dir, "snapshots", id, "data") }

// idOf makes an identifier that is a file name, the same for the same name:
// that is what makes creation idempotent.
func idOf(kind, name string) string {
	h := sha256.Sum256([]byte(name))
	return kind + "-" + hex.EncodeToString(h[:12])
}

// errNone is of a volume, snapshot or group that is not in the pool.
var errNone = errors.New("not found")

func load[T any](p *pool, kind, id string) (*T, error) {
	if id == "" || id != filepath.Base(id) {
		return nil, errNone // never an identifier of ours
	}
	b, err := os.ReadFile(filepath.Join(p.dir, "meta", kind, id))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG) {
		return nil, errNone
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of the pool: %w", kind, err)
	}
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("read %s/%s of the pool: %w", kind, id, err)
	}
	return v, nil
}

// save notes v: until then, what was made for it does not count.
func save(p *pool, kind, id string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	file := filepath.Join(p.dir, "meta", kind, id)
	temp := filepath.Join(p.dir, "meta", "."+kind+"-"+id)
	if err := os.WriteFile(temp, b, 0o600); err != nil {
		return fmt.Errorf("note %s/%s in the pool: %w", kind, id, err)
	}
	if err := os.Rename(temp, file); err != nil {
		return fmt.Errorf("note %s/%s in the pool: %w", kind, id, err)
	}
	return nil
}

func remove(p *pool, kind, id string) error {
	if err := os.Remove(filepath.Join(p.dir, "meta", kind, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget %s/%s: %w", kind, id, err)
	}
	return nil
}

// all returns those of a kind, by ascending identifier.
func all[T any](p *pool, kind string) ([]*T, error) {
	entries, err := os.ReadDir(filepath.Join(p.dir, "meta", kind))
	if err != nil {
		return nil, fmt.Errorf("list %s of the pool: %w", kind, err)
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name() < entries[j].Name() })
	var list []*T
	for _, e := range entries {
		switch v, err := load[T](p, kind, e.Name()); {
		case errors.Is(err, errNone): // removed meanwhile
		case err != nil:
			return nil, err
		default:
			list = append(list, v)
		}
	}
	return list, nil
}

// locks hold one call at a time to each name.
type locks struct{ m sync.Map }

func (l *locks) lock(name string) (unlock func()) {
	m, _ := l.m.LoadOrStore(name, &sync.Mutex{})
	m.(*sync.Mutex).Lock()
	return m.(*sync.Mutex).Unlock
}
