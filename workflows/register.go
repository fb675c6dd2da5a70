// Package workflows is the durable part of Thaw: deterministic code that walks
// plans and owns freezes. It knows plans, not functions; it imports the
// workflow SDK and blueprints/**, never a client, a clock or a file. Start with
// runaction.go, then freezesession.go.
package workflows

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/plan"
)

// The workflow types, as the Temporal UI shows them.
const (
	TypeRunAction     = "RunAction"
	TypeFreezeSession = "FreezeSession"

	TypeBackupApplication  = "BackupApplication"
	TypeRestoreApplication = "RestoreApplication"
)

// Registry is what a worker registers workflows with.
type Registry interface {
	RegisterWorkflowWithOptions(w any, options workflow.RegisterOptions)
	RegisterDynamicWorkflow(w any, options workflow.DynamicRegisterOptions)
}

// Register registers every workflow type of Thaw.
func Register(r Registry) {
	r.RegisterWorkflowWithOptions(RunAction, workflow.RegisterOptions{Name: TypeRunAction})
	r.RegisterWorkflowWithOptions(FreezeSession, workflow.RegisterOptions{Name: TypeFreezeSession})
	r.RegisterWorkflowWithOptions(BackupApplication, workflow.RegisterOptions{Name: TypeBackupApplication})
	r.RegisterWorkflowWithOptions(RestoreApplication, workflow.RegisterOptions{Name: TypeRestoreApplication})
	r.RegisterWorkflowWithOptions(RetireRestorePoints, workflow.RegisterOptions{Name: TypeRetireRestorePoints})
	r.RegisterWorkflowWithOptions(VerifyRestorePoints, workflow.RegisterOptions{Name: TypeVerifyRestorePoints})
	r.RegisterDynamicWorkflow(dynamic, workflow.DynamicRegisterOptions{})
}

// dynamic is any other workflow type: "<blueprint>.<action>" is that action,
// so that each blueprint is a workflow type in the Temporal UI and CLI.
func dynamic(ctx workflow.Context, args converter.EncodedValues) (*plan.Outcome, error) {
	name := workflow.GetInfo(ctx).WorkflowType.Name
	var req plan.Request
	if args.HasValues() {
		if err := args.Get(&req); err != nil {
			return nil, userError("input of %s: %v; want one JSON object such as {\"target\":{\"kind\":\"sqlite\",\"name\":\"/data/shop.db\"}}", name, err)
		}
	}
	i := strings.LastIndex(name, ".")
	if i <= 0 || i == len(name)-1 {
		return nil, userError("workflow type %q: want RunAction, or <blueprint>.<action> such as sqlite.backup", name)
	}
	blueprint, action := name[:i], name[i+1:]
	for _, both := range [][2]*string{{&req.Blueprint, &blueprint}, {&req.Action, &action}} {
		if *both[0] != "" && *both[0] != *both[1] {
			return nil, userError("input says %q, workflow type %q says %q; leave it out of the input", *both[0], name, *both[1])
		}
		*both[0] = *both[1]
	}
	return RunAction(ctx, req)
}

func describe(p *plan.Plan) string {
	return fmt.Sprintf("%s.%s of %s", p.Blueprint, p.Action, p.Target.Key())
}
