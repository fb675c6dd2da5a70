package workflows

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// world is a Temporal without a server, and a worker that does as it is told:
// what it was asked to do is what a test asserts on. The real thing is in
// internal/matrix.
type world struct {
	*testsuite.TestWorkflowEnvironment
	t    *testing.T
	plan plan.Plan

	mu    sync.Mutex
	calls []string // phases and thaws, in order
	// fails are the failures of phases: as many times as there are errors.
	fails map[string][]error
	// slow phases take so long.
	slow map[string]time.Duration
	args map[string]plan.Values // last arguments of each phase
	out  map[string]plan.Values
	// freeze is what the freezing activity does.
	freeze func(context.Context, plan.FreezeInput) (*plan.FreezeReport, error)
	rp     *plan.RestorePoint
	// attributes: the namespace has Thaw's search attributes.
	attributes bool
}

func newWorld(t *testing.T, phases ...plan.Phase) *world {
	var suite testsuite.WorkflowTestSuite
	w := &world{
		TestWorkflowEnvironment: suite.NewTestWorkflowEnvironment(), t: t,
		fails: map[string][]error{}, slow: map[string]time.Duration{}, args: map[string]plan.Values{}, out: map[string]plan.Values{},
	}
	w.plan = plan.Plan{
		Blueprint: "shop", Action: "backup", Target: plan.Target{Kind: "sqlite", Name: "/data/shop.db", TaskQueue: "thaw"},
		Scope:  plan.Scope{RestorePoint: plan.RestorePointRef{ID: "rp", Directory: "/rp"}},
		Phases: phases,
	}
	w.plan.Scope.Target = w.plan.Target
	require.NoError(t, w.plan.Seal())
	w.freeze = w.goodFreeze
	Register(w)
	for name, f := range map[string]any{
		plan.ActivityPlan: w.planned, plan.ActivityPlanApplication: w.plannedApplication, plan.ActivityPlanRestore: w.plannedRestore, plan.ActivityCall: w.call, plan.ActivityThaw: w.thaw, plan.ActivityWatch: w.watch,
		plan.ActivityArtifacts: w.artifacts, plan.ActivityRecord: w.record, plan.ActivityForget: w.forget,
		plan.ActivityPublish:   func(_ context.Context, rp plan.RestorePoint) error { return w.moved("publish", rp.ID) },
		plan.ActivityUnpublish: func(_ context.Context, ref plan.RestorePointRef) error { return w.moved("unpublish", ref.ID) },
		plan.ActivityFetch:     func(_ context.Context, in plan.FetchInput) error { return w.moved("fetch", in.From) },
		plan.ActivityFreeze:    func(ctx context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) { return w.freeze(ctx, in) },
	} {
		w.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: name})
	}
	w.SetTestTimeout(20 * time.Second)
	w.SetWorkerOptions(worker.Options{DeadlockDetectionTimeout: 10 * time.Second}) // a busy machine is no deadlock
	return w
}

func (w *world) log(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, s)
}

func (w *world) planned(context.Context, plan.PlanInput) (*plan.PlanOutput, error) {
	return &plan.PlanOutput{Plan: w.plan, Attributes: w.attributes}, nil
}

func (w *world) plannedApplication(context.Context, plan.ApplicationInput) (*plan.PlanOutput, error) {
	return &plan.PlanOutput{Plan: w.plan}, nil
}

func (w *world) plannedRestore(context.Context, plan.RestoreInput) (*plan.PlanOutput, error) {
	return &plan.PlanOutput{Plan: w.plan}, nil
}

func (w *world) call(ctx context.Context, c plan.Call) (*plan.CallResult, error) {
	w.log(c.Phase.Name)
	w.mu.Lock()
	w.args[c.Phase.Name] = c.Phase.Args
	var err error
	if left := w.fails[c.Phase.Name]; len(left) > 0 {
		err, w.fails[c.Phase.Name] = left[0], left[1:]
	}
	slow := w.slow[c.Phase.Name]
	w.mu.Unlock()
	if slow > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(slow):
		}
	}
	if err != nil {
		var app *temporal.ApplicationError
		if errors.As(err, &app) {
			err = temporal.NewApplicationError(app.Message(), app.Type(), plan.FailedCall{Attempt: activity.GetInfo(ctx).Attempt})
		}
		return nil, err
	}
	return &plan.CallResult{Output: w.out[c.Phase.Name], Skipped: c.Phase.When == "false"}, nil
}

