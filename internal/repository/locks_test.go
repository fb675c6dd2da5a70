package repository

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/maintenance"
	"github.com/stretchr/testify/require"

	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

// at opens a store, and the repository in it, for as long as the test.
func at(t *testing.T, p templates.Profile) (location.Store, *Repository) {
	t.Helper()
	s, err := location.Open(t.Context(), p)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s, opened(t, s)
}

// locks of all objects; the zero time where there is none.
func locks(t *testing.T, s location.Store) map[string]time.Time {
	t.Helper()
	out := map[string]time.Time{}
	require.NoError(t, s.List(t.Context(), "", func(o location.Object) error {
		st, err := s.Stat(t.Context(), o.Name)
		out[o.Name] = st.LockedUntil
		return err
	}))
	return out
}

func TestARepositoryInALocationThatLocks(t *testing.T) {
	for _, mode := range []string{"governance", "compliance"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			server := teststore.StartS3(t, teststore.S3Options{Locks: true})
			lockedFor := func(span string) (location.Store, *Repository) {
				p := server.Profile
				p.Location.LockMode, p.Location.LockFor = mode, span
				s, r := at(t, p)
				r.safety = maintenance.SafetyNone
				return s, r
			}
			held := func(s location.Store, span time.Duration, since time.Time) {
				t.Helper()
				packs := 0
				for name, until := range locks(t, s) {
					id := filepath.Base(name)
					switch {
					case lasting(blob.ID(id)):
						require.False(t, until.Before(since.Add(span).Truncate(time.Second)), "%s is locked until %s", name, until)
						packs++
					default:
						require.Zero(t, until, "%s is written over, or goes", name)
						require.False(t, strings.HasPrefix(id, "s"), "the mark of a session stayed: %s", name)
					}
				}
				require.NotZero(t, packs)
			}

			start := time.Now()
			s, r := lockedFor("24h")
			dir := files(t)
			first, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "1"})
			require.NoError(t, err)
			other := t.TempDir()
			writeNoise(t, filepath.Join(other, "rel"), 5<<20, 7)
			gone, err := r.Save(t.Context(), other, SaveOptions{Source: "/other", Tag: "gone"})
			require.NoError(t, err)
			held(s, 24*time.Hour, start)

			// As a day later: the second backup has blocks of the first.
			start = time.Now()
			s, r = lockedFor("48h")
			writeNoise(t, filepath.Join(dir, "base/1/more"), 100<<10, 8)
			second, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "2"})
			require.NoError(t, err)
			require.Less(t, second.Moved, int64(1<<20))
			held(s, 48*time.Hour, start)

			require.NoError(t, r.Delete(t.Context(), first.ID))
			require.NoError(t, r.Delete(t.Context(), gone.ID))
			var m Maintained
			for range 3 { // what one run makes useless, another deletes
				m, err = r.Maintain(t.Context())
				require.NoError(t, err)
			}
			require.Greater(t, m.Locked, int64(5<<20), "the packs of the snapshot that is gone stay")
			require.WithinDuration(t, start.Add(48*time.Hour), m.Until, 2*time.Minute)

			// What is needed is held longer, and what is not is let go.
			start = time.Now()
			s, r = lockedFor("72h")
			m, err = r.Maintain(t.Context())
			require.NoError(t, err)
			require.Greater(t, m.Locked, int64(5<<20))
			require.True(t, m.Until.Before(start.Add(72*time.Hour)), "%s", m.Until)
			longer := 0
			for name, until := range locks(t, s) {
				if strings.HasPrefix(filepath.Base(name), "p") && !until.Before(start.Add(72*time.Hour).Truncate(time.Second)) {
					longer++
				}
			}
			require.NotZero(t, longer)
			target := t.TempDir()
			_, err = r.Restore(t.Context(), second.ID, target, RestoreOptions{})
			require.NoError(t, err)
			require.Equal(t, treeOf(t, dir), treeOf(t, target))
			list, err := r.List(t.Context())
			require.NoError(t, err)
			require.Len(t, list, 1)

			if mode != "governance" {
				return
			}
			// When the locks have ended, for which nobody waits here.
			past := time.Now().Add(2 * time.Second)
			for name, until := range locks(t, s) {
				if until.IsZero() || !until.Before(start.Add(72*time.Hour).Truncate(time.Second)) {
					continue
				}
				server.Unlock(name, past)
			}
			require.Eventually(t, func() bool {
				m, err = r.Maintain(t.Context())
				return err == nil && m.Freed > 5<<20
			}, 30*time.Second, 500*time.Millisecond)
			_, err = r.Restore(t.Context(), second.ID, t.TempDir(), RestoreOptions{})
			require.NoError(t, err)
		})
	}
}

// A location whose lock comes later locks what is there with the next backup.
func TestALockThatComesLater(t *testing.T) {
	server := teststore.StartS3(t, teststore.S3Options{Locks: true})
	_, r := at(t, server.Profile)
	dir := files(t)
	_, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "1"})
	require.NoError(t, err)
	p := server.Profile
	p.Location.LockMode, p.Location.LockFor = "governance", "24h"
	s, r := at(t, p)
	start := time.Now()
	_, err = r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: "2"})
	require.NoError(t, err)
	for name, until := range locks(t, s) {
		if lasting(blob.ID(filepath.Base(name))) {
			require.False(t, until.Before(start.Add(24*time.Hour).Truncate(time.Second)), "%s is locked until %s", name, until)
		}
	}
}

// locksAll is a store whose bucket has a rule that locks every object, as
// Amazon's may have one.
type locksAll struct{ location.Store }

func (s locksAll) Put(ctx context.Context, name string, r io.Reader, o location.PutOptions) (location.Object, error) {
	o.Unlocked = false
	return s.Store.Put(ctx, name, r, o)
}

func TestARepositoryInABucketThatLocksByItself(t *testing.T) {
	p := teststore.StartS3(t, teststore.S3Options{Locks: true}).Profile
	p.Location.LockMode, p.Location.LockFor = "compliance", "24h"
	plain, err := location.Open(t.Context(), p)
	require.NoError(t, err)
	t.Cleanup(func() { _ = plain.Close() })
	s := locksAll{plain}
	r := opened(t, s)
	dir := files(t)
	for _, tag := range []string{"1", "2"} {
		_, err := r.Save(t.Context(), dir, SaveOptions{Source: "/db", Tag: tag})
		require.NoError(t, err)
	}
	marks := 0
	for name, until := range locks(t, s) {
		if strings.HasPrefix(filepath.Base(name), "s") && !until.IsZero() {
			marks++
		}
	}
	require.NotZero(t, marks, "a mark of a session is locked, and stays")
	_, err = r.Maintain(t.Context())
	require.NoError(t, err)
	found, err := r.Find(context.Background(), "", "2")
	require.NoError(t, err)
	target := t.TempDir()
	_, err = r.Restore(t.Context(), found.ID, target, RestoreOptions{})
	require.NoError(t, err)
	require.Equal(t, treeOf(t, dir), treeOf(t, target))
}
