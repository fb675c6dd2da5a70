package activities

import (
	"context"
	"fmt"
	"time"

	enums "go.temporal.io/api/enums/v1"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// Watch returns when the run has closed, however it did: a reset closes a run
// without telling its children. Of a freeze session it returns the report.
func (e *Engine) Watch(ctx context.Context, in plan.WatchInput) (*plan.WatchResult, error) {
	stop := heartbeats(ctx, time.Second, nothing)
	defer stop()
	r, err := e.watch(ctx, in)
	return r, e.toTemporal(err)
}

func (e *Engine) watch(ctx context.Context, in plan.WatchInput) (*plan.WatchResult, error) {
	events := e.cfg.Client.GetWorkflowHistory(ctx, in.Run.ID, in.Run.RunID, true, enums.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT)
	if !events.HasNext() {
		return nil, fault.New(fault.Transient, "watch %s: its history ended without an end", in.Run.ID)
	}
	ev, err := events.Next()
	if err != nil {
		return nil, fault.New(fault.Transient, "watch %s: %w", in.Run.ID, err)
	}
	r := &plan.WatchResult{Status: status(ev.GetEventType())}
	if in.Token == "" || ev.GetEventType() != enums.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED {
		return r, nil
	}
	var report plan.FreezeReport
	if err := e.cfg.Client.GetWorkflow(ctx, in.Run.ID, in.Run.RunID).Get(ctx, &report); err != nil {
		return nil, fault.New(fault.Transient, "report of %s: %w", in.Run.ID, err)
	}
	if report.Token == in.Token {
		r.Report = &report
	}
	return r, nil
}

func status(t enums.EventType) string {
	switch t {
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
		return "completed"
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
		return "failed"
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
		return "cancelled"
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
		return "terminated"
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
		return "timed out"
	case enums.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
		return "continued as new"
	default:
		return fmt.Sprintf("closed by %s", t)
	}
}
