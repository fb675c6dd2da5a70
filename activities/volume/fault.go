package volume

import (
	"regexp"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
)

// passing matches what the snapshot controllers put into a status, and get
// over by themselves: they lost a race for an object, their cache lags behind,
// or the driver has not answered yet (by CSI these codes say nothing of the
// snapshot: the controllers ask again, and the deadline of the call decides).
var passing = regexp.MustCompile(`the object has been modified|snapshot controller failed to update|SnapshotContent is missing|code = (DeadlineExceeded|Unavailable|Aborted|Canceled)\b`)

// said returns what a status says went wrong, and whether that is the end of it.
func said(e *snapshotv1.VolumeSnapshotError) (message string, final bool) {
	if e == nil || deref(e.Message) == "" {
		return "", false
	}
	return *e.Message, !passing.MatchString(*e.Message)
}
