package workflows

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/plan"
)

// show makes the run's state seen: in the search attributes, in the current
// details of the Temporal UI, and in the progress query.
func (a *action) show(ctx workflow.Context, state, waiting string, more ...temporal.SearchAttributeUpdate) {
	a.state, a.waiting = state, waiting
	a.attrs.set(ctx, state, waiting, a.frozen, more...)
	workflow.SetCurrentDetails(ctx, a.details())
}

// listenFrozen takes the word of the freezing worker that the freeze took
// effect. It is for people to see; nothing waits for it.
func (a *action) listenFrozen(ctx workflow.Context) {
	ch := workflow.GetSignalChannelWithOptions(ctx, plan.SignalFrozen, workflow.SignalChannelOptions{Description: "Sent by the worker when a freeze took effect"})
	workflow.Go(ctx, func(ctx workflow.Context) {
		for {
			var f plan.Frozen
			if more := ch.Receive(ctx, &f); !more {
				return
			}
			if a.ops.frozen > 0 && f.Token == a.token {
				a.frozen = f.Since
				a.show(ctx, stateFrozen, a.waiting)
			}
		}
	})
}

// target is the plan's, which a request by restore point need not name.
func (a *action) target() plan.Target {
	if a.plan.Target.Name != "" {
		return a.plan.Target
	}
	return a.req.Target
}

func (a *action) progress() (plan.Progress, error) {
	p := plan.Progress{
		Blueprint: a.plan.Blueprint, Action: a.plan.Action, Target: a.target().Key(), State: a.state, Phase: a.current,
		Digest: a.plan.Digest, FrozenSince: a.frozen, WaitingFor: a.waiting, Phases: a.records, Notes: a.ops.notes,
	}
	if a.plan.Blueprint == "" {
		p.Blueprint, p.Action = a.req.Blueprint, a.req.Action
	}
	if all := len(a.plan.Phases) + len(a.plan.Verify); all > 0 {
		done := 0
		for _, ph := range append(append([]plan.Phase{}, a.plan.Phases...), a.plan.Verify...) {
			if _, ok := a.results[ph.Name]; ok {
				done++
			}
		}
		p.Percent = 100 * done / all
	}
	return p, nil
}

func (a *action) details() string {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s** of `%s` on **%s**\n\n", a.plan.Action, a.plan.Blueprint, a.target().Key())
	fmt.Fprintf(&b, "| | |\n|---|---|\n| state | **%s** |\n", a.state)
	for _, row := range [][2]string{
		{"phase", a.current}, {"frozen since", a.frozen}, {"waits for", a.waiting}, {"plan", a.plan.Digest},
		{"requested by", a.req.RequestedBy}, {"restore point", a.plan.Scope.RestorePoint.ID},
	} {
		if row[1] != "" {
			fmt.Fprintf(&b, "| %s | %s |\n", row[0], cell(row[1]))
		}
	}
	if len(a.records) > 0 {
		b.WriteString("\n| phase | state | took | |\n|---|---|---|---|\n")
		for _, r := range a.records {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.Name, r.State, r.Ended.Sub(r.Started).Round(1e6), cell(r.Note))
		}
	}
	for _, f := range a.freezes {
		if !f.FrozenAt.IsZero() {
			fmt.Fprintf(&b, "\nFrozen for **%s**, thawed by: %s.\n", f.ThawedAt.Sub(f.DoStart).Round(1e6), f.ThawedBy)
		}
	}
	if a.waiting != "" && a.state == stateWaiting {
		fmt.Fprintf(&b, "\nTo approve, send the update `approve` with `{\"by\": \"you\", \"digest\": \"%s\"}`.\n", a.plan.Digest)
	}
	for _, n := range a.ops.notes {
		fmt.Fprintf(&b, "\n- %s", n)
	}
	return b.String()
}

func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ").Replace(s)
}
