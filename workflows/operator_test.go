package workflows

import (
	"context"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

func TestApproval(t *testing.T) {
	const other = "sha256:0000"
	tests := []struct {
		name    string
		ask     plan.Approval
		by      string // requester
		updates func(w *world, digest string)
		err     string
	}{
		{name: "anybody's yes to the plan's digest", updates: func(w *world, d string) {
			w.update(time.Second, "approve", plan.Operation{By: "bob", Digest: d}, "")
		}},
		{name: "another digest is refused", ask: plan.Approval{Timeout: plan.Duration(time.Minute)}, updates: func(w *world, _ string) {
			w.update(time.Second, "approve", plan.Operation{By: "bob", Digest: other}, "read it again")
		}, err: "expired"},
		{name: "no digest is refused", updates: func(w *world, d string) {
			w.update(time.Second, "approve", plan.Operation{By: "bob"}, "name the plan")
			w.update(2*time.Second, "approve", plan.Operation{By: "bob", Digest: d}, "")
		}},
		{name: "nobody is refused", updates: func(w *world, d string) {
			w.update(time.Second, "approve", plan.Operation{Digest: d}, "say who you are")
			w.update(2*time.Second, "approve", plan.Operation{By: "bob", Digest: d}, "")
		}},
		{name: "who is no approver is refused", ask: plan.Approval{Approvers: []string{"carol"}}, updates: func(w *world, d string) {
			w.update(time.Second, "approve", plan.Operation{By: "bob", Digest: d}, "not among the approvers")
			w.update(2*time.Second, "approve", plan.Operation{By: "carol", Digest: d}, "")
		}},
		{name: "four eyes: the requester's own is refused", by: "ann", ask: plan.Approval{FourEyes: true}, updates: func(w *world, d string) {
			w.update(time.Second, "approve", plan.Operation{By: "ann", Digest: d}, "somebody else approves")
			w.update(2*time.Second, "approve", plan.Operation{By: "bob", Digest: d}, "")
		}},
		{name: "four eyes without a requester cannot be kept", ask: plan.Approval{FourEyes: true}, updates: func(*world, string) {}, err: "requestedBy"},
		{name: "two approvals by two people", ask: plan.Approval{Count: 2}, updates: func(w *world, d string) {
			w.update(time.Second, "approve", plan.Operation{By: "bob", Digest: d}, "")
			w.update(2*time.Second, "approve", plan.Operation{By: "bob", Digest: d}, "has approved already")
			w.update(3*time.Second, "approve", plan.Operation{By: "carol", Digest: d}, "")
		}},
		{name: "it expires", ask: plan.Approval{Timeout: plan.Duration(time.Minute)}, updates: func(*world, string) {}, err: "expired after 1m0s"},
		{name: "a rejection ends the run with its reason", updates: func(w *world, d string) {
			w.update(time.Second, "reject", plan.Operation{By: "bob", Digest: d}, "give a reason")
			w.update(2*time.Second, "reject", plan.Operation{By: "bob", Digest: d, Reason: "not on a Friday"}, "")
		}, err: "bob rejected shop.backup of sqlite:/data/shop.db: not on a Friday"},
		{name: "a signal does as the update", updates: func(w *world, d string) {
			w.RegisterDelayedCallback(func() { w.SignalWorkflow("approve", plan.Operation{By: "bob", Digest: d}) }, time.Second)
		}},
		{name: "a signal is validated as the update", ask: plan.Approval{Timeout: plan.Duration(time.Minute)}, updates: func(w *world, _ string) {
			w.RegisterDelayedCallback(func() { w.SignalWorkflow("approve", plan.Operation{By: "bob", Digest: other}) }, time.Second)
		}, err: "expired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, phase("a"))
			w.plan.Approval = &tt.ask
			require.NoError(t, w.plan.Seal())
			tt.updates(w, w.plan.Digest)
			_, err := w.run(plan.Request{RequestedBy: tt.by})
			if tt.err == "" {
				require.NoError(t, err)
				assert.Equal(t, []string{"a"}, w.calls)
				return
			}
			require.ErrorContains(t, err, tt.err)
			assert.Empty(t, w.calls, "nothing is done without the approval")
		})
	}
}

