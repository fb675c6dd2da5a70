package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"thaw/blueprints/plan"
	"thaw/internal/location"
	"thaw/internal/points"
	"thaw/internal/testenv"
	"thaw/internal/teststore"
	"thaw/worker/wiring"
)

// folder writes a profile's secret, as docs/locations.md has it.
func (s *scene) folder(store *teststore.Server) string {
	s.t.Helper()
	return store.Folder(filepath.Join(s.cfg.SecretsDir, "store"), "clusters/one")
}

// kept is a copy of the worker's key, which its operator has.
func (s *scene) kept() string {
	key, err := os.ReadFile(filepath.Join(s.cfg.StateDir, "secrets.key"))
	require.NoError(s.t, err)
	file := filepath.Join(s.t.TempDir(), "kept.key")
	require.NoError(s.t, os.WriteFile(file, key, 0o600))
	return file
}

// With Temporal, the worker and all that it had lost but a copy of its key, a
// restore point is found in its location, and restored.
func TestARestorePointInALocationOutlivesAllElse(t *testing.T) {
	store := teststore.StartS3(t, teststore.S3Options{})
	old := newScene(t)
	old.folder(store)
	var out plan.Outcome
	require.NoError(t, json.Unmarshal([]byte(old.thaw("run", "sqlite.backup", "--target", old.target(), "--profile", "store", "--id", "backup", "-o", "json")), &out))
	testenv.Keep(t, old.client, "backup", "backup")
	require.True(t, out.RestorePoint.Consistent, out.RestorePoint.Consistency)
	id := out.RestorePoint.ID
	key := old.kept()
	old.worker.Kill()
	require.NoError(t, os.RemoveAll(old.cfg.StateDir))
	require.NoError(t, os.RemoveAll(old.cfg.Location))

	s := sceneOf(t, func(cfg *wiring.Config) { cfg.SecretsKey = key })
	folder := s.folder(store)
	list := s.thaw("restorepoint", "list", "--profile", folder, "--key", key)
	require.Contains(t, list, "fits")
	require.Contains(t, list, id)
	require.Contains(t, list, old.db.Path)
	require.Contains(t, s.thaw("restorepoint", "show", "--profile", folder, id), "consistent: true")
	require.Contains(t, s.thaw("restorepoint", "verify", "--profile", folder, "--key", key, id), "verified")

	run, err := s.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "verify", TaskQueue: s.cfg.TaskQueue}, "VerifyRestorePoints", plan.VerifyRequest{Profile: plan.Reference{Name: "store"}, Last: 1})
	require.NoError(t, err)
	var verified plan.VerifyReport
	require.NoError(t, run.Get(t.Context(), &verified))
	require.Len(t, verified.Verified, 1)
	require.True(t, verified.Verified[0].Proven)
	testenv.Keep(t, s.client, "verify", "verify")

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

// A record that somebody changed in the location is refused by its name,
// wherever it is used; so is one whose seal is of another worker's key.
func TestARecordThatWasChangedIsNotRestored(t *testing.T) {
	store := teststore.StartS3(t, teststore.S3Options{})
	old := newScene(t)
	old.folder(store)
	var out plan.Outcome
	require.NoError(t, json.Unmarshal([]byte(old.thaw("run", "sqlite.backup", "--target", old.target(), "--profile", "store", "-o", "json")), &out))
	id, key := out.RestorePoint.ID, old.kept()
	name := "restorepoints/" + id + "/restorepoint.json"
	old.worker.Kill()

	s := sceneOf(t, func(cfg *wiring.Config) { cfg.SecretsKey = key })
	folder := s.folder(store)
	l, err := location.Open(context.Background(), store.Profile)
	require.NoError(t, err)
	defer l.Close()
	changed := change(t, l, "clusters/one/"+name, s.db.Path)
	for _, args := range [][]string{
		{"run", "sqlite.restore", "--from", id, "--profile", "store", "--target", "sqlite:" + filepath.Join(s.dir, "restored.db"), "--no-approval"},
		{"run", "sqlite.delete", "--from", id, "--profile", "store", "--no-approval"},
		{"restorepoint", "show", "--profile", folder, "--key", key, id},
		{"restorepoint", "verify", "--profile", folder, "--key", key, id},
	} {
		s.refused(name+" does not fit its seal", "thaw", args...)
	}
	require.NoFileExists(t, filepath.Join(s.dir, "restored.db"))
	require.Contains(t, s.thaw("restorepoint", "list", "--profile", folder, "--key", key), "does not fit its seal")

	_, err = l.Put(t.Context(), "clusters/one/"+name, bytes.NewReader(changed), location.PutOptions{})
	require.NoError(t, err)
	require.NoError(t, l.Delete(t.Context(), "clusters/one/"+strings.Replace(name, ".json", ".seal", 1)))
	restore := []string{"run", "sqlite.restore", "--from", id, "--profile", "store", "--target", "sqlite:" + filepath.Join(s.dir, "restored.db"), "--no-approval"}
	s.refused("restorepoint.seal is missing", "thaw", restore...)
	s.thaw("restorepoint", "seal", "--profile", folder, "--key", key, "--yes", id)
	s.thaw(restore...)
	n, err := s.db.Check(filepath.Join(s.dir, "restored.db"))
	require.NoError(t, err)
	require.Positive(t, n)
}

// change puts another target's file into a record, and returns what it was.
func change(t *testing.T, l location.Store, name, to string) []byte {
	r, err := l.Get(t.Context(), name, 0, -1)
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	other := strings.Replace(string(b), `"name": "`, `"name": "`+filepath.Dir(to), 1)
	require.NotEqual(t, string(b), other)
	_, err = l.Put(t.Context(), name, strings.NewReader(other), location.PutOptions{})
	require.NoError(t, err)
	return b
}
