package workflows

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/plan"
)

// compensate undoes, in reverse order of start, what the phases of a failed
// action may have done. Each is retried until it succeeds or a person skips it
// with a reason; what was skipped, and what it says that it left, is named in
// the run's failure.
func (a *action) compensate(ctx workflow.Context) {
	for len(a.undo) > 0 {
		last := a.undo[len(a.undo)-1]
		a.undo = a.undo[:len(a.undo)-1]
		a.current = last.call.Name
		a.show(ctx, stateCompensating, fmt.Sprintf("%s to succeed, which undoes %s; it is tried until it does, or until it is retried or skipped by name", last.call.Name, last.of))
		var res plan.Result
		if skip := a.insist(ctx, &last.call, &res); skip != nil {
			a.left = append(a.left, fmt.Sprintf("%s (its compensation %s was skipped by %s: %s)", last.of, last.call.Name, skip.By, skip.Reason))
			continue
		}
		if left, _ := res.Output[plan.OutputLeft].([]any); len(left) > 0 {
			for _, l := range left {
				a.left = append(a.left, fmt.Sprint(l))
			}
			continue
		}
		a.compensated = append(a.compensated, last.of)
	}
}

// runDefer runs the deferPhase, whatever came before it.
func (a *action) runDefer(ctx workflow.Context) error {
	if a.plan.Defer == nil {
		return nil
	}
	a.deferred = &plan.Result{Objects: a.plan.Defer.Objects}
	if skip := a.insist(ctx, a.plan.Defer, a.deferred); skip != nil {
		return failed(TypeRejected, "deferPhase %s was skipped by %s: %s", a.plan.Defer.Name, skip.By, skip.Reason)
	}
	return nil
}

// insist runs what must succeed, until it does. A person may change its
// arguments (retry) or end it (skip, which is returned).
func (a *action) insist(ctx workflow.Context, ph *plan.Phase, into *plan.Result) (skipped *plan.Operation) {
	a.current = ph.Name
	a.ops.parked[ph.Name] = true // it can be retried and skipped at any time
	defer delete(a.ops.parked, ph.Name)
	for round := 1; ; round++ {
		started := workflow.Now(ctx)
		attempt, cancel := workflow.WithCancel(ctx)
		var res plan.CallResult
		var err error
		over := false
		workflow.Go(attempt, func(ctx workflow.Context) {
			res, err = a.call(ctx, ph, untilDone(a.plan.Target, summaryOf(ph), ph.Timeout.D()), round, true)
			over = true
		})
		// The only error of Await is a cancel, and nothing cancels this context.
		_ = workflow.Await(ctx, func() bool {
			_, retry := a.ops.retries[ph.Name]
			_, skip := a.ops.decisions[ph.Name]
			return over || retry || skip
		})
		cancel()
		rec := plan.PhaseRecord{Name: ph.Name, Func: ph.Func, State: plan.PhaseDone, Started: started, Ended: workflow.Now(ctx)}
		if over && err == nil {
			a.records = append(a.records, rec)
			if into != nil {
				into.Output = res.Output
			}
			return nil
		}
		if op, ok := a.ops.decisions[ph.Name]; ok {
			rec.State, rec.Note = plan.PhaseSkipped, op.By+": "+op.Reason
			a.records = append(a.records, rec)
			return &op
		}
		if op, ok := a.ops.retries[ph.Name]; ok {
			delete(a.ops.retries, ph.Name)
			change(ph, op)
		} else if err := workflow.Sleep(ctx, untilDoneAgain); err != nil {
			return &plan.Operation{By: "engine", Reason: err.Error()}
		}
	}
}
