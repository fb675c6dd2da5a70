package workflows

import (
	"fmt"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/plan"
)

// member is one action of several that are run together.
type member struct {
	plan.Member
	stage string // of its freeze: "", plan.MeetFrozen, plan.MeetCut
	over  bool
	out   plan.Outcome
}

// meeting holds freezes together: none goes on from a stage before all have
// reached it. The freezes themselves are owned by sessions, as every freeze is:
// whatever becomes of the meeting, each of them thaws.
type meeting struct {
	members []*member
	cut     bool  // the cuts between the stages are made
	failed  error // somebody's failure: all of them thaw
}

// all reports whether every freeze has reached a stage, or is over.
func (m *meeting) all(stage string) bool {
	for _, o := range m.members {
		if o.Freezes && !o.over && o.stage != stage && o.stage != plan.MeetCut {
			return false
		}
	}
	return true
}

// volumes are those that the members of one cluster cut in their freezes.
func (m *meeting) volumes(queue string) []any {
	all := []any{}
	for _, o := range m.members {
		if of := o.Request.Target.TaskQueue; of == "" || of == queue {
			all = append(all, o.volumes()...)
		}
	}
	return all
}

// volumes are those that the member cut in its freezes, as it put them out.
func (o *member) volumes() (all []any) {
	for _, f := range o.out.Freezes {
		for _, n := range workflow.DeterministicKeys(f.Results) {
			volumes, _ := f.Results[n].Output["volumes"].([]any)
			all = append(all, volumes...)
		}
	}
	return all
}

func (m *meeting) find(name string) *member {
	for _, o := range m.members {
		if o.Name == name {
			return o
		}
	}
	return nil
}

// holdMeetings answers the workers whose freezes meet.
func (a *action) holdMeetings(ctx workflow.Context) error {
	return workflow.SetUpdateHandlerWithOptions(ctx, plan.UpdateMeet, func(ctx workflow.Context, in plan.Meet) error {
		m := a.meeting
		o := m.find(in.Member)
		if in.Stage == plan.MeetCut || o.stage == "" {
			o.stage = in.Stage
		}
		err := workflow.Await(ctx, func() bool {
			return m.failed != nil || m.all(in.Stage) && (in.Stage == plan.MeetFrozen || m.cut)
		})
		if err == nil && m.failed != nil {
			err = failed(TypeAbandoned, "another part of the application failed: %s", words(m.failed))
		}
		return err
	}, workflow.UpdateHandlerOptions{
		Description: "Sent by the workers whose freezes are held together",
		Validator: func(in plan.Meet) error {
			if err := in.Validate(); err != nil {
				return err
			}
			if a.meeting == nil || a.meeting.find(in.Member) == nil {
				return refused("meet: no freeze %q is expected here", in.Member)
			}
			return nil
		},
	})
}

// together runs the members' actions side by side, and its own phases once all
// of their freezes are in effect.
func (a *action) together(ctx workflow.Context, ph *plan.Phase) error {
	m := &meeting{}
	for _, o := range ph.Together.Members {
		m.members = append(m.members, &member{Member: o})
	}
	a.meeting = m
	ctx, cancel := workflow.WithCancel(ctx)
	defer cancel()
	fail := func(err error) {
		if err != nil && m.failed == nil {
			m.failed = err
			cancel()
		}
	}
	wg := workflow.NewWaitGroup(ctx)
	for _, o := range m.members {
		wg.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer wg.Done()
			err := a.member(ctx, o)
			o.over = true
			fail(err)
		})
	}
	fail(workflow.Await(ctx, func() bool { return m.failed != nil || m.all(plan.MeetFrozen) }))
	if m.failed == nil {
		fail(a.walk(ctx, ph.Together.Phases))
	}
	m.cut = true
	waiting, stop := workflow.NewDisconnectedContext(ctx)
	defer stop()
	wg.Wait(waiting)
	for _, o := range m.members {
		a.members = append(a.members, *o)
		a.freezes = append(a.freezes, o.out.Freezes...)
	}
	if m.failed == nil {
		a.results[ph.Name] = plan.Result{Output: plan.Values{"volumes": m.volumes(a.plan.Target.TaskQueue)}}
	}
	return m.failed
}

// member runs one action as a child. Its end is waited for in any case: it
// ends only when what it froze is thawed.
func (a *action) member(ctx workflow.Context, o *member) error {
	req := o.Request
	req.Join = &plan.Join{Run: a.self, Member: o.Name}
	if req.RequestedBy == "" {
		req.RequestedBy = a.req.RequestedBy
	}
	child := workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: a.self.ID + "/" + o.Name, TaskQueue: req.Target.TaskQueue,
		ParentClosePolicy:     enums.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WaitForCancellation:   true,
		RetryPolicy:           &temporal.RetryPolicy{MaximumAttempts: 1},
		StaticSummary:         fmt.Sprintf("%s of %s, for %s", req.Action, req.Target.Key(), a.self.ID),
	})
	err := workflow.ExecuteChildWorkflow(child, TypeRunAction, req).Get(ctx, &o.out)
	if err != nil && !temporal.IsCanceledError(err) {
		return failed(kindOf(err), "%s: %s", o.Name, words(err))
	}
	return err
}

// leave names what the members of a failed application left: their restore
// points are whole, and a person may want them.
func (a *action) leave() {
	for _, m := range a.members {
		if rp := m.out.RestorePoint; rp != nil {
			a.left = append(a.left, fmt.Sprintf("restore point %s of %s", rp.Directory, m.Name))
		}
	}
}