func TestOperator(t *testing.T) {
	boom := kind(fault.Permanent, "boom")
	tests := []struct {
		name    string
		phases  []plan.Phase
		req     plan.Request
		setup   func(*world)
		calls   []string
		err     string
		skipped string
	}{
		{name: "pause before the next phase, and resume", phases: []plan.Phase{phase("a"), phase("b", "a")}, setup: func(w *world) {
			w.slow["a"] = 300 * time.Millisecond
			w.update(10*time.Millisecond, "pause", plan.Operation{By: "bob"}, "")
			w.update(20*time.Millisecond, "pause", plan.Operation{By: "ann"}, "paused already by bob")
			w.RegisterDelayedCallback(func() {
				assert.Equal(w.t, []string{"a"}, w.calls)
			}, time.Hour)
			w.update(2*time.Hour, "resume", plan.Operation{By: "bob"}, "")
		}, calls: []string{"a", "b"}},
		{name: "resume without a pause is refused", phases: []plan.Phase{phase("a")}, setup: func(w *world) {
			w.slow["a"] = 300 * time.Millisecond
			w.update(10*time.Millisecond, "resume", plan.Operation{By: "bob"}, "not paused")
		}, calls: []string{"a"}},
		{name: "retry a failed phase with changed arguments", phases: []plan.Phase{phase("a"), phase("b", "a")}, req: plan.Request{OnFailure: "pause"}, setup: func(w *world) {
			w.fails["a"] = []error{boom}
			w.update(time.Hour, "retry", plan.Operation{By: "bob", Phase: "x"}, "no phase \"x\"; phases are: a, b")
			w.update(time.Hour, "retry", plan.Operation{By: "bob", Phase: "b"}, "does not wait for its operator")
			w.update(2*time.Hour, "retry", plan.Operation{By: "bob", Phase: "a", Args: plan.Values{"path": "/other"}}, "")
		}, calls: []string{"a", "a", "b"}},
		{name: "skip a failed phase with a reason", phases: []plan.Phase{phase("a"), phase("b", "a")}, req: plan.Request{OnFailure: "pause"}, setup: func(w *world) {
			w.fails["a"] = []error{boom}
			w.update(time.Hour, "skip", plan.Operation{By: "bob", Phase: "a"}, "give a reason")
			w.update(2*time.Hour, "skip", plan.Operation{By: "bob", Phase: "a", Reason: "mail is down"}, "")
		}, calls: []string{"a", "b"}, skipped: "bob: mail is down"},
		{name: "skip a phase that is to come", phases: []plan.Phase{phase("a"), phase("b", "a")}, setup: func(w *world) {
			w.slow["a"] = 300 * time.Millisecond
			w.update(10*time.Millisecond, "skip", plan.Operation{By: "bob", Phase: "b", Reason: "not today"}, "")
			w.update(20*time.Millisecond, "skip", plan.Operation{By: "bob", Phase: "a", Reason: "no"}, "running or over")
		}, calls: []string{"a"}, skipped: "bob: not today"},
		{name: "a failed phase of a paused run waits too", phases: []plan.Phase{phase("a")}, setup: func(w *world) {
			w.slow["a"] = 300 * time.Millisecond
			w.fails["a"] = []error{boom}
			w.update(10*time.Millisecond, "pause", plan.Operation{By: "bob"}, "")
			w.update(time.Hour, "resume", plan.Operation{By: "bob"}, "")
			w.update(2*time.Hour, "retry", plan.Operation{By: "bob", Phase: "a"}, "")
		}, calls: []string{"a", "a"}},
		{name: "a phase that is retried is compensated, also when its first attempt owed nothing", phases: []plan.Phase{compensated(phase("a")), phase("b", "a")},
			req: plan.Request{OnFailure: "pause"}, setup: func(w *world) {
				w.fails["a"] = []error{kind(fault.User, "wrong")}
				w.fails["b"] = []error{boom}
				w.update(time.Hour, "retry", plan.Operation{By: "bob", Phase: "a"}, "")
				w.RegisterDelayedCallback(w.CancelWorkflow, 2*time.Hour)
			}, err: "compensated: a"},
		{name: "a phase inside a freeze that is retried is compensated, also when the first freeze never began", phases: []plan.Phase{frozen("f", compensated(phase("a"))), phase("b", "f")},
			req: plan.Request{OnFailure: "pause"}, setup: func(w *world) {
				first := true
				w.freeze = func(ctx context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
					if first {
						first = false
						return &plan.FreezeReport{Token: in.Token, Failure: &plan.Failure{Phase: "f", Kind: string(fault.User), Message: "no such secret"}}, nil
					}
					r, err := w.goodFreeze(ctx, in)
					r.Phases = []plan.PhaseRecord{{Name: "a", State: plan.PhaseDone}}
					return r, err
				}
				w.fails["b"] = []error{boom}
				w.update(time.Hour, "retry", plan.Operation{By: "bob", Phase: "f"}, "")
				w.RegisterDelayedCallback(w.CancelWorkflow, 2*time.Hour)
			}, err: "compensated: a"},
		{name: "a freeze that fails again after a skip inside it waits again, and is not frozen for ever", phases: []plan.Phase{frozen("f", phase("a"), phase("b"))},
			req: plan.Request{OnFailure: "pause"}, setup: func(w *world) {
				w.freeze = func(_ context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
					w.log("freeze")
					require.Less(w.t, len(w.calls), 5, "frozen again and again")
					return &plan.FreezeReport{Token: in.Token, Failure: &plan.Failure{Phase: "b", Kind: string(fault.Permanent), Message: "boom"}}, nil
				}
				w.update(time.Hour, "skip", plan.Operation{By: "bob", Phase: "a", Reason: "not needed"}, "")
				w.RegisterDelayedCallback(func() { assert.Equal(w.t, []string{"freeze", "freeze"}, w.calls) }, 2*time.Hour)
				w.update(2*time.Hour, "skip", plan.Operation{By: "bob", Phase: "f", Reason: "no freeze today"}, "")
			}, calls: []string{"freeze", "freeze"}, skipped: "bob: no freeze today"},
		{name: "the sides of a freeze: their arguments can be changed, they cannot be skipped", phases: []plan.Phase{frozen("f", phase("a"))},
			req: plan.Request{OnFailure: "pause"}, setup: func(w *world) {
				first := true
				w.freeze = func(ctx context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
					if first {
						first = false
						return &plan.FreezeReport{Token: in.Token, Failure: &plan.Failure{Phase: "f.do", Kind: string(fault.User), Message: "no such host"}}, nil
					}
					assert.Equal(w.t, plan.Values{"address": "db2:5432"}, in.Freeze.Do.Args)
					return w.goodFreeze(ctx, in)
				}
				w.update(time.Hour, "skip", plan.Operation{By: "bob", Phase: "f.undo", Reason: "x"}, `is a side of the freeze "f"`)
				w.update(time.Hour, "retry", plan.Operation{By: "bob", Phase: "f", Args: plan.Values{"address": "db2:5432"}}, `name "f.do" or a phase inside it`)
				w.update(2*time.Hour, "retry", plan.Operation{By: "bob", Phase: "f.do", Args: plan.Values{"address": "db2:5432"}}, "")
			}, calls: []string{"freeze"}},
		{name: "a phase inside a freeze that runs is not skipped", phases: []plan.Phase{frozen("f", phase("a"))}, setup: func(w *world) {
			w.freeze = func(ctx context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
				time.Sleep(300 * time.Millisecond)
				return w.goodFreeze(ctx, in)
			}
			w.update(10*time.Millisecond, "skip", plan.Operation{By: "bob", Phase: "a", Reason: "x"}, "running or over")
		}, calls: []string{"freeze"}},
		{name: "a skipped deferPhase fails the run, which is compensated", phases: []plan.Phase{compensated(phase("a"))}, setup: func(w *world) {
			d := phase("d")
			w.plan.Defer = &d
			for range 100 {
				w.fails["d"] = append(w.fails["d"], kind(fault.Command, "busy"))
			}
			w.update(5*time.Minute, "skip", plan.Operation{By: "bob", Phase: "d", Reason: "gone"}, "")
		}, err: "deferPhase d was skipped by bob: gone; compensated: a"},
		{name: "a stuck compensation is skipped, and named in the failure", phases: []plan.Phase{compensated(phase("a")), phase("b", "a")}, setup: func(w *world) {
			w.fails["b"] = []error{boom}
			for range 100 {
				w.fails["undo-a"] = append(w.fails["undo-a"], kind(fault.Command, "busy"))
			}
			w.update(5*time.Minute, "skip", plan.Operation{By: "bob", Phase: "undo-a", Reason: "done by hand"}, "")
		}, err: "left behind: a (its compensation undo-a was skipped by bob: done by hand)"},
		{name: "thaw with nothing frozen is refused", phases: []plan.Phase{phase("a")}, setup: func(w *world) {
			w.slow["a"] = 300 * time.Millisecond
			w.update(10*time.Millisecond, "thaw", plan.Operation{By: "bob", Reason: "x"}, "nothing is frozen")
		}, calls: []string{"a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.phases...)
			tt.setup(w)
			out, err := w.run(tt.req)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.calls, w.calls)
			var note string
			for _, r := range out.Phases {
				if r.State == plan.PhaseSkipped {
					note = r.Note
				}
			}
			assert.Equal(t, tt.skipped, note)
			if tt.name == "retry a failed phase with changed arguments" {
				assert.Equal(t, plan.Values{"path": "/other"}, w.args["a"])
			}
		})
	}
}

