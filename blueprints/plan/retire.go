package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"thaw/blueprints/retention"
)

// RetireRequest is the input of RetireRestorePoints: a location profile, or a
// directory on the worker's host, and what is kept there.
type RetireRequest struct {
	Profile *Reference `json:"profile,omitempty"`
	// Location is the worker's directory of restore points. With a profile the
	// restore points are those of the profile; without, those that are in the
	// directory alone. Default: the worker's.
	Location string `json:"location,omitempty"`
	// Target (its key, as lists show it) and Blueprint: only the restore points
	// of these. Default: all.
	Target    string `json:"target,omitempty"`
	Blueprint string `json:"blueprint,omitempty"`
	// Keep holds of each target and blueprint by itself.
	Keep retention.Keep `json:"keep"`
	// UndoWindow is how long a restore point that is not kept is only marked.
	// Default: 72h.
	UndoWindow *Duration `json:"undoWindow,omitempty"`
	// DryRun changes nothing, and reports what would be done.
	DryRun bool `json:"dryRun,omitempty"`
	// TaskQueue of a worker that reaches the location. Default: the run's own.
	// What is deleted, is by the workers of its own target.
	TaskQueue   string `json:"taskQueue,omitempty"`
	RequestedBy string `json:"requestedBy,omitempty"`
}

// UnmarshalJSON implements json.Unmarshaler. It refuses fields that it does not
// know: a misspelt filter would retire what it was to leave alone.
func (r *RetireRequest) UnmarshalJSON(b []byte) error {
	type plain RetireRequest
	return strictly(b, (*plain)(r), "RetireRestorePoints")
}

// strictly decodes the input of a workflow, and refuses unknown fields.
func strictly(b []byte, into any, workflow string) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("input of %s: %w", workflow, err)
	}
	return nil
}

// RetireInput asks a worker what a request retires now.
type RetireInput struct {
	Request RetireRequest `json:"request"`
	Run     Run           `json:"run"`
	Time    time.Time     `json:"time"`
}

// RetirePlan is what is to be done.
type RetirePlan struct {
	// Report so far: what is kept, marked, waits; and is undone.
	Report RetireReport `json:"report"`
	// Mark these; Due are to be deleted now. Where there is no window to undo
	// it, one is both.
	Mark       []Retired `json:"mark,omitempty"`
	Due        []Retired `json:"due,omitempty"`
	Attributes bool      `json:"attributes,omitempty"` // as PlanOutput's
}

// RetireReport is the result of RetireRestorePoints.
type RetireReport struct {
	Location string `json:"location"`
	DryRun   bool   `json:"dryRun,omitempty"` // nothing of it was done
	// Kept, with the reasons; MoreKept are kept besides, and not listed.
	Kept     []Retired `json:"kept,omitempty"`
	MoreKept int       `json:"moreKept,omitempty"`
	Marked   []Retired `json:"marked,omitempty"`  // by this run, to be deleted after Until
	Waiting  []Retired `json:"waiting,omitempty"` // marked before, until then
	Undone   []Retired `json:"undone,omitempty"`  // marked before, and kept again
	Deleted  []Retired `json:"deleted,omitempty"`
	Locked   []Retired `json:"locked,omitempty"` // held by their store: tried again by the next run
	Failed   []Retired `json:"failed,omitempty"` // not deleted, and why
	// Postponed are left for the next run: one does not do all at once.
	Postponed    int          `json:"postponed,omitempty"`
	Repositories []Maintained `json:"repositories,omitempty"`
}

// Retired is a restore point in a report.
type Retired struct {
	ID          string    `json:"id"`
	Target      string    `json:"target"`
	Blueprint   string    `json:"blueprint"`
	CompletedAt time.Time `json:"completedAt"`
	// Until is the end of its undo window, or of its lock.
	Until time.Time `json:"until,omitzero"`
	Why   []string  `json:"why,omitempty"`
}

// Maintained is a repository in the location.
type Maintained struct {
	Path  string `json:"path"`
	Freed int64  `json:"freed"` // bytes
	// Locked are bytes that nothing needs, and that an object lock holds; the
	// last of them until LockedUntil.
	Locked      int64      `json:"locked,omitempty"`
	LockedUntil *time.Time `json:"lockedUntil,omitempty"`
	Skipped     string     `json:"skipped,omitempty"` // why it was not maintained
	Failed      string     `json:"failed,omitempty"`
}

// RetireMarks asks a worker to mark restore points, and to take marks away.
type RetireMarks struct {
	RetireInput
	Mark []Retired `json:"mark,omitempty"`
	Undo []Retired `json:"undo,omitempty"`
}

// DeletionInput asks how a restore point that is due is deleted.
type DeletionInput struct {
	RetireInput
	Point Retired `json:"point"`
}

// Deletion is how a restore point is deleted: one of its fields is set.
type Deletion struct {
	Request *Request         `json:"request,omitempty"` // RunAction does it
	Record  *RestorePointRef `json:"record,omitempty"`  // it is nothing but its record
	Locked  time.Time        `json:"locked,omitzero"`   // until then
	Kept    string           `json:"kept,omitempty"`    // not at all: somebody decided so meanwhile
	Problem string           `json:"problem,omitempty"` // not by this run: a person has to see to it
}

// Locked are the words by which every error says that a store holds an object
// against deletion: they cross from a worker into a workflow.
const Locked = "the object is locked"
