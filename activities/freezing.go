package activities

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// freezing is one freeze in the making.
type freezing struct {
	e      *Engine
	in     plan.FreezeInput
	report plan.FreezeReport
	undo   *bound
	do     *bound
	inner  []*bound // nil where it can be bound only inside the window
	quiet  func()   // waits for the end of what announces the freeze
	// attempt of the activity that freezes; its calls share it.
	attempt *attempt

	// flight counts the acts that went on after their time was over: what
	// they lock late must be thawed again.
	flight sync.WaitGroup
	late   bool

	mu   sync.Mutex
	beat plan.FreezeBeat
}

func (f *freezing) run(ctx context.Context) error {
	f.attempt = f.e.attempt(ctx)
	f.attempt.noted = f.note
	stop := heartbeats(ctx, 100*time.Millisecond, f.now)
	defer stop()
	defer f.attempt.clean()
	defer f.release()
	if skip, err := f.e.skips(&plan.Phase{Name: f.in.Name, When: f.in.When}, f.in.Scope, f.in.Results); err != nil || skip != "" {
		if err != nil {
			f.fail(f.in.Name, err)
		}
		f.report.Skipped = skip
		return nil
	}
	if err := f.prepare(ctx); err != nil {
		f.fail(f.in.Name, err)
		return nil // nothing was frozen
	}
	if err := f.e.journal.write(f.in); err != nil {
		f.fail(f.in.Name, fault.New(fault.Transient, "%w", err))
		return nil
	}
	if err := ctx.Err(); err != nil {
		f.fail(f.in.Name, context.Cause(ctx))
		return f.e.journal.clear(f.in.Token)
	}
	f.window(ctx)
	if err := f.thaw(ctx); err != nil {
		return err
	}
	if f.quiet != nil {
		f.quiet() // after the thaw, which waits for no disk, and before the journal is cleared
	}
	if f.late {
		if err := f.thawAgain(ctx); err != nil {
			return err
		}
	}
	f.report.Proof = f.proof()
	return f.e.journal.clear(f.in.Token)
}

// prepare renders and binds everything that needs no output of the freeze,
// the undo first: what cannot be thawed is not frozen.
func (f *freezing) prepare(ctx context.Context) error {
	fr := &f.in.Freeze
	inside := []string{f.in.Name}
	for i := range fr.Phases {
		inside = append(inside, fr.Phases[i].Name)
	}
	var err error
	bind := func(ph *plan.Phase, lenient bool) (b *bound) {
		if err != nil || mentions(ph, inside) {
			return nil
		}
		b, err = f.bind(ctx, ph, lenient)
		return b
	}
	f.undo = bind(&fr.Undo, true)
	if err == nil { // do comes before all of them: whatever it seems to mention, it is of before
		f.do, err = f.bind(ctx, &fr.Do, false)
	}
	for i := range fr.Phases {
		f.inner = append(f.inner, bind(&fr.Phases[i], false))
	}
	return err
}

// bind binds a call of this freeze; failures before any effect are retried.
func (f *freezing) bind(ctx context.Context, ph *plan.Phase, lenient bool) (*bound, error) {
	c := plan.Call{Run: f.in.Run, Phase: *ph, Scope: f.in.Scope, Results: f.results(), Lenient: lenient}
	by := f.attempt
	if lenient { // undo: each is made for itself, since what it undoes may come late
		by = nil
	}
	wait := 50 * time.Millisecond
	for attempt := 1; ; attempt++ {
		b, err := f.e.bind(ctx, c, setting{token: f.in.Token, maxFreeze: f.in.Freeze.MaxFreeze.D(), attempt: by})
		if err == nil || fault.Of(err) != fault.Transient || attempt == 5 {
			return b, err
		}
		if !pause(ctx, &wait, time.Second) {
			return nil, err
		}
	}
}

// results are those of the run so far, and of this freeze.
func (f *freezing) results() map[string]plan.Result {
	all := maps.Clone(f.in.Results)
	if all == nil {
		all = map[string]plan.Result{}
	}
	maps.Copy(all, f.report.Results)
	return all
}

// window is the span in which the target is frozen: do, and what is inside.
func (f *freezing) window(ctx context.Context) {
	fr := &f.in.Freeze
	// maxFreeze is counted from before `do`: a `do` that waits for its lock
	// may hold up writers already (FLUSH TABLES WITH READ LOCK does).
	ctx, cancel := context.WithTimeoutCause(ctx, fr.MaxFreeze.D(), fmt.Errorf("maxFreeze of %s reached", fr.MaxFreeze))
	defer cancel()
	f.report.DoStart = time.Now()
	doCtx, cancelDo := context.WithTimeoutCause(ctx, fr.Do.Timeout.D(), fmt.Errorf("do not done within %s", fr.Do.Timeout))
	f.do.env.Deadline, _ = doCtx.Deadline()
	out, err := f.act(doCtx, f.do)
	cancelDo()
	f.report.FrozenAt = time.Now()
	f.report.Proof.Do = out
	f.report.Results[f.in.Name] = plan.Result{Output: out, Objects: fr.Do.Objects}
	f.record(&fr.Do, f.report.DoStart, err, "")
	if err != nil {
		f.fail(fr.Do.Name, withCause(doCtx, err))
		return
	}
	f.quiet = f.announce(ctx, out)
	if err := f.meet(ctx, plan.MeetFrozen); err != nil {
		f.fail(f.in.Name, withCause(ctx, err))
		return
	}
	for i := range fr.Phases {
		ph := &fr.Phases[i]
		if err := f.phase(ctx, ph, f.inner[i]); err != nil {
			f.fail(ph.Name, withCause(ctx, err))
			return
		}
	}
	if err := f.meet(ctx, plan.MeetCut); err != nil {
		f.fail(f.in.Name, withCause(ctx, err))
	}
}

