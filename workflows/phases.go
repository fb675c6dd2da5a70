package workflows

import (
	"slices"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// walk runs phases, each when all that it needs is done. At the first failure
// nothing more is started, what runs is cancelled, and walk returns when all
// of it is over: nothing is compensated while a sibling still runs.
func (a *action) walk(ctx workflow.Context, phases []plan.Phase) error {
	ctx, cancel := workflow.WithCancel(ctx)
	defer cancel()
	var failure error
	done := map[string]bool{}
	wg := workflow.NewWaitGroup(ctx)
	for i := range phases {
		ph := &phases[i]
		wg.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer wg.Done()
			ready := func() bool {
				for _, n := range ph.Needs {
					if !done[n] {
						return false
					}
				}
				return true
			}
			err := workflow.Await(ctx, func() bool { return failure != nil || ready() })
			if err == nil && failure == nil {
				err = a.phase(ctx, ph)
			}
			if err != nil && failure == nil {
				failure = err
				cancel()
			}
			done[ph.Name] = err == nil
		})
	}
	// The coroutines see the cancel themselves; wait for them in any case.
	waiting, stop := workflow.NewDisconnectedContext(ctx)
	defer stop()
	wg.Wait(waiting)
	return failure
}

// phase runs one phase, again and again as its operator wants it.
func (a *action) phase(ctx workflow.Context, ph *plan.Phase) error {
	for round := 1; ; round++ {
		if err := a.gate(ctx); err != nil {
			return err
		}
		if a.skipped(ctx, ph) {
			return nil
		}
		for _, n := range names(ph) {
			a.ops.started[n] = true
		}
		a.current = ph.Name
		a.show(ctx, a.state, "")
		started := workflow.Now(ctx)
		err := a.once(ctx, ph, round)
		rec := plan.PhaseRecord{Name: ph.Name, Func: ph.Func, State: plan.PhaseDone, Started: started, Ended: workflow.Now(ctx)}
		if err == nil {
			if r, ok := a.results[ph.Name]; ok && r.Skipped {
				rec.State, rec.Note = plan.PhaseSkipped, "when: "+ph.When
			}
			a.records = append(a.records, rec)
			return nil
		}
		rec.State, rec.Note = plan.PhaseFailed, words(err)
		a.records = append(a.records, rec)
		if temporal.IsCanceledError(err) || ctx.Err() != nil || (a.req.OnFailure != "pause" && a.ops.paused == nil) {
			return err
		}
		before := a.state
		a.show(ctx, stateParked, "retry or skip of phase "+ph.Name+": "+words(err))
		op, skip, parkErr := a.ops.park(ctx, names(ph)...)
		if parkErr != nil {
			return err
		}
		a.show(ctx, before, "")
		if !skip {
			change(ph, op)
		}
	}
}

// names are those of a phase and of all that is inside it.
func names(ph *plan.Phase) []string {
	all := []string{ph.Name}
	if f := ph.Freeze; f != nil {
		all = append(all, f.Do.Name, f.Undo.Name)
		for i := range f.Phases {
			all = append(all, f.Phases[i].Name)
		}
	}
	return all
}

// gate holds a paused run before its next phase.
func (a *action) gate(ctx workflow.Context) error {
	if a.ops.paused == nil {
		return nil
	}
	before := a.state
	a.show(ctx, statePaused, "resume; paused by "+a.ops.paused.By)
	if err := workflow.Await(ctx, func() bool { return a.ops.paused == nil }); err != nil {
		return err
	}
	a.show(ctx, before, "")
	return nil
}

func (a *action) skipped(ctx workflow.Context, ph *plan.Phase) bool {
	if ph.Freeze != nil {
		for _, inner := range ph.Freeze.Phases {
			if op, ok := a.ops.decisions[inner.Name]; ok {
				skipInner(ph, op)
				// Done, and not for ever: a freeze that fails again waits for
				// its operator again.
				delete(a.ops.decisions, inner.Name)
			}
		}
	}
	note := ""
	if op, ok := a.ops.decisions[ph.Name]; ok {
		note = op.By + ": " + op.Reason
	} else if ph.Never {
		note = "when: " + ph.When
	}
	if note == "" {
		return false
	}
	now := workflow.Now(ctx)
	a.results[ph.Name] = plan.Result{Skipped: true}
	a.records = append(a.records, plan.PhaseRecord{Name: ph.Name, Func: ph.Func, State: plan.PhaseSkipped, Started: now, Ended: now, Note: note})
	return true
}

