package activities

import (
	"context"
	"fmt"
	"strings"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"thaw/blueprints/plan"
)

// Owner names the Temporal that this worker serves, as CLUSTER-ID/NAMESPACE: the
// mark of what its runs make in a cluster. Two Temporals may use one cluster.
func (e *Engine) Owner(ctx context.Context) (string, error) {
	if e.cfg.Client == nil {
		return "", nil
	}
	e.ownerMu.Lock()
	defer e.ownerMu.Unlock()
	if e.owner != "" {
		return e.owner, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	info, err := e.cfg.Client.WorkflowService().GetClusterInfo(ctx, &workflowservice.GetClusterInfoRequest{})
	if err != nil {
		return "", fmt.Errorf("which Temporal this is: %w", err)
	}
	e.owner = info.GetClusterId() + "/" + e.cfg.Namespace
	return e.owner, nil
}

// Orphaned reports whether what a run made in a cluster belongs to nobody: every
// run of its workflow id is closed, none ended by itself (one that failed has
// compensated, or named what it left; a reset goes on in another run), and none
// came to writing a restore point.
func (e *Engine) Orphaned(ctx context.Context, run plan.Run) (bool, error) {
	if e.cfg.Client == nil {
		return false, nil
	}
	query := fmt.Sprintf("WorkflowId = '%s'", strings.ReplaceAll(run.ID, "'", "''"))
	var token []byte
	terminated := false
	for {
		page, err := e.cfg.Client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: query, NextPageToken: token})
		if err != nil {
			return false, err
		}
		for _, x := range page.GetExecutions() {
			switch x.GetStatus() {
			case enums.WORKFLOW_EXECUTION_STATUS_TERMINATED, enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
				recorded, err := e.recorded(ctx, run.ID, x.GetExecution().GetRunId())
				if err != nil || recorded {
					return false, err
				}
				terminated = true
			default:
				return false, nil
			}
		}
		if token = page.GetNextPageToken(); len(token) == 0 {
			// Temporal forgets runs; of one that it does not know nothing is known.
			return terminated, nil
		}
	}
}

// recorded reports whether a run came to writing a restore point.
func (e *Engine) recorded(ctx context.Context, id, runID string) (bool, error) {
	events := e.cfg.Client.GetWorkflowHistory(ctx, id, runID, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		ev, err := events.Next()
		if err != nil {
			return false, err
		}
		if ev.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName() == plan.ActivityRecord {
			return true, nil
		}
	}
	return false, nil
}
