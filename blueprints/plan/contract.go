package plan

import "time"

// The activities that the engine calls, by name, on the queue of the target.
const (
	ActivityPlan      = "Plan"      // PlanInput -> Plan
	ActivityCall      = "Call"      // Call -> CallResult
	ActivityFreeze    = "Freeze"    // FreezeInput -> FreezeReport; do, the phases inside, undo
	ActivityThaw      = "Thaw"      // FreezeInput -> FreezeReport; undo alone, by token
	ActivityWatch     = "Watch"     // WatchInput -> WatchResult; returns when that run has closed
	ActivityArtifacts = "Artifacts" // ArtifactsInput -> map[string]Artifact
	ActivityRecord    = "Record"    // RestorePoint -> RestorePoint
	ActivityForget    = "Forget"    // RestorePointRef -> nothing; its data is gone already
	ActivityFetch     = "Fetch"     // FetchInput -> nothing; a restore point comes from its location
	ActivityPublish   = "Publish"   // RestorePoint -> nothing; it is in its location besides
	ActivityUnpublish = "Unpublish" // RestorePointRef -> nothing; it is there no more

	ActivityPlanApplication = "PlanApplication" // ApplicationInput -> PlanOutput
	ActivityPlanRestore     = "PlanRestore"     // RestoreInput -> PlanOutput

	ActivityPlanRetire   = "PlanRetire"   // RetireInput -> RetirePlan
	ActivityMarkRetiring = "MarkRetiring" // RetireMarks -> nothing
	ActivityPlanDeletion = "PlanDeletion" // DeletionInput -> Deletion
	ActivityMaintain     = "Maintain"     // RetireInput -> []Maintained; the repositories in a location
	ActivityVerify       = "Verify"       // VerifyInput -> VerifyReport
)

// Run names the run that a call belongs to. ID is the workflow id and
// Original the first run id, which a reset keeps.
type Run struct {
	ID       string `json:"id"`
	RunID    string `json:"runId"`
	Original string `json:"original"`
}

// PlanInput asks a worker for the plan of a request.
type PlanInput struct {
	Request Request `json:"request"`
	Run     Run     `json:"run"`
	// Time is the workflow's start: activities take the clock from history,
	// so that a second attempt plans the same.
	Time time.Time `json:"time"`
}

// Result is what a phase left behind for later templates.
type Result struct {
	Output  Values               `json:"output,omitempty"`
	Objects map[string]Reference `json:"objects,omitempty"` // its Secrets and ConfigMaps, by reference
	Skipped bool                 `json:"skipped,omitempty"`
}

// Call is one call of a function, with all that its templates may name.
type Call struct {
	Run   Run   `json:"run"`
	Phase Phase `json:"phase"`
	Scope Scope `json:"scope"`
	// Results of earlier phases by name; Defer is the deferPhase's.
	Results map[string]Result `json:"results,omitempty"`
	Defer   *Result           `json:"defer,omitempty"`
	// Lenient renders a missing output as absent: deferPhase, compensate and
	// undo must run whatever came before them.
	Lenient bool `json:"lenient,omitempty"`
	// Round counts the times that the phase was started: 1, and one more for
	// each retry that a person asked. It is part of idempotency keys.
	Round int `json:"round,omitempty"`
}

