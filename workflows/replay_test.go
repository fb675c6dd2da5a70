package workflows

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"
)

// Histories of every way in which a freeze was broken, recorded from the
// matrix: `make record`. A failure here means that runs which wait right now
// (for an approval, say) would break when their worker is upgraded. Do not
// record again to make it pass: keep the old code path behind
// workflow.GetVersion.
func TestRecordedHistoriesReplay(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "history", "*", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "no recorded history")
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".json"), func(t *testing.T) {
			r := worker.NewWorkflowReplayer()
			Register(r)
			require.NoError(t, r.ReplayWorkflowHistoryFromJSONFile(nil, f))
		})
	}
}
