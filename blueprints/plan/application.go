package plan

import (
	"fmt"
	"time"
)

// ApplicationRequest is the input of BackupApplication: a namespace, or a part
// of it.
type ApplicationRequest struct {
	Namespace string `json:"namespace"`
	// Selector of labels: only the objects that it selects. Default: all.
	Selector string `json:"selector,omitempty"`
	// TaskQueue of the workers of the cluster. Default: the run's own.
	TaskQueue string `json:"taskQueue,omitempty"`
	// SnapshotClass of the volumes. Default: each driver's default class.
	SnapshotClass string `json:"snapshotClass,omitempty"`
	// With are actions that belong to the application and whose targets are
	// elsewhere, such as a database on a host or in a cloud: their freezes are
	// held together with those of the namespace.
	With []Request `json:"with,omitempty"`
	// Options of each blueprint, by the blueprint's name.
	Options map[string]Values `json:"options,omitempty"`
	// Profile of the location that the restore point goes to, with the data of
	// its volumes, after the thaw. Without one it is in the cluster's snapshots
	// and on the worker only.
	Profile *Reference `json:"profile,omitempty"`
	// Parallel is how many volumes are copied to the location at once.
	// Default: 2.
	Parallel int `json:"parallel,omitempty"`
	// DropSnapshots deletes the snapshots once the location has their data.
	// Default: they stay, for quick restores in the same cluster.
	DropSnapshots bool `json:"dropSnapshots,omitempty"`

	Location    string    `json:"location,omitempty"`
	RequestedBy string    `json:"requestedBy,omitempty"`
	Approval    *Approval `json:"approval,omitempty"`
	OnFailure   string    `json:"onFailure,omitempty"` // as Request's
	Plan        bool      `json:"plan,omitempty"`
}

// RestoreRequest is the input of RestoreApplication.
type RestoreRequest struct {
	// From is the restore point: its id, or the path of its directory.
	From string `json:"from"`
	// Profile of the location that has it, where the worker does not.
	Profile *Reference `json:"profile,omitempty"`
	// FromLocation restores the volumes from the location even where their
	// snapshots are still in the cluster.
	FromLocation bool `json:"fromLocation,omitempty"`
	// Parallel is how many volumes are filled from the location at once.
	// Default: 2.
	Parallel int `json:"parallel,omitempty"`
	// Namespace to restore into; it is made where it is missing. Default: the
	// one that was backed up.
	Namespace string `json:"namespace,omitempty"`
	TaskQueue string `json:"taskQueue,omitempty"`
	// StorageClasses and Images replace one name by another: old to new. An
	// image may end in * on both sides.
	StorageClasses map[string]string `json:"storageClasses,omitempty"`
	Images         map[string]string `json:"images,omitempty"`
	// Transforms change manifests before they are applied.
	Transforms []Transform `json:"transforms,omitempty"`
	// ReadyTimeout is how long the workloads may take until they are ready;
	// then the restore fails, and is put back. Default: 30m.
	ReadyTimeout Duration `json:"readyTimeout,omitempty"`
	// Options of each blueprint's restore action, by the blueprint's name.
	Options map[string]Values `json:"options,omitempty"`

	Location    string    `json:"location,omitempty"`
	RequestedBy string    `json:"requestedBy,omitempty"`
	Approval    *Approval `json:"approval,omitempty"`
	// NoApproval restores without asking. Without it somebody has to approve
	// the plan: a restore replaces data.
	NoApproval bool   `json:"noApproval,omitempty"`
	OnFailure  string `json:"onFailure,omitempty"`
	Plan       bool   `json:"plan,omitempty"`
}

// Transform changes the manifests that it selects, by a JSON patch (RFC 6902).
// A "test" operation that fails leaves the object as it is.
type Transform struct {
	Kind  string           `json:"kind,omitempty"` // "" is any
	Name  string           `json:"name,omitempty"` // a pattern (path.Match); "" is any
	Patch []map[string]any `json:"patch"`
}

// ApplicationInput asks a worker for the plan of a backup of an application.
type ApplicationInput struct {
	Request ApplicationRequest `json:"request"`
	Run     Run                `json:"run"`
	Time    time.Time          `json:"time"`
}

// RestoreInput asks a worker for the plan of a restore of an application.
type RestoreInput struct {
	Request RestoreRequest `json:"request"`
	Run     Run            `json:"run"`
	Time    time.Time      `json:"time"`
}

// Application is what a backup of an application works on, and what its
// restore point holds of it.
type Application struct {
	Namespace string `json:"namespace"`
	Selector  string `json:"selector,omitempty"`
	// Manifests as they were captured: a file in the restore point's directory.
	Manifests Values `json:"manifests,omitempty"`
	// Volumes that were cut, each as the function CutVolumes describes it.
	Volumes []any `json:"volumes,omitempty"`
	// CutFrom and CutTo are the first and the last cut of all; Spread is how
	// far apart they are.
	CutFrom string `json:"cutFrom,omitempty"`
	CutTo   string `json:"cutTo,omitempty"`
	Spread  string `json:"spread,omitempty"`
	// Members are the actions that were run for the application.
	Members []MemberPoint `json:"members,omitempty"`
}

// MemberPoint is what a member's action left.
type MemberPoint struct {
	Name      string `json:"name"`
	Blueprint string `json:"blueprint"`
	Target    Target `json:"target"`
	// RestorePoint that its action wrote, in a directory below that of the
	// application's. Empty where it has no artifacts.
	RestorePoint RestorePointRef `json:"restorePoint,omitzero"`
	// BlueprintText of a member without a restore point of its own.
	BlueprintText string `json:"blueprintText,omitempty"`
	// Volumes: its action cut volumes, which are restored with the others.
	Volumes     bool   `json:"volumes,omitempty"`
	Consistent  bool   `json:"consistent,omitempty"`
	Consistency string `json:"consistency,omitempty"`
}

// Together are actions whose freezes are in effect at the same time: every one
// of them before the first cut, and none is thawed before the last cut is made.
type Together struct {
	Members []Member `json:"members,omitempty"`
	// Phases run once every freeze is in effect, before any is thawed.
	Phases []Phase `json:"phases,omitempty"`
}

// Member is one action of several, run as a workflow of its own.
type Member struct {
	Name    string  `json:"name"`
	Request Request `json:"request"`
	// Freezes: the action has a freeze, which meets those of the others.
	Freezes bool `json:"freezes,omitempty"`
}

// Join says whose freezes a freeze meets.
type Join struct {
	Run    Run    `json:"run"` // the run that holds them together
	Member string `json:"member"`
}

// UpdateMeet is sent by a worker whose freeze reached a stage; the answer comes
// when all have reached it. Its argument is a Meet.
const UpdateMeet = "meet"

// The stages at which freezes meet.
const (
	MeetFrozen = "frozen" // in effect: cuts may be made when all are
	MeetCut    = "cut"    // its own cuts are made: it may thaw when all are
)

// Meet is a freeze's word that it has reached a stage.
type Meet struct {
	Member string `json:"member"`
	Stage  string `json:"stage"`
}

// Validate refuses what no worker sends.
func (m Meet) Validate() error {
	if m.Member == "" || m.Stage != MeetFrozen && m.Stage != MeetCut {
		return fmt.Errorf("meet: want {member, stage: %s or %s}", MeetFrozen, MeetCut)
	}
	return nil
}
