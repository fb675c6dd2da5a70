package plan

// PlanOutput is what the Plan activity returns.
type PlanOutput struct {
	Plan Plan `json:"plan"`
	// Attributes: the namespace has Thaw's search attributes. Where it has
	// not (nobody created them yet) a run does without.
	Attributes bool `json:"attributes,omitempty"`
}

// Outcome is the result of RunAction.
type Outcome struct {
	Plan         *Plan               `json:"plan,omitempty"` // of a dry run only
	RestorePoint *RestorePoint       `json:"restorePoint,omitempty"`
	Artifacts    map[string]Artifact `json:"artifacts,omitempty"`
	Results      map[string]Values   `json:"results,omitempty"` // outputs of phases, by name
	Phases       []PhaseRecord       `json:"phases,omitempty"`
	Freezes      []FreezeReport      `json:"freezes,omitempty"`
}

// The updates (and signals of the same names) that a person sends to a run.
const (
	UpdateApprove = "approve"
	UpdateReject  = "reject"
	UpdateThaw    = "thaw"
	UpdatePause   = "pause"
	UpdateResume  = "resume"
	UpdateRetry   = "retry"
	UpdateSkip    = "skip"
	// SignalFrozen is sent by the worker that froze, not by a person.
	SignalFrozen = "frozen"
	// QueryProgress answers with a Progress.
	QueryProgress = "progress"
)

// Operation is the argument of each of a person's updates.
type Operation struct {
	By     string `json:"by"`               // who; required
	Reason string `json:"reason,omitempty"` // why; required for thaw, reject and skip
	// Digest of the plan that is approved or rejected.
	Digest string `json:"digest,omitempty"`
	// Phase to retry or skip.
	Phase string `json:"phase,omitempty"`
	// Args replace the phase's arguments of the same names in a retry.
	Args Values `json:"args,omitempty"`
}

// Frozen is the signal that a freeze took effect.
type Frozen struct {
	Token string `json:"token"`
	Since string `json:"since"` // RFC 3339, the worker's clock
}

// Progress is the answer to the progress query.
type Progress struct {
	Blueprint   string        `json:"blueprint"`
	Action      string        `json:"action"`
	Target      string        `json:"target"`
	State       string        `json:"state"`
	Phase       string        `json:"phase,omitempty"`
	Digest      string        `json:"digest,omitempty"`
	FrozenSince string        `json:"frozenSince,omitempty"`
	WaitingFor  string        `json:"waitingFor,omitempty"`
	Percent     int           `json:"percent"`
	Phases      []PhaseRecord `json:"phases,omitempty"`
	Notes       []string      `json:"notes,omitempty"` // what people did, what was refused
}

// FreezeID is the workflow id of the session that owns the target's freeze:
// the mutex that keeps two freezes of one target apart.
func FreezeID(t Target) string { return "freeze/" + t.Key() }

// SearchAttributes are Thaw's, by name: all Keyword, but ThawFrozenSince
// (Datetime) and ThawConsistent (Bool).
var SearchAttributes = []string{
	"ThawBlueprint", "ThawAction", "ThawTarget", "ThawState", "ThawRequestedBy", "ThawWaitingFor", "ThawRestorePoint",
	"ThawFrozenSince", "ThawConsistent",
}
