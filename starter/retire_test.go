package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"thaw/blueprints/plan"
	"thaw/internal/points"
)

func TestOnlyAYesIsAYes(t *testing.T) {
	for answer, ok := range map[string]bool{"y\n": true, "Yes\n": true, "y": true, "": false, "n\n": false, "\n": false, "yesterday\n": false} {
		cmd := &cobra.Command{}
		var asked bytes.Buffer
		cmd.SetIn(strings.NewReader(answer))
		cmd.SetErr(&asked)
		require.Equal(t, ok, confirm(cmd, false, "Delete 3?") == nil, "%q", answer)
		require.Equal(t, "Delete 3? [y/N] ", asked.String())
	}
	require.NoError(t, confirm(&cobra.Command{}, true, "?"))
}

func TestAReportSaysOfEachWhatBecameOfItAndWhy(t *testing.T) {
	at := time.Date(2026, 11, 25, 2, 0, 0, 0, time.UTC)
	one := func(id string, until time.Time, why ...string) []plan.Retired {
		return []plan.Retired{{ID: id, Target: "sqlite:/data/shop.db", Blueprint: "sqlite", CompletedAt: at, Until: until, Why: why}}
	}
	r := &plan.RetireReport{
		Location: "s3://backups", Kept: one("a", time.Time{}, "daily 2026-11-25", "the newest"), Marked: one("b", at.Add(72*time.Hour), "no count keeps it"),
		Deleted: one("c", at, "no count keeps it"), Failed: one("d", at, "the tool failed"), Postponed: 3, MoreKept: 4,
		Repositories: []plan.Maintained{{Path: "db", Skipped: "another passphrase"}, {Path: "volumes/shop", Freed: 7}, {Path: "held", Locked: 8, LockedUntil: &at}},
	}
	var out bytes.Buffer
	writeReport(&out, r)
	for _, want := range []string{
		"a              sqlite:/data/shop.db  2026-11-25T02:00:00Z  kept  ", "  daily 2026-11-25, the newest\n",
		"marked, deleted after 2026-11-28T02:00:00Z  no count keeps it\n", "  deleted  ", "  FAILED  ", "the tool failed\n",
		"4 more are kept", "3 more are the next run's", "repository db: not maintained: another passphrase", "repository volumes/shop: 7 bytes freed\n",
		"repository held: 0 bytes freed; 8 bytes more are locked, the last until 2026-11-25T02:00:00Z",
	} {
		require.Contains(t, out.String(), want)
	}
	out.Reset()
	writeReport(&out, &plan.RetireReport{Location: "s3://backups", DryRun: true})
	require.Contains(t, out.String(), "nothing was done")
	require.Contains(t, out.String(), "no restore points of what was asked for")
}

func TestAListSaysWhatRetentionWillDo(t *testing.T) {
	at := time.Date(2026, 11, 25, 2, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	tableOf(&out, []line{
		{State: points.State{Entry: points.Entry{ID: "a", CompletedAt: at}, Marks: points.Marks{Kept: at, Proven: at}}, Seal: "fits"},
		{State: points.State{Entry: points.Entry{ID: "b", CompletedAt: at}, Marks: points.Marks{Retiring: at.Add(time.Hour)}}},
	}, true)
	require.Contains(t, out.String(), "kept by hand")
	require.Contains(t, out.String(), "deleted after 2026-11-25T03:00:00Z")
	require.Contains(t, out.String(), "fits")
	out.Reset()
	tableOf(&out, nil, false)
	require.NotContains(t, out.String(), "SEAL")
}

func TestACountThatIsMissingIsSaidAsFlagsAre(t *testing.T) {
	cmd := root()
	cmd.SetArgs([]string{"retire", "--profile", "s3"})
	require.ErrorContains(t, cmd.Execute(), "at least one of --keep-last, --keep-hourly")
	cmd = root()
	cmd.SetArgs([]string{"retire", "--profile", "s3", "--keep-daily", "-1", "--time-zone", "Mars/Base"})
	err := cmd.Execute()
	require.ErrorContains(t, err, "--keep-daily is -1")
	require.ErrorContains(t, err, `--time-zone "Mars/Base"`)
}
