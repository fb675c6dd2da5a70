package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
)

// row is a run as `thaw status` lists it.
type row struct {
	ID          string    `json:"id"`
	Status      string    `json:"status"`
	State       string    `json:"state,omitempty"`
	Target      string    `json:"target,omitempty"`
	FrozenSince string    `json:"frozenSince,omitempty"`
	WaitingFor  string    `json:"waitingFor,omitempty"`
	Restore     string    `json:"restorePoint,omitempty"`
	Consistent  *bool     `json:"consistent,omitempty"`
	Started     time.Time `json:"started"`
}

func statusCommand() *cobra.Command {
	var o output
	var all bool
	var limit int
	cmd := &cobra.Command{
		Use:   "status",
		Short: "List runs: what is frozen, what waits for a person, how it ended",
		Args:  cobra.NoArgs,
		RunE: withTemporal(func(cmd *cobra.Command, c client.Client, _ []string) error {
			query := "ThawTarget IS NOT NULL"
			if !all {
				query += " AND ThawBlueprint IS NOT NULL"
			}
			rows := []row{}
			var page []byte
			for len(rows) < limit {
				r, err := c.ListWorkflow(cmd.Context(), &workflowservice.ListWorkflowExecutionsRequest{Query: query, NextPageToken: page})
				if err != nil {
					return fmt.Errorf("list runs (if search attributes are missing: thaw setup): %w", err)
				}
				for _, e := range r.GetExecutions() {
					at := e.GetSearchAttributes().GetIndexedFields()
					started := e.GetStartTime().AsTime()
					w := row{
						ID: e.GetExecution().GetWorkflowId(), Status: statusWord(e.GetStatus()), Started: started,
						State: text(at["ThawState"]), Target: text(at["ThawTarget"]), FrozenSince: text(at["ThawFrozenSince"]),
						WaitingFor: text(at["ThawWaitingFor"]), Restore: text(at["ThawRestorePoint"]),
					}
					if p := at["ThawConsistent"]; p != nil {
						yes := text(p) == "true"
						w.Consistent = &yes
					}
					rows = append(rows, w)
				}
				if page = r.GetNextPageToken(); len(page) == 0 {
					break
				}
			}
			rows = rows[:min(len(rows), limit)]
			return o.print(cmd.OutOrStdout(), rows, func(w io.Writer) { statusTable(w, rows) })
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "freeze sessions too")
	cmd.Flags().IntVarP(&limit, "limit", "n", 20, "how many runs at most, newest first")
	o.flag(cmd)
	return cmd
}

func statusTable(w io.Writer, rows []row) {
	if len(rows) == 0 {
		_, _ = fmt.Fprintln(w, "No runs yet. Start one: thaw run sqlite.backup --target sqlite:/data/shop.db")
		return
	}
	lines := make([][]string, len(rows))
	for i, r := range rows {
		state := r.Status
		if r.Status == "running" {
			state = r.State
		}
		consistent := "-"
		if r.Consistent != nil && r.Restore != "" {
			consistent = fmt.Sprint(*r.Consistent)
		}
		lines[i] = []string{r.ID, state, dash(r.FrozenSince), dash(r.WaitingFor), dash(r.Restore), consistent, time.Since(r.Started).Round(time.Second).String()}
	}
	table(w, []string{"RUN", "STATE", "FROZEN SINCE", "WAITS FOR", "RESTORE POINT", "CONSISTENT", "AGE"}, lines)
}

func text(p *commonpb.Payload) string {
	if p == nil {
		return ""
	}
	var v any
	if err := converter.GetDefaultDataConverter().FromPayload(p, &v); err != nil {
		return ""
	}
	if list, ok := v.([]any); ok && len(list) == 1 {
		v = list[0]
	}
	return fmt.Sprint(v)
}
