// Package fault holds the four kinds of errors that Thaw tells apart. The kind
// decides what is retried; it is given once, where the error is known best, and
// mapped once to Temporal's errors (activities). Pure: no Temporal here.
package fault

import (
	"errors"
	"fmt"
)

// Kind is what may follow from an error.
type Kind string

const (
	// User errors: the input is wrong; a person must change it. Never retried.
	User Kind = "UserError"
	// Permanent failures: the same call fails the same way. Not retried.
	Permanent Kind = "PermanentFailure"
	// Command failures: a command ran and said no (non-zero exit, SQL error).
	// Not retried, unless the phase says so (retry.exitCodes).
	Command Kind = "CommandFailure"
	// Transient failures happened before an effect: retried.
	Transient Kind = "TransientFailure"
	// Unknown outcomes: the call may have taken effect. Retried only where
	// the phase is idempotent.
	Unknown Kind = "UnknownOutcome"
)

// Error is an error with its kind.
type Error struct {
	Kind Kind
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// New returns an error of that kind; format and args are those of fmt.Errorf,
// %w included.
func New(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// Of returns the innermost kind that was given to the error. An error that
// nobody classified is Unknown: nothing says that it took no effect.
func Of(err error) Kind {
	kind := Unknown
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			break
		}
		kind, err = e.Kind, e.Err
	}
	return kind
}
