// Command thaw is the command line that a person types: it starts actions,
// shows what runs and what is frozen, approves, thaws, and works on
// blueprints. It talks to Temporal only; databases are the workers' matter. A
// file a command; start with root.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// The exit codes of thaw.
const (
	exitFailed = 1 // the command, or the run that it waited for, failed
	exitUsage  = 2 // the command line is wrong
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	var silent *silentError
	if !errors.As(err, &silent) {
		fmt.Fprintln(os.Stderr, "thaw:", err)
	}
	var usage *usageError
	// cobra has no type of its own for a command that is not there.
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command ") {
		os.Exit(exitUsage)
	}
	os.Exit(exitFailed)
}

// usageError is a command line that cannot be taken.
type usageError struct{ error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// silentError has been told to the person already.
type silentError struct{ error }
