package workflows

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

func TestRunAction(t *testing.T) {
	boom := kind(fault.Permanent, "boom")
	tests := []struct {
		name   string
		phases []plan.Phase
		setup  func(*world)
		calls  []string
		err    string // part of it; "" ends well
		kind   string
	}{
		{name: "phases run in order", phases: []plan.Phase{phase("a"), phase("b", "a"), phase("c", "b")}, calls: []string{"a", "b", "c"}},
		{name: "the first failure stops the rest", phases: []plan.Phase{phase("a"), phase("b", "a"), phase("c", "b")},
			setup: func(w *world) { w.fails["b"] = []error{boom} }, calls: []string{"a", "b"}, err: "boom", kind: string(fault.Permanent)},
		{name: "transient failures are retried", phases: []plan.Phase{phase("a")},
			setup: func(w *world) { w.fails["a"] = []error{kind(fault.Transient, "x"), kind(fault.Transient, "x")} }, calls: []string{"a", "a", "a"}},
		{name: "a command's failure is not retried", phases: []plan.Phase{phase("a")},
			setup: func(w *world) { w.fails["a"] = []error{kind(fault.Command, "exit status 1")} }, calls: []string{"a"}, err: "exit status 1", kind: string(fault.Command)},
		{name: "a command's failure is retried where the phase says so", phases: []plan.Phase{func() plan.Phase { p := phase("a"); p.Retry.ExitCodes = true; return p }()},
			setup: func(w *world) { w.fails["a"] = []error{kind(fault.Command, "exit status 1")} }, calls: []string{"a", "a"}},
		{name: "an unknown outcome is not retried", phases: []plan.Phase{phase("a")},
			setup: func(w *world) { w.fails["a"] = []error{kind(fault.Unknown, "lost")} }, calls: []string{"a"}, err: "lost", kind: string(fault.Unknown)},
		{name: "an unknown outcome is retried where the phase is idempotent", phases: []plan.Phase{func() plan.Phase { p := phase("a"); p.Idempotent = true; return p }()},
			setup: func(w *world) { w.fails["a"] = []error{kind(fault.Unknown, "lost")} }, calls: []string{"a", "a"}},
		{name: "compensations run in reverse order of start", phases: []plan.Phase{compensated(phase("a")), compensated(phase("b", "a")), phase("c", "b")},
			setup: func(w *world) { w.fails["c"] = []error{boom} }, calls: []string{"a", "b", "c", "undo-b", "undo-a"}, err: "compensated: b, a", kind: string(fault.Permanent)},
		{name: "the failed phase itself is compensated when it may have had an effect", phases: []plan.Phase{compensated(phase("a"))},
			setup: func(w *world) { w.fails["a"] = []error{kind(fault.Unknown, "lost")} }, calls: []string{"a", "undo-a"}, err: "lost", kind: string(fault.Unknown)},
		{name: "the failed phase itself is not compensated when it had none", phases: []plan.Phase{compensated(phase("a"))},
			setup: func(w *world) { w.fails["a"] = []error{kind(fault.User, "wrong")} }, calls: []string{"a"}, err: "wrong", kind: string(fault.User)},
		{name: "a phase is compensated whose last attempt changed nothing, but maybe one before", phases: []plan.Phase{func() plan.Phase { p := compensated(phase("a")); p.Idempotent = true; return p }()},
			setup: func(w *world) { w.fails["a"] = []error{kind(fault.Unknown, "lost"), kind(fault.User, "wrong")} }, calls: []string{"a", "a", "undo-a"}, err: "wrong", kind: string(fault.User)},
		{name: "an idempotent phase is not compensated whose only attempt changed nothing", phases: []plan.Phase{func() plan.Phase { p := compensated(phase("a")); p.Idempotent = true; return p }()},
			setup: func(w *world) { w.fails["a"] = []error{kind(fault.User, "wrong")} }, calls: []string{"a"}, err: "wrong", kind: string(fault.User)},
		{name: "a skipped phase is not compensated", phases: []plan.Phase{compensated(func() plan.Phase { p := phase("a"); p.When = "false"; return p }()), phase("b", "a")},
			setup: func(w *world) { w.fails["b"] = []error{boom} }, calls: []string{"a", "b"}, err: "boom", kind: string(fault.Permanent)},
		{name: "a compensation is retried until it succeeds", phases: []plan.Phase{compensated(phase("a")), phase("b", "a")},
			setup: func(w *world) {
				w.fails["b"] = []error{boom}
				w.fails["undo-a"] = []error{kind(fault.Command, "x"), kind(fault.Permanent, "x"), kind(fault.User, "x")}
			}, calls: []string{"a", "b", "undo-a", "undo-a", "undo-a", "undo-a"}, err: "compensated: a", kind: string(fault.Permanent)},
		{name: "what a compensation leaves is named", phases: []plan.Phase{compensated(phase("a")), compensated(phase("b", "a")), phase("c", "b")},
			setup: func(w *world) {
				w.fails["c"] = []error{boom}
				w.out["undo-b"] = plan.Values{plan.OutputLeft: []any{"an object in a bucket"}}
			}, calls: []string{"a", "b", "c", "undo-b", "undo-a"}, err: "compensated: a; left behind: an object in a bucket", kind: string(fault.Permanent)},
		{name: "deferPhase runs after success", phases: []plan.Phase{phase("a")}, setup: func(w *world) { d := phase("d"); w.plan.Defer = &d }, calls: []string{"a", "d"}},
		{name: "deferPhase runs after failure, and after the compensations", phases: []plan.Phase{compensated(phase("a"))},
			setup: func(w *world) { d := phase("d"); w.plan.Defer = &d; w.fails["a"] = []error{boom} }, calls: []string{"a", "undo-a", "d"}, err: "boom", kind: string(fault.Permanent)},
		{name: "verify runs after the phases", phases: []plan.Phase{phase("a")}, setup: func(w *world) { w.plan.Verify = []plan.Phase{phase("v")} }, calls: []string{"a", "v"}},
		{name: "a freeze runs in its session", phases: []plan.Phase{frozen("f"), phase("b", "f")}, calls: []string{"freeze", "b"}},
		{name: "a freeze that is not proven fails the run", phases: []plan.Phase{frozen("f"), phase("b", "f")},
			setup: func(w *world) {
				good := w.goodFreeze
				w.freeze = func(ctx context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
					r, _ := good(ctx, in)
					r.Proof = plan.Proof{Reason: "undo found no session"}
					return r, nil
				}
			}, calls: []string{"freeze"}, err: "undo found no session", kind: TypeNotProven},
		{name: "a thaw that somebody failed by hand is made again: no session ends before", phases: []plan.Phase{frozen("f")},
			setup: func(w *world) {
				w.freeze = func(context.Context, plan.FreezeInput) (*plan.FreezeReport, error) {
					return nil, kind(fault.Unknown, "worker lost")
				}
				w.fails["thaw"] = []error{temporal.NewNonRetryableApplicationError("failed from the Temporal UI", "", nil)}
				w.SetOnChildWorkflowCompletedListener(func(_ *workflow.Info, _ converter.EncodedValue, err error) {
					assert.NoError(w.t, err, "the session ended without its thaw")
				})
			}, calls: []string{"thaw", "thaw", "thaw"}, err: "worker lost", kind: string(fault.Unknown)},
		{name: "a phase inside a freeze that was lost is compensated: it may have run", phases: []plan.Phase{frozen("f", compensated(phase("a")))},
			setup: func(w *world) {
				w.freeze = func(context.Context, plan.FreezeInput) (*plan.FreezeReport, error) {
					return nil, kind(fault.Unknown, "worker lost")
				}
			}, calls: []string{"thaw", "thaw", "undo-a"}, err: "compensated: a", kind: string(fault.Unknown)},
		{name: "a phase inside a freeze that never began is not compensated", phases: []plan.Phase{frozen("f", compensated(phase("a")))},
			setup: func(w *world) {
				w.freeze = func(_ context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
					return &plan.FreezeReport{Token: in.Token, Failure: &plan.Failure{Phase: "f", Kind: string(fault.User), Message: "no such secret"}}, nil
				}
			}, err: "nothing was frozen", kind: string(fault.User)},
		{name: "a lost freezing worker: the session thaws, and again", phases: []plan.Phase{frozen("f"), phase("b", "f")},
			setup: func(w *world) {
				w.freeze = func(context.Context, plan.FreezeInput) (*plan.FreezeReport, error) {
					w.log("freeze")
					return nil, kind(fault.Unknown, "worker lost")
				}
			}, calls: []string{"freeze", "thaw", "thaw"}, err: "worker lost", kind: string(fault.Unknown)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.phases...)
			if tt.setup != nil {
				tt.setup(w)
			}
			_, err := w.run(plan.Request{})
			assert.Equal(t, tt.calls, w.calls)
			if tt.err == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.err)
			var app *temporal.ApplicationError
			require.ErrorAs(t, err, &app)
			assert.Equal(t, tt.kind, app.Type())
		})
	}
}

