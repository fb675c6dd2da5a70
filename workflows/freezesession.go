package workflows

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/plan"
)

// FreezeSession owns one freeze and its thaw (design.md §4). It is started
// before anything is frozen. One activity freezes, runs the phases inside and
// thaws, in one worker, so that the window is the cut and not the engine; the
// session thaws by the freeze's token whenever that activity does not report
// that it has done so: after a cancel, its parent's end, a person's word, or
// too long a time. It ends when the thaw is confirmed, never before.
func FreezeSession(ctx workflow.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
	s := &session{in: in, attrs: attributes{enabled: in.Attributes}, state: stateRunning}
	if err := s.setup(ctx); err != nil {
		return nil, err
	}
	return s.run(ctx)
}

type session struct {
	in     plan.FreezeInput
	attrs  attributes
	state  string
	frozen string
	asked  *plan.Operation
	orphan string // how the parent ended
	report *plan.FreezeReport
	err    error // of the freezing activity
	over   bool  // the freezing activity is over
	doOver bool  // do is known to have returned
}

func (s *session) setup(ctx workflow.Context) error {
	if err := workflow.SetQueryHandler(ctx, plan.QueryProgress, func() (plan.Progress, error) {
		return plan.Progress{Action: "freeze", Target: s.in.Scope.Target.Key(), State: s.state, FrozenSince: s.frozen}, nil
	}); err != nil {
		return err
	}
	validate := func(op plan.Operation) error {
		if op.By == "" || op.Reason == "" {
			return refused("thaw: say who you are and why: {\"by\": ..., \"reason\": ...}")
		}
		return nil
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, plan.UpdateThaw,
		func(_ workflow.Context, op plan.Operation) error { s.asked = &op; return nil },
		workflow.UpdateHandlerOptions{Validator: validate, Description: "Thaw the database now; the backup fails"}); err != nil {
		return err
	}
	thaws := workflow.GetSignalChannel(ctx, plan.UpdateThaw)
	frozen := workflow.GetSignalChannel(ctx, plan.SignalFrozen)
	workflow.Go(ctx, func(ctx workflow.Context) {
		for {
			sel := workflow.NewSelector(ctx)
			sel.AddReceive(thaws, func(c workflow.ReceiveChannel, _ bool) {
				var op plan.Operation
				c.Receive(ctx, &op)
				if op.By != "" {
					s.asked = &op
				}
			})
			sel.AddReceive(frozen, func(c workflow.ReceiveChannel, _ bool) {
				var f plan.Frozen
				c.Receive(ctx, &f)
				if f.Token == s.in.Token && s.report == nil {
					s.frozen = f.Since
					s.show(ctx, stateFrozen)
				}
			})
			sel.Select(ctx)
		}
	})
	return nil
}

func (s *session) run(ctx workflow.Context) (*plan.FreezeReport, error) {
	own, stop := workflow.NewDisconnectedContext(ctx)
	defer stop()
	s.show(own, stateRunning)
	s.watchParent(own)
	window, cancelWindow := workflow.WithCancel(own)
	defer cancelWindow()
	s.freeze(window)

	// The timer is the last guard of maxFreeze; the worker has its own, which
	// is more exact, and the database's session a third.
	limit := s.in.Freeze.MaxFreeze.D() + time.Second
	_, err := workflow.AwaitWithTimeout(own, limit, func() bool {
		return s.over || s.asked != nil || s.orphan != "" || ctx.Err() != nil
	})
	if err != nil {
		return nil, err
	}
	why := s.why(ctx)
	if !s.thawed() {
		s.show(own, stateThawing)
		cancelWindow()
		if err := s.thaw(own, why); err != nil {
			return nil, err
		}
	}
	if s.report.Confirmed && s.err != nil && s.asked == nil && s.orphan == "" && ctx.Err() == nil {
		why = plan.ThawedByPhases
	}
	s.settle(why)
	s.frozen = ""
	s.show(own, stateCompleted)
	return s.report, nil
}

// freeze runs the activity that freezes. One attempt: whether it took effect
// is unknown once it fails, and a session never freezes twice.
func (s *session) freeze(ctx workflow.Context) {
	f := s.in.Freeze
	o := base(s.in.Scope.Target, fmt.Sprintf("freeze %s, %s at most", s.in.Scope.Target.Key(), f.MaxFreeze))
	// A worker that takes the task too late must not freeze.
	o.ScheduleToStartTimeout = f.MaxFreeze.D()
	o.StartToCloseTimeout = f.MaxFreeze.D() + f.Undo.Timeout.D() + undoGrace
	o.HeartbeatTimeout = freezeHeartbeat
	o.WaitForCancellation = true
	o.RetryPolicy = &temporal.RetryPolicy{MaximumAttempts: 1}
	future := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), plan.ActivityFreeze, s.in)
	wait, _ := workflow.NewDisconnectedContext(ctx)
	workflow.Go(wait, func(ctx workflow.Context) {
		var r plan.FreezeReport
		if s.err = future.Get(ctx, &r); s.err == nil {
			s.report = &r
		}
		s.recall(s.err)
		s.over = true
	})
}

