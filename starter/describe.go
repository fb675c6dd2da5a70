package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"thaw/blueprints/plan"
)

// description is all that a person may want to know of a run.
type description struct {
	ID       string         `json:"id"`
	RunID    string         `json:"runId"`
	Status   string         `json:"status"`
	Progress *plan.Progress `json:"progress,omitempty"`
	Plan     *plan.Plan     `json:"plan,omitempty"`
	Outcome  *plan.Outcome  `json:"outcome,omitempty"`
	Error    string         `json:"error,omitempty"`
}

func describeCommand() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "describe RUN",
		Short: "Show a run: its plan with its digest, its phases, its freeze, how it ended",
		Args:  exactly(1, "RUN"),
		RunE: withTemporal(func(cmd *cobra.Command, c client.Client, args []string) error {
			d, err := describe(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), d, func(w io.Writer) { writeDescription(w, d) })
		}),
	}
	o.flag(cmd)
	return cmd
}

func describe(ctx context.Context, c client.Client, id string) (*description, error) {
	r, err := c.DescribeWorkflowExecution(ctx, id, "")
	if err != nil {
		return nil, fmt.Errorf("describe %q: %w", id, err)
	}
	info := r.GetWorkflowExecutionInfo()
	d := &description{ID: id, RunID: info.GetExecution().GetRunId(), Status: statusWord(info.GetStatus())}
	if d.Plan, err = planOf(ctx, c, id, d.RunID); err != nil {
		return nil, err
	}
	if info.GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		var out plan.Outcome
		if err := c.GetWorkflow(ctx, id, d.RunID).Get(ctx, &out); err != nil {
			d.Error = failure(id, err).Error()
		} else {
			d.Outcome = &out
		}
	}
	// A query needs a worker; without one, the rest is shown all the same.
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if p, err := progress(short, c, id, d.RunID); err == nil {
		d.Progress = p
	}
	return d, nil
}

// planOf reads the plan that the run has in its history.
func planOf(ctx context.Context, c client.Client, id, runID string) (*plan.Plan, error) {
	events := c.GetWorkflowHistory(ctx, id, runID, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	scheduled := map[int64]bool{}
	for events.HasNext() {
		ev, err := events.Next()
		if err != nil {
			return nil, fmt.Errorf("history of %q: %w", id, err)
		}
		switch a := ev.GetAttributes().(type) {
		case *historypb.HistoryEvent_ActivityTaskScheduledEventAttributes:
			name := a.ActivityTaskScheduledEventAttributes.GetActivityType().GetName()
			scheduled[ev.GetEventId()] = name == plan.ActivityPlan || name == plan.ActivityPlanApplication || name == plan.ActivityPlanRestore
		case *historypb.HistoryEvent_ActivityTaskCompletedEventAttributes:
			at := a.ActivityTaskCompletedEventAttributes
			if !scheduled[at.GetScheduledEventId()] {
				continue
			}
			var out plan.PlanOutput
			if err := converter.GetDefaultDataConverter().FromPayloads(at.GetResult(), &out); err != nil {
				return nil, fmt.Errorf("plan of %q: %w", id, err)
			}
			return &out.Plan, nil
		}
	}
	return nil, nil //nolint:nilnil // a run that has no plan yet
}

func writeDescription(w io.Writer, d *description) {
	_, _ = fmt.Fprintf(w, "run        %s\nstatus     %s\n", d.ID, d.Status)
	if p := d.Progress; p != nil {
		_, _ = fmt.Fprintf(w, "state      %s\n", p.State)
		for _, l := range [][2]string{{"phase", p.Phase}, {"frozen", p.FrozenSince}, {"waits for", p.WaitingFor}} {
			if l[1] != "" {
				_, _ = fmt.Fprintf(w, "%-10s %s\n", l[0], l[1])
			}
		}
	}
	if d.Error != "" {
		_, _ = fmt.Fprintf(w, "error      %s\n", d.Error)
	}
	if d.Plan != nil {
		_, _ = fmt.Fprintln(w)
		writePlan(w, d.Plan)
	}
	if p := d.Progress; p != nil {
		_, _ = fmt.Fprintln(w)
		for _, r := range p.Phases {
			_, _ = fmt.Fprintln(w, strings.TrimSpace(fmt.Sprintf("%-8s %s %s %s %s", r.State, r.Name, r.Func, r.Ended.Sub(r.Started).Round(time.Millisecond), r.Note)))
		}
		for _, n := range p.Notes {
			_, _ = fmt.Fprintln(w, "note     "+n)
		}
	}
	if d.Outcome != nil {
		_, _ = fmt.Fprintln(w)
		writeOutcome(w, d.ID, d.Outcome)
	}
}

// writePlan shows every phase with its arguments (secrets are masked in it
// already), what it freezes, and for how long at most.
func writePlan(w io.Writer, p *plan.Plan) {
	_, _ = fmt.Fprintf(w, "plan       %s.%s of %s\ndigest     %s\n", p.Blueprint, p.Action, p.Target.Key(), p.Digest)
	if p.Approval != nil {
		_, _ = fmt.Fprintf(w, "approval   %s\n", dash(p.Approval.Message))
	}
	for _, warning := range p.Warnings {
		_, _ = fmt.Fprintf(w, "warning    %s\n", warning)
	}
	for i := range p.Phases {
		writePhase(w, &p.Phases[i], fmt.Sprintf("%d. ", i+1), "")
	}
	for i := range p.Verify {
		writePhase(w, &p.Verify[i], "verify: ", "")
	}
	if p.Defer != nil {
		writePhase(w, p.Defer, "always: ", "")
	}
}

func writePhase(w io.Writer, ph *plan.Phase, mark, indent string) {
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, indent+format+"\n", args...) }
	if f := ph.Freeze; f != nil {
		line("%s%s: FREEZE, %s at most", mark, ph.Name, f.MaxFreeze)
		writePhase(w, &f.Do, "do: ", indent+"   ")
		for i := range f.Phases {
			writePhase(w, &f.Phases[i], "inside: ", indent+"   ")
		}
		writePhase(w, &f.Undo, "undo: ", indent+"   ")
		return
	}
	if g := ph.Together; g != nil {
		line("%s%s: side by side", mark, ph.Name)
		for _, m := range g.Members {
			freezes := ""
			if m.Freezes {
				freezes = ", FREEZES together with the others"
			}
			line("   action: %s.%s of %s%s", m.Request.Blueprint, m.Request.Action, m.Request.Target.Key(), freezes)
		}
		for i := range g.Phases {
			writePhase(w, &g.Phases[i], "while all are frozen: ", indent+"   ")
		}
		return
	}
	line("%s%s: %s (timeout %s)", mark, ph.Name, ph.Func, ph.Timeout)
	if ph.When != "" {
		line("     when: %s", ph.When)
	}
	if len(ph.Shown) > 0 {
		var b strings.Builder
		if err := writeYAML(&b, ph.Shown); err == nil {
			for _, l := range strings.Split(strings.TrimRight(b.String(), "\n"), "\n") {
				line("     %s", l)
			}
		}
	}
	if ph.Compensate != nil {
		writePhase(w, ph.Compensate, "if a later phase fails: ", indent+"   ")
	}
}
