package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"

	"thaw/blueprints/fault"
)

// Classify gives an error of the API its kind. What the server refused stays
// refused until a person acts; where the server did not answer, or was too
// busy, the same call may go through later.
func Classify(err error) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) {
		return err
	}
	return fault.New(kindOf(err), "%w", err)
}

// ExitError is a command in a container that ended, and said no.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

func kindOf(err error) fault.Kind {
	switch {
	case Unreachable(err):
		return fault.Transient
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), apierrors.IsConflict(err):
		return fault.Transient
	case apierrors.IsAlreadyExists(err), apierrors.IsGone(err):
		return fault.Permanent
	}
	return fault.User
}

// Unreachable reports whether an error says that the API server was not
// reached, or not able to answer: nothing is known of the object.
func Unreachable(err error) bool {
	var status apierrors.APIStatus
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return false
	case meta.IsNoMatchError(err):
		return false
	case errors.As(err, &status):
		code := status.Status().Code
		return code == 429 || code >= 500 || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err)
	}
	var f *fault.Error
	return !errors.As(err, &f) // no answer at all: refused, reset, time-out, no such host
}

const (
	// oneTry bounds a request: a server that is stopped in its tracks answers
	// nothing, and refuses nothing.
	oneTry = 15 * time.Second
	// warmUp is how long a server that came back may refuse what it allows:
	// it serves before it knows all of its roles.
	warmUp = 10 * time.Second
	// mostPause is the longest pause between two tries.
	mostPause = 2 * time.Second
)

// Insist calls op until the API server has answered it, or the context ends:
// a worker waits for its API server, and goes on. Each call of op has a
// deadline of its own, so that op must be one request, or several quick ones
// that can be made again. note may be nil; it hears what is waited for.
func Insist(ctx context.Context, note func(string), op func(ctx context.Context) error) error {
	var lost time.Time // when the server was last known to be away
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, mostPause) {
		try, cancel := context.WithTimeout(ctx, oneTry)
		err := op(try)
		cancel()
		refused := apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fault.New(fault.Transient, "%w (%w)", err, context.Cause(ctx))
		case Unreachable(err):
			lost = time.Now()
		case refused && !lost.IsZero() && time.Since(lost) < warmUp:
		default:
			return Classify(err)
		}
		if note != nil {
			note(fmt.Sprintf("waiting for the API server: %v", err))
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Transient, "the API server does not answer: %w (%w)", err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}
