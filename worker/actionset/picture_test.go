package actionset

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enums "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/converter"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"thaw/blueprints/plan"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// story is a status in one line: its state, its running phase, its percentage,
// and the phases of each action, the deferPhase after a slash.
func story(st *status) string {
	var b strings.Builder
	b.WriteString(st.State + " " + st.Progress.RunningPhase + " " + st.Progress.PercentCompleted + "%")
	for i := range st.Actions {
		b.WriteString(" |")
		for _, p := range st.Actions[i].all() {
			if p == st.Actions[i].DeferPhase {
				b.WriteString(" /")
			}
			b.WriteString(" " + p.Name + ":" + p.State)
		}
	}
	return b.String()
}

func records(texts ...string) (all []plan.PhaseRecord) {
	for _, text := range texts {
		name, state, _ := strings.Cut(text, ":")
		all = append(all, plan.PhaseRecord{Name: name, State: state})
	}
	return all
}

func at(phase string, done ...string) run {
	return run{id: "x", progress: &plan.Progress{State: "running", Phase: phase, Phases: records(done...)}}
}

func ended(message string, done ...string) run {
	return run{id: "x", end: &end{message: message, outcome: &plan.Outcome{Phases: records(done...), Artifacts: map[string]artifact{"dump": {KeyValue: map[string]string{"id": "1"}}}}}}
}

func TestPicture(t *testing.T) {
	one := func() *status {
		return &status{State: statePending, Actions: []actionStatus{{Name: "backup", Phases: []phase{{Name: "lock", State: statePending}, {Name: "dump", State: statePending}}, DeferPhase: &phase{Name: "unlock", State: statePending}}}}
	}
	two := func() *status {
		st := one()
		st.Actions = append(st.Actions, actionStatus{Name: "check", Phases: []phase{{Name: "read", State: statePending}}})
		return st
	}
	for name, c := range map[string]struct {
		from *status
		runs []run
		want string
		says string
	}{
		"nothing is known yet":             {one(), []run{{id: "x"}}, "running  0% | lock:pending dump:pending / unlock:pending", ""},
		"the plan is made":                 {one(), []run{at("")}, "running  0% | lock:pending dump:pending / unlock:pending", ""},
		"the first phase runs":             {one(), []run{at("lock")}, "running lock 0% | lock:running dump:pending / unlock:pending", ""},
		"the second phase runs":            {one(), []run{at("dump", "lock:done")}, "running dump 50% | lock:complete dump:running / unlock:pending", ""},
		"a phase failed, deferPhase runs":  {one(), []run{at("unlock", "lock:done", "dump:failed")}, "running unlock 50% | lock:complete dump:failed / unlock:running", ""},
		"a failed phase is tried again":    {one(), []run{at("dump", "lock:done", "dump:failed")}, "running dump 50% | lock:complete dump:running / unlock:pending", ""},
		"it succeeded the second time":     {one(), []run{at("unlock", "lock:done", "dump:failed", "dump:done")}, "running unlock 100% | lock:complete dump:complete / unlock:running", ""},
		"a compensation runs":              {one(), []run{at("drop", "lock:done", "dump:failed")}, "running  50% | lock:complete dump:failed / unlock:pending", ""},
		"complete":                         {one(), []run{ended("", "lock:done", "dump:done", "unlock:done")}, "complete  100% | lock:complete dump:complete / unlock:complete", ""},
		"complete, and one was skipped":    {one(), []run{ended("", "lock:skipped", "dump:done", "unlock:done")}, "complete  100% | lock:complete dump:complete / unlock:complete", ""},
		"failed":                           {one(), []run{ended("no table", "lock:done", "dump:failed", "unlock:done")}, "failed  50% | lock:complete dump:failed / unlock:complete", "no table"},
		"failed before any phase":          {one(), []run{ended("no target")}, "failed  0% | lock:failed dump:pending / unlock:pending", "no target"},
		"artifacts failed after all":       {one(), []run{ended("no output", "lock:done", "dump:done", "unlock:done")}, "failed  100% | lock:complete dump:complete / unlock:complete", "no output"},
		"terminated in a phase":            {drawn(one(), at("dump", "lock:done")), []run{{id: "x", end: &end{message: "terminated"}}}, "failed  50% | lock:complete dump:failed / unlock:pending", "terminated"},
		"what was seen before stays":       {drawn(one(), at("dump", "lock:done")), []run{{id: "x"}}, "running  50% | lock:complete dump:running / unlock:pending", ""},
		"one of two is complete":           {two(), []run{ended("", "lock:done", "dump:done", "unlock:done"), at("read")}, "running read 66% | lock:complete dump:complete / unlock:complete | read:running", ""},
		"one of two failed, one runs":      {two(), []run{ended("no table", "lock:failed", "unlock:done"), at("read")}, "running read 0% | lock:failed dump:pending / unlock:complete | read:running", "action 0, backup: no table"},
		"one of two failed, both are over": {two(), []run{ended("no table", "lock:failed", "unlock:done"), ended("", "read:done")}, "failed  33% | lock:failed dump:pending / unlock:complete | read:complete", "action 0, backup: no table"},
		"both failed":                      {two(), []run{ended("no table", "lock:failed", "unlock:done"), ended("no file", "read:failed")}, "failed  0% | lock:failed dump:pending / unlock:complete | read:failed", "action 0, backup: no table\naction 1, check: no file"},
		"nothing to do":                    {&status{State: statePending}, nil, "complete  100%", ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := story(c.from)
			st := picture(c.from, c.runs, noon)
			assert.Equal(t, c.want, story(st))
			assert.Equal(t, c.says, st.Error.Message)
			assert.Equal(t, before, story(c.from), "what it was drawn into is not changed")
			assert.True(t, equal(st, picture(st, c.runs, noon.Add(time.Hour))), "drawn again, it is the same, times included")
			if st.State == stateComplete && len(st.Actions) > 0 {
				assert.Equal(t, "1", st.Actions[0].Artifacts["dump"].KeyValue["id"])
			}
			if st.Error.Message != "" && len(st.Actions) == 1 {
				assert.Empty(t, st.Actions[0].Artifacts, "a failed action leaves none")
			}
		})
	}
}

