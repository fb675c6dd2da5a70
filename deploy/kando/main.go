// Command kando is in the images whose containers take part in a backup. It
// stands for Kanister's tool of that name, with its flags and output, so that
// the scripts of public blueprints run as they are; and it moves data for
// Thaw's workers (kando data).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kando:", err)
		var code *exitError
		if errors.As(err, &code) {
			os.Exit(code.code)
		}
		os.Exit(1)
	}
}

// exitError is an error with an exit code of its own.
type exitError struct {
	error
	code int
}

func (e *exitError) Unwrap() error { return e.error }

func root() *cobra.Command {
	c := &cobra.Command{
		Use: "kando", Short: "Move data and hand on outputs, in a container of a backup",
		SilenceUsage: true, SilenceErrors: true,
	}
	c.AddCommand(output(), data())
	return c
}
