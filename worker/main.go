// Command thaw-worker serves the targets of one task queue: it runs Thaw's
// workflows and activities. All it may do and knows of secrets is in its
// configuration (see wiring.Config).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"thaw/activities/sql"
	"thaw/worker/wiring"
)

func main() {
	// A helper process that holds a SQLite lock is this same binary.
	sql.HelperMain()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "thaw-worker:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "thaw-worker",
		Short: "Run Thaw's workflows and activities for the targets of one task queue",
		Long: `thaw-worker takes work from a Temporal task queue and carries it out on this host:
it freezes, cuts, thaws, exports and restores the databases that it can reach.

Temporal is found as the Temporal CLI finds it: TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE,
TEMPORAL_API_KEY, TEMPORAL_TLS..., or a profile of temporal.toml (TEMPORAL_PROFILE).

What the worker may do is in its configuration file (YAML):

` + wiring.Example,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
	}
	cfg := wiring.Default()
	cmd.Flags().StringVarP(&file, "config", "c", os.Getenv("THAW_WORKER_CONFIG"), "configuration file (default: $THAW_WORKER_CONFIG)")
	cfg.Flags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := cfg.Load(file, cmd.Flags()); err != nil {
			return err
		}
		return wiring.Run(cmd.Context(), cfg, nil)
	}
	return cmd
}