// change puts the arguments of a retry into the phase that it names.
func change(ph *plan.Phase, op plan.Operation) {
	to := ph
	if f := ph.Freeze; f != nil {
		sides := []*plan.Phase{&f.Do, &f.Undo}
		for i := range f.Phases {
			sides = append(sides, &f.Phases[i])
		}
		for _, s := range sides {
			if s.Name == op.Phase {
				to = s
			}
		}
	}
	if to.Args == nil {
		to.Args = plan.Values{}
	}
	for _, k := range workflow.DeterministicKeys(op.Args) {
		to.Args[k] = op.Args[k]
	}
}

func skipInner(ph *plan.Phase, op plan.Operation) {
	for i := range ph.Freeze.Phases {
		if ph.Freeze.Phases[i].Name == op.Phase {
			ph.Freeze.Phases[i].Skip = op.By + ": " + op.Reason
		}
	}
}

// once runs one attempt of a phase, as its function, freeze or person has it.
func (a *action) once(ctx workflow.Context, ph *plan.Phase, round int) error {
	if ph.Freeze != nil {
		return a.freeze(ctx, ph)
	}
	if ph.Together != nil {
		return a.together(ctx, ph)
	}
	a.owe(ph)
	res, err := a.call(ctx, ph, callOptions(&a.plan, ph), round, false)
	if err != nil {
		if noEffect(ph, err) {
			a.forgive(ph.Name)
		}
		return err
	}
	if err := a.keep(ph.Name, plan.Result{Output: res.Output, Objects: ph.Objects, Skipped: res.Skipped}); err != nil {
		return err
	}
	if res.Skipped {
		a.forgive(ph.Name)
		return nil
	}
	if res.Cut != nil {
		a.cutsOut = append(a.cutsOut, ph.Name)
	}
	if ph.Person {
		return a.askPerson(ctx, ph, res.Output)
	}
	return nil
}

// outputsAtMost bounds the outputs of a run, which travel with each call. A
// payload over Temporal's 2 MiB ends a run at once, with nothing compensated.
const outputsAtMost = 1 << 20

// keep keeps a phase's result for later templates.
func (a *action) keep(name string, r plan.Result) error {
	own := size(map[string]any(r.Output))
	a.sizes[name] = own
	all := 0
	for _, n := range workflow.DeterministicKeys(a.sizes) {
		all += a.sizes[n]
	}
	if all > outputsAtMost {
		a.sizes[name] = 0
		return failed(string(fault.Permanent), "phase %s: with its outputs of %d KiB those of the run are over %d KiB; put out a reference (a path, an id) instead of the content", name, own>>10, outputsAtMost>>10)
	}
	a.results[name] = r
	return nil
}

// size is about what a value takes as JSON.
func size(v any) int {
	n := 8
	switch t := v.(type) {
	case string:
		n += len(t)
	case []any:
		for _, e := range t {
			n += size(e)
		}
	case map[string]any:
		for _, k := range workflow.DeterministicKeys(t) {
			n += len(k) + size(t[k])
		}
	}
	return n
}

func (a *action) call(ctx workflow.Context, ph *plan.Phase, o workflow.ActivityOptions, round int, lenient bool) (res plan.CallResult, err error) {
	in := plan.Call{Run: a.self, Phase: *ph, Scope: a.plan.Scope, Results: a.results, Defer: a.deferred, Lenient: lenient, Round: round}
	err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), plan.ActivityCall, in).Get(ctx, &res)
	return res, err
}

// owe registers a phase's compensation, once, before it starts: its outcome
// may be never known.
func (a *action) owe(ph *plan.Phase) {
	if ph.Compensate != nil && !slices.ContainsFunc(a.undo, func(u undo) bool { return u.of == ph.Name }) {
		a.undo = append(a.undo, undo{of: ph.Name, call: *ph.Compensate})
	}
}

// forgive drops the compensation of a phase that changed nothing.
func (a *action) forgive(phase string) {
	for i := len(a.undo) - 1; i >= 0; i-- {
		if a.undo[i].of == phase {
			a.undo = append(a.undo[:i], a.undo[i+1:]...)
			return
		}
	}
}

// askPerson is the phase Approval: its function rendered the question.
func (a *action) askPerson(ctx workflow.Context, ph *plan.Phase, out plan.Values) error {
	ask := plan.Approval{}
	ask.Message, _ = out["message"].(string)
	ask.FourEyes, _ = out["fourEyes"].(bool)
	if n, ok := out["count"].(int64); ok {
		ask.Count = int(n)
	}
	if who, ok := out["approvers"].([]any); ok {
		for _, w := range who {
			if s, ok := w.(string); ok {
				ask.Approvers = append(ask.Approvers, s)
			}
		}
	}
	if s, ok := out["timeout"].(string); ok && s != "" {
		if err := ask.Timeout.UnmarshalText([]byte(s)); err != nil {
			return userError("phase %s: %v", ph.Name, err)
		}
	}
	return a.approve(ctx, ask, "phase "+ph.Name)
}
