package repository

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

func store(t *testing.T) (location.Store, string) {
	dir := t.TempDir()
	s, err := location.Open(t.Context(), templates.Profile{Location: templates.Location{Type: location.TypeDirectory, Bucket: dir}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s, dir
}

func opened(t *testing.T, s location.Store) *Repository {
	r, err := Open(t.Context(), s, Options{Prefix: "shop/db", Passphrase: "secret", Create: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close(context.Background()) })
	return r
}

// files is a directory as databases have them: large files, empty ones, deep
// directories, links, modes and times.
func files(t *testing.T) string {
	dir := t.TempDir()
	random := rand.NewChaCha8([32]byte{1})
	for name, size := range map[string]int{"base/1/large": 3 << 20, "base/1/empty": 0, "base/16384/rel": 300 << 10, "a b/ü/deep/er/file": 10, "PG_VERSION": 3} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		b := make([]byte, size)
		_, _ = random.Read(b)
		require.NoError(t, os.WriteFile(file, b, 0o600))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "pg_tblspc"), 0o700))
	require.NoError(t, os.Symlink("/elsewhere/space", filepath.Join(dir, "pg_tblspc/1")))
	require.NoError(t, os.Chmod(filepath.Join(dir, "base/16384/rel"), 0o640))
	old := time.Now().Add(-time.Hour).Truncate(time.Microsecond)
	require.NoError(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type()&fs.ModeSymlink == 0 {
			err = os.Chtimes(p, old, old)
		}
		return err
	}))
	return dir
}

// writeNoise writes a file that no compression makes smaller.
func writeNoise(t *testing.T, name string, size int, seed byte) {
	t.Helper()
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	require.NoError(t, os.WriteFile(name, b, 0o600))
}

// treeOf lists what a directory has: modes, times and contents.
func treeOf(t *testing.T, dir string) map[string]string {
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := e.Info()
		require.NoError(t, err)
		name, _ := filepath.Rel(dir, p)
		stat := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%v %d:%d", info.Mode(), stat.Uid, stat.Gid)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			require.NoError(t, err)
			text += " -> " + to
		case info.Mode().IsRegular():
			b, err := os.ReadFile(p)
			require.NoError(t, err)
			text += fmt.Sprintf(" %s %x", info.ModTime(), sha256.Sum256(b))
		}
		out[name] = text
		return nil
	}))
	return out
}

func TestWhatIsSavedComesBack(t *testing.T) {
	s, _ := store(t)
	r := opened(t, s)
	dir := files(t)
	saved, err := r.Save(t.Context(), dir, SaveOptions{Source: "/shop/data", Tag: "one", Root: "/data"})
	require.NoError(t, err)
	require.Equal(t, "/data", saved.Root)
	require.EqualValues(t, 5, saved.Files)
	require.Greater(t, saved.Moved, int64(3<<20))

	target := filepath.Join(t.TempDir(), "new")
	p, err := r.Restore(t.Context(), saved.ID, target, RestoreOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 5, p.Files)
	want, got := treeOf(t, dir), treeOf(t, target)
	require.Equal(t, want, got)

	t.Run("over what is there", func(t *testing.T) {
		require.NoError(t, os.WriteFile(filepath.Join(target, "base/1/large"), []byte("torn"), 0o600))
		require.NoError(t, os.Remove(filepath.Join(target, "pg_tblspc/1")))
		require.NoError(t, os.WriteFile(filepath.Join(target, "more"), nil, 0o600))
		_, err := r.Restore(t.Context(), saved.ID, target, RestoreOptions{})
		require.NoError(t, err)
		require.FileExists(t, filepath.Join(target, "more"), "what is not in the snapshot stays")
		require.NoError(t, os.Remove(filepath.Join(target, "more")))
		require.Equal(t, want, treeOf(t, target))
	})
	t.Run("a part of it", func(t *testing.T) {
		target := t.TempDir()
		_, err := r.Restore(t.Context(), saved.ID, target, RestoreOptions{Below: "base/16384"})
		require.NoError(t, err)
		require.FileExists(t, filepath.Join(target, "rel"))
		one := filepath.Join(t.TempDir(), "version")
		_, err = r.Restore(t.Context(), saved.ID, one, RestoreOptions{Below: "PG_VERSION"})
		require.NoError(t, err)
		require.FileExists(t, one)
		_, err = r.Restore(t.Context(), saved.ID, target, RestoreOptions{Below: "nothing"})
		require.Equal(t, fault.User, fault.Of(err), "%v", err)
	})
	t.Run("by its tag, from another process", func(t *testing.T) {
		other, err := Open(t.Context(), s, Options{Prefix: "/shop/db/", Passphrase: "secret"})
		require.NoError(t, err)
		defer func() { _ = other.Close(context.Background()) }()
		found, err := other.Find(t.Context(), "", "one")
		require.NoError(t, err)
		require.Equal(t, saved.ID, found.ID)
		require.Equal(t, saved.Size, found.Size)
		list, err := other.List(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 1)
	})
	t.Run("a file", func(t *testing.T) {
		one, err := r.Save(t.Context(), filepath.Join(dir, "base/1/large"), SaveOptions{Source: "/shop/file", Tag: "file"})
		require.NoError(t, err)
		target := filepath.Join(t.TempDir(), "a/b/large")
		_, err = r.Restore(t.Context(), one.ID, target, RestoreOptions{})
		require.NoError(t, err)
		a, _ := os.ReadFile(filepath.Join(dir, "base/1/large"))
		b, _ := os.ReadFile(target)
		require.True(t, bytes.Equal(a, b))
	})
}

