package actionset

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	enums "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/workflows"
)

const (
	// oneCall bounds a request to Temporal.
	oneCall = 15 * time.Second
	// How often a run is asked how far it is; less often while it says the same.
	askOften, askSeldom = time.Second, 10 * time.Second
	// troubleAfter is how long a phase may take before it is asked whether it is
	// tried again and again.
	troubleAfter = 5 * time.Second
	// sweepEvery is how often runs without an ActionSet are looked for.
	sweepEvery = 2 * time.Minute
)

// exists reports whether a workflow of that id is known, running or closed.
func (b *Bridge) exists(ctx context.Context, id string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, oneCall)
	defer cancel()
	_, err := b.Client.DescribeWorkflowExecution(ctx, id, "")
	var none *serviceerror.NotFound
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &none):
		return false, nil
	}
	return false, fault.New(fault.Transient, "ask Temporal for %s: %w", id, err)
}

// execute starts the run of an action; one that was started before is the same.
func (b *Bridge) execute(ctx context.Context, id string, k key, r plan.Request) error {
	ctx, cancel := context.WithTimeout(ctx, oneCall)
	defer cancel()
	_, err := b.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: id, TaskQueue: b.TaskQueue,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		WorkflowIDReusePolicy:    enums.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
		StaticSummary:            fmt.Sprintf("%s of %s by blueprint %s, for ActionSet %s/%s", r.Action, r.Target.Key(), r.Blueprint, k.namespace, k.name),
	}, workflows.TypeRunAction, r)
	var wrong *serviceerror.InvalidArgument
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong): // too large
		return fault.New(fault.User, "Temporal does not take it: %w", err)
	}
	return fault.New(fault.Transient, "start workflow %s: %w", id, err)
}

// observe tells how far a run is, and then how it ended.
func (b *Bridge) observe(ctx context.Context, id string, target plan.Target, tell func(func(*run))) {
	asking, stop := context.WithCancel(ctx)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		b.ask(asking, id, tell)
	}()
	e := b.await(ctx, id, target)
	stop()
	<-asked
	if e == nil {
		return
	}
	outputs, err := b.outputs(ctx, id)
	if err != nil {
		b.Log.Warn("outputs of a run are not read", "workflow", id, "error", err)
	}
	tell(func(r *run) {
		if outputs != nil {
			r.outputs = outputs
		}
		r.end = e
	})
}