// meet waits until every freeze of the application has reached a stage. What
// ends this one while it waits (maxFreeze, its session) ends the waiting.
func (f *freezing) meet(ctx context.Context, stage string) error {
	j := f.in.Join
	if j == nil {
		return nil
	}
	f.note("meets the other freezes: " + stage)
	for wait := 50 * time.Millisecond; ; {
		err := f.e.meet(ctx, j, f.in.Token, stage)
		var app *temporal.ApplicationError
		var gone *serviceerror.NotFound
		switch {
		case err == nil:
			return nil
		case errors.As(err, &app):
			return fault.New(fault.Permanent, "%s", app.Message())
		case errors.As(err, &gone):
			return fault.New(fault.Permanent, "the run that holds the freezes together (%s) is over", j.Run.ID)
		}
		f.e.log.Warn("a freeze does not reach the run that holds it together with others; trying again", "run", j.Run.ID, "error", err)
		if !pause(ctx, &wait, time.Second) {
			return fault.New(fault.Transient, "the run that holds the freezes together (%s) is not reached: %w", j.Run.ID, err)
		}
	}
}

func (e *Engine) meet(ctx context.Context, j *plan.Join, token, stage string) error {
	if e.cfg.Client == nil {
		return errors.New("this worker has no Temporal client")
	}
	h, err := e.cfg.Client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		UpdateID: token + "-" + stage, WorkflowID: j.Run.ID, RunID: j.Run.RunID, UpdateName: plan.UpdateMeet,
		Args: []any{plan.Meet{Member: j.Member, Stage: stage}}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err != nil {
		return err
	}
	return h.Get(ctx, nil)
}

func (f *freezing) phase(ctx context.Context, ph *plan.Phase, b *bound) error {
	started := time.Now()
	f.note(ph.Name)
	skip, err := f.e.skips(ph, f.in.Scope, f.results())
	if err == nil && skip != "" {
		f.report.Results[ph.Name] = plan.Result{Skipped: true}
		f.record(ph, started, nil, skip)
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, ph.Timeout.D(), fmt.Errorf("phase not done within %s", ph.Timeout))
	defer cancel()
	if err == nil && b == nil {
		b, err = f.bind(ctx, ph, false)
		if b != nil {
			defer b.free()
		}
	}
	var out plan.Values
	if err == nil {
		out, err = f.attempts(ctx, ph, b)
	}
	err = withCause(ctx, err)
	f.record(ph, started, err, "")
	if err != nil {
		return err
	}
	f.report.Results[ph.Name] = plan.Result{Output: out, Objects: ph.Objects}
	if b.fn.Cut {
		f.report.Proof.Cuts = append(f.report.Proof.Cuts, plan.Span{Start: started, End: time.Now()})
	}
	return nil
}

// act runs a call, and does not wait for one that stays behind when its time
// is over: a database is not kept frozen by a hung command.
func (f *freezing) act(ctx context.Context, b *bound) (plan.Values, error) {
	type result struct {
		out plan.Values
		err error
	}
	done := make(chan result, 1)
	f.flight.Add(1)
	go func() {
		defer f.flight.Done()
		out, err := b.run(ctx)
		done <- result{out, err}
	}()
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
	}
	t := time.NewTimer(overrun)
	defer t.Stop()
	select {
	case r := <-done:
		return r.out, r.err
	case <-t.C:
		f.late = true
		return nil, fault.New(fault.Unknown, "phase %s: still running after its time was over; it is left behind", b.phase.Name)
	}
}

// overrun is how long a call may take to notice that its time is over.
const overrun = 250 * time.Millisecond

// attempts runs a phase, and again after failures that had no effect, as its
// retry rules say and maxFreeze lets it.
func (f *freezing) attempts(ctx context.Context, ph *plan.Phase, b *bound) (plan.Values, error) {
	wait := min(max(ph.Retry.Backoff.D(), 10*time.Millisecond), time.Second)
	for attempt := 1; ; attempt++ {
		out, err := f.act(ctx, b)
		if err == nil || fault.Of(err) != fault.Transient || attempt >= ph.Retry.MaxAttempts {
			return out, err
		}
		if !pause(ctx, &wait, time.Second) {
			return nil, err
		}
	}
}