func drawn(st *status, r run) *status { return picture(st, []run{r}, noon) }

// The names are Kanister's: users' scripts and K10 read them.
func TestStatusIsWrittenAsKanisterWritesIt(t *testing.T) {
	st := begin(&spec{Actions: []action{{Name: "backup", Blueprint: "bp", Object: object{Kind: "Deployment", Name: "a", Namespace: "b"}}}})
	st.Actions[0].Phases = []phase{{Name: "dump", State: statePending}}
	r := ended("", "dump:done")
	r.outputs = map[string]plan.Values{"dump": {"size": int64(1 << 40)}, "unknown": {"a": "b"}}
	o, err := with(&unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"x": "kept"}}}, picture(st, []run{r}, noon))
	require.NoError(t, err)
	b, err := json.Marshal(o.Object)
	require.NoError(t, err)
	assert.JSONEq(t, `{"spec": {"x": "kept"}, "status": {"state": "complete", "error": {"message": ""},
		"progress": {"percentCompleted": "100", "lastTransitionTime": "2026-11-25T12:00:00Z"},
		"actions": [{"name": "backup", "blueprint": "bp", "object": {"apiVersion": "", "group": "", "resource": "", "kind": "Deployment", "name": "a", "namespace": "b"},
			"artifacts": {"dump": {"keyValue": {"id": "1"}}},
			"phases": [{"name": "dump", "state": "complete", "output": {"size": 1099511627776}, "progress": {"progressPercent": "100", "lastTransitionTime": "2026-11-25T12:00:00Z"}}]}]}}`, string(b))
}