// ask queries a run until the context ends.
func (b *Bridge) ask(ctx context.Context, id string, tell func(func(*run))) {
	last, seen, wait := "", 0, askOften
	since, trouble := time.Now(), ""
	for {
		p, err := b.query(ctx, id)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			b.Log.Debug("progress not known", "workflow", id, "error", err)
			wait = min(2*wait, askSeldom)
		default:
			var outputs map[string]plan.Values
			if len(p.Phases) != seen {
				if outputs, err = b.outputs(ctx, id); err == nil {
					seen = len(p.Phases)
				}
			}
			if now := fmt.Sprintf("%s %s %d %s", p.State, p.Phase, len(p.Phases), p.WaitingFor); now != last || outputs != nil {
				last, wait, since = now, askOften, time.Now()
				tell(func(r *run) {
					r.progress = p
					if outputs != nil {
						r.outputs = outputs
					}
				})
			} else {
				wait = min(wait+wait/10, askSeldom)
			}
			if time.Since(since) < troubleAfter {
				break
			}
			if now := b.trouble(ctx, id); now != "" && now != trouble {
				trouble = now
				tell(func(r *run) { r.trouble = now })
			}
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// trouble is why something of a run is tried again and again: a deferPhase or
// the thaw of a freeze is, until it succeeds or a person skips it.
func (b *Bridge) trouble(ctx context.Context, id string) string {
	ctx, cancel := context.WithTimeout(ctx, oneCall)
	defer cancel()
	d, err := b.Client.DescribeWorkflowExecution(ctx, id, "")
	if err != nil {
		return ""
	}
	for _, a := range d.GetPendingActivities() {
		if a.GetAttempt() > 1 && a.GetLastFailure().GetMessage() != "" {
			return a.GetLastFailure().GetMessage()
		}
	}
	for _, c := range d.GetPendingChildren() {
		if t := b.trouble(ctx, c.GetWorkflowId()); t != "" {
			return t
		}
	}
	return ""
}

func (b *Bridge) query(ctx context.Context, id string) (*plan.Progress, error) {
	ctx, cancel := context.WithTimeout(ctx, oneCall)
	defer cancel()
	v, err := b.Client.QueryWorkflow(ctx, id, "", plan.QueryProgress)
	if err != nil {
		return nil, err
	}
	var p plan.Progress
	if err := v.Get(&p); err != nil {
		return nil, err
	}
	return &p, nil
}

// await waits for a run's end; nil where the context ends first. A run that was
// reset goes on as another run of the same id.
func (b *Bridge) await(ctx context.Context, id string, target plan.Target) *end {
	wait := time.Duration(0)
	for {
		var out plan.Outcome
		err := b.Client.GetWorkflow(ctx, id, "").Get(ctx, &out)
		if ctx.Err() != nil {
			return nil
		}
		e := ending(&out, err)
		if e == nil {
			b.Log.Debug("end of a run not known", "workflow", id, "error", err)
			if !pause(ctx, &wait, askSeldom) {
				return nil
			}
			continue
		}
		again, err := b.lives(ctx, id, target, e)
		switch {
		case err != nil:
			b.Log.Debug("end of a run not known", "workflow", id, "error", err)
		case !again:
			return e
		}
		if !pause(ctx, &wait, askSeldom) {
			return nil
		}
	}
}

// lives reports whether anything of a run that has ended still goes on: it was
// reset, or it was terminated while it held a freeze, which its session thaws.
func (b *Bridge) lives(ctx context.Context, id string, target plan.Target, e *end) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, oneCall)
	defer cancel()
	var none *serviceerror.NotFound
	d, err := b.Client.DescribeWorkflowExecution(ctx, id, "")
	if errors.As(err, &none) {
		return false, nil
	}
	if err != nil || d.GetWorkflowExecutionInfo().GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return true, err
	}
	if e.message == "" || e.outcome != nil {
		return false, nil // it ended by itself, when all was thawed
	}
	if target.Namespace == "" {
		target.Name = strings.ToLower(target.Name)
	}
	d, err = b.Client.DescribeWorkflowExecution(ctx, plan.FreezeID(target), "")
	if errors.As(err, &none) {
		return false, nil
	}
	i := d.GetWorkflowExecutionInfo()
	return i.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_RUNNING && i.GetParentExecution().GetWorkflowId() == id, err
}

// ending is how a run ended, by what waiting for it returned; nil where it is
// not known.
func ending(out *plan.Outcome, err error) *end {
	var ended *temporal.WorkflowExecutionError
	var app *temporal.ApplicationError
	var cancelled *temporal.CanceledError
	var terminated *temporal.TerminatedError
	var timeout *temporal.TimeoutError
	var none *serviceerror.NotFound
	failed := &plan.Outcome{}
	switch {
	case err == nil:
		return &end{outcome: out}
	case errors.As(err, &none):
		return &end{message: "Temporal does not know its workflow any more; how it ended is not known"}
	case !errors.As(err, &ended):
		return nil
	case errors.As(err, &app):
		if !app.HasDetails() || app.Details(failed) != nil {
			failed = nil
		}
		return &end{outcome: failed, message: app.Message()}
	case errors.As(err, &cancelled):
		text := "cancelled"
		if !cancelled.HasDetails() || cancelled.Details(&text, failed) != nil {
			failed = nil
		}
		return &end{outcome: failed, message: text}
	case errors.As(err, &terminated):
		return &end{message: "its workflow was terminated: what was frozen is thawed, nothing else of it was cleaned up"}
	case errors.As(err, &timeout):
		return &end{message: "its workflow timed out: what was frozen is thawed, nothing else of it was cleaned up"}
	}
	return &end{message: ended.Error()}
}

// outputs are those of a run's phases, without secrets, as its history has
// them: the outcome of a run that made a restore point has none.
func (b *Bridge) outputs(ctx context.Context, id string) (map[string]plan.Values, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*oneCall)
	defer cancel()
	var h []*historypb.HistoryEvent
	for it := b.Client.GetWorkflowHistory(ctx, id, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); it.HasNext(); {
		ev, err := it.Next()
		if err != nil {
			return nil, fmt.Errorf("history of %s: %w", id, err)
		}
		h = append(h, ev)
	}
	return outputsOf(h), nil
}

