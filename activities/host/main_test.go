package host

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/activities/function"
	"thaw/activities/function/functiontest"
	"thaw/blueprints/plan"
	"thaw/internal/testdb"
)

func TestMain(m *testing.M) {
	testdb.ChildMain()
	os.Exit(m.Run())
}

func newEnv(t *testing.T, restorePoint string) *function.Env {
	t.Helper()
	return &function.Env{
		Key: "thaw-k1", Phase: "capture", StateDir: t.TempDir(), RestorePoint: plan.RestorePointRef{ID: "rp", Directory: restorePoint},
		Log: slog.New(slog.DiscardHandler), Secrets: functiontest.Secrets{"admin": {"password": []byte("s3cr3t-value")}}, Holds: function.NewHolds(),
	}
}

func call(ctx context.Context, cfg Config, env *function.Env, name string, args map[string]any) (function.Outputs, error) {
	for _, f := range Functions(cfg) {
		if f.Name != name {
			continue
		}
		act, release, err := f.Bind(ctx, env, args)
		if err != nil {
			return nil, err
		}
		if release != nil {
			defer release()
		}
		return act(ctx)
	}
	panic(name)
}

func mustCall(t *testing.T, env *function.Env, name string, args map[string]any) function.Outputs {
	t.Helper()
	out, err := call(t.Context(), Config{}, env, name, args)
	require.NoError(t, err)
	return out
}

// makeTree makes a small data directory with all that a copy must keep.
func makeTree(t *testing.T, dir string) {
	t.Helper()
	for name, content := range map[string]string{
		"PG_VERSION": "15\n", "base/1/100": strings.Repeat("page", 4096), "base/1/101": "x", "pg_wal/000000010000000000000001": "wal1",
		"pg_wal/000000010000000000000002": "wal2", "pg_wal/000000010000000000000003": "wal3", "pg_wal/archive_status/x.done": "", "postmaster.pid": "1\n", "empty/.keep": "",
	} {
		p := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o750))
		require.NoError(t, os.WriteFile(p, []byte(content), 0o600))
	}
	require.NoError(t, os.Link(filepath.Join(dir, "base/1/100"), filepath.Join(dir, "base/1/linked")))
	require.NoError(t, os.Symlink("../base/1", filepath.Join(dir, "empty/link")))
	require.NoError(t, os.Chmod(filepath.Join(dir, "base/1/101"), 0o640))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(filepath.Join(dir, "base/1/101"), 1234, 2345))
	}
}

// fingerprint describes a tree: names, kinds, modes, owners, times, contents.
func fingerprint(t *testing.T, root string, without ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		for _, w := range without {
			if rel == w || strings.HasPrefix(rel, w+"/") {
				return nil
			}
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%s %d:%d", info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d links, %s: %s", st.Nlink, info.ModTime().UTC(), b)
		case info.Mode()&fs.ModeSymlink != 0:
			l, _ := os.Readlink(p)
			line += " -> " + l
		}
		out[rel] = line
		return nil
	}))
	return out
}
