package workflows

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/retention"
)

// keeper is a world with restore points that are due.
type keeper struct {
	*world
	plan      plan.RetirePlan
	deletions map[string]plan.Deletion // by id; RunAction deletes any other
	maintain  func() ([]plan.Maintained, error)
	marks     plan.RetireMarks
	ends      map[string]error // of RunAction, by restore point
	cancelled string           // the restore point at which the run is cancelled
}

func newKeeper(t *testing.T, due ...string) *keeper {
	k := &keeper{world: newWorld(t), deletions: map[string]plan.Deletion{}, ends: map[string]error{}}
	k.plan.Report.Location = "s3://backups"
	for _, id := range due {
		k.plan.Due = append(k.plan.Due, plan.Retired{ID: id, Target: "sqlite:/data/shop.db", Blueprint: "sqlite"})
	}
	k.maintain = func() ([]plan.Maintained, error) { return nil, nil }
	for name, f := range map[string]any{
		plan.ActivityPlanRetire:   func(context.Context, plan.RetireInput) (*plan.RetirePlan, error) { return &k.plan, nil },
		plan.ActivityMarkRetiring: func(_ context.Context, in plan.RetireMarks) error { k.log("mark"); k.marks = in; return nil },
		plan.ActivityPlanDeletion: func(_ context.Context, in plan.DeletionInput) (*plan.Deletion, error) {
			if in.Point.ID == k.cancelled {
				k.CancelWorkflow()
			}
			if d, ok := k.deletions[in.Point.ID]; ok {
				return &d, nil
			}
			return &plan.Deletion{Request: &plan.Request{Blueprint: "sqlite", Action: "delete", From: in.Point.ID, Target: plan.Target{Name: "x", TaskQueue: "host7"}}}, nil
		},
		plan.ActivityMaintain: func(context.Context, plan.RetireInput) ([]plan.Maintained, error) {
			k.log("maintain")
			return k.maintain()
		},
	} {
		k.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: name})
	}
	k.OnWorkflow(TypeRunAction, mock.Anything, mock.Anything).Return(func(ctx workflow.Context, req plan.Request) (*plan.Outcome, error) {
		k.log("delete " + req.From)
		require.Equal(t, "delete/"+req.From, workflow.GetInfo(ctx).WorkflowExecution.ID)
		require.Equal(t, "host7", workflow.GetInfo(ctx).TaskQueueName, "by the workers of its target")
		return &plan.Outcome{}, k.ends[req.From]
	})
	return k
}

var daily = plan.RetireRequest{Profile: &plan.Reference{Name: "s3"}, Keep: retention.Keep{Daily: 7}}

// retire runs it, and returns its report, that of its failure too.
func (k *keeper) retire(req plan.RetireRequest) (*plan.RetireReport, error) {
	k.ExecuteWorkflow(TypeRetireRestorePoints, req)
	require.True(k.t, k.IsWorkflowCompleted())
	var report plan.RetireReport
	err := k.GetWorkflowError()
	var app *temporal.ApplicationError
	switch {
	case err == nil:
		require.NoError(k.t, k.GetWorkflowResult(&report))
	case errors.As(err, &app) && app.HasDetails():
		require.NoError(k.t, app.Details(&report))
	}
	return &report, err
}

func ids(list []plan.Retired) (all []string) {
	for _, r := range list {
		all = append(all, r.ID)
	}
	return all
}

func TestWhatIsMarkedIsNotDeletedByTheRunThatMarksIt(t *testing.T) {
	k := newKeeper(t, "old")
	k.plan.Mark = []plan.Retired{{ID: "newer"}}
	k.plan.Report.Marked, k.plan.Report.Undone = k.plan.Mark, []plan.Retired{{ID: "again"}}
	started := k.Now()
	report, err := k.retire(daily)
	require.NoError(t, err)
	require.Equal(t, []string{"mark", "delete old", "maintain"}, k.calls)
	require.Equal(t, []string{"newer"}, ids(k.marks.Mark))
	require.Equal(t, []string{"again"}, ids(k.marks.Undo))
	require.Equal(t, []string{"old"}, ids(report.Deleted))
	require.Equal(t, []string{"newer"}, ids(report.Marked))
	require.WithinDuration(t, started, k.Now(), time.Minute, "it waits for no window")
}

func TestADryRunDoesNothing(t *testing.T) {
	k := newKeeper(t, "old")
	k.plan.Mark = []plan.Retired{{ID: "newer"}}
	req := daily
	req.DryRun = true
	report, err := k.retire(req)
	require.NoError(t, err)
	require.Empty(t, k.calls)
	require.Equal(t, []string{"old"}, ids(report.Deleted))
}