func TestSiblingsEndBeforeCompensation(t *testing.T) {
	slow := compensated(phase("slow"))
	w := newWorld(t, slow, phase("bad"))
	w.slow["slow"] = 300 * time.Millisecond
	w.fails["bad"] = []error{kind(fault.Permanent, "boom")}
	_, err := w.run(plan.Request{})
	require.ErrorContains(t, err, "boom")
	assert.Equal(t, "undo-slow", w.calls[len(w.calls)-1])
}

func TestDryRunStartsNothing(t *testing.T) {
	w := newWorld(t, phase("a"), frozen("f"))
	out, err := w.run(plan.Request{Plan: true})
	require.NoError(t, err)
	require.NotNil(t, out.Plan)
	assert.Equal(t, w.plan.Digest, out.Plan.Digest)
	assert.Empty(t, w.calls)
}

func TestRestorePoint(t *testing.T) {
	artifacts := map[string]plan.Artifact{"data": {KeyValue: map[string]string{"path": "/rp/x"}}}
	tests := []struct {
		name       string
		phases     []plan.Phase
		setup      func(*world)
		consistent bool
		why        string
	}{
		{name: "a proven freeze with its cut inside", phases: []plan.Phase{frozen("f")}, consistent: true, why: "unbroken"},
		{name: "no freeze", phases: []plan.Phase{phase("dump")}, why: "no freeze"},
		{name: "no cut in the freeze", phases: []plan.Phase{frozen("f")}, why: "nothing was cut", setup: func(w *world) {
			w.freeze = func(ctx context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
				r, err := w.goodFreeze(ctx, in)
				r.Proof.Cuts = nil
				return r, err
			}
		}},
		{name: "a freeze that declares no proof", why: "declares no proof", phases: []plan.Phase{func() plan.Phase { f := frozen("f"); f.Freeze.Proof = nil; return f }()}, setup: func(w *world) {
			w.freeze = func(ctx context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
				r, err := w.goodFreeze(ctx, in)
				r.Proof = plan.Proof{Reason: "the freeze declares no proof"}
				return r, err
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.phases...)
			w.plan.Artifacts = artifacts
			if tt.setup != nil {
				tt.setup(w)
			}
			out, err := w.run(plan.Request{RequestedBy: "ann"})
			require.NoError(t, err)
			require.NotNil(t, out.RestorePoint)
			assert.Equal(t, tt.consistent, out.RestorePoint.Consistent)
			assert.Contains(t, out.RestorePoint.Consistency, tt.why)
			assert.Equal(t, artifacts, out.RestorePoint.Artifacts)
			assert.Equal(t, "ann", w.rp.RequestedBy)
		})
	}
}

