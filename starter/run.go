package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"thaw/blueprints"
	"thaw/blueprints/plan"
)

type runFlags struct {
	launch
	target, from, file, profile  string
	options, secrets, configMaps []string
	noApproval                   bool
}

func runCommand() *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run BLUEPRINT.ACTION",
		Short: "Run an action of a blueprint: back up, restore, verify, delete",
		Long: `Run starts an action as a Temporal workflow of the type BLUEPRINT.ACTION and, unless
--detach is given, shows its progress until it ends. Interrupting thaw does not stop the
run: see "thaw cancel".`,
		Example: `  thaw run sqlite.backup --target sqlite:/data/shop.db
  thaw run postgres.backup --target postgres:db1:5432 --secret admin=pg-admin --plan
  thaw run sqlite.restore --from shop-db-20261125t101500z-1b2c3d4e
  thaw run shop.backup --file shop.yaml --target sqlite:/data/shop.db --option keep=3`,
		Args: exactly(1, "BLUEPRINT.ACTION"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.target, "target", "t", "", "what to work on, as KIND:NAME, such as sqlite:/data/shop.db or statefulset:NAMESPACE/NAME (default with --from: the restore point's)")
	fl.StringArrayVar(&f.options, "option", nil, "option of the blueprint, as NAME=VALUE; JSON values are taken as such (repeat)")
	fl.StringArrayVar(&f.secrets, "secret", nil, "secret that the blueprint names, as NAME=SECRET on the worker (repeat)")
	fl.StringArrayVar(&f.configMaps, "config-map", nil, "config map that the blueprint names, as NAME=CONFIGMAP (repeat)")
	fl.StringVar(&f.profile, "profile", "", "location profile: "+profileForms+" (default with --from: the restore point's)")
	fl.StringVar(&f.from, "from", "", "restore point to restore, verify or delete")
	fl.StringVarP(&f.file, "file", "f", "", "blueprint file, in place of the worker's library")
	fl.BoolVar(&f.noApproval, "no-approval", false, "drop the approval that the blueprint asks for, where it lets you")
	f.flags(cmd)
	return cmd
}

func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s: want %s; see: %s --help", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return nil
	}
}

func whoami() string {
	if u := os.Getenv("THAW_USER"); u != "" {
		return u
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return os.Getenv("USER")
}

func (f *runFlags) run(cmd *cobra.Command, action string) error {
	req, err := f.request(action)
	if err != nil {
		return err
	}
	on := req.Target.Name
	if on == "" {
		on = req.From
	}
	return f.start(cmd, action, on, req)
}

// launch holds the flags of every command that starts a run.
type launch struct {
	output
	taskQueue, location, onFailure, by, id string
	plan, detach                           bool
	approve, fourEyes                      bool
	approvers                              []string
	timeout                                time.Duration
}

func (f *launch) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.taskQueue, "task-queue", plan.DefaultTaskQueue, "task queue of the target's workers")
	fl.StringVar(&f.location, "location", "", "directory of restore points (default: the worker's)")
	fl.BoolVar(&f.plan, "plan", false, "show what would be done, and do nothing")
	fl.BoolVarP(&f.detach, "detach", "d", false, "start, print the run's id, and return")
	fl.StringVar(&f.onFailure, "on-failure", "fail", "fail, or pause: a failed phase waits to be retried or skipped")
	fl.StringVar(&f.by, "by", whoami(), "who asks for the run")
	fl.StringVar(&f.id, "id", "", "workflow id (default: says action, target and time)")
	fl.BoolVar(&f.approve, "approval", false, "ask for a person's approval of the plan first")
	fl.StringSliceVar(&f.approvers, "approver", nil, "who may approve (default: anybody)")
	fl.BoolVar(&f.fourEyes, "four-eyes", false, "the requester may not approve")
	fl.DurationVar(&f.timeout, "timeout", 0, "let the run end after this time (default: never)")
	f.flag(cmd)
}

