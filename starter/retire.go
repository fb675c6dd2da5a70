package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"thaw/blueprints/plan"
)

func retireCommand() *cobra.Command {
	var o output
	var req plan.RetireRequest
	var profile, id string
	var window time.Duration
	var detach bool
	cmd := &cobra.Command{
		Use:   "retire",
		Short: "Delete the restore points that are not to be kept, in two steps",
		Long: `Retire keeps, of each target and blueprint, the newest restore point of each of the last
so many hours, days, weeks, months and years that have one; and always the newest, the
newest consistent one and the newest proven one. It marks the others, and deletes, by
their blueprints' delete action, those that an earlier run marked and whose undo window
is over. Until then: thaw restorepoint keep RESTOREPOINT. Run it by a schedule
(docs/operators.md).`,
		Example: `  thaw retire --profile s3 --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run
  thaw retire --profile s3 --keep-daily 7 --keep-weekly 4 --keep-monthly 12
  thaw retire --location /var/lib/thaw/restorepoints --keep-last 3 --undo-window 0s`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if err := req.Keep.Validate(); err != nil {
				return usagef("%s", flagWords.Replace(err.Error()))
			}
			return nil
		},
		RunE: withTemporal(func(cmd *cobra.Command, c client.Client, _ []string) error {
			req.Profile = profileReference(profile)
			if cmd.Flags().Changed("undo-window") {
				d := plan.Duration(window)
				req.UndoWindow = &d
			}
			on := profile
			if on == "" {
				on = orDefault(req.Location, "the worker's directory")
			}
			if id == "" {
				id = runID("retire", on, time.Now())
			}
			run, err := begin(cmd.Context(), c, client.StartWorkflowOptions{ID: id, TaskQueue: req.TaskQueue, StaticSummary: "retention of " + on}, "RetireRestorePoints", req)
			if err != nil {
				return err
			}
			if detach {
				return o.started(cmd, run)
			}
			report, err := retired(cmd, run)
			if report != nil {
				if perr := o.print(cmd.OutOrStdout(), report, func(w io.Writer) { writeReport(w, report) }); err == nil {
					err = perr
				}
			}
			return err
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&profile, "profile", "", "location profile, as of thaw run")
	fl.StringVar(&req.Location, "location", "", "directory of restore points on the worker, where there is no profile (default: the worker's)")
	fl.StringVar(&req.Target, "target", "", "only the restore points of this target, as lists show it")
	fl.StringVar(&req.Blueprint, "blueprint", "", "only those of this blueprint")
	for _, k := range []struct {
		name  string
		count *int
	}{
		{"last", &req.Keep.Last}, {"hourly", &req.Keep.Hourly}, {"daily", &req.Keep.Daily},
		{"weekly", &req.Keep.Weekly}, {"monthly", &req.Keep.Monthly}, {"yearly", &req.Keep.Yearly},
	} {
		what := "the newest of each of the last N " + map[string]string{"hourly": "hours", "daily": "days", "weekly": "weeks", "monthly": "months", "yearly": "years"}[k.name] + " that have one"
		if k.name == "last" {
			what = "the last N"
		}
		fl.IntVar(k.count, "keep-"+k.name, 0, what)
	}
	fl.StringVar(&req.Keep.TimeZone, "time-zone", "", "in which days begin, such as Europe/Zurich (default: UTC)")
	fl.DurationVar(&window, "undo-window", 72*time.Hour, "how long a restore point is only marked; 0s: delete at once")
	fl.BoolVar(&req.DryRun, "dry-run", false, "report what would be done, and do nothing")
	fl.StringVar(&req.TaskQueue, "task-queue", plan.DefaultTaskQueue, "task queue of a worker that reaches the location")
	fl.StringVar(&req.RequestedBy, "by", whoami(), "who asks for it")
	fl.StringVar(&id, "id", "", "workflow id")
	fl.BoolVarP(&detach, "detach", "d", false, "start, print the run's id, and return")
	o.flag(cmd)
	return cmd
}

// flagWords names what an input has as the command line has it.
var flagWords = strings.NewReplacer("keep.timeZone", "--time-zone", "keep.", "--keep-", "keep says nothing: give at least one of last, hourly, daily, weekly, monthly, yearly",
	"say what to keep: at least one of --keep-last, --keep-hourly, --keep-daily, --keep-weekly, --keep-monthly, --keep-yearly")

// retired waits for the end of a run. Its report is there though it fails.
func retired(cmd *cobra.Command, run client.WorkflowRun) (*plan.RetireReport, error) {
	var report plan.RetireReport
	err := run.Get(cmd.Context(), &report)
	if err == nil {
		return &report, nil
	}
	if cmd.Context().Err() != nil {
		return nil, fmt.Errorf("run %s goes on without you; see: thaw describe %q", run.GetID(), run.GetID())
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) && app.HasDetails() && app.Details(&report) == nil && report.Location != "" {
		return &report, failure(run.GetID(), err)
	}
	return nil, failure(run.GetID(), err)
}

func writeReport(w io.Writer, r *plan.RetireReport) {
	const marked, waits = "marked", "waits"
	rows := [][]string{}
	add := func(what string, list []plan.Retired) {
		for _, e := range list {
			until := ""
			if !e.Until.IsZero() && (what == marked || what == waits) {
				until = ", deleted after " + e.Until.UTC().Format(time.RFC3339)
			}
			rows = append(rows, []string{e.ID, e.Target, e.CompletedAt.UTC().Format(time.RFC3339), what + until, strings.Join(e.Why, ", ")})
		}
	}
	deleted := "deleted"
	if r.DryRun {
		deleted = "due to be deleted"
		_, _ = fmt.Fprintln(w, "A dry run: nothing was done.")
	}
	add("kept", r.Kept)
	add("unmarked", r.Undone)
	add(marked, r.Marked)
	add(waits, r.Waiting)
	add(deleted, r.Deleted)
	add("locked", r.Locked)
	add("FAILED", r.Failed)
	if len(rows) == 0 {
		_, _ = fmt.Fprintf(w, "%s has no restore points of what was asked for.\n", r.Location)
	} else {
		table(w, []string{"RESTORE POINT", "TARGET", "COMPLETED", "RETENTION", "WHY"}, rows)
	}
	if r.MoreKept > 0 {
		_, _ = fmt.Fprintf(w, "%d more are kept.\n", r.MoreKept)
	}
	if r.Postponed > 0 {
		_, _ = fmt.Fprintf(w, "%d more are the next run's: one does not do all at once.\n", r.Postponed)
	}
	for _, m := range r.Repositories {
		switch {
		case m.Failed != "":
			_, _ = fmt.Fprintf(w, "repository %s: FAILED: %s\n", m.Path, m.Failed)
		case m.Skipped != "":
			_, _ = fmt.Fprintf(w, "repository %s: not maintained: %s\n", m.Path, m.Skipped)
		default:
			locked := ""
			if m.Locked > 0 && m.LockedUntil != nil {
				locked = fmt.Sprintf("; %d bytes more are locked, the last until %s", m.Locked, m.LockedUntil.UTC().Format(time.RFC3339))
			}
			_, _ = fmt.Fprintf(w, "repository %s: %d bytes freed%s\n", m.Path, m.Freed, locked)
		}
	}
}

func orDefault(s, d string) string {
	if s == "" {
		return d
	}
	return s
}
