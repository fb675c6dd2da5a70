package workflows

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// TypeVerifyRestorePoints reads restore points back, for a Temporal Schedule.
const TypeVerifyRestorePoints = "VerifyRestorePoints"

// VerifyRestorePoints reads restore points of a location back, whole or a
// sample of them. It fails where one is damaged, and names it.
func VerifyRestorePoints(ctx workflow.Context, req plan.VerifyRequest) (*plan.VerifyReport, error) {
	info := workflow.GetInfo(ctx)
	if req.TaskQueue == "" {
		req.TaskQueue = info.TaskQueueName
	}
	in := plan.VerifyInput{
		Request: req, Time: workflow.Now(ctx),
		Run: plan.Run{ID: info.WorkflowExecution.ID, RunID: info.WorkflowExecution.RunID, Original: info.OriginalRunID},
	}
	o := moving(plan.Target{TaskQueue: req.TaskQueue}, "verify restore points")
	var report plan.VerifyReport
	if err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), plan.ActivityVerify, in).Get(ctx, &report); err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "**verification** of **%s**: %d whole, **%d damaged**\n", cell(report.Location), len(report.Verified), len(report.Damaged))
	var wrong []string
	for i, d := range report.Damaged {
		if i == named {
			wrong = append(wrong, fmt.Sprintf("and %d more", len(report.Damaged)-named))
			break
		}
		wrong = append(wrong, d.Says)
		fmt.Fprintf(&b, "\n- %s", cell(d.Says))
	}
	workflow.SetCurrentDetails(ctx, b.String())
	if len(wrong) == 0 {
		return &report, nil
	}
	return nil, temporal.NewApplicationErrorWithOptions(strings.Join(wrong, "; "), string(fault.Permanent), temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{report}})
}