func outputsOf(history []*historypb.HistoryEvent) map[string]plan.Values {
	all := map[string]plan.Values{}
	calls := map[int64]string{} // phases, by the event that scheduled them
	data := converter.GetDefaultDataConverter()
	for _, ev := range history {
		switch ev.GetEventType() {
		case enums.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
			a := ev.GetActivityTaskScheduledEventAttributes()
			var c struct {
				Phase struct {
					Name string `json:"name"`
				} `json:"phase"`
			}
			if a.GetActivityType().GetName() == plan.ActivityCall && data.FromPayloads(a.GetInput(), &c) == nil {
				calls[ev.GetEventId()] = c.Phase.Name
			}
		case enums.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
			a := ev.GetActivityTaskCompletedEventAttributes()
			var r plan.CallResult
			if name, ok := calls[a.GetScheduledEventId()]; ok && data.FromPayloads(a.GetResult(), &r) == nil {
				all[name] = r.Output
			}
		case enums.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED:
			a := ev.GetChildWorkflowExecutionCompletedEventAttributes()
			var r plan.FreezeReport
			if a.GetWorkflowType().GetName() == workflows.TypeFreezeSession && data.FromPayloads(a.GetResult(), &r) == nil {
				for name, res := range r.Results {
					all[name] = res.Output
				}
			}
		}
	}
	return all
}

// cancel asks a run to end, until Temporal has taken it.
func (b *Bridge) cancel(ctx context.Context, id, why string) {
	wait := time.Duration(0)
	for {
		call, done := context.WithTimeout(ctx, oneCall)
		err := b.Client.CancelWorkflow(call, id, "")
		done()
		var none *serviceerror.NotFound
		switch {
		case err == nil:
			b.Log.Info("run cancelled", "workflow", id, "reason", why)
			return
		case errors.As(err, &none): // never started, or over
			return
		case ctx.Err() != nil:
			return
		}
		b.Log.Warn("run not cancelled; trying again", "workflow", id, "error", err)
		if !pause(ctx, &wait, 15*time.Second) {
			return
		}
	}
}

// sweep cancels the runs whose ActionSet was deleted while nobody watched.
func (b *Bridge) sweep(ctx context.Context) {
	for {
		wait := sweepEvery
		if err := b.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			b.Log.Warn("runs of deleted ActionSets are not known; trying again", "error", err)
			wait = 5 * time.Second
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func (b *Bridge) sweepOnce(ctx context.Context) error {
	for _, ns := range b.scope() {
		// Where the resource itself cannot be read, nothing is known to be deleted.
		if _, err := b.Cluster.Dynamic.Resource(actionSets).Namespace(ns).List(ctx, metav1.ListOptions{Limit: 1}); err != nil {
			return fmt.Errorf("list ActionSets: %w", err)
		}
	}
	query := fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus = 'Running' AND TaskQueue = '%s' AND WorkflowId STARTS_WITH '%s'",
		workflows.TypeRunAction, strings.ReplaceAll(b.TaskQueue, "'", "\\'"), idPrefix)
	var token []byte
	for {
		call, done := context.WithTimeout(ctx, oneCall)
		page, err := b.Client.ListWorkflow(call, &workflowservice.ListWorkflowExecutionsRequest{Query: query, NextPageToken: token})
		done()
		if err != nil {
			return fmt.Errorf("list workflows: %w", err)
		}
		for _, w := range page.GetExecutions() {
			id := w.GetExecution().GetWorkflowId()
			gone, err := b.orphan(ctx, id)
			if err != nil {
				return err
			}
			if gone {
				b.cancel(ctx, id, "its ActionSet is gone")
			}
		}
		if token = page.GetNextPageToken(); len(token) == 0 {
			return nil
		}
	}
}

// orphan reports whether a run's ActionSet is gone.
func (b *Bridge) orphan(ctx context.Context, id string) (bool, error) {
	namespace, name, uid, ok := parseID(id)
	if !ok || !b.serves(namespace) {
		return false, nil
	}
	call, done := context.WithTimeout(ctx, oneCall)
	defer done()
	o, err := b.Cluster.Dynamic.Resource(actionSets).Namespace(namespace).Get(call, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("read ActionSet %s/%s: %w", namespace, name, err)
	}
	return string(o.GetUID()) != uid || o.GetDeletionTimestamp() != nil, nil
}

func (b *Bridge) serves(namespace string) bool {
	for _, ns := range b.scope() {
		if ns == metav1.NamespaceAll || ns == namespace {
			return true
		}
	}
	return false
}