// thaw runs undo until it succeeds, or until the session had better know that
// it does not.
func (f *freezing) thaw(ctx context.Context) error {
	f.report.ThawAt = time.Now()
	f.report.ThawedBy = plan.ThawedByPhases
	if f.report.Failure != nil {
		f.report.ThawedBy = "failure of " + f.report.Failure.Phase
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.in.Freeze.Undo.Timeout.D())
	defer cancel()
	out, err := f.insistUndo(own)
	f.record(&f.in.Freeze.Undo, f.report.ThawAt, err, "")
	if err != nil {
		return fmt.Errorf("thaw %s: %w", f.in.Scope.Target.Key(), err)
	}
	f.report.ThawedAt = time.Now()
	f.report.Confirmed = true
	f.report.Proof.Undo = out
	merged := plan.Values{}
	maps.Copy(merged, f.report.Results[f.in.Name].Output)
	maps.Copy(merged, out)
	f.report.Results[f.in.Name] = plan.Result{Output: merged, Objects: f.in.Freeze.Do.Objects}
	return nil
}

// thawAgain waits for what was left behind, and thaws what it may have locked
// after the first undo. While it waits the report is not confirmed: the
// session's patience is the activity's time-out.
func (f *freezing) thawAgain(ctx context.Context) error {
	f.flight.Wait()
	f.late = false // nothing uses what is bound any more
	f.undo.free()
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.in.Freeze.Undo.Timeout.D())
	defer cancel()
	f.undo = nil // what was bound is used up
	_, err := f.insistUndo(own)
	if err != nil {
		return fmt.Errorf("thaw %s again: %w", f.in.Scope.Target.Key(), err)
	}
	f.report.ThawedAt = time.Now()
	return nil
}

// insistUndo runs undo until it succeeds or the context ends.
func (f *freezing) insistUndo(ctx context.Context) (plan.Values, error) {
	wait := 20 * time.Millisecond
	b := f.undo
	for {
		var out plan.Values
		var err error
		if b == nil {
			b, err = f.bind(ctx, &f.in.Freeze.Undo, true)
			if b != nil {
				defer b.free()
			}
		}
		if err == nil {
			if out, err = b.run(ctx); err == nil {
				return out, nil
			}
			b = nil // a fresh connection for the next attempt
		}
		f.e.log.Error("undo failed; trying again", "target", f.in.Scope.Target.Key(), "token", f.in.Token, "error", err)
		if !pause(ctx, &wait, 2*time.Second) {
			return nil, err
		}
	}
}

// announce tells the session and the run that the freeze took effect, once it
// has lasted long enough for a person to want to know. It costs the window
// nothing.
func (f *freezing) announce(ctx context.Context, out plan.Values) (stop func()) {
	f.mu.Lock()
	f.beat.Do = &plan.Result{Output: out}
	f.mu.Unlock()
	known := f.results() // what undo may need of do, for a sweep
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		in := f.in
		in.Results = known
		if err := f.e.journal.write(in); err != nil {
			f.e.log.Warn("freeze journaled without what do returned", "token", in.Token, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(announceAfter):
		}
		if f.e.cfg.Client == nil {
			return
		}
		sig := plan.Frozen{Token: in.Token, Since: f.report.FrozenAt.UTC().Format(time.RFC3339Nano)}
		for _, to := range [][2]string{{in.Session, ""}, {in.Run.ID, in.Run.RunID}} {
			if err := f.e.cfg.Client.SignalWorkflow(ctx, to[0], to[1], plan.SignalFrozen, sig); err != nil && ctx.Err() == nil {
				f.e.log.Warn("freeze not announced", "workflow", to[0], "error", err)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// announceAfter is how long a freeze must last to be announced.
const announceAfter = 200 * time.Millisecond

// now is the heartbeat's detail.
func (f *freezing) now() any {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.beat
}

func (f *freezing) note(n string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beat.Phase = n
}

func (f *freezing) record(ph *plan.Phase, started time.Time, err error, skip string) {
	r := plan.PhaseRecord{Name: ph.Name, Func: ph.Func, State: plan.PhaseDone, Started: started, Ended: time.Now(), Note: skip}
	if skip != "" {
		r.State = plan.PhaseSkipped
	}
	if err != nil {
		r.State, r.Note = plan.PhaseFailed, f.e.redact.Text(err.Error())
	}
	f.report.Phases = append(f.report.Phases, r)
}

func (f *freezing) fail(phase string, err error) {
	f.report.Failure = &plan.Failure{Phase: phase, Kind: string(fault.Of(err)), Message: f.e.redact.Text(err.Error())}
}

func (f *freezing) release() {
	if f.late {
		return // something may still use them; the process's end frees them
	}
	for _, b := range append([]*bound{f.undo, f.do}, f.inner...) {
		b.free()
	}
}

// pause waits before another attempt, and longer before the next. It reports
// false where the context ends first.
func pause(ctx context.Context, wait *time.Duration, most time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(*wait):
		*wait = min(*wait*2, most)
		return true
	}
}
