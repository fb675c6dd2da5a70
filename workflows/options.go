package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

const (
	// callHeartbeat is how soon a dead worker is noticed in an ordinary phase.
	callHeartbeat = 10 * time.Second
	// freezeHeartbeat is how soon it is noticed inside a freeze. The database
	// is usually thawed long before by the end of the worker's connection.
	freezeHeartbeat = 2 * time.Second
	// thawTimeout bounds one attempt of a thaw; there is always another.
	thawTimeout = 30 * time.Second
	// undoGrace is what the freezing activity has for its own undo, past
	// maxFreeze, before the session no longer counts on it.
	undoGrace = 15 * time.Second
	// untilDoneAgain is the pause after an attempt that ended for good and must
	// be made all the same.
	untilDoneAgain = 10 * time.Second
	// parkTimeout is how long a failed phase waits for its operator.
	parkTimeout = 7 * 24 * time.Hour
	// approvalTimeout is how long an approval can be given by default.
	approvalTimeout = 72 * time.Hour
	// busyWait is how long a freeze of a target that another freeze holds is
	// tried again: enough for the session of a reset run to thaw.
	busyWait = 15 * time.Second
)

// callOptions are those of a phase's activity. What is retried is decided by
// the kind of the error (package fault), and by what the phase says of itself:
// an attempt whose outcome is unknown is followed by another only where the
// phase is idempotent.
func callOptions(p *plan.Plan, ph *plan.Phase) workflow.ActivityOptions {
	never := []string{string(fault.User), string(fault.Permanent)}
	if !ph.Retry.ExitCodes {
		never = append(never, string(fault.Command))
	}
	if !ph.Idempotent {
		never = append(never, string(fault.Unknown), "TemporalTimeout:StartToClose")
		if !ph.Reattach {
			never = append(never, "TemporalTimeout:Heartbeat")
		}
	}
	o := base(p.Target, summaryOf(ph))
	o.StartToCloseTimeout = ph.Timeout.D()
	o.HeartbeatTimeout = callHeartbeat
	o.WaitForCancellation = true
	o.RetryPolicy = &temporal.RetryPolicy{
		InitialInterval: orDefault(ph.Retry.Backoff.D(), time.Second), BackoffCoefficient: 2,
		MaximumInterval:        orDefault(ph.Retry.MaxBackoff.D(), time.Minute),
		MaximumAttempts:        int32(max(ph.Retry.MaxAttempts, 1)),
		NonRetryableErrorTypes: append(never, ph.Retry.NonRetryable...),
	}
	return o
}

// untilDone are the options of what must succeed: undo, compensate and
// deferPhase. Nothing makes them give up but a person's skip.
func untilDone(t plan.Target, summary string, timeout time.Duration) workflow.ActivityOptions {
	o := base(t, summary)
	o.StartToCloseTimeout = timeout
	o.HeartbeatTimeout = callHeartbeat
	o.RetryPolicy = &temporal.RetryPolicy{InitialInterval: 200 * time.Millisecond, BackoffCoefficient: 2, MaximumInterval: 30 * time.Second}
	return o
}

// quick are the options of small reads and writes of the worker's own.
func quick(t plan.Target, summary string) workflow.ActivityOptions {
	o := base(t, summary)
	o.StartToCloseTimeout = time.Minute
	o.RetryPolicy = &temporal.RetryPolicy{
		InitialInterval: time.Second, MaximumInterval: 30 * time.Second, MaximumAttempts: 20,
		NonRetryableErrorTypes: []string{string(fault.User), string(fault.Permanent)},
	}
	return o
}

// moving are the options of what moves a restore point's files.
func moving(t plan.Target, summary string) workflow.ActivityOptions {
	o := quick(t, summary)
	o.StartToCloseTimeout, o.HeartbeatTimeout = 24*time.Hour, callHeartbeat
	return o
}

func base(t plan.Target, summary string) workflow.ActivityOptions {
	return workflow.ActivityOptions{TaskQueue: t.TaskQueue, Summary: summary}
}

func summaryOf(ph *plan.Phase) string {
	if ph.Func == "" {
		return ph.Name
	}
	return ph.Name + ": " + ph.Func
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}
