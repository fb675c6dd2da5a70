package repository

import (
	"os"
	"path/filepath"
	"testing"

	kopiafs "github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/fs/localfs"
	"github.com/kopia/kopia/fs/virtualfs"
	"github.com/stretchr/testify/require"
)

// A large file is read in several places at once, and is one file all the same.
func TestALargeFileIsSavedInParts(t *testing.T) {
	s, _ := store(t)
	r := opened(t, s)
	dir := t.TempDir()
	file := filepath.Join(dir, "rel")
	const size = 3*above + 12345
	writeNoise(t, file, size, 3)
	first, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "1"})
	require.NoError(t, err)
	require.EqualValues(t, 1, first.Files)
	require.EqualValues(t, size, first.Size)
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	require.NoError(t, err)
	for _, at := range []int64{above - 100, 2*above + 500} { // over a seam, and in the middle
		_, err = f.WriteAt(make([]byte, 200), at)
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
	second, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "2"})
	require.NoError(t, err)
	require.EqualValues(t, 1, second.Files)
	require.Less(t, second.Moved, int64(1<<20), "three blocks")
	third, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "3"})
	require.NoError(t, err)
	require.EqualValues(t, 1, third.Files, "one that is not read again is counted, too")
	require.EqualValues(t, size, third.Size)
	for _, id := range []string{second.ID, third.ID} {
		target := t.TempDir()
		_, err = r.Restore(t.Context(), id, target, RestoreOptions{})
		require.NoError(t, err)
		require.Equal(t, treeOf(t, dir), treeOf(t, target))
	}
}

// listed is a file as it was listed, which is used once more.
type listed struct{ kopiafs.File }

func (listed) Close() {}

// A file that became shorter since it was listed has parts without content.
func TestALargeFileThatShrinksWhileItIsRead(t *testing.T) {
	s, _ := store(t)
	r := opened(t, s)
	for _, left := range []int64{above + 77, above, 5, 0} {
		dir := t.TempDir()
		file := filepath.Join(dir, "rel")
		writeNoise(t, file, 4*above, 4)
		entry, err := localfs.NewEntry(file)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(file, left))
		saved, err := r.save(t.Context(), dir, virtualfs.NewStaticDirectory("data", []kopiafs.Entry{listed{entry.(kopiafs.File)}}), ofVolume, SaveOptions{Source: "/db", Tag: "1"})
		require.NoError(t, err)
		target := t.TempDir()
		_, err = r.Restore(t.Context(), saved.ID, target, RestoreOptions{})
		require.NoError(t, err)
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(target, "rel"))
		require.NoError(t, err)
		require.Len(t, got, len(want))
		require.True(t, string(want) == string(got))
	}
}
