package workflows

import (
	"errors"
	"fmt"
	"strings"

	"go.temporal.io/sdk/temporal"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// The types of the errors that a run ends with, beside those of package fault.
const (
	// TypeThawedByPerson: somebody thawed the database before the cut was done.
	TypeThawedByPerson = "ThawedByPerson"
	// TypeNotProven: the freeze that was thawed is not the one that was made.
	TypeNotProven = "NotProven"
	// TypeBusy: another run holds the freeze of this target.
	TypeBusy = "TargetBusy"
	// TypeAbandoned: another part of the application failed.
	TypeAbandoned = "Abandoned"
	// TypeRejected: a person said no, or nobody said yes in time.
	TypeRejected = "Rejected"
	// TypeRefused: an update or signal was not taken.
	TypeRefused = "Refused"
)

func userError(format string, args ...any) error {
	return temporal.NewNonRetryableApplicationError(fmt.Sprintf(format, args...), string(fault.User), nil)
}

func failed(kind, format string, args ...any) error {
	return temporal.NewNonRetryableApplicationError(fmt.Sprintf(format, args...), kind, nil)
}

// kindOf is the kind of an activity's failure. A timeout is an unknown outcome.
func kindOf(err error) string {
	var app *temporal.ApplicationError
	switch {
	case errors.As(err, &app):
		return app.Type()
	case temporal.IsCanceledError(err):
		return "Cancelled"
	default:
		return string(fault.Unknown)
	}
}

// words are an error's own words, without the wrapping of activity ids that
// the SDK puts around them.
func words(err error) string {
	var app *temporal.ApplicationError
	var timeout *temporal.TimeoutError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &app):
		return app.Message()
	case temporal.IsCanceledError(err):
		return "cancelled"
	case errors.As(err, &timeout):
		return fmt.Sprintf("no answer from the worker in time (%s): its outcome is unknown", timeout.TimeoutType())
	default:
		return err.Error()
	}
}

// noEffect reports that the phase is known to have changed nothing. Where an
// attempt is retried that may have had an effect, the last one's error speaks
// for all only if it was the only one.
func noEffect(ph *plan.Phase, err error) bool {
	if k := fault.Kind(kindOf(err)); k != fault.User && k != fault.Transient {
		return false
	}
	if !ph.Idempotent && !ph.Retry.ExitCodes {
		return true
	}
	var app *temporal.ApplicationError
	var f plan.FailedCall
	return errors.As(err, &app) && app.HasDetails() && app.Details(&f) == nil && f.Attempt == 1
}

// final builds the error that a run closes with: the failure first, then what
// was compensated, then what is left behind, by name (design: G5).
func (a *action) final(err error) error {
	if err == nil {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", describe(&a.plan), words(err))
	for _, l := range []struct {
		title string
		lines []string
	}{{"compensated", a.compensated}, {"left behind", a.left}} {
		if len(l.lines) > 0 {
			fmt.Fprintf(&b, "; %s: %s", l.title, strings.Join(l.lines, ", "))
		}
	}
	outcome := a.outcome()
	if temporal.IsCanceledError(err) {
		return temporal.NewCanceledError(b.String(), outcome)
	}
	return temporal.NewApplicationErrorWithOptions(b.String(), kindOf(err), temporal.ApplicationErrorOptions{NonRetryable: true, Details: []any{outcome}})
}

func failureOf(phase string, err error) *plan.Failure {
	return &plan.Failure{Phase: phase, Kind: kindOf(err), Message: words(err)}
}