func TestDeleteForgetsTheRestorePoint(t *testing.T) {
	tests := []struct {
		name  string
		from  string
		fails []error
		calls []string
	}{
		{name: "once its data is deleted", from: "rp", calls: []string{"a", "forget rp"}},
		{name: "not where that failed", from: "rp", fails: []error{kind(fault.Permanent, "boom")}, calls: []string{"a"}},
		{name: "not where it was given artifacts only", calls: []string{"a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, phase("a"))
			w.plan.Action = "delete"
			w.fails["a"] = tt.fails
			_, err := w.run(plan.Request{From: tt.from})
			assert.Equal(t, tt.fails == nil, err == nil)
			assert.Equal(t, tt.calls, w.calls)
		})
	}
}

func TestARunWithAProfileKeepsItsRestorePointInALocationToo(t *testing.T) {
	profile := &plan.Reference{Name: "s3"}
	full := kind(fault.Permanent, "the store is full")
	tests := []struct {
		name   string
		action string
		req    plan.Request
		fails  map[string][]error
		calls  []string
		err    string
	}{
		{name: "once it is recorded", calls: []string{"a", "record", "publish rp"}},
		{name: "again, where the network failed", fails: map[string][]error{"publish": {kind(fault.Transient, "reset")}}, calls: []string{"a", "record", "publish rp", "publish rp"}},
		{name: "or there is none at all", fails: map[string][]error{"publish": {full}}, calls: []string{"a", "record", "publish rp", "forget rp", "undo-a"}, err: "the store is full"},
		{name: "a run from one fetches it first", action: "restore", req: plan.Request{From: "old", Profile: profile}, calls: []string{"fetch old", "a"}},
		{name: "and fails before all else where that fails", action: "restore", req: plan.Request{From: "old", Profile: profile}, fails: map[string][]error{"fetch": {kind(fault.User, "none of that id")}},
			calls: []string{"fetch old"}, err: "none of that id"},
		{name: "a delete takes it out, and then forgets it", action: "delete", req: plan.Request{From: "rp"}, calls: []string{"a", "unpublish rp", "forget rp"}},
		{name: "and does not forget what is still there", action: "delete", req: plan.Request{From: "rp"}, fails: map[string][]error{"unpublish": {kind(fault.Permanent, "it is locked")}},
			calls: []string{"a", "unpublish rp", "undo-a"}, err: "it is locked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, compensated(phase("a")))
			w.plan.Scope.RestorePoint.Profile = profile
			if tt.action != "" {
				w.plan.Action = tt.action
			} else {
				w.plan.Artifacts = map[string]plan.Artifact{"dump": {KeyValue: map[string]string{"path": "/rp/dump"}}}
			}
			w.fails = map[string][]error{}
			maps.Copy(w.fails, tt.fails)
			_, err := w.run(tt.req)
			if tt.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tt.err)
			}
			assert.Equal(t, tt.calls, w.calls)
		})
	}
}