func TestChangesBecomeEvents(t *testing.T) {
	st := &status{Actions: []actionStatus{{Name: "backup", Phases: []phase{{Name: "dump", State: statePending}}, DeferPhase: &phase{Name: "unlock", State: statePending}}}}
	reasons := func(cs []change) (all []string) {
		for _, c := range cs {
			all = append(all, c.reason)
		}
		return all
	}
	runs := picture(st, []run{at("dump")}, noon)
	assert.Equal(t, []string{"Started Phase"}, reasons(changes(st, runs)))
	failed := picture(runs, []run{ended("no table", "dump:failed", "unlock:done")}, noon)
	all := changes(runs, failed)
	assert.Equal(t, []string{"ActionSetFailed Action: backup", "Started deferPhase", "Ended deferPhase", "ActionSetFailed Action: backup"}, reasons(all))
	assert.Equal(t, "no table", all[3].message)
	assert.Empty(t, changes(failed, failed))
	complete := picture(st, []run{ended("", "dump:done", "unlock:done")}, noon)
	assert.Equal(t, []string{"Started Phase", "Ended Phase", "Started deferPhase", "Ended deferPhase", "Update Complete"}, reasons(changes(&status{}, complete)), "a fast phase was started too")
}

func TestOutputsThatDoNotFitAreLeftOut(t *testing.T) {
	big, small := plan.Values{"a": strings.Repeat("x", 1000)}, plan.Values{"a": "x"}
	st := &status{Actions: []actionStatus{{Phases: []phase{{Name: "small", Output: small}, {Name: "big", Output: big}}}}}
	assert.Empty(t, st.fit(2000))
	assert.Equal(t, []string{"big"}, st.fit(500))
	assert.Equal(t, small, st.Actions[0].Phases[0].Output)
	assert.Empty(t, st.Actions[0].Phases[1].Output)
	text := short(strings.Repeat("é", 100), 50)
	assert.LessOrEqual(t, len(text), 50)
	assert.Contains(t, text, "…")
}

func TestEnding(t *testing.T) {
	out := &plan.Outcome{}
	assert.Equal(t, &end{outcome: out}, ending(out, nil))
	assert.Contains(t, ending(out, serviceerror.NewNotFound("gone")).message, "not known")
	assert.Nil(t, ending(out, context.DeadlineExceeded), "nothing is known of it")
	assert.Nil(t, ending(out, errors.New("connection refused")), "nothing is known of it")
}

func TestOutputsAreThoseOfCallsAndFreezes(t *testing.T) {
	data := func(v any) *commonpb.Payloads {
		p, err := converter.GetDefaultDataConverter().ToPayloads(v)
		require.NoError(t, err)
		return p
	}
	scheduled := func(id int64, activity string, input any) *historypb.HistoryEvent {
		return &historypb.HistoryEvent{EventId: id, EventType: enums.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, Attributes: &historypb.HistoryEvent_ActivityTaskScheduledEventAttributes{
			ActivityTaskScheduledEventAttributes: &historypb.ActivityTaskScheduledEventAttributes{ActivityType: &commonpb.ActivityType{Name: activity}, Input: data(input)}}}
	}
	completed := func(of int64, result any) *historypb.HistoryEvent {
		return &historypb.HistoryEvent{EventType: enums.EVENT_TYPE_ACTIVITY_TASK_COMPLETED, Attributes: &historypb.HistoryEvent_ActivityTaskCompletedEventAttributes{
			ActivityTaskCompletedEventAttributes: &historypb.ActivityTaskCompletedEventAttributes{ScheduledEventId: of, Result: data(result)}}}
	}
	got := outputsOf([]*historypb.HistoryEvent{
		scheduled(1, plan.ActivityPlan, plan.PlanInput{}), completed(1, plan.PlanOutput{}),
		scheduled(2, plan.ActivityCall, plan.Call{Phase: plan.Phase{Name: "dump"}}), completed(2, plan.CallResult{Output: plan.Values{"n": 1}}),
		scheduled(3, plan.ActivityCall, plan.Call{Phase: plan.Phase{Name: "still"}}),
		{EventType: enums.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED, Attributes: &historypb.HistoryEvent_ChildWorkflowExecutionCompletedEventAttributes{
			ChildWorkflowExecutionCompletedEventAttributes: &historypb.ChildWorkflowExecutionCompletedEventAttributes{
				WorkflowType: &commonpb.WorkflowType{Name: "FreezeSession"}, Result: data(plan.FreezeReport{Results: map[string]plan.Result{"cut": {Output: plan.Values{"pvc": "a"}}}})}}},
	})
	assert.Equal(t, map[string]plan.Values{"dump": {"n": int64(1)}, "cut": {"pvc": "a"}}, got)
}
