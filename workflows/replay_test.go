package workflows

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
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
			text, err := os.Open(f)
			require.NoError(t, err)
			defer text.Close()
			h, err := client.HistoryFromJSON(text, client.HistoryJSONOptions{})
			require.NoError(t, err)
			// Children are named after their parent.
			started := h.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes()
			require.NoError(t, r.ReplayWorkflowHistoryWithOptions(nil, h, worker.ReplayWorkflowHistoryOptions{
				OriginalExecution: workflow.Execution{ID: started.GetWorkflowId(), RunID: started.GetOriginalExecutionRunId()},
			}))
		})
	}
}
