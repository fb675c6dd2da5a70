package workflows

import (
	"errors"
	"fmt"
	"strings"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// TypeRetireRestorePoints is retention, for a Temporal Schedule.
const TypeRetireRestorePoints = "RetireRestorePoints"

const (
	// deletionTimeout is how long one deletion may take, so that one whose
	// target has no worker any more does not hold up retention for ever.
	deletionTimeout = 24 * time.Hour
	// named bounds the restore points in an error; the report has all of them.
	named = 20
)

// RetireRestorePoints deletes the restore points that a rule does not keep, in
// two steps: it marks them, and deletes those whose undo window is over. It
// never waits for a window: the next run deletes what this one marked. One that
// cannot be deleted does not keep the others.
func RetireRestorePoints(ctx workflow.Context, req plan.RetireRequest) (*plan.RetireReport, error) {
	info := workflow.GetInfo(ctx)
	if req.TaskQueue == "" {
		req.TaskQueue = info.TaskQueueName
	}
	r := &retirement{state: statePlanning, in: plan.RetireInput{
		Request: req, Time: workflow.Now(ctx),
		Run: plan.Run{ID: info.WorkflowExecution.ID, RunID: info.WorkflowExecution.RunID, Original: info.OriginalRunID},
	}}
	err := workflow.SetQueryHandlerWithOptions(ctx, plan.QueryProgress, r.progress, workflow.QueryHandlerOptions{Description: "What is deleted now, and what was done"})
	if err == nil {
		err = r.run(ctx)
	}
	return r.finish(ctx, err)
}

// retirement is the state of one run.
type retirement struct {
	in      plan.RetireInput
	due     []plan.Retired
	attrs   attributes
	report  plan.RetireReport
	state   string
	current string
}

func (r *retirement) target() plan.Target { return plan.Target{TaskQueue: r.in.Request.TaskQueue} }

func (r *retirement) run(ctx workflow.Context) error {
	p, err := r.plan(ctx)
	if err != nil {
		return err
	}
	if r.in.Request.DryRun {
		r.report.Deleted = p.Due
		return nil
	}
	if len(p.Mark)+len(r.report.Undone) > 0 {
		marks := plan.RetireMarks{RetireInput: r.in, Mark: p.Mark, Undo: r.report.Undone}
		if err := workflow.ExecuteActivity(r.options(ctx, "mark"), plan.ActivityMarkRetiring, marks).Get(ctx, nil); err != nil {
			return err
		}
	}
	r.due = p.Due
	for i := range p.Due {
		r.current = p.Due[i].ID
		r.show(ctx, stateRunning)
		if err := r.retire(ctx, p.Due[i]); err != nil {
			return err
		}
	}
	return r.maintain(ctx)
}

func (r *retirement) options(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, moving(r.target(), summary))
}

func (r *retirement) plan(ctx workflow.Context) (*plan.RetirePlan, error) {
	var p plan.RetirePlan
	if err := workflow.ExecuteActivity(r.options(ctx, "plan"), plan.ActivityPlanRetire, r.in).Get(ctx, &p); err != nil {
		return nil, err
	}
	r.report = p.Report
	if r.attrs.enabled = p.Attributes && !r.in.Request.DryRun; r.attrs.enabled {
		r.attrs.identify(ctx, &plan.Plan{Blueprint: "retention", Action: "retire", Target: plan.Target{Kind: "location", Name: p.Report.Location}}, r.in.Request.RequestedBy, stateRunning)
	}
	r.show(ctx, stateRunning)
	return &p, nil
}

// retire deletes one that is due. What keeps it from being deleted is in the
// report; the error is that of a run that cannot go on.
func (r *retirement) retire(ctx workflow.Context, one plan.Retired) error {
	var d plan.Deletion
	err := workflow.ExecuteActivity(r.options(ctx, "read "+one.ID), plan.ActivityPlanDeletion, plan.DeletionInput{RetireInput: r.in, Point: one}).Get(ctx, &d)
	to := &r.report.Deleted
	switch {
	case err != nil:
	case !d.Locked.IsZero():
		one.Until, one.Why = d.Locked, []string{"its location locks it until " + d.Locked.UTC().Format(time.RFC3339)}
		to = &r.report.Locked
	case d.Kept != "":
		one.Until, one.Why = time.Time{}, []string{d.Kept}
		to = &r.report.Undone
	case d.Problem != "":
		err = errors.New(d.Problem)
	case d.Request != nil:
		err = r.child(ctx, *d.Request)
	case d.Record != nil:
		err = r.forget(ctx, *d.Record)
	}
	switch {
	case err == nil:
	case temporal.IsCanceledError(err) || ctx.Err() != nil:
		return err
	case strings.Contains(words(err), plan.Locked):
		one.Until, one.Why = time.Time{}, []string{words(err)}
		to = &r.report.Locked
	default:
		one.Why = []string{words(err)}
		to = &r.report.Failed
	}
	*to = append(*to, one)
	return nil
}