func (f *launch) approval() *plan.Approval {
	if !f.approve && !f.fourEyes && len(f.approvers) == 0 {
		return nil
	}
	return &plan.Approval{Approvers: f.approvers, FourEyes: f.fourEyes}
}

func (f *launch) failing() string {
	if f.onFailure == "fail" {
		return ""
	}
	return f.onFailure
}

// start starts a workflow of that type, and shows it to its end.
func (f *launch) start(cmd *cobra.Command, workflow, on string, in any) error {
	ctx := cmd.Context()
	c, err := connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	id := f.id
	if id == "" {
		id = runID(workflow, on, time.Now())
	}
	run, err := begin(ctx, c, client.StartWorkflowOptions{
		ID: id, TaskQueue: f.taskQueue, WorkflowExecutionTimeout: f.timeout, StaticSummary: workflow + " of " + on,
	}, workflow, in)
	if err != nil {
		return err
	}
	if f.detach {
		return f.started(cmd, run)
	}
	out, err := follow(ctx, c, run, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	return f.print(cmd.OutOrStdout(), out, func(w io.Writer) { writeOutcome(w, run.GetID(), out) })
}

// begin starts a workflow. One of that id that runs is an error.
func begin(ctx context.Context, c client.Client, o client.StartWorkflowOptions, workflow string, in any) (client.WorkflowRun, error) {
	o.WorkflowIDConflictPolicy, o.WorkflowExecutionErrorWhenAlreadyStarted = enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL, true
	run, err := c.ExecuteWorkflow(ctx, o, workflow, in)
	if err != nil {
		return nil, fmt.Errorf("start %s as %q: %w", workflow, o.ID, err)
	}
	return run, nil
}

// started tells which run is not waited for.
func (o *output) started(cmd *cobra.Command, run client.WorkflowRun) error {
	return o.print(cmd.OutOrStdout(), map[string]string{"id": run.GetID(), "runId": run.GetRunID()}, func(w io.Writer) { _, _ = fmt.Fprintln(w, run.GetID()) })
}

func (f *runFlags) request(action string) (plan.Request, error) {
	if i := strings.LastIndex(action, "."); i <= 0 || i == len(action)-1 {
		return plan.Request{}, usagef("%q: want BLUEPRINT.ACTION, such as sqlite.backup", action)
	}
	req := plan.Request{From: f.from, Location: f.location, Plan: f.plan, RequestedBy: f.by, NoApproval: f.noApproval, Options: plan.Values{}, OnFailure: f.failing(), Approval: f.approval()}
	var faults []error
	if f.target != "" {
		var err error
		if req.Target, err = target(f.target); err != nil {
			faults = append(faults, err)
		}
	} else if f.from == "" {
		faults = append(faults, usagef("say what to work on: --target KIND:NAME, or --from RESTOREPOINT"))
	}
	if f.file != "" {
		b, err := os.ReadFile(f.file)
		if err != nil {
			return req, fmt.Errorf("blueprint: %w", err)
		}
		if _, faults := blueprints.Parse(f.file, b); faults.Err() != nil {
			return req, faults.Err()
		}
		req.BlueprintText = string(b)
	}
	for _, o := range f.options {
		k, v, ok := strings.Cut(o, "=")
		if !ok {
			faults = append(faults, usagef("--option %q: want NAME=VALUE", o))
			continue
		}
		req.Options[k] = jsonOr(v)
	}
	var err error
	if req.Secrets, err = references("--secret", f.secrets); err != nil {
		faults = append(faults, err)
	}
	if req.ConfigMaps, err = references("--config-map", f.configMaps); err != nil {
		faults = append(faults, err)
	}
	req.Profile = profileReference(f.profile)
	return req, errors.Join(faults...)
}

// objects are the kinds of targets that are in a namespace of a cluster.
var objects = []string{"statefulset", "deployment", "deploymentconfig", "pvc", "persistentvolumeclaim"}

// target reads KIND:NAME, and KIND:NAMESPACE/NAME of a cluster's objects.
func target(text string) (plan.Target, error) {
	kind, name, ok := strings.Cut(text, ":")
	if !ok || name == "" {
		return plan.Target{}, usagef("--target %q: want KIND:NAME, such as sqlite:/data/shop.db or statefulset:shop/db", text)
	}
	t := plan.Target{Kind: kind, Name: name}
	switch low := strings.ToLower(kind); {
	case low == "namespace":
		t.Namespace = name
	case slices.Contains(objects, low):
		if t.Namespace, t.Name, ok = strings.Cut(name, "/"); !ok || t.Namespace == "" || t.Name == "" {
			return plan.Target{}, usagef("--target %q: want %s:NAMESPACE/NAME", text, kind)
		}
	}
	return t, nil
}

// jsonOr reads a value as JSON where it is JSON ("3", "true", "[...]"), and
// as a string otherwise.
func jsonOr(s string) any {
	var v plan.Values
	if json.Valid([]byte(s)) && json.Unmarshal([]byte(`{"v":`+s+`}`), &v) == nil {
		return v["v"]
	}
	return s
}

func references(flag string, list []string) (map[string]plan.Reference, error) {
	if len(list) == 0 {
		return nil, nil
	}
	refs := map[string]plan.Reference{}
	for _, s := range list {
		n, ref, ok := strings.Cut(s, "=")
		if !ok || n == "" || ref == "" {
			return nil, usagef("%s %q: want NAME=REFERENCE, such as admin=pg-admin or admin=namespace/pg-admin", flag, s)
		}
		refs[n] = reference(ref)
	}
	return refs, nil
}

// profileReference reads one of profileForms; nil where there is none.
func profileReference(text string) *plan.Reference {
	if text == "" {
		return nil
	}
	kind, name, ok := strings.Cut(text, ":")
	if !ok {
		kind, name = "", text
	}
	r := reference(name)
	r.Kind = kind
	return &r
}

// reference reads NAME, and NAMESPACE/NAME.
func reference(text string) plan.Reference {
	if ns, name, ok := strings.Cut(text, "/"); ok {
		return plan.Reference{Namespace: ns, Name: name}
	}
	return plan.Reference{Name: text}
}

// profileForms are how a location profile is named.
const profileForms = "NAMESPACE/NAME of a Profile (Kanister's) or secret:NAMESPACE/NAME of a Secret in the cluster, or NAME of a secret on the worker"

func runID(action, on string, now time.Time) string {
	return fmt.Sprintf("%s/%s/%s", action, strings.Trim(on, "/"), now.UTC().Format("20060102T150405.000Z"))
}

// failure shows a failed run's own words, not the SDK's wrapping.
func failure(id string, err error) error {
	var app *temporal.ApplicationError
	var cancelled *temporal.CanceledError
	var terminated *temporal.TerminatedError
	var timeout *temporal.TimeoutError
	switch {
	case errors.As(err, &app):
		return fmt.Errorf("run %s failed (%s): %s", id, app.Type(), app.Message())
	case errors.As(err, &cancelled):
		var text string // what was compensated, and what is left behind
		if cancelled.HasDetails() && cancelled.Details(&text) == nil && text != "" {
			return fmt.Errorf("run %s was cancelled: %s", id, text)
		}
		return fmt.Errorf("run %s was cancelled", id)
	case errors.As(err, &terminated):
		return fmt.Errorf("run %s was terminated", id)
	case errors.As(err, &timeout):
		return fmt.Errorf("run %s ran out of time", id)
	}
	return fmt.Errorf("run %s: %w", id, err)
}

// follow shows a run's progress until it ends.
func follow(ctx context.Context, c client.Client, run client.WorkflowRun, w io.Writer) (*plan.Outcome, error) {
	watching, stop := context.WithCancel(ctx)
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		watch(watching, c, run, w)
	}()
	var out plan.Outcome
	err := run.Get(ctx, &out)
	stop()
	<-shown
	if ctx.Err() != nil {
		return nil, fmt.Errorf("run %s goes on without you; see: thaw describe %q", run.GetID(), run.GetID())
	}
	if err != nil {
		return nil, failure(run.GetID(), err)
	}
	return &out, nil
}
