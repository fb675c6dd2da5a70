package planner

import (
	"time"

	"thaw/blueprints"
	"thaw/blueprints/plan"
)

// hookLimit is K10's default limit of a blueprint hook, and so how long what
// a prehook froze stays frozen at most.
const hookLimit = 20 * time.Minute

// hooks are K10's pair: what freezes before K10's snapshots, and what thaws
// after them.
type hooks struct{ pre, post *blueprints.Action }

func (b *builder) hooks() *hooks {
	pre, ok1 := b.bp.Action("backupPrehook")
	post, ok2 := b.bp.Action("backupPosthook")
	if !ok1 || !ok2 {
		return nil
	}
	return &hooks{pre, post}
}

// pair makes a freeze of the hooks, around the phases of `backup`. A freeze
// has one do and one undo, so longer hooks cannot be one: which of their
// phases lock, and what is to be undone after half of them, only their author
// knows.
func (b *builder) pair(h *hooks) []plan.Phase {
	for _, a := range []*blueprints.Action{h.pre, h.post} {
		if len(a.Phases) != 1 || a.DeferPhase != nil {
			b.fail("action %s has %d phases%s: as one side of a freeze it must be a single call; write the pair as a freeze of a %s blueprint ({freeze: {do, undo, maxFreeze}, phases: […]}), with the other phases before or after it",
				a.Name, len(a.Phases), deferred(a), blueprints.ThawVersion)
		}
	}
	if len(b.errs) > 0 {
		return nil
	}
	var inner []plan.Phase
	if a, ok := b.bp.Action("backup"); ok {
		inner = b.chain(a.Phases)
	} else {
		b.warns = append(b.warns, "blueprint has hooks and no action backup: nothing is captured between them")
	}
	do, undo := h.pre.Phases[0], h.post.Phases[0]
	// The hooks keep their own phases' names, by which they find their secrets.
	ph := b.freeze("backupHooks", "", do, undo, do.Name, undo.Name, hookLimit, nil, inner)
	return []plan.Phase{ph}
}

func deferred(a *blueprints.Action) string {
	if a.DeferPhase != nil {
		return " and a deferPhase"
	}
	return ""
}
