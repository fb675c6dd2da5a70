// Package person has the functions that wait for people. They only render the
// question: the engine asks it, and waits durably.
package person

import (
	"context"
	"time"

	"thaw/activities/function"
	"thaw/blueprints/catalogue"
)

// Functions of this family.
func Functions() []function.Function { return []function.Function{approval()} }

type approvalArgs struct {
	Message   string   `arg:"message,required" doc:"what is to be approved, for the person who reads it"`
	Approvers []string `arg:"approvers" doc:"who may approve; anybody where left out"`
	FourEyes  bool     `arg:"fourEyes" doc:"the person who asked for the run may not approve"`
	Count     int      `arg:"count" default:"1" doc:"how many different people must approve"`
	Timeout   string   `arg:"timeout" default:"72h" doc:"how long the approval can be given; then the run fails"`
}

func approval() function.Function {
	return function.New(catalogue.Function{
		Name: "Approval", Family: "person",
		Summary:    "Wait for a person's yes: the Temporal Update (or signal) `approve`, with the digest of the run's plan.",
		Outputs:    []catalogue.Output{{Name: "message", Description: "the message, rendered"}},
		Idempotent: true, ReadOnly: true, Person: true, Timeout: time.Minute,
	}, func(_ context.Context, _ *function.Env, a approvalArgs) (function.Outputs, error) {
		who := make([]any, len(a.Approvers))
		for i, w := range a.Approvers {
			who[i] = w
		}
		return function.Outputs{"message": a.Message, "approvers": who, "fourEyes": a.FourEyes, "count": int64(a.Count), "timeout": a.Timeout}, nil
	})
}
