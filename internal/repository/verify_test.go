package repository

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
)

// largest is the largest of the blobs that data is in.
func largest(t *testing.T, dir string) string {
	t.Helper()
	var found string
	var most int64
	all, err := filepath.Glob(filepath.Join(dir, "shop/db", "p*"))
	require.NoError(t, err)
	for _, f := range all {
		if info, err := os.Stat(f); err == nil && info.Size() > most {
			found, most = f, info.Size()
		}
	}
	require.NotEmpty(t, found)
	return found
}

func TestADamagedSnapshotIsFound(t *testing.T) {
	for what, c := range map[string]struct {
		damage  func(t *testing.T, blob string)
		percent float64
		whole   bool // it is not found
	}{
		"nothing":                       {func(*testing.T, string) {}, 100, true},
		"a byte, read back":             {flip, 100, false},
		"a byte, of what is not read":   {flip, 0, true},
		"a blob is gone, nothing read":  {remove, 0, false},
		"a blob is gone, all read back": {remove, 100, false},
	} {
		t.Run(what, func(t *testing.T) {
			s, dir := store(t)
			r, err := Open(t.Context(), s, Options{Prefix: "shop/db", Passphrase: "secret", Create: true})
			require.NoError(t, err)
			saved, err := r.Save(t.Context(), files(t), SaveOptions{Source: "/shop/data", Tag: "one"})
			require.NoError(t, err)
			require.NoError(t, r.Close(context.Background()))
			c.damage(t, largest(t, dir))

			r = opened(t, s)
			p, err := r.Verify(t.Context(), saved.ID, c.percent)
			if c.whole {
				require.NoError(t, err)
				require.Equal(t, c.percent == 100, p.Bytes >= saved.Size, "%d of %d bytes read", p.Bytes, saved.Size)
				return
			}
			require.Equal(t, fault.Permanent, fault.Of(err), "%v", err)
			require.ErrorContains(t, err, saved.ID)
			require.ErrorContains(t, err, "base/1/large")
			require.ErrorContains(t, err, "restore another")
		})
	}
	t.Run("there is none", func(t *testing.T) {
		s, _ := store(t)
		_, err := opened(t, s).Verify(t.Context(), strings.Repeat("0", 32), 100)
		require.ErrorIs(t, err, ErrNoSnapshot)
	})
}

func flip(t *testing.T, blob string) {
	t.Helper()
	b, err := os.ReadFile(blob)
	require.NoError(t, err)
	b[len(b)/2] ^= 1
	require.NoError(t, os.Remove(blob))
	require.NoError(t, os.WriteFile(blob, b, 0o600))
}

func remove(t *testing.T, blob string) {
	t.Helper()
	require.NoError(t, os.Remove(blob))
}
