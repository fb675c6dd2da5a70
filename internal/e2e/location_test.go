package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/plan"
	"thaw/internal/location"
	"thaw/internal/points"
	"thaw/internal/testenv"
	"thaw/internal/teststore"
)

// folder writes a profile's secret, as docs/locations.md has it.
func (s *scene) folder(store *teststore.Server) string {
	dir := filepath.Join(s.cfg.SecretsDir, "store")
	require.NoError(s.t, os.MkdirAll(dir, 0o700))
	for key, value := range map[string]string{
		"type": "s3", "bucket": teststore.Bucket, "endpoint": store.Profile.Location.Endpoint, "prefix": "clusters/one",
		"accessKeyID": teststore.Key, "secretAccessKey": teststore.Secret,
	} {
		require.NoError(s.t, os.WriteFile(filepath.Join(dir, key), []byte(value+"\n"), 0o600))
	}
	return dir
}

// With Temporal, the worker and all that it had lost, a restore point is found
// in its location, and restored.
func TestARestorePointInALocationOutlivesAllElse(t *testing.T) {
	store := teststore.StartS3(t, teststore.S3Options{})
	old := newScene(t)
	old.folder(store)
	var out plan.Outcome
	require.NoError(t, json.Unmarshal([]byte(old.thaw("run", "sqlite.backup", "--target", old.target(), "--profile", "store", "--id", "backup", "-o", "json")), &out))
	testenv.Keep(t, old.client, "backup", "backup")
	require.True(t, out.RestorePoint.Consistent, out.RestorePoint.Consistency)
	id := out.RestorePoint.ID
	old.worker.Kill()
	require.NoError(t, os.RemoveAll(old.cfg.StateDir))
	require.NoError(t, os.RemoveAll(old.cfg.Location))

	s := newScene(t)
	folder := s.folder(store)
	list := s.thaw("restorepoint", "list", "--profile", folder)
	require.Contains(t, list, id)
	require.Contains(t, list, old.db.Path)
	require.Contains(t, s.thaw("restorepoint", "show", "--profile", folder, id), "consistent: true")
	require.Contains(t, s.thaw("restorepoint", "verify", "--profile", folder, id), "verified")

	restored := filepath.Join(s.dir, "restored.db")
	s.thaw("run", "sqlite.restore", "--from", id, "--profile", "store", "--target", "sqlite:"+restored, "--no-approval", "--id", "restore")
	testenv.Keep(t, s.client, "restore", "restore")
	n, err := s.db.Check(restored)
	require.NoError(t, err)
	require.Positive(t, n)

	s.thaw("run", "sqlite.delete", "--from", id, "--profile", "store", "--no-approval", "--id", "delete")
	testenv.Keep(t, s.client, "delete", "delete")
	l, err := location.Open(context.Background(), store.Profile)
	require.NoError(t, err)
	defer l.Close()
	left, err := points.List(t.Context(), l)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, l.List(t.Context(), "", func(o location.Object) error {
		require.False(t, strings.Contains(o.Name, id), o.Name)
		return nil
	}))
}
