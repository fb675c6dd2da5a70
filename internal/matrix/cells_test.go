package matrix

import (
	"os"
	"time"

	batchpb "go.temporal.io/api/batch/v1"
	commonpb "go.temporal.io/api/common/v1"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"thaw/internal/testenv"
)

// slack that the promise gives a freeze: the database accepts writes again
// within maxFreeze + slack.
const slack = 2 * time.Second

// cell is one thing that goes wrong. Its fault is met in the worker; act is
// what happens to the run, a process or the server meanwhile.
type cell struct {
	name  string
	point testenv.Point
	mode  testenv.Mode
	edit  func(*blueprint)
	// timeout: the workflow's execution times out in the cut.
	timeout bool
	act     func(*trial)
	// before and after prepare what the cell needs, and mend what it broke.
	before, after func(*trial)
	// ok: the run must end well, with a consistent restore point. Elsewhere
	// it may end as it likes, as long as it tells the truth.
	ok bool
}

// cells are the rows of the matrix.
func cells() []cell {
	list := []cell{
		{name: "nothing goes wrong", ok: true},
		{name: "phase error", point: testenv.Cut, mode: testenv.Fails},
		{name: "non-zero exit", edit: func(b *blueprint) { b.addInner("check", "Exec", "/bin/false") }},
		{name: "cancel", point: testenv.Cut, mode: testenv.Before, act: (*trial).cancel},
		{name: "terminate", point: testenv.Cut, mode: testenv.Before, act: (*trial).terminate},
		{name: "workflow timeout", point: testenv.Cut, mode: testenv.Before, timeout: true},
	}
	points := []struct {
		name  string
		point testenv.Point
		mode  testenv.Mode
	}{
		{"before do", testenv.Do, testenv.Before}, {"in do", testenv.Do, testenv.During}, {"after do", testenv.Do, testenv.After},
		{"in the cut", testenv.Cut, testenv.Before}, {"before undo", testenv.Undo, testenv.Before}, {"in undo", testenv.Undo, testenv.During},
	}
	for _, p := range points {
		list = append(list, cell{name: "worker kill -9 " + p.name, point: p.point, mode: p.mode, act: (*trial).killWorker})
	}
	for _, p := range points {
		list = append(list, cell{name: "server kill -9 and restart " + p.name, point: p.point, mode: p.mode, act: (*trial).killServer})
	}
	if os.Getenv("THAW_MATRIX") == "cluster" {
		list = append(list, clusterCells()...)
	}
	return append(list, []cell{
		{name: "freeze session terminated", point: testenv.Cut, mode: testenv.Before, act: (*trial).terminateSession},
		{name: "parent and session both terminated", point: testenv.Cut, mode: testenv.Before, act: func(x *trial) { x.terminate(); x.terminateSession() }},
		{name: "do still in flight when its parent is terminated", point: testenv.Do, mode: testenv.Deaf, act: func(x *trial) {
			x.terminate()
			// Long enough for the session's first thaw: do takes effect after it.
			time.Sleep(1500 * time.Millisecond)
			x.fault.Go()
		}},
		{name: "do hanging past its timeout", point: testenv.Do, mode: testenv.HangsAfter, edit: func(b *blueprint) { b.setDo("timeout", "3s") }, act: func(x *trial) {
			x.later(x.lane.maxFreeze+slack, x.fault.Go)
		}},
		{name: "do that takes effect and then reports an error", point: testenv.Do, mode: testenv.FailsAfter},
		{name: "parent reset in the freeze", point: testenv.Cut, mode: testenv.Before, act: (*trial).reset},
		{name: "parent reset in the freeze, then terminated", point: testenv.Cut, mode: testenv.Before, act: func(x *trial) { x.reset(); x.terminate() }},
		{name: "batch terminate by query", point: testenv.Cut, mode: testenv.Before, act: (*trial).batchTerminate},
		{name: "maxFreeze reached in the cut", point: testenv.Cut, mode: testenv.Before},
	}...)
}

func (x *trial) cancel() { x.must(x.lane.client.CancelWorkflow(x.ctx, x.id, "")) }

func (x *trial) terminate() { x.must(x.lane.client.TerminateWorkflow(x.ctx, x.id, "", "matrix")) }

func (x *trial) terminateSession() {
	x.must(x.lane.client.TerminateWorkflow(x.ctx, x.session, "", "matrix"))
}

func (x *trial) killWorker() {
	x.lane.worker.Kill()
	x.fault.Go()
	x.lane.startWorker(nil)
}

func (x *trial) killServer() {
	x.lane.server.Kill()
	x.fault.Go()
	// Long enough for the worker to go through the rest of the window alone.
	time.Sleep(500 * time.Millisecond)
	x.lane.server.Restart()
}

func (x *trial) reset() {
	var last int64
	events := x.lane.client.GetWorkflowHistory(x.ctx, x.id, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		ev, err := events.Next()
		x.must(err)
		if ev.GetEventType() == enums.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			last = ev.GetEventId()
		}
	}
	_, err := x.lane.client.ResetWorkflowExecution(x.ctx, &workflowservice.ResetWorkflowExecutionRequest{
		Namespace: "default", WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: x.id}, Reason: "matrix", RequestId: x.id, WorkflowTaskFinishEventId: last,
	})
	x.must(err)
}

func (x *trial) batchTerminate() {
	// Visibility lags behind: the query must find both, or it ends neither.
	query := "ThawTarget = '" + x.target.Key() + "' AND ExecutionStatus = 'Running'"
	x.await("both runs are visible", func() bool {
		r, err := x.lane.client.CountWorkflow(x.ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: "default", Query: query})
		return err == nil && r.GetCount() >= 2
	})
	_, err := x.lane.client.WorkflowService().StartBatchOperation(x.ctx, &workflowservice.StartBatchOperationRequest{
		Namespace: "default", JobId: x.id + "-batch", Reason: "matrix", VisibilityQuery: query,
		Operation: &workflowservice.StartBatchOperationRequest_TerminationOperation{TerminationOperation: &batchpb.BatchOperationTermination{Identity: "matrix"}},
	})
	x.must(err)
	x.await("the batch has terminated both", func() bool { return !x.running(x.id) && !x.running(x.session) })
}
