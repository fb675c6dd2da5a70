package workflows

import (
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/plan"
)

// The search attributes of Thaw's runs. The embedded server creates them;
// elsewhere `thaw setup` does.
var (
	attrBlueprint   = temporal.NewSearchAttributeKeyKeyword("ThawBlueprint")
	attrAction      = temporal.NewSearchAttributeKeyKeyword("ThawAction")
	attrTarget      = temporal.NewSearchAttributeKeyKeyword("ThawTarget")
	attrState       = temporal.NewSearchAttributeKeyKeyword("ThawState")
	attrRequestedBy = temporal.NewSearchAttributeKeyKeyword("ThawRequestedBy")
	attrWaitingFor  = temporal.NewSearchAttributeKeyKeyword("ThawWaitingFor")
	attrRestore     = temporal.NewSearchAttributeKeyKeyword("ThawRestorePoint")
	attrFrozenSince = temporal.NewSearchAttributeKeyTime("ThawFrozenSince")
	attrConsistent  = temporal.NewSearchAttributeKeyBool("ThawConsistent")
)

// A state of a run, as ThawState and the progress query show it.
const (
	statePlanning     = "planning"
	stateWaiting      = "waiting-for-approval"
	stateRunning      = "running"
	stateFrozen       = "frozen"
	stateThawing      = "thawing"
	statePaused       = "paused"
	stateParked       = "failed-waiting-for-operator"
	stateCompensating = "compensating"
	stateCompleted    = "completed"
	stateFailed       = "failed"
	stateCancelled    = "cancelled"
)

// attributes upserts what is in it, once a state change, and only what
// changed: each upsert is a Temporal action that somebody pays for.
type attributes struct {
	enabled bool
	state   string
	waiting string
	frozen  string
}

func (a *attributes) identify(ctx workflow.Context, p *plan.Plan, requestedBy, state string) {
	a.state = state
	updates := []temporal.SearchAttributeUpdate{
		attrBlueprint.ValueSet(keyword(p.Blueprint)), attrAction.ValueSet(keyword(p.Action)),
		attrTarget.ValueSet(keyword(p.Target.Key())), attrState.ValueSet(state),
	}
	if requestedBy != "" {
		updates = append(updates, attrRequestedBy.ValueSet(keyword(requestedBy)))
	}
	if p.Scope.RestorePoint.ID != "" {
		updates = append(updates, attrRestore.ValueSet(keyword(p.Scope.RestorePoint.ID)))
	}
	a.upsert(ctx, updates)
}

// keyword cuts a text to what every store of search attributes takes: 255
// bytes in SQL. Temporal refuses a workflow task that sets more than 2 KiB,
// again and again: the run would hang for ever.
func keyword(s string) string {
	const most = 255
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len("…")], "") + "…"
}

func (a *attributes) set(ctx workflow.Context, state, waiting, frozenSince string, more ...temporal.SearchAttributeUpdate) {
	if state != a.state {
		more = append(more, attrState.ValueSet(state))
	}
	if waiting != a.waiting {
		if waiting == "" {
			more = append(more, attrWaitingFor.ValueUnset())
		} else {
			more = append(more, attrWaitingFor.ValueSet(keyword(waiting)))
		}
	}
	if frozenSince != a.frozen {
		if t, err := time.Parse(time.RFC3339Nano, frozenSince); err == nil {
			more = append(more, attrFrozenSince.ValueSet(t))
		} else {
			more = append(more, attrFrozenSince.ValueUnset())
		}
	}
	a.state, a.waiting, a.frozen = state, waiting, frozenSince
	a.upsert(ctx, more)
}

func (a *attributes) upsert(ctx workflow.Context, updates []temporal.SearchAttributeUpdate) {
	if !a.enabled || len(updates) == 0 {
		return
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, updates...); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes not set", "error", err)
	}
}
