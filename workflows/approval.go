package workflows

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/plan"
)

// approve waits for the people's yes to the plan of this digest.
func (a *action) approve(ctx workflow.Context, ask plan.Approval, what string) error {
	if ask.FourEyes && a.req.RequestedBy == "" {
		return userError("four eyes are asked, but nobody knows who requested this run: start it with \"requestedBy\"")
	}
	ask.Count = max(ask.Count, 1)
	timeout := orDefault(ask.Timeout.D(), approvalTimeout)
	// Two phases may ask at once: one question at a time.
	if err := workflow.Await(ctx, func() bool { return a.ops.ask == nil }); err != nil {
		return err
	}
	q := &question{Approval: ask, digest: a.plan.Digest, requestedBy: a.req.RequestedBy, deadline: workflow.Now(ctx).Add(timeout)}
	a.ops.ask = q
	before := a.state
	a.show(ctx, stateWaiting, fmt.Sprintf("approval of %s by %s", what, approvers(ask)))
	ok, err := workflow.AwaitWithTimeout(ctx, timeout, func() bool { return q.no != nil || len(q.yes) >= q.Count })
	a.ops.ask = nil
	switch {
	case err != nil:
		return err
	case !ok:
		return failed(TypeRejected, "approval of %s expired after %s: %d of %d were given", what, timeout, len(q.yes), q.Count)
	case q.no != nil:
		return failed(TypeRejected, "%s rejected %s: %s", q.no.By, what, q.no.Reason)
	}
	a.show(ctx, before, "")
	return nil
}

func approvers(ask plan.Approval) string {
	who := "anybody"
	if len(ask.Approvers) > 0 {
		who = fmt.Sprint(ask.Approvers)
	}
	if ask.FourEyes {
		who += " but the requester"
	}
	if ask.Count > 1 {
		who = fmt.Sprintf("%d of %s", ask.Count, who)
	}
	return who
}
