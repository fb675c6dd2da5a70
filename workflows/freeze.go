package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/plan"
)

// freeze runs a freeze phase: it starts the session that owns the freeze,
// watches it, and takes in its report. Should the session end without one, the
// parent thaws.
func (a *action) freeze(ctx workflow.Context, ph *plan.Phase) error {
	in := a.freezeInput(ctx, ph)
	for i := range ph.Freeze.Phases {
		a.owe(&ph.Freeze.Phases[i]) // before any of them may start
	}
	a.ops.frozen++
	a.ops.thaw, a.token = nil, in.Token
	report, err := a.session(ctx, in)
	a.ops.frozen--
	a.frozen, a.token = "", ""
	a.show(ctx, stateRunning, "")
	if report == nil {
		if err != nil && slices.Contains([]string{TypeBusy, TypeThawedByPerson}, kindOf(err)) {
			a.settle(ph, nil)
		}
		return err
	}
	if report.Skipped != "" {
		a.settle(ph, nil)
		a.results[ph.Name] = plan.Result{Skipped: true}
		return nil
	}
	report.Token = in.Token
	a.freezes = append(a.freezes, *report)
	a.proofs[ph.Name] = report.Proof
	a.records = append(a.records, report.Phases...)
	var tooLarge error
	for _, name := range workflow.DeterministicKeys(report.Results) {
		tooLarge = cmp.Or(tooLarge, a.keep(name, report.Results[name]))
	}
	a.settle(ph, report)
	if err := a.verdict(ctx, ph, report); err != nil {
		return err
	}
	return tooLarge
}

// verdict says what a thawed freeze means for the run.
func (a *action) verdict(ctx workflow.Context, ph *plan.Phase, r *plan.FreezeReport) error {
	switch {
	case a.ops.thaw != nil:
		return failed(TypeThawedByPerson, "freeze %s: thawed by %s before it was done: %s", ph.Name, a.ops.thaw.By, a.ops.thaw.Reason)
	case ctx.Err() != nil:
		return temporal.NewCanceledError()
	case r.Failure != nil:
		where := "freeze " + ph.Name
		if r.Failure.Phase != ph.Name {
			where += ", phase " + r.Failure.Phase
		}
		after := "nothing was frozen"
		if !r.ThawedAt.IsZero() {
			after = "it is thawed"
		}
		return failed(r.Failure.Kind, "%s: %s; %s", where, r.Failure.Message, after)
	case len(ph.Freeze.Proof) > 0 && !r.Proof.Consistent:
		return failed(TypeNotProven, "freeze %s is not proven: %s; the data that was cut is not called consistent", ph.Name, r.Proof.Reason)
	}
	return nil
}

func (a *action) freezeInput(ctx workflow.Context, ph *plan.Phase) plan.FreezeInput {
	// A side effect, and not derived from the run's id: a reset to before this
	// point makes a new token, a reset to after it keeps the old one, as the
	// freeze that it names.
	var token string
	err := workflow.SideEffect(ctx, func(workflow.Context) any { return strings.ReplaceAll(uuid.NewString(), "-", "") }).Get(&token)
	if err != nil {
		panic(err) // a string that does not decode: history is damaged
	}
	return plan.FreezeInput{
		Token: token, Run: a.self, Name: ph.Name, Freeze: *ph.Freeze, When: ph.When, Scope: a.plan.Scope, Results: a.results,
		Session: plan.FreezeID(a.plan.Target), Attributes: a.attrs.enabled, Join: a.req.Join,
	}
}

// settle drops the compensations of phases that are known not to have run.
func (a *action) settle(ph *plan.Phase, r *plan.FreezeReport) {
	for _, inner := range ph.Freeze.Phases {
		// A thaw from outside the freeze cannot tell what ran inside it.
		ran := r != nil && len(r.Phases) == 0 && (!r.DoStart.IsZero() || !r.ThawedAt.IsZero())
		if r != nil {
			for _, rec := range r.Phases {
				ran = ran || (rec.Name == inner.Name && rec.State != plan.PhaseSkipped)
			}
		}
		if !ran {
			a.forgive(inner.Name)
		}
	}
}