func TestSearchAttributesAreNeverTooLong(t *testing.T) {
	w := newWorld(t, phase("a"))
	w.attributes = true
	w.fails["a"] = []error{kind(fault.Permanent, strings.Repeat("ä", 3000))}
	w.OnUpsertTypedSearchAttributes(mock.Anything).Run(func(args mock.Arguments) {
		for _, v := range args.Get(0).(temporal.SearchAttributes).GetUntypedValues() {
			if s, ok := v.(string); ok {
				assert.LessOrEqual(t, len(s), 255)
				assert.True(t, utf8.ValidString(s))
			}
		}
	}).Return(nil)
	w.update(time.Hour, "skip", plan.Operation{By: "bob", Phase: "a", Reason: "x"}, "")
	_, err := w.run(plan.Request{OnFailure: "pause", RequestedBy: strings.Repeat("x", 3000)})
	require.NoError(t, err)
	w.AssertExpectations(t)
}

func TestRetriedFreezeIsProvenByItself(t *testing.T) {
	w := newWorld(t, frozen("f"))
	w.plan.Artifacts = map[string]plan.Artifact{"data": {}}
	first := true
	w.freeze = func(ctx context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
		r, err := w.goodFreeze(ctx, in)
		if first {
			first = false
			r.Proof, r.Failure = plan.Proof{Reason: "failure of a"}, &plan.Failure{Phase: "a", Kind: string(fault.Permanent), Message: "boom"}
		}
		return r, err
	}
	w.update(time.Hour, "retry", plan.Operation{By: "bob", Phase: "f"}, "")
	out, err := w.run(plan.Request{OnFailure: "pause"})
	require.NoError(t, err)
	assert.Len(t, out.Freezes, 2)
	assert.True(t, out.RestorePoint.Consistent, out.RestorePoint.Consistency)
}