// recall takes from the last heartbeat of a lost worker what `do` returned:
// undo may need it.
func (s *session) recall(err error) {
	var timeout *temporal.TimeoutError
	var beat plan.FreezeBeat
	if !errors.As(err, &timeout) || !timeout.HasLastHeartbeatDetails() || timeout.LastHeartbeatDetails(&beat) != nil || beat.Do == nil {
		return
	}
	s.doOver = true
	if s.in.Results == nil {
		s.in.Results = map[string]plan.Result{}
	}
	s.in.Results[s.in.Name] = *beat.Do
}

// watchParent sees the parent's end where the parent-close policy does not
// tell of it: a reset.
func (s *session) watchParent(ctx workflow.Context) {
	o := untilDone(s.in.Scope.Target, "watch "+s.in.Run.ID, 24*time.Hour)
	watch, cancel := workflow.WithCancel(ctx)
	future := workflow.ExecuteActivity(workflow.WithActivityOptions(watch, o), plan.ActivityWatch, plan.WatchInput{Run: s.in.Run})
	workflow.Go(ctx, func(ctx workflow.Context) {
		var r plan.WatchResult
		if err := future.Get(ctx, &r); err == nil {
			s.orphan = orWord(r.Status, "closed")
		}
		cancel()
	})
}

func (s *session) why(ctx workflow.Context) string {
	switch {
	case s.over && s.err != nil:
		return "freeze lost: " + words(s.err)
	case s.over:
		return plan.ThawedByPhases
	case s.asked != nil:
		return "thaw now by " + s.asked.By + ": " + s.asked.Reason
	case s.orphan != "":
		return "parent " + s.orphan
	case ctx.Err() != nil:
		return "parent closed or cancelled"
	default:
		return "maxFreeze"
	}
}

// thawed: the freezing activity itself confirmed its undo, or never froze.
func (s *session) thawed() bool {
	return s.over && s.report != nil && (s.report.Confirmed || s.report.DoStart.IsZero())
}

// thaw runs undo at once, and again once the freezing activity is over, unless
// that reported a confirmed thaw: a `do` that is still in flight on a slow
// worker may take effect after the first undo (design.md §4.2).
func (s *session) thaw(ctx workflow.Context, why string) error {
	overBefore := s.over
	r, err := thaw(ctx, s.in)
	if err != nil {
		return err
	}
	if !overBefore {
		bound := s.in.Freeze.MaxFreeze.D() + s.in.Freeze.Undo.Timeout.D() + undoGrace
		if _, err := workflow.AwaitWithTimeout(ctx, bound, func() bool { return s.over }); err != nil {
			return err
		}
	}
	if r.Confirmed && (s.report == nil || !s.thawed()) {
		// The freeze came to its end, and only the word of it was lost.
		s.report = r
	}
	if s.thawed() {
		return nil
	}
	if !s.doOver && !r.Gone {
		// Lost in do: its process may be alive, and slow.
		if err := workflow.Sleep(ctx, s.in.Freeze.Do.Timeout.D()); err != nil {
			return err
		}
		if _, err := thaw(ctx, s.in); err != nil {
			return err
		}
	}
	r.ThawedBy = why
	r.Proof.Consistent = false
	if s.err != nil && r.Failure == nil {
		r.Failure = failureOf(s.in.Name, s.err)
	}
	s.report = r
	return nil
}

// settle completes the report: a freeze that was ended from outside is a
// failure of the phase, whatever the worker saw of it.
func (s *session) settle(why string) {
	r := s.report
	if r.ThawedBy == "" || (why != plan.ThawedByPhases && r.Failure != nil) {
		r.ThawedBy = why
	}
	if why != plan.ThawedByPhases && s.asked != nil {
		r.Failure = &plan.Failure{Phase: s.in.Name, Kind: TypeThawedByPerson, Message: fmt.Sprintf("thawed by %s before it was done: %s", s.asked.By, s.asked.Reason)}
		r.Proof.Consistent, r.Proof.Reason = false, why
	}
	if why != plan.ThawedByPhases && r.Failure == nil {
		r.Failure = &plan.Failure{Phase: s.in.Name, Kind: TypeNotProven, Message: why}
		r.Proof.Consistent = false
		r.Proof.Reason = why
	}
}

func (s *session) show(ctx workflow.Context, state string) {
	s.state = state
	updates := []temporal.SearchAttributeUpdate{}
	if s.attrs.state == "" {
		updates = append(updates, attrTarget.ValueSet(keyword(s.in.Scope.Target.Key())))
	}
	s.attrs.set(ctx, state, "", s.frozen, updates...)
	workflow.SetCurrentDetails(ctx, fmt.Sprintf("Freeze of **%s** for run `%s`: **%s**. At most %s.\n\nFrozen since: %s\n\nTo thaw now, send the update `thaw` with `{\"by\": \"you\", \"reason\": \"...\"}`.\n",
		s.in.Scope.Target.Key(), s.in.Run.ID, state, s.in.Freeze.MaxFreeze, orWord(s.frozen, "not frozen")))
}
