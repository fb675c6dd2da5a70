package host

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"thaw/activities/function"
	"thaw/blueprints/fault"
)

const (
	testWait = 15 * time.Second
	testTick = 5 * time.Millisecond
)

func exportTree(t *testing.T, env *function.Env, data string, more map[string]any) function.Outputs {
	t.Helper()
	args := map[string]any{"path": data}
	for k, v := range more {
		args[k] = v
	}
	return mustCall(t, env, "ExportPath", args)
}

func TestAnExportRestoresToTheSameTree(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	makeTree(t, data)
	_ = unix.Setxattr(filepath.Join(data, "PG_VERSION"), "user.thaw", []byte("kept"), 0)
	_, attrErr := xattr(filepath.Join(data, "PG_VERSION"), "user.thaw")
	env := newEnv(t, filepath.Join(dir, "rp"))
	out := exportTree(t, env, data, nil)
	require.Equal(t, filepath.Join(dir, "rp", "data.tar.zst"), out["archive"])

	target := filepath.Join(dir, "restored")
	r := mustCall(t, env, "RestorePath", map[string]any{"archive": out["archive"], "sha256": out["sha256"], "path": target})
	require.Equal(t, function.Outputs{"path": target, "previous": "", "files": int64(9)}, r)
	require.Equal(t, fingerprint(t, data), fingerprint(t, target))
	if attrErr == nil {
		v, err := xattr(filepath.Join(target, "PG_VERSION"), "user.thaw")
		require.NoError(t, err)
		require.Equal(t, "kept", string(v))
	}
	// With Thaw gone, tar reads it.
	list, err := exec.Command("tar", "--use-compress-program=zstd", "-tf", out["archive"].(string)).CombinedOutput()
	if err == nil {
		require.Contains(t, string(list), "base/1/100")
	}
	v := mustCall(t, env, "VerifyArchive", map[string]any{"archive": out["archive"], "sha256": out["sha256"], "require": []any{"PG_VERSION"}})
	require.Equal(t, out["files"], v["files"])
}

func TestAnExportTakesFilesAndTreesFromElsewhere(t *testing.T) {
	dir := t.TempDir()
	data, wal := filepath.Join(dir, "data"), filepath.Join(dir, "wal")
	makeTree(t, data)
	require.NoError(t, os.MkdirAll(wal, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(wal, "000000010000000000000007"), []byte("w"), 0o600))
	env := newEnv(t, filepath.Join(dir, "rp"))
	out := exportTree(t, env, data, map[string]any{
		"name": "base", "exclude": []any{"pg_wal/*"}, "files": map[string]any{"backup_label": "START\n"}, "add": map[string]any{"pg_wal": wal},
	})
	target := filepath.Join(dir, "restored")
	mustCall(t, env, "RestorePath", map[string]any{"archive": out["archive"], "sha256": out["sha256"], "path": target})
	got := fingerprint(t, target)
	require.Contains(t, got["backup_label"], "START")
	require.Contains(t, got, "pg_wal/000000010000000000000007")
	require.NotContains(t, got, "pg_wal/000000010000000000000001")
	_, err := call(t.Context(), Config{}, env, "VerifyArchive", map[string]any{"archive": out["archive"], "sha256": out["sha256"], "require": []any{"tablespace_map"}})
	require.ErrorContains(t, err, "tablespace_map is not in it")
}