// session starts the freeze session, and waits for its end with a bound.
func (a *action) session(ctx workflow.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
	child, err := a.startSession(ctx, in)
	if err != nil {
		return nil, err
	}
	own, stop := workflow.NewDisconnectedContext(ctx)
	defer stop()
	var report plan.FreezeReport
	var sessionErr error
	closed := false
	workflow.Go(own, func(own workflow.Context) {
		sessionErr = child.Get(own, &report)
		closed = true
	})
	told, cancelled := false, false
	deadline := workflow.Now(ctx).Add(in.Freeze.Do.Timeout.D() + in.Freeze.MaxFreeze.D() + undoGrace)
	for !closed {
		// A cancel of this run reaches the session by itself (parent-close
		// policy and context); here we only go on waiting for its report.
		wait := deadline.Sub(workflow.Now(own))
		if wait <= 0 {
			return a.askSession(own, in)
		}
		_, _ = workflow.AwaitWithTimeout(own, wait, func() bool {
			return closed || (a.ops.thaw != nil && !told) || (ctx.Err() != nil && !cancelled)
		})
		if a.ops.thaw != nil && !told {
			told = true
			if err := child.SignalChildWorkflow(own, plan.UpdateThaw, *a.ops.thaw).Get(own, nil); err != nil && !closed {
				workflow.GetLogger(own).Warn("freeze session not told to thaw; thawing here", "error", err)
				return a.thawHere(own, in, "thaw now")
			}
		}
		cancelled = ctx.Err() != nil
	}
	if sessionErr != nil {
		a.ops.note("freeze session ended without a report (%s): the run thaws by itself", words(sessionErr))
		return a.thawHere(own, in, "freeze session lost")
	}
	return &report, nil
}

// startSession starts the child, and knows it to be started. Its id is the
// mutex of the target: while another holds it, a short wait is worth it, since
// the session of a run that was just reset is thawing.
func (a *action) startSession(ctx workflow.Context, in plan.FreezeInput) (workflow.ChildWorkflowFuture, error) {
	until := workflow.Now(ctx).Add(busyWait)
	for {
		if a.ops.thaw != nil {
			return nil, failed(TypeThawedByPerson, "freeze %s: not made: %s asked to thaw: %s", in.Name, a.ops.thaw.By, a.ops.thaw.Reason)
		}
		child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
			WorkflowID: in.Session, TaskQueue: a.plan.Target.TaskQueue,
			ParentClosePolicy:     enums.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
			WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
			WaitForCancellation:   true,
			StaticSummary:         fmt.Sprintf("Freeze of %s by %s, %s at most", a.plan.Target.Key(), a.self.ID, in.Freeze.MaxFreeze),
		}), TypeFreezeSession, in)
		err := child.GetChildWorkflowExecution().Get(ctx, nil)
		var started *temporal.ChildWorkflowExecutionAlreadyStartedError
		switch {
		case err == nil:
			return child, nil
		case !errors.As(err, &started):
			return nil, err
		case !workflow.Now(ctx).Before(until):
			return nil, failed(TypeBusy, "freeze %s: %s is frozen by another run (workflow %q); wait for its end, or thaw it with: thaw now %q", in.Name, a.plan.Target.Key(), in.Session, in.Session)
		}
		if err := workflow.Sleep(ctx, 2*time.Second); err != nil {
			return nil, err
		}
	}
}

// askSession is for a session whose end does not reach this run (it was
// started before a reset): a worker waits for it to close and reads its report.
func (a *action) askSession(ctx workflow.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
	var res plan.WatchResult
	o := untilDone(a.plan.Target, "await "+in.Session, 24*time.Hour)
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), plan.ActivityWatch, plan.WatchInput{Run: plan.Run{ID: in.Session}, Token: in.Token}).Get(ctx, &res)
	if err == nil && res.Report != nil {
		return res.Report, nil
	}
	return a.thawHere(ctx, in, "freeze session "+orWord(res.Status, "lost"))
}

func orWord(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// thawHere is the parent's own thaw, once the session is closed.
func (a *action) thawHere(ctx workflow.Context, in plan.FreezeInput, why string) (*plan.FreezeReport, error) {
	a.show(ctx, stateThawing, "")
	r, err := thaw(ctx, in)
	if err != nil {
		return nil, err
	}
	if r.Failure == nil {
		r.Failure = &plan.Failure{Phase: in.Freeze.Do.Name, Kind: TypeNotProven, Message: why + ": the freeze was not watched to its end"}
	}
	r.ThawedBy = why
	r.Proof.Consistent = false
	// The worker that froze may still have `do` in flight: again, after it
	// must be over.
	if r.Gone {
		return r, nil
	}
	if err := workflow.Sleep(ctx, freezeHeartbeat+in.Freeze.Do.Timeout.D()); err != nil {
		return nil, err
	}
	if _, err := thaw(ctx, in); err != nil {
		return nil, err
	}
	return r, nil
}

// thaw runs the Thaw activity until it succeeds. Temporal retries it without
// limit; the loop is for an attempt that ends for good all the same: a person
// fails the activity by hand, or its result does not decode.
func thaw(ctx workflow.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
	o := untilDone(in.Scope.Target, "thaw "+in.Scope.Target.Key(), max(thawTimeout, in.Freeze.Undo.Timeout.D()))
	// A database that comes back is thawed soon after.
	o.RetryPolicy.MaximumInterval = 5 * time.Second
	for {
		var r plan.FreezeReport
		err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), plan.ActivityThaw, in).Get(ctx, &r)
		if err == nil {
			return &r, nil
		}
		workflow.GetLogger(ctx).Error("thaw ended without success; trying again", "target", in.Scope.Target.Key(), "error", err)
		if err := workflow.Sleep(ctx, time.Second); err != nil {
			return nil, err
		}
	}
}
