package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/plan"
	"thaw/internal/location"
	"thaw/internal/testenv"
	"thaw/internal/teststore"
)

func (s *scene) published() (ids []string) {
	var list []struct{ ID string }
	require.NoError(s.t, json.Unmarshal([]byte(s.thaw("restorepoint", "list", "--profile", filepath.Join(s.cfg.SecretsDir, "store"), "-o", "json")), &list))
	for _, e := range list {
		ids = append(ids, e.ID)
	}
	return ids
}

func (s *scene) retire(args ...string) (r plan.RetireReport) {
	require.NoError(s.t, json.Unmarshal([]byte(s.thaw(append([]string{"retire", "--profile", "store", "-o", "json"}, args...)...)), &r))
	return r
}

// Of several backups the last is left, and the one that a person keeps; of what
// is deleted nothing is left anywhere.
func TestRetentionLeavesWhatItIsToKeep(t *testing.T) {
	store := teststore.StartS3(t, teststore.S3Options{})
	s := newScene(t)
	folder := s.folder(store)
	l, err := location.Open(context.Background(), store.Profile)
	require.NoError(t, err)
	defer l.Close()
	objects := func(part string) (n int) {
		require.NoError(t, l.List(t.Context(), "", func(o location.Object) error {
			if strings.Contains(o.Name, part) {
				n++
			}
			return nil
		}))
		return n
	}
	var ids []string // the oldest first
	for range 4 {
		var out plan.Outcome
		require.NoError(t, json.Unmarshal([]byte(s.thaw("run", "sqlite.backup", "--target", s.target(), "--profile", "store", "-o", "json")), &out))
		ids = append(ids, out.RestorePoint.ID)
	}

	dry := s.retire("--keep-last", "2", "--undo-window", "0s", "--dry-run")
	require.Len(t, dry.Deleted, 2)
	require.Len(t, s.published(), 4)

	// Marked, and not deleted; a person takes one back.
	report := s.retire("--keep-last", "2", "--id", "mark")
	testenv.Keep(t, s.client, "mark", "mark")
	require.Len(t, report.Kept, 2)
	require.Len(t, report.Marked, 2)
	require.Contains(t, s.thaw("restorepoint", "list", "--profile", folder), "deleted after")
	require.Contains(t, s.thaw("restorepoint", "keep", "--profile", folder, ids[1], "--reason", "audit"), "is kept")
	require.Contains(t, s.thaw("restorepoint", "list", "--profile", folder), "kept by hand")
	require.Empty(t, s.retire("--keep-last", "2").Deleted, "the window is not over")
	require.Len(t, s.published(), 4)

	// The window of what was marked before stays: take it back, and mark anew.
	require.Contains(t, s.thaw("restorepoint", "release", "--profile", folder, ids[0]), "retention's again")
	table := s.thaw("retire", "--profile", "store", "--keep-last", "1", "--undo-window", "0s", "--id", "retire")
	testenv.Keep(t, s.client, "retire", "retire")
	for _, id := range []string{ids[0], ids[2]} {
		require.Contains(t, table, id)
		require.Zero(t, objects(id), "of %s", id)
		require.NoDirExists(t, filepath.Join(s.cfg.Location, id))
	}
	require.Equal(t, []string{ids[3], ids[1]}, s.published())
	require.Equal(t, 2, strings.Count(table, "  deleted  "), table)

	require.Contains(t, s.thaw("describe", "retire"), "2 deleted")

	// What is proven stays.
	require.Contains(t, s.thaw("restorepoint", "release", "--profile", folder, ids[1]), "again")
	key := filepath.Join(s.cfg.StateDir, "secrets.key")
	s.thaw("restorepoint", "verify", "--profile", folder, ids[3])
	s.thaw("restorepoint", "verify", "--profile", folder, "--key", key, "--sample", "5%", ids[3])
	require.Len(t, s.retire("--keep-last", "1", "--undo-window", "0s", "--dry-run").Deleted, 1, "neither is a proof")
	s.thaw("restorepoint", "verify", "--profile", folder, "--key", key, ids[1])
	report = s.retire("--keep-last", "1", "--undo-window", "0s")
	require.Empty(t, report.Deleted)
	require.Len(t, report.Kept, 2)
	restored := filepath.Join(s.dir, "restored.db")
	s.thaw("run", "sqlite.restore", "--from", ids[1], "--profile", "store", "--target", "sqlite:"+restored, "--no-approval")
	n, err := s.db.Check(restored)
	require.NoError(t, err)
	require.Positive(t, n)

	// All that is there belongs to what is left; what is strewn about is young.
	_, err = l.Put(t.Context(), "clusters/one/restorepoints/half/file", strings.NewReader("x"), location.PutOptions{})
	require.NoError(t, err)
	gc := s.thaw("gc", "--profile", folder, "--key", key, "--dry-run")
	require.Contains(t, gc, "belongs to one of 2 restore points")
	require.Contains(t, gc, "1 objects more are younger than a day")
	s.refused("want one of them", "thaw", "gc", "--profile", folder, "--dry-run", "--delete")

	s.refused("at least one of --keep-last", "thaw", "retire", "--profile", "store")
}

// The input that docs/operators.md has for a schedule.
func TestRetentionRunsByAScheduleAndInADirectory(t *testing.T) {
	s := newScene(t)
	old, last := s.backup(), s.backup()
	in := `{"location":` + string(must(json.Marshal(s.cfg.Location))) + `,"keep":{"last":1},"undoWindow":"0s"}`
	s.temporal("workflow", "execute", "--type", "RetireRestorePoints", "--task-queue", "thaw", "--workflow-id", "retention", "--input", in)
	testenv.Keep(t, s.client, "directory", "retention")
	require.NoDirExists(t, old.Directory)
	require.FileExists(t, filepath.Join(last.Directory, plan.RestorePointFile))
	entries, err := filepath.Glob(filepath.Join(s.cfg.Location, "[a-z]*"))
	require.NoError(t, err)
	require.Equal(t, []string{last.Directory}, entries, "no mark is left")
	require.NotContains(t, s.thaw("restorepoint", "list", "--location", s.cfg.Location), old.ID)

	old, last = last, s.backup()
	s.temporal("schedule", "create", "--schedule-id", "retention", "--cron", "30 4 * * *",
		"--workflow-id", "retention", "--type", "RetireRestorePoints", "--task-queue", "thaw", "--input", in)
	s.temporal("schedule", "trigger", "--schedule-id", "retention")
	testenv.Await(t, 40*time.Second, "the schedule's run has deleted it", func() bool {
		_, err := os.Stat(old.Directory)
		return errors.Is(err, fs.ErrNotExist)
	})
	require.Contains(t, s.thaw("status"), "retention-")
	require.Contains(t, s.thaw("restorepoint", "keep", "--location", s.cfg.Location, last.ID), "is kept")
	require.Contains(t, s.thaw("restorepoint", "list", "--location", s.cfg.Location), "kept by hand")
	s.thaw("restorepoint", "forget", "--yes", "--location", s.cfg.Location, last.ID)
	require.NotContains(t, s.thaw("restorepoint", "list", "--location", s.cfg.Location), last.ID)
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return bytes.TrimSpace(b)
}