func TestAnExportTakesARangeOfNames(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	makeTree(t, data)
	require.NoError(t, os.Symlink(filepath.Join(data, "pg_wal"), filepath.Join(dir, "wal-link")))
	env := newEnv(t, filepath.Join(dir, "rp"))
	rng := map[string]any{"as": "pg_wal", "path": filepath.Join(dir, "wal-link"), "nameFrom": "000000010000000000000002", "nameTo": "000000010000000000000003"}
	out := exportTree(t, env, data, map[string]any{"exclude": []any{"pg_wal/*"}, "addRange": rng})
	target := filepath.Join(dir, "restored")
	mustCall(t, env, "RestorePath", map[string]any{"archive": out["archive"], "sha256": out["sha256"], "path": target})
	list, err := os.ReadDir(filepath.Join(target, "pg_wal"))
	require.NoError(t, err)
	require.Len(t, list, 2)
	rng["nameFrom"] = "000000010000000000000000"
	_, err = call(t.Context(), Config{}, env, "ExportPath", map[string]any{"path": data, "addRange": rng})
	require.ErrorContains(t, err, "000000010000000000000000 is not in")
}

func TestARestoreKeepsWhatWasThereAndSwapsBack(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	makeTree(t, data)
	env := newEnv(t, filepath.Join(dir, "rp"))
	out := exportTree(t, env, data, nil)
	want := fingerprint(t, data)
	require.NoError(t, os.WriteFile(filepath.Join(data, "newer"), []byte("newer"), 0o600))
	newer := fingerprint(t, data)

	args := map[string]any{"archive": out["archive"], "sha256": out["sha256"], "path": data}
	r := mustCall(t, env, "RestorePath", args)
	require.Equal(t, data+".thaw-before-thaw-k1", r["previous"])
	require.Equal(t, want, fingerprint(t, data))
	require.Equal(t, newer, fingerprint(t, r["previous"].(string)))

	again := mustCall(t, env, "RestorePath", args)
	require.Equal(t, r["previous"], again["previous"], "another attempt finds the first's swap")
	require.Equal(t, newer, fingerprint(t, r["previous"].(string)))

	undo := newEnv(t, "")
	undo.Key = "thaw-undo"
	for range 2 {
		mustCall(t, undo, "RestorePath", map[string]any{"path": data, "undo": r["previous"]})
		require.Equal(t, newer, fingerprint(t, data))
	}
	_, err := call(t.Context(), Config{}, undo, "RestorePath", map[string]any{"path": data, "undo": "/etc"})
	require.ErrorContains(t, err, "not what an earlier restore of it kept")
}

func TestADamagedArchiveReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	makeTree(t, data)
	env := newEnv(t, filepath.Join(dir, "rp"))
	out := exportTree(t, env, data, nil)
	before := fingerprint(t, data)
	b, err := os.ReadFile(out["archive"].(string))
	require.NoError(t, err)
	b[len(b)/2] ^= 1
	require.NoError(t, os.WriteFile(out["archive"].(string), b, 0o600))
	for _, f := range []string{"RestorePath", "VerifyArchive"} {
		args := map[string]any{"archive": out["archive"], "sha256": out["sha256"]}
		if f == "RestorePath" {
			args["path"] = data
		}
		_, err = call(t.Context(), Config{}, env, f, args)
		require.ErrorContains(t, err, "not what was exported")
		require.Equal(t, fault.Permanent, fault.Of(err))
	}
	require.Equal(t, before, fingerprint(t, data))
	left, _ := filepath.Glob(data + ".thaw-*")
	require.Empty(t, left)
}

func TestAnArchiveDoesNotLeadOut(t *testing.T) {
	outside := t.TempDir()
	cases := map[string][]tar.Header{
		"a name with ..":             {{Name: "../escaped", Typeflag: tar.TypeReg, Mode: 0o600}},
		"an absolute name":           {{Name: outside + "/escaped", Typeflag: tar.TypeReg, Mode: 0o600}},
		"through a symlink":          {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "out/escaped", Typeflag: tar.TypeReg, Mode: 0o600}},
		"a hard link to the outside": {{Name: "escaped", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}},
		"a device":                   {{Name: "dev", Typeflag: tar.TypeBlock}},
	}
	for name, headers := range cases {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			z, err := zstd.NewWriter(&buf)
			require.NoError(t, err)
			w := tar.NewWriter(z)
			for _, h := range headers {
				require.NoError(t, w.WriteHeader(&h))
			}
			require.NoError(t, w.Close())
			require.NoError(t, z.Close())
			file := filepath.Join(t.TempDir(), "evil.tar.zst")
			require.NoError(t, os.WriteFile(file, buf.Bytes(), 0o600))
			dir := filepath.Join(t.TempDir(), "x")
			_, err = extract(t.Context(), newEnv(t, ""), file, dir, nil)
			require.Error(t, err)
			list, _ := os.ReadDir(outside)
			require.Empty(t, list)
		})
	}
}

