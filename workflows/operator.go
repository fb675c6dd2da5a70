package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/plan"
)

// operator holds what people asked of a run. Each operation is an Update with
// a validator, and a signal of the same name for those who have only signals;
// a signal that the validator refuses is noted, and otherwise ignored.
type operator struct {
	paused    *plan.Operation
	thaw      *plan.Operation
	decisions map[string]plan.Operation // phase -> skip
	retries   map[string]plan.Operation // parked phase -> retry
	parked    map[string]bool           // phases that failed and wait
	started   map[string]bool           // phases that were started
	phases    []string                  // every phase that can be named
	freezes   map[string]string         // freeze -> its do
	sides     map[string]string         // do or undo -> its freeze
	frozen    int                       // freezes under way
	ask       *question                 // the approval that is waited for
	notes     []string
	now       func() time.Time
}

// question is an approval that a run waits for.
type question struct {
	plan.Approval
	digest      string
	requestedBy string
	deadline    time.Time
	yes         []string
	no          *plan.Operation
}

func newOperator(ctx workflow.Context) *operator {
	return &operator{
		decisions: map[string]plan.Operation{}, retries: map[string]plan.Operation{},
		parked: map[string]bool{}, started: map[string]bool{}, freezes: map[string]string{}, sides: map[string]string{},
		now: func() time.Time { return workflow.Now(ctx) },
	}
}

// know takes in what a person may name.
func (o *operator) know(ph *plan.Phase) {
	o.phases = append(o.phases, ph.Name)
	if f := ph.Freeze; f != nil {
		o.freezes[ph.Name] = f.Do.Name
		o.sides[f.Do.Name], o.sides[f.Undo.Name] = ph.Name, ph.Name
	}
}

// listen sets up the updates and the signals.
func (o *operator) listen(ctx workflow.Context) error {
	handlers := []struct {
		name, description string
		validate          func(plan.Operation) error
		apply             func(plan.Operation)
	}{
		{plan.UpdateApprove, "Approve the plan with this digest", o.mayApprove, func(op plan.Operation) { o.ask.yes = append(o.ask.yes, op.By) }},
		{plan.UpdateReject, "Reject the plan, with a reason", o.mayReject, func(op plan.Operation) { o.ask.no = &op }},
		{plan.UpdateThaw, "Thaw the database now; the backup fails", o.mayThaw, func(op plan.Operation) { o.thaw = &op }},
		{plan.UpdatePause, "Pause before the next phase", o.mayPause, func(op plan.Operation) { o.paused = &op }},
		{plan.UpdateResume, "Go on after a pause", o.mayResume, func(plan.Operation) { o.paused = nil }},
		{plan.UpdateRetry, "Retry a failed phase, with changed arguments if given", o.mayRetry, func(op plan.Operation) { o.retries[op.Phase] = op }},
		{plan.UpdateSkip, "Skip a phase, with a reason", o.maySkip, func(op plan.Operation) { o.decisions[op.Phase] = op }},
	}
	for _, h := range handlers {
		validate := func(op plan.Operation) error {
			if op.By == "" {
				return refused("%s: say who you are: {\"by\": \"you@example.org\", ...}", h.name)
			}
			return h.validate(op)
		}
		apply := func(op plan.Operation) {
			h.apply(op)
			o.note("%s by %s%s", h.name, op.By, about(op))
		}
		err := workflow.SetUpdateHandlerWithOptions(ctx, h.name,
			func(_ workflow.Context, op plan.Operation) error { apply(op); return nil },
			workflow.UpdateHandlerOptions{Validator: validate, Description: h.description})
		if err != nil {
			return fmt.Errorf("set up update %s: %w", h.name, err)
		}
		signals := workflow.GetSignalChannelWithOptions(ctx, h.name, workflow.SignalChannelOptions{Description: h.description})
		workflow.Go(ctx, func(ctx workflow.Context) {
			for {
				var op plan.Operation
				if more := signals.Receive(ctx, &op); !more {
					return
				}
				if err := validate(op); err != nil {
					o.note("signal %s by %q refused: %s", h.name, op.By, words(err))
					continue
				}
				apply(op)
			}
		})
	}
	return nil
}

func about(op plan.Operation) string {
	var b strings.Builder
	if op.Phase != "" {
		fmt.Fprintf(&b, " of phase %s", op.Phase)
	}
	if len(op.Args) > 0 {
		b.WriteString(" with changed arguments")
	}
	if op.Reason != "" {
		fmt.Fprintf(&b, ": %s", op.Reason)
	}
	return b.String()
}

