package activities

import (
	"context"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/activity"

	"thaw/blueprints/plan"
)

// attempt is one attempt of an activity that runs functions: what it tells
// Temporal while it lasts, what it knows of the attempt before, and what is to
// be cleaned when its result is safe.
type attempt struct {
	e        *Engine
	info     activity.Info
	stopping <-chan struct{}
	recalled string
	reported bool
	noted    func(string) // may be nil

	mu    sync.Mutex
	beat  plan.CallBeat
	after []func(context.Context)
}

func (e *Engine) attempt(ctx context.Context) *attempt {
	t := &attempt{e: e, info: activity.GetInfo(ctx), stopping: activity.GetWorkerStopChannel(ctx)}
	if activity.HasHeartbeatDetails(ctx) {
		var last plan.CallBeat
		if activity.GetHeartbeatDetails(ctx, &last) == nil {
			t.beat.Memory, t.recalled = last.Memory, last.Memory
		}
	}
	if t.info.Attempt > 1 {
		t.reported = e.reported(ctx, t.info)
	}
	return t
}

// equip gives a call what its attempt has. A nil attempt is that of a call
// which is made again from the start whatever came of it: it remembers
// nothing, and what is to be cleaned is cleaned when it ends.
func (t *attempt) equip(b *bound) {
	env := b.env
	if t == nil {
		env.Attempt = 1
		env.Heartbeat, env.Remember = func(string) {}, func(string) {}
		env.Stopping = func() bool { return false }
		env.After = func(clean func(context.Context)) { b.after = append(b.after, clean) }
		return
	}
	env.Attempt = int(t.info.Attempt)
	env.Activity, env.Recalled, env.Reported = t.info.ActivityID, t.recalled, t.reported
	env.Heartbeat = t.note
	env.Remember = func(text string) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.beat.Memory = t.e.redact.Text(text)
	}
	env.Stopping = func() bool {
		select {
		case <-t.stopping:
			return true
		default:
			return false
		}
	}
	env.After = func(clean func(context.Context)) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.after = append(t.after, clean)
	}
}

func (t *attempt) note(text string) {
	text = t.e.redact.Text(text)
	t.mu.Lock()
	t.beat.Note = text
	t.mu.Unlock()
	if t.noted != nil {
		t.noted(text)
	}
}

// detail is the heartbeat's.
func (t *attempt) detail() any {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.beat
}

// cleanAfter bounds how long a worker waits for Temporal to have a result; what
// is left then is swept later.
const cleanAfter = 10 * time.Minute

// clean runs what was put off until Temporal has the activity's result.
func (t *attempt) clean() {
	t.mu.Lock()
	defer t.mu.Unlock()
	after := t.after
	if len(after) == 0 {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanAfter)
		defer cancel()
		run := plan.Run{ID: t.info.WorkflowExecution.ID, RunID: t.info.WorkflowExecution.RunID}
		for wait := 50 * time.Millisecond; ; {
			pending, err := t.e.Pending(ctx, run, t.info.ActivityID)
			if err == nil && !pending {
				break
			}
			if !pause(ctx, &wait, 5*time.Second) {
				return
			}
		}
		for _, f := range after {
			f(ctx)
		}
	}()
}

// Pending reports whether an activity of a run is not over yet: it runs, or
// will be tried again. A run that Temporal no longer knows has none.
func (e *Engine) Pending(ctx context.Context, run plan.Run, activityID string) (bool, error) {
	if e.cfg.Client == nil {
		return false, nil
	}
	a, err := e.pendingActivity(ctx, run, activityID)
	return a != nil, err
}

func (e *Engine) pendingActivity(ctx context.Context, run plan.Run, activityID string) (*workflow.PendingActivityInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d, err := e.cfg.Client.DescribeWorkflowExecution(ctx, run.ID, run.RunID)
	if _, gone := err.(*serviceerror.NotFound); gone { //nolint:errorlint // the client returns it as it is
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, a := range d.GetPendingActivities() {
		if a.GetActivityId() == activityID {
			return a, nil
		}
	}
	return nil, nil
}

// reported reports whether the attempt before this one told its failure
// itself. Otherwise its worker was lost, and what it started may still run.
func (e *Engine) reported(ctx context.Context, info activity.Info) bool {
	if e.cfg.Client == nil {
		return false
	}
	a, err := e.pendingActivity(ctx, plan.Run{ID: info.WorkflowExecution.ID, RunID: info.WorkflowExecution.RunID}, info.ActivityID)
	return err == nil && a.GetLastFailure().GetApplicationFailureInfo() != nil
}