func TestDeletePathDeletesOnlyWhatIsThaws(t *testing.T) {
	dir := t.TempDir()
	rp, app := filepath.Join(dir, "rp"), filepath.Join(dir, "app")
	makeTree(t, app)
	makeTree(t, rp)
	require.NoError(t, os.Symlink(app, filepath.Join(rp, "link")))
	env := newEnv(t, rp)
	before := fingerprint(t, app)
	for _, p := range []string{app, filepath.Join(rp, "..", "app"), filepath.Join(rp, "link", "base"), "/", "app", rp + "x"} {
		_, err := call(t.Context(), Config{}, env, "DeletePath", map[string]any{"paths": []any{filepath.Join(rp, "base"), p}})
		require.Error(t, err, p)
		require.Equal(t, fault.User, fault.Of(err))
	}
	require.Equal(t, before, fingerprint(t, app))
	require.DirExists(t, filepath.Join(rp, "base"), "all are checked before any is deleted")
	out := mustCall(t, env, "DeletePath", map[string]any{"paths": []any{filepath.Join(rp, "link"), "", filepath.Join(rp, "base"), filepath.Join(rp, "absent")}})
	require.Equal(t, 2, out["deleted"])
	require.Equal(t, before, fingerprint(t, app))
	require.Equal(t, 1, mustCall(t, env, "DeletePath", map[string]any{"path": rp})["deleted"])
}

func TestRestoreKeepsTheFormerContentWhateverStepItDiesAt(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	makeTree(t, data)
	env := newEnv(t, filepath.Join(dir, "rp"))
	older := fingerprint(t, data)
	x := mustCall(t, env, "ExportPath", map[string]any{"path": data})
	args := map[string]any{"path": data, "archive": x["archive"], "sha256": x["sha256"]}
	require.NoError(t, os.WriteFile(filepath.Join(data, "newer"), []byte("not in the backup"), 0o600))
	newer := fingerprint(t, data)

	r := mustCall(t, env, "RestorePath", args)
	previous := r["previous"].(string)
	// As a worker leaves it that is killed after the exchange, and before the
	// former content has its name.
	require.NoError(t, os.Rename(previous, data+made+"new-"+env.Key))
	require.Equal(t, previous, mustCall(t, env, "RestorePath", args)["previous"])
	require.Equal(t, newer, fingerprint(t, previous), "the former content is not removed as a leftover")
	require.Equal(t, older, fingerprint(t, data))

	back := *env
	back.Key = "thaw-k2"
	undo := map[string]any{"path": data, "undo": previous}
	undone := mustCall(t, &back, "RestorePath", undo)["previous"].(string)
	require.NoError(t, os.Rename(undone, previous))
	require.Equal(t, undone, mustCall(t, &back, "RestorePath", undo)["previous"])
	require.Equal(t, newer, fingerprint(t, data), "not swapped a second time")
	require.Equal(t, older, fingerprint(t, undone))
}

func TestUndoOfARestoreThatSwappedNothing(t *testing.T) {
	env := newEnv(t, t.TempDir())
	out := mustCall(t, env, "RestorePath", map[string]any{"path": filepath.Join(t.TempDir(), "data"), "undo": ""})
	require.Equal(t, "", out["previous"])
	_, err := call(t.Context(), Config{}, env, "RestorePath", map[string]any{"path": filepath.Join(t.TempDir(), "data")})
	require.ErrorContains(t, err, "archive and sha256 are required")
}