// One that cannot be deleted keeps no other; the run fails at its end, and names
// all of them.
func TestOneThatCannotBeDeletedDoesNotKeepTheOthers(t *testing.T) {
	k := newKeeper(t, "a", "b", "c", "d", "e", "f", "g")
	k.ends["a"] = kind(fault.Command, "the tool failed")
	k.deletions["b"] = plan.Deletion{Problem: "its data has no delete action: delete it by hand"}
	k.deletions["c"] = plan.Deletion{Locked: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}
	k.ends["d"] = kind(fault.Permanent, `sqlite.delete of x: delete "restorepoints/d/a": `+plan.Locked+" until 2027-02-01T00:00:00Z")
	k.deletions["e"] = plan.Deletion{Kept: "kept by hand meanwhile"}
	k.deletions["f"] = plan.Deletion{Record: &plan.RestorePointRef{ID: "f", Profile: &plan.Reference{Name: "s3"}}}
	k.maintain = func() ([]plan.Maintained, error) {
		return []plan.Maintained{{Path: "volumes/shop", Freed: 7}, {Path: "db", Skipped: "another passphrase"}}, nil
	}
	report, err := k.retire(daily)
	require.ErrorContains(t, err, "0 kept, 0 marked, 0 wait, 1 undone, 2 deleted, 2 locked, 2 failed")
	require.ErrorContains(t, err, "a: the tool failed; b: its data has no delete action")
	require.Equal(t, []string{"a", "b"}, ids(report.Failed))
	require.Equal(t, []string{"c", "d"}, ids(report.Locked))
	require.Contains(t, report.Locked[0].Why[0], "until 2027-01-01")
	require.Contains(t, report.Locked[1].Why[0], "until 2027-02-01")
	require.Equal(t, []string{"e"}, ids(report.Undone))
	require.Equal(t, []string{"f", "g"}, ids(report.Deleted))
	require.Len(t, report.Repositories, 2)
	require.Equal(t, []string{"delete a", "delete d", "unpublish f", "forget f", "delete g", "maintain"}, k.calls)
}

func TestLocksAloneDoNotFailRetention(t *testing.T) {
	k := newKeeper(t, "a")
	k.deletions["a"] = plan.Deletion{Locked: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}
	report, err := k.retire(daily)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, ids(report.Locked))
}

func TestMaintenanceThatFailsFailsTheRunAfterAllElse(t *testing.T) {
	k := newKeeper(t, "a")
	k.maintain = func() ([]plan.Maintained, error) {
		return []plan.Maintained{{Path: "volumes/shop", Failed: "the store is full"}}, nil
	}
	report, err := k.retire(daily)
	require.ErrorContains(t, err, "repository volumes/shop: the store is full")
	require.Equal(t, []string{"a"}, ids(report.Deleted))
}

func TestADirectoryHasNoRepositories(t *testing.T) {
	k := newKeeper(t, "a")
	_, err := k.retire(plan.RetireRequest{Location: "/backups", Keep: daily.Keep})
	require.NoError(t, err)
	require.NotContains(t, k.calls, "maintain")
}

// A target without a worker holds retention up for a day, and no longer.
func TestADeletionThatNobodyDoesEnds(t *testing.T) {
	k := newKeeper(t, "a", "b")
	k.ends["a"] = temporal.NewTimeoutError(3, nil) // of the child's execution
	report, err := k.retire(daily)
	require.ErrorContains(t, err, "does a worker serve the task queue \"host7\"")
	require.Equal(t, []string{"b"}, ids(report.Deleted))
}

func TestACancelledRetentionSaysWhatItDid(t *testing.T) {
	k := newKeeper(t, "a", "b", "c")
	k.cancelled = "b"
	_, err := k.retire(daily)
	var cancelled *temporal.CanceledError
	require.ErrorAs(t, err, &cancelled)
	var report plan.RetireReport
	var text string
	require.NoError(t, cancelled.Details(&text, &report))
	require.Contains(t, text, "1 deleted")
	require.Equal(t, []string{"a"}, ids(report.Deleted))
	require.Equal(t, []string{"delete a"}, k.calls)
}

func TestAnInputThatIsMisspeltIsRefused(t *testing.T) {
	for _, in := range []string{`{"keep":{"daily":7},"tarGet2":"x"}`, `{"keep":{"dayly":7}}`} {
		k := newKeeper(t, "a")
		k.ExecuteWorkflow(TypeRetireRestorePoints, rawJSON(in))
		require.Error(t, k.GetWorkflowError())
		require.True(t, strings.Contains(k.GetWorkflowError().Error(), "unknown field"), k.GetWorkflowError())
		require.Empty(t, k.calls)
	}
}

type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }
