package points

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

var quiet = func(string) {}

func open(t *testing.T, p templates.Profile) location.Store {
	s, err := location.Open(t.Context(), p)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func point(t *testing.T, id string, files map[string]string) plan.RestorePoint {
	rp := plan.RestorePoint{
		APIVersion: plan.RestorePointVersion, ID: id, Directory: t.TempDir(), Blueprint: "sqlite", Consistent: true,
		Target: plan.Target{Kind: "sqlite", Name: "/data/shop.db"}, CompletedAt: time.Date(2026, 11, 25, 10, 46, 18, 7, time.UTC),
	}
	for name, text := range files {
		file := filepath.Join(rp.Directory, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	return rp
}

func key(t *testing.T) Key {
	k, err := NewKey("AGE-SECRET-KEY-1TEST")
	require.NoError(t, err)
	return k
}

func names(t *testing.T, s location.Store) (all []string) {
	require.NoError(t, s.List(t.Context(), "", func(o location.Object) error { all = append(all, o.Name); return nil }))
	return all
}

func TestARestorePointGoesAndComesBack(t *testing.T) {
	for name, profile := range map[string]func(testing.TB) templates.Profile{"s3": teststore.S3, "gcs": teststore.GCS, "directory": teststore.Directory} {
		t.Run(name, func(t *testing.T) {
			s := open(t, profile(t))
			files := map[string]string{"archive.tar": strings.Repeat("x", 100_000), "members/a/restorepoint.json": "{}", "empty": ""}
			rp := point(t, "shop-1", files)
			require.NoError(t, os.WriteFile(filepath.Join(rp.Directory, plan.RestorePointFile), []byte("old"), 0o600))
			for range 2 { // it may be repeated
				require.NoError(t, Publish(t.Context(), s, rp, key(t), quiet))
				done, err := Read(t.Context(), s, rp.ID, key(t))
				require.NoError(t, err)
				require.Len(t, done.Files, 3)
			}
			list, err := List(t.Context(), s)
			require.NoError(t, err)
			require.Len(t, list, 1)
			require.True(t, list[0].Sealed(key(t)))
			require.Equal(t, []Entry{{ID: "shop-1", Target: rp.Target.Key(), Blueprint: "sqlite", Consistent: true, CompletedAt: time.Date(2026, 11, 25, 10, 46, 18, 0, time.UTC)}}, []Entry{list[0].bare()})

			dir := filepath.Join(t.TempDir(), "new")
			got, err := Fetch(t.Context(), s, "shop-1", dir, key(t), quiet)
			require.NoError(t, err)
			require.Equal(t, dir, got.Directory)
			for name, text := range files {
				b, err := os.ReadFile(filepath.Join(dir, name))
				require.NoError(t, err)
				require.Equal(t, text, string(b))
			}
			require.NoError(t, verified(t, s, "shop-1", key(t)))

			_, err = s.Put(t.Context(), "restorepoints/shop-1/archive.tar", strings.NewReader("y"), location.PutOptions{})
			require.NoError(t, err)
			require.NoError(t, s.Delete(t.Context(), "restorepoints/shop-1/empty"))
			err = verified(t, s, "shop-1", key(t))
			require.ErrorContains(t, err, "archive.tar is damaged: it has 1 bytes")
			require.ErrorContains(t, err, `restorepoints/shop-1/empty`, "all that is wrong")
			require.Equal(t, fault.Permanent, fault.Of(err))
			_, err = Fetch(t.Context(), s, "shop-1", filepath.Join(t.TempDir(), "other"), key(t), quiet)
			require.ErrorContains(t, err, "damaged")

			for range 2 {
				require.NoError(t, Delete(t.Context(), s, list[0], quiet))
			}
			require.Empty(t, names(t, s))
			_, err = Read(t.Context(), s, "shop-1", nil)
			require.ErrorIs(t, err, location.ErrNotFound)
			require.Equal(t, fault.User, fault.Of(err))
		})
	}
}

// What is not whole is in no list.
func TestACutInTheMiddleLeavesNothingInTheList(t *testing.T) {
	server := teststore.StartS3(t, teststore.S3Options{})
	s := open(t, server.Profile)
	rp := point(t, "shop-1", map[string]string{"a": strings.Repeat("x", 1<<20), "b": strings.Repeat("y", 1<<20)})
	server.Line.CutAfter(1 << 20)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := Publish(ctx, s, rp, key(t), quiet)
	require.Error(t, err)
	require.Equal(t, fault.Transient, fault.Of(err))
	server.Line.Mend()
	list, err := List(t.Context(), s)
	require.NoError(t, err)
	require.Empty(t, list)
	require.NoError(t, Publish(t.Context(), s, rp, key(t), quiet))
	require.NoError(t, verified(t, s, "shop-1", key(t)))
}

// Retention lists, marks and deletes: cut wherever it may be, what is left is a
// restore point that is whole, or one that no list shows, and a repeat ends it.
func TestRetentionThatIsCutIsEndedByAnother(t *testing.T) {
	for name, start := range map[string]func() *teststore.Server{
		"s3": func() *teststore.Server { return teststore.StartS3(t, teststore.S3Options{}) }, "gcs": func() *teststore.Server { return teststore.StartGCS(t) },
	} {
		t.Run(name, func(t *testing.T) {
			server := start()
			s := open(t, server.Profile)
			gone := 0
			for i, after := range []int64{200, 1500, 3000, 5000, 8000} {
				id := fmt.Sprintf("shop-%d", i)
				rp := point(t, id, map[string]string{"a": strings.Repeat("x", 4000), "b": "y"})
				require.NoError(t, Publish(t.Context(), s, rp, key(t), quiet))
				retire := func(ctx context.Context) error {
					list, err := States(ctx, s, key(t))
					if err != nil {
						return err
					}
					if err := Retire(ctx, s, id, Mark{At: rp.CompletedAt, Until: rp.CompletedAt, By: "nightly"}); err != nil {
						return err
					}
					for _, e := range list {
						if e.ID == id {
							if err := Delete(ctx, s, e.Entry, quiet); err != nil {
								return err
							}
						}
					}
					return Unmark(ctx, s, id)
				}
				server.Line.CutAfter(after)
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				err := retire(ctx)
				cancel()
				server.Line.Mend()
				if err == nil {
					gone++
				} else {
					require.Equal(t, fault.Transient, fault.Of(err), "%v", err)
				}
				list, err := List(t.Context(), s)
				require.NoError(t, err)
				for _, e := range list {
					require.NoError(t, verified(t, s, e.ID, key(t)), "what a list shows is whole")
				}
				require.NoError(t, retire(t.Context()))
				require.NoError(t, Remove(t.Context(), s, id, quiet))
			}
			require.Less(t, gone, 5, "some were cut")
			list, err := List(t.Context(), s)
			require.NoError(t, err)
			require.Empty(t, list)
		})
	}
}

func TestAListReadsNoRestorePoint(t *testing.T) {
	s := open(t, teststore.Directory(t))
	var want []Entry
	for i := range 30 {
		e := Entry{
			ID: fmt.Sprintf("p-%02d", i), Consistent: i%2 == 0, Blueprint: strings.Repeat("é", i*10), CompletedAt: time.Date(2026, 1, 1, i, 0, 0, 0, time.UTC),
			Target: []string{"", ".", "..", "sqlite:/data/a b%c.db", "statefulset:ns:db"}[i%5],
		}
		_, err := s.Put(t.Context(), e.name(), bytes.NewReader(nil), location.PutOptions{})
		require.NoError(t, err)
		want = append(want, e)
	}
	list, err := List(t.Context(), s)
	require.NoError(t, err)
	require.Len(t, list, len(want))
	for i, e := range list {
		cut, _, _ := strings.Cut(e.Blueprint, "~")
		require.True(t, strings.HasPrefix(want[i].Blueprint, cut), "a long one is cut")
		require.GreaterOrEqual(t, len(e.Blueprint), min(len(want[i].Blueprint), 60))
		e.Blueprint = want[i].Blueprint
		require.Equal(t, want[i], e)
	}
}

// Retention counts each target by itself: a name that is cut stays one's own.
func TestLongNamesAreNotTakenForOneAnother(t *testing.T) {
	a := Entry{ID: "a", Target: strings.Repeat("/long", 80) + "1", CompletedAt: time.Unix(0, 0)}
	b := a
	b.Target = strings.Repeat("/long", 80) + "2"
	require.NotEqual(t, a.name(), b.name())
	one, _ := parse(a.name())
	other, _ := parse(b.name())
	require.NotEqual(t, one.Target, other.Target)
}

func TestARecordThatWasChangedIsRefused(t *testing.T) {
	s := open(t, teststore.Directory(t))
	put := func(id, text string) {
		_, err := s.Put(t.Context(), at(id, plan.RestorePointFile), strings.NewReader(text), location.PutOptions{})
		require.NoError(t, err)
	}
	put("a", `{"apiVersion":"`+plan.RestorePointVersion+`","id":"b"}`)
	_, err := Read(t.Context(), s, "a", nil)
	require.ErrorContains(t, err, `is of "b"`)
	put("c", `{"apiVersion":"thaw.dev/restorepoint/v9","id":"c"}`)
	_, err = Read(t.Context(), s, "c", nil)
	require.ErrorContains(t, err, "v9")
	put("d", `{"apiVersion":"`+plan.RestorePointVersion+`","id":"d","files":[{"name":"../../etc/passwd","size":0,"sha256":""}]}`)
	_, err = Fetch(t.Context(), s, "d", t.TempDir(), nil, quiet)
	require.ErrorContains(t, err, "leaves its directory")
	_, err = Read(t.Context(), s, "../a", nil)
	require.ErrorContains(t, err, "no id")
}

func FuzzEntry(f *testing.F) {
	f.Add("sqlite:/data/shop.db", "sqlite")
	f.Add("..", "%")
	f.Fuzz(func(t *testing.T, target, blueprint string) {
		e := Entry{ID: "a", Target: target, Blueprint: blueprint, CompletedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		name := e.name()
		got, ok := parse(name)
		require.True(t, ok, name)
		require.Equal(t, name, got.name(), "a name names the same again")
		for p := range strings.SplitSeq(name, "/") {
			require.LessOrEqual(t, len(p), 255)
			require.NotContains(t, []string{"", ".", ".."}, p)
		}
	})
}