// child runs the action that deletes a restore point. Its id is the restore
// point's, so that two runs do not delete one at a time.
func (r *retirement) child(ctx workflow.Context, req plan.Request) error {
	child := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: "delete/" + req.From, TaskQueue: req.Target.TaskQueue, WorkflowExecutionTimeout: deletionTimeout,
		ParentClosePolicy:     enums.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WaitForCancellation:   true,
		RetryPolicy:           &temporal.RetryPolicy{MaximumAttempts: 1},
		StaticSummary:         fmt.Sprintf("delete %s, for %s", req.From, r.in.Run.ID),
	})
	err := workflow.ExecuteChildWorkflow(child, TypeRunAction, req).Get(ctx, nil)
	var timeout *temporal.TimeoutError
	var started *temporal.ChildWorkflowExecutionAlreadyStartedError
	switch {
	case errors.As(err, &started):
		return fmt.Errorf("another run deletes it: workflow delete/%s", req.From)
	case errors.As(err, &timeout):
		return fmt.Errorf("not deleted within %s: does a worker serve the task queue %q of its target?", deletionTimeout, req.Target.TaskQueue)
	}
	return err
}

// forget takes a record away that names nothing.
func (r *retirement) forget(ctx workflow.Context, ref plan.RestorePointRef) error {
	ctx = r.options(ctx, "forget "+ref.ID)
	if ref.Profile != nil {
		if err := workflow.ExecuteActivity(ctx, plan.ActivityUnpublish, ref).Get(ctx, nil); err != nil {
			return err
		}
	}
	return workflow.ExecuteActivity(ctx, plan.ActivityForget, ref).Get(ctx, nil)
}

// maintain frees the space of what was deleted, by this run and those before:
// a repository keeps for a day what became useless.
func (r *retirement) maintain(ctx workflow.Context) error {
	if r.in.Request.Profile == nil {
		return nil
	}
	r.current = "maintenance of repositories"
	r.show(ctx, stateRunning)
	err := workflow.ExecuteActivity(r.options(ctx, "maintain repositories"), plan.ActivityMaintain, r.in).Get(ctx, &r.report.Repositories)
	if err != nil && !temporal.IsCanceledError(err) {
		r.report.Repositories = append(r.report.Repositories, plan.Maintained{Failed: words(err)})
		return nil
	}
	return err
}

// finish says at the end what could not be done.
func (r *retirement) finish(ctx workflow.Context, err error) (*plan.RetireReport, error) {
	r.current = ""
	if err == nil {
		err = r.failures()
	}
	switch {
	case err == nil:
		r.show(ctx, stateCompleted)
		return &r.report, nil
	case temporal.IsCanceledError(err):
		ctx, cancel := workflow.NewDisconnectedContext(ctx)
		defer cancel()
		r.show(ctx, stateCancelled)
		return nil, temporal.NewCanceledError("retention was cancelled: "+counts(&r.report), r.report)
	}
	r.show(ctx, stateFailed)
	return nil, temporal.NewApplicationErrorWithOptions("retention: "+words(err), kindOf(err), temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{r.report}})
}

func (r *retirement) failures() error {
	var lines []string
	for _, f := range r.report.Failed {
		lines = append(lines, fmt.Sprintf("%s: %s", f.ID, strings.Join(f.Why, ", ")))
	}
	for _, m := range r.report.Repositories {
		if m.Failed != "" {
			lines = append(lines, strings.TrimSpace(fmt.Sprintf("repository %s: %s", m.Path, m.Failed)))
		}
	}
	if len(lines) == 0 {
		return nil
	}
	all := len(lines)
	if all > named {
		lines = append(lines[:named], fmt.Sprintf("and %d more", all-named))
	}
	return failed(string(fault.Permanent), "%s; not all was done: %s", counts(&r.report), strings.Join(lines, "; "))
}

func counts(r *plan.RetireReport) string {
	return fmt.Sprintf("%d kept, %d marked, %d wait, %d undone, %d deleted, %d locked, %d failed",
		len(r.Kept)+r.MoreKept, len(r.Marked), len(r.Waiting), len(r.Undone), len(r.Deleted), len(r.Locked), len(r.Failed))
}

func (r *retirement) show(ctx workflow.Context, state string) {
	r.state = state
	r.attrs.set(ctx, state, "", "")
	var b strings.Builder
	fmt.Fprintf(&b, "**retention** of **%s**\n\n| | |\n|---|---|\n| state | **%s** |\n", cell(r.report.Location), state)
	if r.current != "" {
		fmt.Fprintf(&b, "| now | %s |\n", cell(r.current))
	}
	fmt.Fprintf(&b, "| so far | %s |\n| due | %d |\n", counts(&r.report), len(r.due))
	for _, f := range r.report.Failed[:min(len(r.report.Failed), named)] {
		fmt.Fprintf(&b, "\n- %s: %s", f.ID, cell(strings.Join(f.Why, ", ")))
	}
	workflow.SetCurrentDetails(ctx, b.String())
}

func (r *retirement) progress() (plan.Progress, error) {
	p := plan.Progress{Blueprint: "retention", Action: "retire", Target: r.report.Location, State: r.state, Phase: r.current, Notes: []string{counts(&r.report)}}
	if done := len(r.report.Deleted) + len(r.report.Locked) + len(r.report.Failed); len(r.due) > 0 {
		p.Percent = 100 * min(done, len(r.due)) / len(r.due)
	}
	return p, nil
}
