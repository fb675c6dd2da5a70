package workflows

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

func TestAVerificationFailsWhereOneIsDamaged(t *testing.T) {
	for what, c := range map[string]struct {
		report plan.VerifyReport
		says   string
	}{
		"all whole":   {report: plan.VerifyReport{Location: "s3://backups", Verified: []plan.Verified{{ID: "a", Proven: true}}}},
		"one damaged": {report: plan.VerifyReport{Location: "s3://backups", Verified: []plan.Verified{{ID: "a"}}, Damaged: []plan.Verified{{ID: "b", Says: `restore point "b" is damaged`}}}, says: `restore point "b" is damaged`},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.RegisterActivityWithOptions(func(_ context.Context, in plan.VerifyInput) (*plan.VerifyReport, error) {
				require.Equal(t, "5%", in.Request.Sample)
				return &c.report, nil
			}, activity.RegisterOptions{Name: plan.ActivityVerify})
			w.ExecuteWorkflow(VerifyRestorePoints, plan.VerifyRequest{Profile: plan.Reference{Name: "s3"}, Sample: "5%"})
			err := w.GetWorkflowError()
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.says)
			var app *temporal.ApplicationError
			require.ErrorAs(t, err, &app)
			require.Equal(t, string(fault.Permanent), app.Type())
			var report plan.VerifyReport
			require.NoError(t, app.Details(&report))
			require.Equal(t, c.report, report)
		})
	}
}