func (w *world) goodFreeze(_ context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
	w.log("freeze")
	now := time.Now()
	proof := plan.Values{"session": "s"}
	return &plan.FreezeReport{
		Token: in.Token, DoStart: now, FrozenAt: now, ThawAt: now, ThawedAt: now, Confirmed: true, ThawedBy: plan.ThawedByPhases,
		Results: map[string]plan.Result{in.Name: {Output: proof}},
		Proof:   plan.Proof{Consistent: true, Do: proof, Undo: proof, Cuts: []plan.Span{{Start: now, End: now}}},
	}, nil
}

func (w *world) thaw(context.Context, plan.FreezeInput) (*plan.FreezeReport, error) {
	w.log("thaw")
	w.mu.Lock()
	defer w.mu.Unlock()
	if left := w.fails["thaw"]; len(left) > 0 {
		w.fails["thaw"] = left[1:]
		return nil, left[0]
	}
	return &plan.FreezeReport{ThawedAt: time.Now(), Proof: plan.Proof{Reason: "thawed from outside the freeze"}}, nil
}

// watch never ends: the parent does not close under its session.
func (w *world) watch(context.Context, plan.WatchInput) (*plan.WatchResult, error) {
	return nil, activity.ErrResultPending
}

func (w *world) artifacts(_ context.Context, in plan.ArtifactsInput) (map[string]plan.Artifact, error) {
	return in.Artifacts, nil
}

func (w *world) record(_ context.Context, rp plan.RestorePoint) (*plan.RestorePoint, error) {
	w.log("record")
	w.rp = &rp
	return &rp, nil
}

func (w *world) forget(_ context.Context, ref plan.RestorePointRef) error {
	w.log("forget " + ref.ID)
	return nil
}

// moved is what moves a restore point between the worker and a location.
func (w *world) moved(how, id string) error {
	w.log(how + " " + id)
	w.mu.Lock()
	defer w.mu.Unlock()
	if errs := w.fails[how]; len(errs) > 0 {
		w.fails[how] = errs[1:]
		return errs[0]
	}
	return nil
}

func (w *world) run(req plan.Request) (*plan.Outcome, error) {
	req.Target = plan.Target{Kind: "sqlite", Name: "/data/shop.db"}
	w.ExecuteWorkflow("shop.backup", req)
	require.True(w.t, w.IsWorkflowCompleted())
	if err := w.GetWorkflowError(); err != nil {
		return nil, err
	}
	var out plan.Outcome
	require.NoError(w.t, w.GetWorkflowResult(&out))
	return &out, nil
}

// update sends an update after a delay of the workflow's time.
func (w *world) update(after time.Duration, name string, op plan.Operation, want string) {
	w.RegisterDelayedCallback(func() {
		w.UpdateWorkflow(name, fmt.Sprint(name, after), &callback{w.t, want}, op)
	}, after)
}

type callback struct {
	t    *testing.T
	want string // part of the refusal; "" is taken
}

func (c *callback) Accept() { require.Empty(c.t, c.want, "the update was taken") }
func (c *callback) Reject(err error) {
	require.NotEmpty(c.t, c.want, "refused: %v", err)
	require.ErrorContains(c.t, err, c.want)
}
func (c *callback) Complete(_ any, err error) { require.NoError(c.t, err) }

func kind(k fault.Kind, text string) error {
	return temporal.NewApplicationError(text, string(k))
}

// phase is one that needs those before it.
func phase(name string, needs ...string) plan.Phase {
	return plan.Phase{Name: name, Func: "F", Needs: needs, Timeout: plan.Duration(time.Minute), Retry: plan.Retry{MaxAttempts: 3, Backoff: plan.Duration(time.Second)}}
}

func compensated(p plan.Phase) plan.Phase {
	c := phase("undo-" + p.Name)
	p.Compensate = &c
	return p
}

func frozen(name string, inner ...plan.Phase) plan.Phase {
	return plan.Phase{Name: name, Freeze: &plan.Freeze{
		Do: phase(name + ".do"), Undo: phase(name + ".undo"), MaxFreeze: plan.Duration(10 * time.Second), Phases: inner, Proof: []string{"session"},
	}, Timeout: plan.Duration(10 * time.Second)}
}
