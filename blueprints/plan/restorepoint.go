package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"time"
)

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
	// Profile is the location profile that the run had, by reference.
	Profile   *Reference          `json:"profile,omitempty"`
	Artifacts map[string]Artifact `json:"artifacts,omitempty"`
	// Application, where the restore point is that of one.
	Application *Application `json:"application,omitempty"`
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
	// Files are those beside the record in a location. In a directory: those
	// that were not fetched with the record.
	Files []File `json:"files,omitempty"`
}

// File of a restore point.
type File struct {
	Name   string `json:"name"`   // path from the record's directory, with slashes
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // in hexadecimal digits
}

var validRestorePointID = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`)

// ValidRestorePointID reports whether a text can be the id of one.
func ValidRestorePointID(id string) bool { return validRestorePointID.MatchString(id) }

// RestorePointFile is the record's name in its directory.
const RestorePointFile = "restorepoint.json"

// ParseRestorePoint reads a record. It refuses one of another version.
func ParseRestorePoint(b []byte) (*RestorePoint, error) {
	var rp RestorePoint
	if err := json.Unmarshal(b, &rp); err != nil {
		return nil, err
	}
	if rp.APIVersion != RestorePointVersion {
		return nil, fmt.Errorf("its version is %q; this release reads %s", rp.APIVersion, RestorePointVersion)
	}
	return &rp, nil
}

// Relocate takes in that the restore point's files are in another directory
// than where it was made: artifacts that name them there name them here, and
// so do the parts of an application.
func (rp *RestorePoint) Relocate(dir string) {
	old := rp.Directory
	rp.Directory = dir
	if old == "" || old == dir {
		return
	}
	move := func(path string) string {
		if path == old || strings.HasPrefix(path, old+"/") {
			return dir + strings.TrimPrefix(path, old)
		}
		return path
	}
	for name, a := range rp.Artifacts {
		moved := maps.Clone(a.KeyValue)
		for k, v := range moved {
			moved[k] = move(v)
		}
		a.KeyValue = moved
		rp.Artifacts[name] = a
	}
	if app := rp.Application; app != nil {
		for k, v := range app.Manifests {
			if path, ok := v.(string); ok {
				app.Manifests[k] = move(path)
			}
		}
		for i := range app.Members {
			m := &app.Members[i]
			m.RestorePoint.Directory = move(m.RestorePoint.Directory)
		}
	}
}

// RestorePointVersion is the version of the document's schema.
const RestorePointVersion = "thaw.dev/restorepoint/v1alpha1"
