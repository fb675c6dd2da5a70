package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"thaw/blueprints/plan"
)

// operateCommands are the commands that step into a run. Each is the Temporal
// Update of the same name ("now" is the update "thaw").
func operateCommands() []*cobra.Command {
	return []*cobra.Command{
		operation(plan.UpdateApprove, "approve RUN", "Approve the plan that a run waits with",
			`  thaw describe RUN                      # read the plan
  thaw approve RUN --digest sha256:4f1e...  # approve what was read`, optDigest),
		operation(plan.UpdateReject, "reject RUN", "Reject the plan that a run waits with", "", optDigest|optReason),
		operation(plan.UpdateThaw, "now RUN", "Thaw the database now; the backup fails with your reason",
			`  thaw now RUN --reason "checkout is down"
  thaw now freeze/sqlite:/data/shop.db --reason "..."   # by the freeze's own id`, optReason),
		operation(plan.UpdatePause, "pause RUN", "Pause before the next phase; a freeze is never held open by it", "", 0),
		operation(plan.UpdateResume, "resume RUN", "Go on after a pause", "", 0),
		operation(plan.UpdateRetry, "retry RUN PHASE", "Retry a failed phase that waits for its operator",
			`  thaw retry RUN export --arg archive=/mnt/other/shop.tar.zst`, optPhase|optArgs),
		operation(plan.UpdateSkip, "skip RUN PHASE", "Skip a phase; the reason is kept with the restore point",
			`  thaw skip RUN notify --reason "mail server is down"`, optPhase|optReason),
		cancelCommand(),
	}
}

const (
	optDigest = 1 << iota
	optReason
	optPhase
	optArgs
)

func operation(update, use, short, example string, opts int) *cobra.Command {
	op := plan.Operation{}
	var args []string
	cmd := &cobra.Command{Use: use, Short: short, Example: example}
	n := strings.Count(use, " ")
	cmd.Args = exactly(n, strings.Join(strings.Fields(use)[1:], " "))
	cmd.Flags().StringVar(&op.By, "by", whoami(), "who you are")
	if opts&optReason != 0 {
		cmd.Flags().StringVarP(&op.Reason, "reason", "r", "", "why (required)")
	}
	if opts&optDigest != 0 {
		cmd.Flags().StringVar(&op.Digest, "digest", "", "digest of the plan that you have read (required; thaw describe shows it)")
	}
	if opts&optArgs != 0 {
		cmd.Flags().StringArrayVar(&args, "arg", nil, "argument to change, as NAME=VALUE (repeat)")
	}
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		switch {
		case opts&optReason != 0 && op.Reason == "":
			return usagef("--reason is required: say why; it is kept in the run's history")
		case opts&optDigest != 0 && op.Digest == "":
			return usagef("--digest is required: name the plan that you have read; see: thaw describe %q", a[0])
		case opts&optPhase != 0:
			op.Phase = a[1]
		}
		for _, s := range args {
			k, v, ok := strings.Cut(s, "=")
			if !ok {
				return usagef("--arg %q: want NAME=VALUE", s)
			}
			if op.Args == nil {
				op.Args = plan.Values{}
			}
			op.Args[k] = jsonOr(v)
		}
		c, err := connect(cmd.Context())
		if err != nil {
			return err
		}
		defer c.Close()
		// A worker takes the update; without one, nothing says so by itself.
		hint := time.AfterFunc(noWorker, func() {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s: no worker of the run answers yet; waiting. Is thaw-worker up there? A signal of the same name is kept until one is\n", update)
		})
		defer hint.Stop()
		h, err := c.UpdateWorkflow(cmd.Context(), client.UpdateWorkflowOptions{WorkflowID: a[0], UpdateName: update, Args: []any{op}, WaitForStage: client.WorkflowUpdateStageCompleted})
		if err == nil {
			err = h.Get(cmd.Context(), nil)
		}
		if err != nil {
			return fmt.Errorf("%s %q: %w", update, a[0], err)
		}
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s: done\n", update)
		return nil
	}
	return cmd
}

func cancelCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cancel RUN", Short: "Cancel a run: it thaws, compensates, and ends",
		Args: exactly(1, "RUN"),
		RunE: withTemporal(func(cmd *cobra.Command, c client.Client, a []string) error {
			if err := c.CancelWorkflow(cmd.Context(), a[0], ""); err != nil {
				return fmt.Errorf("cancel %q: %w", a[0], err)
			}
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), "cancel: asked; the run thaws and compensates before it ends")
			return nil
		}),
	}
}

func statusWord(s enums.WorkflowExecutionStatus) string {
	switch s {
	case enums.WORKFLOW_EXECUTION_STATUS_RUNNING:
		return "running"
	case enums.WORKFLOW_EXECUTION_STATUS_COMPLETED:
		return "completed"
	case enums.WORKFLOW_EXECUTION_STATUS_FAILED:
		return "failed"
	case enums.WORKFLOW_EXECUTION_STATUS_CANCELED:
		return "cancelled"
	case enums.WORKFLOW_EXECUTION_STATUS_TERMINATED:
		return "terminated"
	case enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
		return "timed out"
	default:
		return strings.ToLower(s.String())
	}
}
