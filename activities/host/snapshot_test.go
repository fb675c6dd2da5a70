package host

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/internal/testdb"
)

func TestSnapshotCopiesAllOfATree(t *testing.T) {
	data, rp := filepath.Join(t.TempDir(), "data"), t.TempDir()
	makeTree(t, data)
	env := newEnv(t, rp)
	out := mustCall(t, env, "SnapshotPath", map[string]any{"path": data})
	require.Equal(t, filepath.Join(rp, "snapshot-capture"), out["path"])
	require.Contains(t, []any{methodCopy, methodReflink}, out["method"])
	require.Equal(t, false, out["atomic"])
	require.Equal(t, fingerprint(t, data), fingerprint(t, out["path"].(string)))

	// Another attempt replaces what an earlier one left.
	require.NoError(t, os.WriteFile(filepath.Join(out["path"].(string), "half-done"), nil, 0o600))
	again := mustCall(t, env, "SnapshotPath", map[string]any{"path": data})
	require.Equal(t, out, again)
	require.Equal(t, fingerprint(t, data), fingerprint(t, again["path"].(string)))
}

func TestSnapshotSelects(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	makeTree(t, data)
	cases := []struct {
		name string
		args map[string]any
		want []string
	}{
		{"without the contents of a directory", map[string]any{"exclude": []any{"pg_wal/*", "postmaster.pid", "empty"}}, []string{"PG_VERSION", "base", "base/1", "base/1/100", "base/1/101", "base/1/linked", "pg_wal"}},
		{"only some files, wherever they are", map[string]any{"include": []any{"**/10?"}}, []string{"base", "base/1", "base/1/100", "base/1/101"}},
		{"a whole directory", map[string]any{"include": []any{"pg_wal/archive_status"}}, []string{"pg_wal", "pg_wal/archive_status", "pg_wal/archive_status/x.done"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.args["path"] = data
			out := mustCall(t, newEnv(t, t.TempDir()), "SnapshotPath", c.args)
			got := fingerprint(t, out["path"].(string))
			delete(got, ".")
			names := []string{}
			for n := range got {
				names = append(names, n)
			}
			require.ElementsMatch(t, c.want, names)
		})
	}
}

func TestSnapshotTakesARangeOfNames(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	makeTree(t, data)
	args := map[string]any{"path": filepath.Join(data, "pg_wal"), "nameFrom": "000000010000000000000001", "nameTo": "000000010000000000000002"}
	out := mustCall(t, newEnv(t, t.TempDir()), "SnapshotPath", args)
	require.Equal(t, int64(2), out["files"])

	args["nameTo"] = "000000010000000000000009"
	_, err := call(t.Context(), Config{}, newEnv(t, t.TempDir()), "SnapshotPath", args)
	require.ErrorContains(t, err, "000000010000000000000009 is not in it")
	require.Equal(t, fault.Permanent, fault.Of(err))
}

func TestSnapshotTakesAFileAndItsSiblings(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"shop.db", "shop.db-wal", "other"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, n), []byte(n), 0o640))
	}
	out := mustCall(t, newEnv(t, t.TempDir()), "SnapshotPath", map[string]any{"path": filepath.Join(dir, "shop.db"), "siblings": []any{"-wal", "-journal"}})
	require.Equal(t, "shop.db", filepath.Base(out["path"].(string)))
	list, err := os.ReadDir(filepath.Dir(out["path"].(string)))
	require.NoError(t, err)
	require.Len(t, list, 2)
}

func TestSnapshotFailsBeforeTheFreeze(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	makeTree(t, data)
	rp := t.TempDir()
	cases := []struct {
		name string
		args map[string]any
		kind fault.Kind
		says string
	}{
		{"nothing there", map[string]any{"path": "/nowhere/at/all"}, fault.User, "no such file"},
		{"relative", map[string]any{"path": "data"}, fault.User, "absolute"},
		{"atomic, where it cannot", map[string]any{"path": data, "requireAtomic": true}, fault.User, "atomically"},
		{"into itself", map[string]any{"path": data, "destination": filepath.Join(data, "x")}, fault.User, "in each other"},
		{"a bad pattern", map[string]any{"path": data, "include": []any{"[a"}}, fault.User, `"[a"`},
		{"half a range", map[string]any{"path": data, "nameFrom": "a"}, fault.User, "belong together"},
		{"an unknown argument", map[string]any{"path": data, "requiresAtomic": true}, fault.User, "requiresAtomic"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, f := range Functions(Config{}) {
				if f.Name == "SnapshotPath" {
					_, _, err := f.Bind(t.Context(), newEnv(t, rp), c.args)
					require.ErrorContains(t, err, c.says)
					require.Equal(t, c.kind, fault.Of(err), err.Error())
				}
			}
		})
	}
}

