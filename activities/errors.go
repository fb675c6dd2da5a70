package activities

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"

	"thaw/blueprints/fault"
)

// toTemporal maps an error to Temporal's, once, for every activity: its type
// is the kind that the engine's retry policies name; its text is redacted.
// The original is not wrapped: its text, and those below it, could hold a
// secret.
func (e *Engine) toTemporal(err error, details ...any) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) && !isFault(err) {
		return temporal.NewCanceledError(e.redact.Text(err.Error()))
	}
	o := temporal.ApplicationErrorOptions{Details: details}
	var later interface{ RetryAfter() time.Duration }
	if errors.As(err, &later) {
		o.NextRetryDelay = later.RetryAfter()
	}
	return temporal.NewApplicationErrorWithOptions(e.redact.Text(err.Error()), string(fault.Of(err)), o)
}

func isFault(err error) bool {
	var f *fault.Error
	return errors.As(err, &f)
}

// withCause adds why the context ended, where that is what failed the call.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) && !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}
