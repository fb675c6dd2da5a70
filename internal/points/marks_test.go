package points

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/internal/location"
	"thaw/internal/teststore"
)

// locked is an S3 location in which nothing can be taken away.
func locked(t testing.TB) location.Store {
	p := teststore.StartS3(t, teststore.S3Options{Locks: true}).Profile
	p.Location.LockMode, p.Location.LockFor = "governance", "24h"
	s, err := location.Open(t.Context(), p)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// The newest word holds, whether or not the store lets what was said before be
// taken away, and whatever the clocks of those say who say it.
func TestTheNewestMarkHolds(t *testing.T) {
	t0 := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	until := t0.Add(72 * time.Hour)
	for name, s := range map[string]location.Store{
		"directory": open(t, teststore.Directory(t)), "s3": open(t, teststore.S3(t)), "gcs": open(t, teststore.GCS(t)), "s3 with a lock": locked(t),
	} {
		t.Run(name, func(t *testing.T) {
			is := func(want Marks) {
				t.Helper()
				got, err := MarksOf(t.Context(), s, "shop-1")
				require.NoError(t, err)
				require.Equal(t, want.Retiring, got.Retiring)
				require.Equal(t, want.Kept.IsZero(), got.Kept.IsZero())
				require.Equal(t, want.Proven, got.Proven)
			}
			is(Marks{})
			require.NoError(t, Retire(t.Context(), s, "shop-1", Mark{At: t0, Until: until, By: "retention", Reason: "not kept", Run: "r"}))
			require.NoError(t, Retire(t.Context(), s, "shop-10", Mark{At: t0, Until: until}))
			is(Marks{Retiring: until})
			require.NoError(t, Undo(t.Context(), s, "shop-1", Mark{At: t0}))
			is(Marks{})
			require.NoError(t, Retire(t.Context(), s, "shop-1", Mark{At: t0, Until: until}))
			is(Marks{Retiring: until})
			require.NoError(t, Keep(t.Context(), s, "shop-1", Mark{At: t0.Add(-time.Hour), By: "ann"}), "her clock is late")
			is(Marks{Kept: t0})
			require.NoError(t, Retire(t.Context(), s, "shop-1", Mark{At: t0.Add(time.Hour), Until: until}))
			is(Marks{Kept: t0})
			require.NoError(t, Release(t.Context(), s, "shop-1", Mark{At: t0}))
			is(Marks{})
			require.NoError(t, Keep(t.Context(), s, "shop-1", Mark{At: t0}))
			is(Marks{Kept: t0})
			require.NoError(t, Prove(t.Context(), s, "shop-1", Mark{At: t0}))
			require.NoError(t, Prove(t.Context(), s, "shop-1", Mark{At: t0.Add(time.Second)}))
			is(Marks{Kept: t0, Proven: t0.Add(time.Second)})
			all, err := AllMarks(t.Context(), s)
			require.NoError(t, err)
			require.Len(t, all, 2)
			require.Equal(t, until, all["shop-10"].Retiring, "another's mark is its own")
			require.NoError(t, Unmark(t.Context(), s, "shop-10"))
			_, err = MarksOf(t.Context(), s, "../x")
			require.ErrorContains(t, err, "no id")
		})
	}
}

func TestAMarkTellsPeopleWhoAndWhy(t *testing.T) {
	s := open(t, teststore.Directory(t))
	at := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	require.NoError(t, Retire(t.Context(), s, "shop-1", Mark{At: at, Until: at.Add(time.Hour), By: "ann", Reason: "not kept", Run: "nightly"}))
	all := names(t, s)
	require.Equal(t, []string{"restorepoints-retiring/shop-1/20261125T100000.000000000Z-20261125T110000.000000000Z"}, all)
	r, err := s.Get(t.Context(), all[0], 0, -1)
	require.NoError(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.JSONEq(t, `{"at":"2026-11-25T10:00:00Z","until":"2026-11-25T11:00:00Z","by":"ann","reason":"not kept","run":"nightly"}`, string(b))
}

func TestStatesAreListedWithTheirMarks(t *testing.T) {
	s := open(t, teststore.Directory(t))
	for _, id := range []string{"a", "b"} {
		require.NoError(t, Publish(t.Context(), s, point(t, id, map[string]string{"f": "x"}), key(t), quiet))
	}
	at := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	require.NoError(t, Prove(t.Context(), s, "b", Mark{At: at}))
	_, err := s.Put(t.Context(), "restorepoints-kept/a/by hand", strings.NewReader(""), location.PutOptions{})
	require.NoError(t, err)
	list, err := States(t.Context(), s, nil)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, Marks{}, list[0].Marks, "what is no mark of ours is none")
	require.Equal(t, Marks{Proven: at}, list[1].Marks)
	require.NoError(t, Delete(t.Context(), s, list[1].Entry, quiet))
	marks, err := AllMarks(t.Context(), s)
	require.NoError(t, err)
	require.Empty(t, marks, "they go with it")
}
