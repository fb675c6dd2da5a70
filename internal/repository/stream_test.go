package repository

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
)

func stream(t *testing.T, n int64) []byte {
	b, err := io.ReadAll(io.LimitReader(rand.NewChaCha8([32]byte{9}), n))
	require.NoError(t, err)
	return b
}

type fails struct{ err error }

func (f fails) Read([]byte) (int, error) { return 0, f.err }

func TestAStreamComesBack(t *testing.T) {
	s, _ := store(t)
	r := opened(t, s)
	for _, c := range []struct {
		name, root, file, at string
		size                 int64
	}{
		{"a file", "/mnt/data", "dump.sql", "dump.sql", 20 << 20},
		{"a file in a directory", "/mnt/data", "/shop/db/dump.sql", "shop/db/dump.sql", 1 << 20},
		{"an empty one", "/", "empty", "empty", 0},
		{"below the root", "", "a/b", "a/b", 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := stream(t, c.size)
			saved, err := r.SaveStream(t.Context(), bytes.NewReader(want), c.file, SaveOptions{Source: c.name, Tag: c.name, Root: c.root})
			require.NoError(t, err)
			require.EqualValues(t, 1, saved.Files)
			require.Equal(t, c.size, saved.Size)
			require.NotEmpty(t, saved.Object)
			target := t.TempDir()
			_, err = r.Restore(t.Context(), saved.ID, target, RestoreOptions{})
			require.NoError(t, err)
			got, err := os.ReadFile(filepath.Join(target, c.at))
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got))
		})
	}
	t.Run("of what changed in the middle only that is moved", func(t *testing.T) {
		b := stream(t, 20<<20)
		b = append(append(append([]byte{}, b[:7<<20]...), "INSERT INTO t VALUES (1);"...), b[7<<20:]...)
		saved, err := r.SaveStream(t.Context(), bytes.NewReader(b), "dump.sql", SaveOptions{Source: "a file", Root: "/mnt/data"})
		require.NoError(t, err)
		require.Less(t, saved.Moved, int64(2<<20))
	})
}

func TestAStreamThatBreaksIsNoSnapshot(t *testing.T) {
	s, _ := store(t)
	r := opened(t, s)
	for _, n := range []int64{0, 100, 20 << 20} {
		for _, bad := range []error{
			fault.New(fault.Transient, "the network broke"),
			fmt.Errorf("a file of the producer's: %w", fs.ErrNotExist), // of a file of ours it would be forgiven
			io.ErrUnexpectedEOF,
			fmt.Errorf("wrapped: %w", io.EOF),
		} {
			_, err := r.SaveStream(t.Context(), io.MultiReader(bytes.NewReader(stream(t, n)), fails{bad}), "dump", SaveOptions{Source: "x", Root: "/x"})
			require.ErrorIs(t, err, bad)
			require.Equal(t, fault.Of(bad), fault.Of(err))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := fails{context.Canceled}
		_, err := r.SaveStream(ctx, io.MultiReader(bytes.NewReader(stream(t, n)), cancels{cancel, cancelled}), "dump", SaveOptions{Source: "x", Root: "/x"})
		require.ErrorIs(t, err, context.Canceled)
	}
	list, err := r.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, list)
	_, err = r.SaveStream(t.Context(), bytes.NewReader(nil), "/", SaveOptions{Source: "x"})
	require.Equal(t, fault.User, fault.Of(err))
}

type cancels struct {
	cancel context.CancelFunc
	then   io.Reader
}

func (c cancels) Read(b []byte) (int, error) {
	c.cancel()
	return c.then.Read(b)
}
