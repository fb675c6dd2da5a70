package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/plan"
)

// RunAction is one action of one blueprint against one target. It plans, asks
// for approval where that is wanted, walks the phases, and ends only when
// whatever was frozen is thawed and whatever was half-done is compensated.
func RunAction(ctx workflow.Context, req plan.Request) (*plan.Outcome, error) {
	a, err := newAction(ctx, req)
	if err != nil {
		return nil, err
	}
	a.planner = func(a *action) (string, any) {
		return plan.ActivityPlan, plan.PlanInput{Request: a.req, Run: a.self, Time: a.start}
	}
	return a.run(ctx)
}

// action is the state of one RunAction.
type action struct {
	req   plan.Request
	self  plan.Run
	start time.Time
	plan  plan.Plan
	ops   *operator
	attrs attributes
	// planner names the activity that makes the plan, and its input.
	planner func(*action) (activity string, input any)
	meeting *meeting // of the freezes that are held together
	members []member // whose actions are over

	state   string
	waiting string
	current string // the phase that runs
	frozen  string // since when
	token   string // of the freeze under way

	results  map[string]plan.Result
	sizes    map[string]int // bytes of outputs, by phase
	deferred *plan.Result
	records  []plan.PhaseRecord
	freezes  []plan.FreezeReport
	proofs   map[string]plan.Proof // of each freeze phase's last freeze
	cutsOut  []string              // cuts made outside any freeze

	undo        []undo // what to compensate, in order of start
	compensated []string
	left        []string

	restorePoint *plan.RestorePoint
	artifacts    map[string]plan.Artifact
}

// undo is a compensation that is owed once its phase was started.
type undo struct {
	of   string
	call plan.Phase
}

func newAction(ctx workflow.Context, req plan.Request) (*action, error) {
	info := workflow.GetInfo(ctx)
	if req.Target.TaskQueue == "" {
		req.Target.TaskQueue = info.TaskQueueName
	}
	a := &action{
		req: req, state: statePlanning, start: workflow.Now(ctx), ops: newOperator(ctx), results: map[string]plan.Result{}, proofs: map[string]plan.Proof{}, sizes: map[string]int{},
		self: plan.Run{ID: info.WorkflowExecution.ID, RunID: info.WorkflowExecution.RunID, Original: info.OriginalRunID},
	}
	if err := workflow.SetQueryHandlerWithOptions(ctx, plan.QueryProgress, a.progress,
		workflow.QueryHandlerOptions{Description: "What runs, what is frozen since when, what is waited for"}); err != nil {
		return nil, err
	}
	a.listenFrozen(ctx)
	return a, a.ops.listen(ctx)
}

func (a *action) run(ctx workflow.Context) (*plan.Outcome, error) {
	if err := a.fetch(ctx); err != nil {
		return nil, a.final(err)
	}
	if err := a.makePlan(ctx); err != nil {
		return nil, a.final(err)
	}
	if a.req.Plan {
		return &plan.Outcome{Plan: &a.plan}, nil
	}
	err := a.work(ctx)
	// From here on nothing may be lost to a cancel: what is owed is done in a
	// context of its own.
	ctx, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	if err != nil {
		a.leave()
		a.compensate(ctx)
	}
	switch derr := a.runDefer(ctx); {
	case err == nil && derr != nil:
		err = derr
		a.compensate(ctx)
	case derr != nil:
		a.left = append(a.left, words(derr))
	}
	if err == nil {
		if err = a.record(ctx); err != nil {
			a.compensate(ctx)
		}
	}
	return a.finish(ctx, err)
}

func (a *action) work(ctx workflow.Context) error {
	if a.plan.Approval != nil {
		if err := a.approve(ctx, *a.plan.Approval, describe(&a.plan)); err != nil {
			return err
		}
	}
	a.show(ctx, stateRunning, "")
	if err := a.walk(ctx, a.plan.Phases); err != nil {
		return err
	}
	return a.walk(ctx, a.plan.Verify)
}

// fetch has the target's worker fetch the restore point that the run works on,
// where the request names the profile of its location.
func (a *action) fetch(ctx workflow.Context) error {
	if a.req.From == "" || a.req.Profile == nil || workflow.GetVersion(ctx, "fetch", workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return nil
	}
	ctx = workflow.WithActivityOptions(ctx, moving(a.req.Target, "fetch "+a.req.From))
	return workflow.ExecuteActivity(ctx, plan.ActivityFetch, plan.FetchInput{From: a.req.From, Location: a.req.Location, Profile: *a.req.Profile, Records: a.req.Action == plan.ActionDelete}).Get(ctx, nil)
}

// makePlan asks a worker that serves the target for the plan, and takes in
// what the engine needs of it. What the run uses is in its history from here.
func (a *action) makePlan(ctx workflow.Context) error {
	var out plan.PlanOutput
	name, in := a.planner(a)
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, quick(a.req.Target, "plan "+a.req.Blueprint+"."+a.req.Action)), name, in).Get(ctx, &out)
	a.plan = out.Plan
	if err != nil {
		a.plan.Blueprint, a.plan.Action, a.plan.Target = a.req.Blueprint, a.req.Action, a.req.Target
		return err
	}
	a.plan.Walk(a.ops.know)
	if a.req.Plan {
		return nil
	}
	a.attrs.enabled = out.Attributes
	a.attrs.identify(ctx, &a.plan, a.req.RequestedBy, stateRunning)
	return nil
}