func (o *operator) note(format string, args ...any) {
	o.notes = append(o.notes, o.now().UTC().Format(time.RFC3339)+" "+fmt.Sprintf(format, args...))
}

func refused(format string, args ...any) error { return failed(TypeRefused, format, args...) }

func (o *operator) mayApprove(op plan.Operation) error { return o.mayDecide(op, plan.UpdateApprove) }

func (o *operator) mayReject(op plan.Operation) error {
	if op.Reason == "" {
		return refused("reject: give a reason")
	}
	return o.mayDecide(op, plan.UpdateReject)
}

func (o *operator) mayDecide(op plan.Operation, verb string) error {
	q := o.ask
	switch {
	case q == nil:
		return refused("%s: nothing waits for an approval now", verb)
	case !o.now().Before(q.deadline):
		return refused("%s: the approval expired at %s; start the run again", verb, q.deadline.UTC().Format(time.RFC3339))
	case op.Digest == "":
		return refused("%s: name the plan that you have read: {\"digest\": %q}", verb, q.digest)
	case op.Digest != q.digest:
		return refused("%s: the plan that waits is %s, not %s; read it again", verb, q.digest, op.Digest)
	case len(q.Approvers) > 0 && !slices.Contains(q.Approvers, op.By):
		return refused("%s: %s is not among the approvers: %s", verb, op.By, strings.Join(q.Approvers, ", "))
	case verb == plan.UpdateReject:
		return nil
	case q.FourEyes && op.By == q.requestedBy:
		return refused("approve: %s asked for this run; four eyes are asked, so somebody else approves", op.By)
	case slices.Contains(q.yes, op.By):
		return refused("approve: %s has approved already; %d of %d approvals are there", op.By, len(q.yes), q.Count)
	}
	return nil
}

func (o *operator) mayThaw(op plan.Operation) error {
	switch {
	case op.Reason == "":
		return refused("thaw: give a reason; the backup will fail with it")
	case o.frozen == 0:
		return refused("thaw: nothing is frozen now")
	}
	return nil
}

func (o *operator) mayPause(plan.Operation) error {
	if o.paused != nil {
		return refused("pause: paused already by %s", o.paused.By)
	}
	return nil
}

func (o *operator) mayResume(plan.Operation) error {
	if o.paused == nil {
		return refused("resume: not paused")
	}
	return nil
}

func (o *operator) known(op plan.Operation, verb string) error {
	if !slices.Contains(o.phases, op.Phase) {
		return refused("%s: no phase %q; phases are: %s", verb, op.Phase, strings.Join(o.phases, ", "))
	}
	return nil
}

func (o *operator) mayRetry(op plan.Operation) error {
	if err := o.known(op, plan.UpdateRetry); err != nil {
		return err
	}
	if !o.parked[op.Phase] {
		return refused("retry: phase %q does not wait for its operator; it can be retried once it has failed in a run that is paused, or that was started with \"onFailure\": \"pause\"", op.Phase)
	}
	if do, ok := o.freezes[op.Phase]; ok && len(op.Args) > 0 {
		return refused("retry: %q is a freeze, which has no arguments of its own; name %q or a phase inside it, and all of the freeze is made again", op.Phase, do)
	}
	return nil
}

func (o *operator) maySkip(op plan.Operation) error {
	if err := o.known(op, plan.UpdateSkip); err != nil {
		return err
	}
	of, side := o.sides[op.Phase]
	switch {
	case side:
		return refused("skip: %q is a side of the freeze %q, and is never skipped by itself; skip %[2]q", op.Phase, of)
	case op.Reason == "":
		return refused("skip: give a reason; it is kept with the restore point")
	case o.started[op.Phase] && !o.parked[op.Phase]:
		return refused("skip: phase %q is running or over", op.Phase)
	}
	return nil
}

// park waits until a person retries or skips the failed phase.
func (o *operator) park(ctx workflow.Context, names ...string) (op plan.Operation, skip bool, err error) {
	for _, n := range names {
		o.parked[n] = true
	}
	defer func() {
		for _, n := range names {
			delete(o.parked, n)
			delete(o.retries, n)
		}
	}()
	decided := func() bool {
		for _, n := range names {
			if d, ok := o.decisions[n]; ok {
				op, skip = d, true
				return true
			}
			if r, ok := o.retries[n]; ok {
				op = r
				return true
			}
		}
		return false
	}
	ok, err := workflow.AwaitWithTimeout(ctx, parkTimeout, decided)
	if err == nil && !ok {
		err = failed(TypeRejected, "nobody retried or skipped %s within %s", names[0], parkTimeout)
	}
	return op, skip, err
}