func TestSnapshotStopsWhenItsTimeIsOver(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	makeTree(t, data)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, f := range Functions(Config{}) {
		if f.Name == "SnapshotPath" {
			act, _, err := f.Bind(ctx, newEnv(t, t.TempDir()), map[string]any{"path": data})
			require.NoError(t, err)
			cancel()
			_, err = act(ctx)
			require.ErrorContains(t, err, "canceled")
		}
	}
}

func btrfs(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("btrfs", args...).CombinedOutput()
	require.NoError(t, err, string(out))
}

func TestSnapshotOfASubvolumeIsAtomicUnderLoad(t *testing.T) {
	mnt := testdb.Btrfs(t)
	btrfs(t, "subvolume", "create", filepath.Join(mnt, "data"))
	db := testdb.NewSQLiteAt(t, filepath.Join(mnt, "data", "shop.db"), "wal")
	db.StartLoad()
	for name, rp := range map[string]string{"the restore point elsewhere": t.TempDir(), "the restore point on the same file system": filepath.Join(mnt, "backups")} {
		t.Run(name, func(t *testing.T) {
			env := newEnv(t, rp)
			n := db.Commits()
			require.Eventually(t, func() bool { return db.Commits() > n+20 }, testWait, testTick)
			out := mustCall(t, env, "SnapshotPath", map[string]any{"path": filepath.Join(mnt, "data"), "requireAtomic": true, "writable": true})
			require.Equal(t, methodBtrfs, out["method"])
			require.Equal(t, true, out["atomic"])
			_, err := db.Check(filepath.Join(out["path"].(string), "shop.db"))
			require.NoError(t, err, "an atomic snapshot is as after a crash: consistent, with no freeze at all")
			// Another attempt, then away with it.
			out = mustCall(t, env, "SnapshotPath", map[string]any{"path": filepath.Join(mnt, "data"), "requireAtomic": true})
			require.Error(t, os.WriteFile(filepath.Join(out["path"].(string), "x"), nil, 0o600), "read-only, unless writable")
			require.Equal(t, 1, mustCall(t, env, "DeletePath", map[string]any{"paths": []any{out["remove"]}})["deleted"])
			require.NoDirExists(t, out["subvolume"].(string))
		})
	}
}

func TestSnapshotOfADirectoryInASubvolume(t *testing.T) {
	mnt := testdb.Btrfs(t)
	makeTree(t, filepath.Join(mnt, "a", "data"))
	env := newEnv(t, t.TempDir())
	out := mustCall(t, env, "SnapshotPath", map[string]any{"path": filepath.Join(mnt, "a", "data"), "requireAtomic": true})
	require.Equal(t, filepath.Join(mnt, ".thaw-thaw-k1", "a", "data"), out["path"])
	require.Equal(t, fingerprint(t, filepath.Join(mnt, "a", "data")), fingerprint(t, out["path"].(string)))

	// A subvolume inside would be an empty directory in the snapshot.
	btrfs(t, "subvolume", "create", filepath.Join(mnt, "a", "data", "nested"))
	require.NoError(t, os.WriteFile(filepath.Join(mnt, "a", "data", "nested", "f"), []byte("f"), 0o600))
	_, err := call(t.Context(), Config{}, env, "SnapshotPath", map[string]any{"path": filepath.Join(mnt, "a", "data"), "requireAtomic": true})
	require.ErrorContains(t, err, "nested in it is another subvolume")
	out = mustCall(t, env, "SnapshotPath", map[string]any{"path": filepath.Join(mnt, "a", "data")})
	require.Equal(t, methodReflink, out["method"])
	require.FileExists(t, filepath.Join(out["path"].(string), "nested", "f"))
	require.Equal(t, fingerprint(t, filepath.Join(mnt, "a", "data")), fingerprint(t, out["path"].(string)))
}