func TestDynamicType(t *testing.T) {
	tests := []struct {
		name, workflow string
		req            plan.Request
		err            string
	}{
		{name: "a blueprint's action", workflow: "shop.backup"},
		{name: "a blueprint with dots", workflow: "shop.v2.backup"},
		{name: "no action", workflow: "shop.", err: "want RunAction, or <blueprint>.<action>"},
		{name: "nothing of ours", workflow: "shop", err: "want RunAction, or <blueprint>.<action>"},
		{name: "the input says otherwise", workflow: "shop.backup", req: plan.Request{Action: "restore"}, err: "leave it out of the input"},
		{name: "the input says the same", workflow: "shop.backup", req: plan.Request{Action: "backup", Blueprint: "shop"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, phase("a"))
			w.ExecuteWorkflow(tt.workflow, tt.req)
			err := w.GetWorkflowError()
			if tt.err == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.err)
		})
	}
}

func TestCancelCompensatesAndEndsAsCancelled(t *testing.T) {
	w := newWorld(t, compensated(phase("a")), phase("b", "a"))
	w.slow["b"] = 2 * time.Second
	w.RegisterDelayedCallback(w.CancelWorkflow, 500*time.Millisecond)
	_, err := w.run(plan.Request{})
	var cancelled *temporal.CanceledError
	require.ErrorAs(t, errors.Unwrap(err), &cancelled)
	assert.Equal(t, []string{"a", "b", "undo-a"}, w.calls)
}

func TestOutputsThatTemporalWouldNotTakeFailTheirPhase(t *testing.T) {
	phases := []plan.Phase{compensated(phase("a"))}
	for i := range 5 {
		phases = append(phases, phase(fmt.Sprint("b", i), phases[i].Name))
	}
	w := newWorld(t, phases...)
	for _, p := range phases {
		w.out[p.Name] = plan.Values{"text": strings.Repeat("x", 250<<10)}
	}
	_, err := w.run(plan.Request{})
	require.ErrorContains(t, err, "phase b3: with its outputs of 250 KiB those of the run are over 1024 KiB")
	assert.Equal(t, []string{"a", "b0", "b1", "b2", "b3", "undo-a"}, w.calls)
}