// CallResult is what a call returned.
type CallResult struct {
	Output  Values `json:"output,omitempty"`
	Skipped bool   `json:"skipped,omitempty"` // `when` was false
	// Cut is set where the function captured data.
	Cut     *Span     `json:"cut,omitempty"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
}

// CallBeat is the heartbeat of a call: what people see of it, and what the
// next attempt of it must know.
type CallBeat struct {
	Note   string `json:"note,omitempty"`
	Memory string `json:"memory,omitempty"`
}

// FailedCall is the detail of a call's error.
type FailedCall struct {
	Attempt int32 `json:"attempt"` // the one that failed, from 1
}

// Span is a span of time on the clock of the worker that measured it.
type Span struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// FreezeInput is one freeze: what the session owns.
type FreezeInput struct {
	// Token fences the freeze: undo thaws what carries it, and nothing else.
	// It is at most 40 characters of [a-z0-9-].
	Token   string            `json:"token"`
	Run     Run               `json:"run"` // the parent
	Name    string            `json:"name"`
	Freeze  Freeze            `json:"freeze"`
	When    string            `json:"when,omitempty"` // CEL; false: nothing is frozen
	Scope   Scope             `json:"scope"`
	Results map[string]Result `json:"results,omitempty"`
	// Join, where not nil: the freeze meets others, once it is in effect and
	// once its own cuts are made.
	Join *Join `json:"join,omitempty"`
	// Session is the workflow id of the session that owns the freeze.
	Session string `json:"session,omitempty"`
	// Attributes: the namespace has Thaw's search attributes.
	Attributes bool `json:"attributes,omitempty"`
}

// FreezeReport is what is known of a freeze when it is over.
type FreezeReport struct {
	Token string `json:"token"`
	// Skipped says why nothing was frozen: `when` was false.
	Skipped string `json:"skipped,omitempty"`
	// Frozen from when do returned to when undo was started; Thawed when undo
	// was confirmed. Zero where the freeze never took effect.
	FrozenAt time.Time `json:"frozenAt,omitzero"`
	ThawAt   time.Time `json:"thawAt,omitzero"`
	ThawedAt time.Time `json:"thawedAt,omitzero"`
	DoStart  time.Time `json:"doStart,omitzero"`
	// Results of do+undo (under the freeze's name) and of the phases inside.
	Results map[string]Result `json:"results,omitempty"`
	Phases  []PhaseRecord     `json:"phases,omitempty"`
	Proof   Proof             `json:"proof"`
	// Confirmed: the activity that froze ran undo to its end itself.
	Confirmed bool `json:"confirmed,omitempty"`
	// Gone: the process that froze is known to have ended, or to be through
	// with the freeze: nothing of it is in flight any more.
	Gone bool `json:"gone,omitempty"`
	// ThawedBy says what thawed it: ThawedByPhases, "failure of PHASE",
	// "thaw now", "parent closed", "maxFreeze", "swept".
	ThawedBy string `json:"thawedBy,omitempty"`
	// Failure of do or of a phase inside, in words; the freeze is thawed.
	Failure *Failure `json:"failure,omitempty"`
}

// FreezeBeat is the heartbeat of the freezing activity: what its session knows
// when the worker is lost.
type FreezeBeat struct {
	Phase string  `json:"phase,omitempty"`
	Do    *Result `json:"do,omitempty"`
}

// Failure is an error as data.
type Failure struct {
	Phase   string `json:"phase,omitempty"`
	Kind    string `json:"kind"` // see package fault
	Message string `json:"message"`
}

// Proof compares what do and undo found (design: G3).
type Proof struct {
	Consistent bool   `json:"consistent"`
	Reason     string `json:"reason,omitempty"` // why not
	Do         Values `json:"do,omitempty"`
	Undo       Values `json:"undo,omitempty"`
	Cuts       []Span `json:"cuts,omitempty"`
}

// The states of a phase that is over.
const (
	PhaseDone    = "done"
	PhaseFailed  = "failed"
	PhaseSkipped = "skipped"
)

// ActionDelete is the action that deletes a restore point, by the convention of
// Kanister and K10.
const ActionDelete = "delete"

// OutputLeft is the output of a compensation that lists what it could not undo,
// and nobody can by trying again: it is a person's, and named in the failure.
const OutputLeft = "left"

// ThawedByPhases is what thawed a freeze that went as it should.
const ThawedByPhases = "phases done"

// PhaseRecord is one line of a run's story.
type PhaseRecord struct {
	Name    string    `json:"name"`
	Func    string    `json:"func,omitempty"`
	State   string    `json:"state"` // PhaseDone, PhaseFailed or PhaseSkipped
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	Note    string    `json:"note,omitempty"`
}

// WatchInput names the run whose end is watched.
type WatchInput struct {
	Run Run `json:"run"`
	// Token of the freeze whose session is asked for its report.
	Token string `json:"token,omitempty"`
}

// WatchResult says how it ended.
type WatchResult struct {
	Status string `json:"status"`
	// Report of a freeze session that completed.
	Report *FreezeReport `json:"report,omitempty"`
}

// ArtifactsInput asks for the output artifacts of a finished action.
type ArtifactsInput struct {
	Run       Run                 `json:"run"`
	Scope     Scope               `json:"scope"`
	Results   map[string]Result   `json:"results"`
	Defer     *Result             `json:"defer,omitempty"`
	Artifacts map[string]Artifact `json:"artifacts"`
}
