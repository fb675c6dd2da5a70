package workflows

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// party is a world in which the freezes of several members meet.
type party struct {
	*world
	members []string
	// stages that each member's freeze reaches by itself, before it fails.
	fails map[string]error
}

func newParty(t *testing.T, members ...string) *party {
	p := &party{world: newWorld(t), members: members, fails: map[string]error{}}
	cut := compensated(phase("cut"))
	together := plan.Phase{Name: "together", Together: &plan.Together{Phases: []plan.Phase{cut}}}
	for _, m := range members {
		together.Together.Members = append(together.Together.Members, plan.Member{Name: m, Freezes: true, Request: plan.Request{
			Blueprint: m, Action: "backup", Target: plan.Target{Kind: "StatefulSet", Name: m, Namespace: "shop", TaskQueue: "thaw"},
		}})
	}
	p.plan.Phases = []plan.Phase{together, phase("ready", "together")}
	p.plan.Application = &plan.Application{Namespace: "shop"}
	require.NoError(t, p.plan.Seal())
	p.OnWorkflow(TypeRunAction, mock.Anything, mock.Anything).Return(p.member)
	return p
}

// member stands for a member's RunAction: its freeze sends the updates that a
// worker sends, and waits for their answers.
func (p *party) member(ctx workflow.Context, req plan.Request) (*plan.Outcome, error) {
	name := req.Join.Member
	meet := func(stage string) error {
		id := workflow.GetInfo(ctx).WorkflowExecution.ID
		//workflowcheck:ignore
		p.UpdateWorkflow(plan.UpdateMeet, name+stage, answer(func(err error) {
			//workflowcheck:ignore
			_ = p.SignalWorkflowByID(id, "answer", words(err))
		}), plan.Meet{Member: name, Stage: stage})
		var text string
		if workflow.GetSignalChannel(ctx, "answer").Receive(ctx, &text); text != "" {
			return errors.New(text)
		}
		return ctx.Err()
	}
	p.log(name + " freezes")
	if err := p.fails[name]; err != nil {
		return nil, err
	}
	if err := workflow.Sleep(ctx, time.Duration(len(name))*time.Second); err != nil {
		return nil, err
	}
	p.log(name + " is frozen")
	if err := meet(plan.MeetFrozen); err != nil {
		p.log(name + " thaws")
		return nil, err
	}
	p.log(name + " cuts")
	if err := meet(plan.MeetCut); err != nil {
		p.log(name + " thaws")
		return nil, err
	}
	p.log(name + " thaws")
	return &plan.Outcome{Freezes: []plan.FreezeReport{{Token: name, Proof: plan.Proof{Consistent: true}}}}, nil
}

// answer hears how an update was answered.
type answer func(error)

func (answer) Accept()                     {}
func (a answer) Reject(err error)          { a(err) }
func (a answer) Complete(_ any, err error) { a(err) }

func TestNobodyCutsBeforeAllAreFrozenAndNobodyThawsBeforeAllAreCut(t *testing.T) {
	p := newParty(t, "a", "bbb")
	out, err := p.backup()
	require.NoError(t, err)
	at := func(what string) int {
		for i, c := range p.calls {
			if c == what {
				return i
			}
		}
		require.Fail(t, "never: "+what, "%v", p.calls)
		return 0
	}
	for _, frozen := range []string{"a is frozen", "bbb is frozen"} {
		for _, cut := range []string{"a cuts", "bbb cuts", "cut"} {
			assert.Less(t, at(frozen), at(cut), "%v", p.calls)
			for _, thaw := range []string{"a thaws", "bbb thaws"} {
				assert.Less(t, at(cut), at(thaw), "%v", p.calls)
			}
		}
	}
	require.True(t, out.RestorePoint.Consistent, out.RestorePoint.Consistency)
	require.Len(t, out.RestorePoint.Freezes, 2)
}

func (p *party) backup() (*plan.Outcome, error) {
	p.ExecuteWorkflow(TypeBackupApplication, plan.ApplicationRequest{Namespace: "shop"})
	require.True(p.t, p.IsWorkflowCompleted())
	if err := p.GetWorkflowError(); err != nil {
		return nil, err
	}
	var out plan.Outcome
	require.NoError(p.t, p.GetWorkflowResult(&out))
	return &out, nil
}

// One that fails takes the others with it: they thaw, and nothing is cut.
func TestAFreezeThatFailsEndsTheOthers(t *testing.T) {
	p := newParty(t, "good", "bad")
	p.fails["bad"] = kind(fault.Command, "cannot lock")
	_, err := p.backup()
	require.ErrorContains(t, err, "bad: ")
	require.ErrorContains(t, err, "cannot lock")
	require.NotContains(t, p.calls, "cut")
	require.NotContains(t, p.calls, "record")
}

// A cut that fails ends the freezes, and is compensated.
func TestACutThatFailsEndsTheFreezes(t *testing.T) {
	p := newParty(t, "a", "b")
	p.world.fails["cut"] = []error{kind(fault.Permanent, "no space")}
	_, err := p.backup()
	require.ErrorContains(t, err, "no space")
	require.Contains(t, p.calls, "a thaws")
	require.Contains(t, p.calls, "b thaws")
	require.Contains(t, p.calls, "undo-cut")
}

func TestMeetingsThatAreRefused(t *testing.T) {
	p := newParty(t, "a")
	for _, c := range []struct {
		in   plan.Meet
		want string
	}{
		{plan.Meet{Member: "stranger", Stage: plan.MeetFrozen}, "no freeze"},
		{plan.Meet{Member: "a", Stage: "thawed"}, "want {member, stage"},
	} {
		p.RegisterDelayedCallback(func() {
			p.UpdateWorkflow(plan.UpdateMeet, fmt.Sprint(c.in), &callback{t, c.want}, c.in)
		}, 100*time.Millisecond)
	}
	_, err := p.backup()
	require.NoError(t, err)
}

func TestRestoreApplicationWaitsForApproval(t *testing.T) {
	w := newWorld(t, phase("volumes"), phase("manifests", "volumes"))
	w.plan.Approval = &plan.Approval{Count: 1, Timeout: plan.Duration(time.Hour)}
	require.NoError(t, w.plan.Seal())
	w.update(time.Minute, plan.UpdateApprove, plan.Operation{By: "bob", Digest: w.plan.Digest}, "")
	w.RegisterDelayedCallback(func() { require.Empty(t, w.calls, "nothing before the approval") }, 30*time.Second)
	w.ExecuteWorkflow(TypeRestoreApplication, plan.RestoreRequest{From: "rp"})
	require.NoError(t, w.GetWorkflowError())
	require.Equal(t, []string{"volumes", "manifests"}, w.calls)
}