// Of a file whose pages change here and there, little is moved.
func TestOnlyWhatChangedIsMoved(t *testing.T) {
	s, _ := store(t)
	r := opened(t, s)
	dir := t.TempDir()
	const page, pages = 8 << 10, 4096 // 32 MiB
	b := make([]byte, page*pages)
	random := rand.NewChaCha8([32]byte{2})
	_, _ = random.Read(b)
	file := filepath.Join(dir, "rel")
	require.NoError(t, os.WriteFile(file, b, 0o600))
	first, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "1"})
	require.NoError(t, err)
	for i := range 8 {
		_, _ = random.Read(b[i*512*page:][:page])
	}
	require.NoError(t, os.WriteFile(file, b, 0o600))
	second, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "2"})
	require.NoError(t, err)
	require.Less(t, second.Moved, first.Moved/16, "8 pages changed, in 8 blocks of 128 KiB of 256")
	third, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "3"})
	require.NoError(t, err)
	require.Less(t, third.Moved, int64(64<<10), "nothing changed")
	target := t.TempDir()
	_, err = r.Restore(t.Context(), second.ID, target, RestoreOptions{})
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(target, "rel"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(b, got))
}

// A file that changed again within the grain of the clock, after it was saved,
// looks the same, and is not.
func TestAFileThatChangedWithinTheGrainOfTheClock(t *testing.T) {
	s, _ := store(t)
	r := opened(t, s)
	dir := t.TempDir()
	now := time.Now()
	write := func(name, text string, at time.Time) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		require.NoError(t, os.Chtimes(filepath.Join(dir, name), at, at))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	write("sub/old", "one", now.Add(-time.Hour))
	write("sub/new", "one", now)
	_, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "1"})
	require.NoError(t, err)
	write("sub/new", "two", now)
	second, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "2"})
	require.NoError(t, err)
	target := t.TempDir()
	_, err = r.Restore(t.Context(), second.ID, target, RestoreOptions{})
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(target, "sub/new"))
	require.NoError(t, err)
	require.Equal(t, "two", string(got))
	info, err := os.Stat(filepath.Join(target, "sub/new"))
	require.NoError(t, err)
	require.True(t, info.ModTime().Equal(now), "its time is kept: %s, %s", info.ModTime(), now)
}

