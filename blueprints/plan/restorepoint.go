package plan

import "time"

// RestorePoint is the durable record of one backup, written beside its data
// as restorepoint.json, so that it can be found with everything else lost.
type RestorePoint struct {
	APIVersion string `json:"apiVersion"` // RestorePointVersion
	ID         string `json:"id"`
	Directory  string `json:"directory,omitempty"`
	Blueprint  string `json:"blueprint"`
	// BlueprintDigest and BlueprintText say what made it, and can restore it.
	BlueprintDigest string               `json:"blueprintDigest"`
	BlueprintText   string               `json:"blueprintText"`
	Action          string               `json:"action"`
	Target          Target               `json:"target"`
	Options         Values               `json:"options,omitempty"`
	Secrets         map[string]Reference `json:"secrets,omitempty"`
	Artifacts       map[string]Artifact  `json:"artifacts,omitempty"`
	// Consistent only with proof: every freeze proven, at least one cut in it,
	// no cut outside.
	Consistent  bool           `json:"consistent"`
	Consistency string         `json:"consistency"` // why, or why not
	Freezes     []FreezeReport `json:"freezes,omitempty"`
	Run         Run            `json:"run"`
	RequestedBy string         `json:"requestedBy,omitempty"`
	StartedAt   time.Time      `json:"startedAt"`
	CompletedAt time.Time      `json:"completedAt"`
	// Skipped phases with who and why: a restore point made around a fault
	// says so.
	Skipped []PhaseRecord `json:"skipped,omitempty"`
}

// RestorePointVersion is the version of the document's schema.
const RestorePointVersion = "thaw.dev/restorepoint/v1alpha1"