// finish writes the end: only now, when all that was owed is done.
func (a *action) finish(ctx workflow.Context, err error) (*plan.Outcome, error) {
	a.current = ""
	switch {
	case err == nil && a.restorePoint != nil:
		a.show(ctx, stateCompleted, "", attrConsistent.ValueSet(a.restorePoint.Consistent))
		return a.outcome(), nil
	case err == nil:
		a.show(ctx, stateCompleted, "")
		return a.outcome(), nil
	case temporal.IsCanceledError(err):
		a.show(ctx, stateCancelled, "")
	default:
		a.show(ctx, stateFailed, "")
	}
	return nil, a.final(err)
}

func (a *action) outcome() *plan.Outcome {
	o := &plan.Outcome{RestorePoint: a.restorePoint, Artifacts: a.artifacts, Phases: a.records, Freezes: a.freezes}
	if a.restorePoint == nil {
		o.Results = map[string]plan.Values{}
		for _, n := range workflow.DeterministicKeys(a.results) {
			o.Results[n] = a.results[n].Output
		}
	}
	return o
}

// record renders the output artifacts and writes the restore point, both on a
// worker. An action without output artifacts leaves none; one that deleted a
// restore point's data takes its record away, so that nobody counts on it.
func (a *action) record(ctx workflow.Context) error {
	if a.plan.Action == plan.ActionDelete && a.req.From != "" {
		if a.plan.Scope.RestorePoint.Profile != nil {
			out := workflow.WithActivityOptions(ctx, moving(a.plan.Target, "unpublish "+a.plan.Scope.RestorePoint.ID))
			if err := workflow.ExecuteActivity(out, plan.ActivityUnpublish, a.plan.Scope.RestorePoint).Get(ctx, nil); err != nil {
				return err
			}
		}
		ctx = workflow.WithActivityOptions(ctx, quick(a.plan.Target, "forget "+a.plan.Scope.RestorePoint.ID))
		return workflow.ExecuteActivity(ctx, plan.ActivityForget, a.plan.Scope.RestorePoint).Get(ctx, nil)
	}
	if len(a.plan.Artifacts) == 0 && a.plan.Application == nil {
		return nil
	}
	ctx = workflow.WithActivityOptions(ctx, quick(a.plan.Target, "output artifacts"))
	in := plan.ArtifactsInput{Run: a.self, Scope: a.plan.Scope, Results: a.results, Defer: a.deferred, Artifacts: a.plan.Artifacts}
	if err := workflow.ExecuteActivity(ctx, plan.ActivityArtifacts, in).Get(ctx, &a.artifacts); err != nil {
		return err
	}
	rp := plan.RestorePoint{
		APIVersion: plan.RestorePointVersion, ID: a.plan.Scope.RestorePoint.ID, Directory: a.plan.Scope.RestorePoint.Directory,
		Blueprint: a.plan.Blueprint, BlueprintDigest: a.plan.BlueprintDigest, BlueprintText: a.plan.BlueprintText,
		Action: a.plan.Action, Target: a.plan.Target, Options: a.plan.Scope.Options, Secrets: a.plan.Scope.Secrets, Profile: a.plan.Scope.Profile,
		Artifacts: a.artifacts, Freezes: a.freezes, Run: a.self, RequestedBy: a.req.RequestedBy,
		StartedAt: a.start, CompletedAt: workflow.Now(ctx),
	}
	for _, r := range a.records {
		if r.State == plan.PhaseSkipped {
			rp.Skipped = append(rp.Skipped, r)
		}
	}
	rp.Consistent, rp.Consistency = a.consistency()
	if a.plan.Application != nil {
		rp.Application = a.application()
		rp.Consistent, rp.Consistency = a.consistentTogether(rp.Application)
	}
	ctx = workflow.WithActivityOptions(ctx, quick(a.plan.Target, "restore point "+rp.ID))
	if err := workflow.ExecuteActivity(ctx, plan.ActivityRecord, rp).Get(ctx, &rp); err != nil {
		return err
	}
	if a.plan.Scope.RestorePoint.Profile != nil {
		out := workflow.WithActivityOptions(ctx, moving(a.plan.Target, "publish "+rp.ID))
		if err := workflow.ExecuteActivity(out, plan.ActivityPublish, rp).Get(ctx, nil); err != nil {
			// It is not where it was asked for: there is none.
			if ferr := workflow.ExecuteActivity(ctx, plan.ActivityForget, a.plan.Scope.RestorePoint).Get(ctx, nil); ferr != nil {
				a.left = append(a.left, "restore point "+rp.ID)
			}
			return err
		}
	}
	a.restorePoint = &rp
	return nil
}

// consistency says whether the restore point may be called consistent, and
// why (design: G3). A freeze whose proof failed has failed the run before.
func (a *action) consistency() (bool, string) {
	if len(a.freezes) == 0 {
		return false, "no freeze: as consistent as the tool that read the data makes it"
	}
	cuts := 0
	for _, n := range workflow.DeterministicKeys(a.proofs) {
		p := a.proofs[n]
		if !p.Consistent {
			return false, p.Reason
		}
		cuts += len(p.Cuts)
	}
	switch {
	case cuts == 0:
		return false, "nothing was cut inside the freeze"
	case len(a.cutsOut) > 0:
		return false, "cut outside the freeze: " + a.cutsOut[0]
	}
	return true, "the freeze was unbroken from before the first cut to after the last"
}