func TestFaults(t *testing.T) {
	s, root := store(t)
	_, err := Open(t.Context(), s, Options{Prefix: "shop/db", Passphrase: "secret"})
	require.ErrorIs(t, err, ErrNone)
	require.Equal(t, fault.User, fault.Of(err))
	r := opened(t, s)
	_, err = Open(t.Context(), s, Options{Prefix: "shop/db", Passphrase: "another"})
	require.ErrorIs(t, err, ErrPassphrase)
	require.Equal(t, fault.User, fault.Of(err))
	_, err = Open(t.Context(), s, Options{Prefix: "/", Passphrase: "secret"})
	require.Error(t, err)
	_, err = r.Find(t.Context(), "", "nobody")
	require.ErrorIs(t, err, ErrNoSnapshot)
	_, err = r.Find(t.Context(), "0123456789abcdef0123456789abcdef", "")
	require.ErrorIs(t, err, ErrNoSnapshot)
	_, err = r.Save(t.Context(), "/no/such/directory", SaveOptions{Source: "/db", Tag: "1"})
	require.Equal(t, fault.User, fault.Of(err), "%v", err)

	dir := files(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the phase was cancelled"))
	_, err = r.Save(ctx, dir, SaveOptions{Source: "/db", Tag: "cut off"})
	require.Error(t, err)
	_, err = r.Find(t.Context(), "", "cut off")
	require.ErrorIs(t, err, ErrNoSnapshot, "what was not complete is no snapshot")

	saved, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "1"})
	require.NoError(t, err)
	require.NoError(t, r.Delete(t.Context(), saved.ID))
	require.NoError(t, r.Delete(t.Context(), saved.ID), "twice is once")
	_, err = r.Find(t.Context(), saved.ID, "")
	require.ErrorIs(t, err, ErrNoSnapshot)
	_, err = r.Maintain(t.Context())
	require.NoError(t, err)

	again, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "2"})
	require.NoError(t, err)
	packs, err := filepath.Glob(filepath.Join(root, "shop/db/p*"))
	require.NoError(t, err)
	require.NotEmpty(t, packs)
	for _, p := range packs {
		b, err := os.ReadFile(p)
		require.NoError(t, err)
		for i := range b {
			b[i] ^= 1
		}
		require.NoError(t, os.Chmod(p, 0o600))
		require.NoError(t, os.WriteFile(p, b, 0o600))
	}
	_, err = r.Restore(t.Context(), again.ID, t.TempDir(), RestoreOptions{})
	require.Error(t, err, "what was tampered with is not restored")
}

// Movers of several volumes begin together where there is no repository yet.
func TestOneRepositoryIsMadeWhoeverBegins(t *testing.T) {
	for name, profile := range map[string]templates.Profile{"directory": teststore.Directory(t), "s3": teststore.S3(t), "gcs": teststore.GCS(t)} {
		t.Run(name, func(t *testing.T) {
			s, err := location.Open(t.Context(), profile)
			require.NoError(t, err)
			t.Cleanup(func() { _ = s.Close() })
			// Of one whose creation was cut off in an earlier release.
			_, err = s.Put(t.Context(), "shop/db/kopia.blobcfg", strings.NewReader("left"), location.PutOptions{})
			require.NoError(t, err)
			dir := files(t)
			const n = 6
			ids, errs := make([]string, n), make([]error, n)
			var all sync.WaitGroup
			for i := range n {
				all.Go(func() {
					r, err := Open(t.Context(), s, Options{Prefix: "shop/db", Passphrase: "secret", Create: true})
					if err == nil {
						var saved *Snapshot
						if saved, err = r.Save(t.Context(), dir, SaveOptions{Source: fmt.Sprint("/", i), Tag: fmt.Sprint(i)}); err == nil {
							ids[i] = saved.ID
						}
						err = errors.Join(err, r.Close(context.Background()))
					}
					errs[i] = err
				})
			}
			all.Wait()
			require.NoError(t, errors.Join(errs...))
			list, err := opened(t, s).List(t.Context())
			require.NoError(t, err)
			var found []string
			for _, l := range list {
				found = append(found, l.ID)
			}
			require.ElementsMatch(t, ids, found)
		})
	}
}
