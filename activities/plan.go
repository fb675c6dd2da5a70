package activities

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/activity"

	"thaw/activities/cluster/binding"
	"thaw/blueprints"
	"thaw/blueprints/fault"
	"thaw/blueprints/library"
	"thaw/blueprints/plan"
	"thaw/blueprints/planner"
	"thaw/blueprints/render"
)

// Plan resolves and checks a request: blueprint, restore point, parameters,
// arguments. Everything that is wrong is in one error. It changes nothing.
func (e *Engine) Plan(ctx context.Context, in plan.PlanInput) (*plan.PlanOutput, error) {
	p, err := e.plan(ctx, in)
	if err != nil {
		return nil, e.toTemporal(err)
	}
	return &plan.PlanOutput{Plan: *p, Attributes: e.hasAttributes(ctx)}, nil
}

// longestID is Temporal's default limit of a workflow id. A run that starts a
// child with a longer one hangs.
const longestID = 1000

func (e *Engine) plan(ctx context.Context, in plan.PlanInput) (*plan.Plan, error) {
	req := &in.Request
	req.Target = canonical(req.Target)
	if id := plan.FreezeID(req.Target); len(id) > longestID {
		return nil, fault.New(fault.User, "target.name has %d characters; Temporal takes no workflow id longer than %d, and the freeze of the target needs one", len(req.Target.Name), longestID)
	}
	location, err := e.location(req.Location)
	if err != nil {
		return nil, err
	}
	var from *plan.RestorePoint
	if req.From != "" {
		if from, err = e.readRestorePoint(req.From, location); err != nil {
			return nil, err
		}
		inherit(req, from)
		if from.Application != nil {
			return e.planOfApplication(in, from)
		}
	}
	text, name, err := e.blueprint(ctx, req, from)
	if err != nil {
		return nil, err
	}
	bp, faults := blueprints.Parse(name, text)
	if faults.Err() == nil {
		faults = append(faults, blueprints.Lint(bp, e.catalogue)...)
	}
	if err := faults.Err(); err != nil {
		return nil, fault.New(fault.User, "blueprint %s: %w", req.Blueprint, err)
	}
	p, err := planner.Build(bp, e.catalogue, in, planner.Extra{Text: text, RestorePoint: e.restorePointOf(in, from, location), From: from})
	if err != nil {
		return nil, err
	}
	for _, w := range faults.Warnings() {
		if !strings.HasPrefix(w.Path, "actions.") || strings.HasPrefix(w.Path, "actions."+p.Action+".") {
			p.Warnings = append(p.Warnings, w.String())
		}
	}
	if err := e.resolve(ctx, p); err != nil {
		return nil, err
	}
	if err := e.shown(ctx, p, in.Run); err != nil {
		return nil, err
	}
	if err := p.Seal(); err != nil {
		return nil, fault.New(fault.Permanent, "%w", err)
	}
	return p, nil
}

// shown renders for people what each phase will run with, secrets masked.
func (e *Engine) shown(ctx context.Context, p *plan.Plan, run plan.Run) error {
	params, err := e.params(ctx, &plan.Call{Run: run, Scope: p.Scope}, true)
	if err != nil {
		return err
	}
	if err := planner.Show(p, params); err != nil {
		return fault.New(fault.User, "%w", err)
	}
	if p.Approval != nil {
		ask := *p.Approval
		if ask.Message, err = render.String(ask.Message, render.Mask(params), render.Options{Path: "approval.message", Placeholder: true}); err != nil {
			return err
		}
		p.Approval = &ask
	}
	return nil
}

// canonical names one target in one way, so that two backups of it exclude
// each other: paths clean and absolute without links, hosts in lower case.
func canonical(t plan.Target) plan.Target {
	switch {
	case filepath.IsAbs(t.Name):
		if real, err := filepath.EvalSymlinks(t.Name); err == nil {
			t.Name = real
		}
		t.Name = filepath.Clean(t.Name)
	case t.Namespace == "":
		t.Name = strings.ToLower(t.Name)
	}
	return t
}

// inherit takes from the restore point what the request leaves out.
func inherit(req *plan.Request, from *plan.RestorePoint) {
	if req.Artifacts == nil {
		req.Artifacts = from.Artifacts
	}
	if req.Secrets == nil {
		req.Secrets = from.Secrets
	}
	if req.Profile == nil {
		req.Profile = from.Profile
	}
	if req.Target.Name == "" {
		queue := req.Target.TaskQueue
		req.Target = from.Target
		req.Target.TaskQueue = queue
	}
}

func (e *Engine) restorePointOf(in plan.PlanInput, from *plan.RestorePoint, location string) plan.RestorePointRef {
	if from != nil {
		ref := plan.RestorePointRef{ID: from.ID, Directory: from.Directory, Consistent: from.Consistent}
		if from.Profile != nil { // by the name that it has here
			ref.Profile = in.Request.Profile
		}
		return ref
	}
	id := restorePointID(in.Request.Target, in.Time, in.Run)
	ref := plan.RestorePointRef{ID: id, Directory: filepath.Join(location, id)}
	if !in.Request.Unpublished {
		ref.Profile = in.Request.Profile
	}
	return ref
}

// blueprint finds the text of the request's blueprint: given in full, in the
// worker's directory, in the library, or in the restore point that it made.
func (e *Engine) blueprint(ctx context.Context, req *plan.Request, from *plan.RestorePoint) (text []byte, file string, err error) {
	if req.BlueprintText != "" {
		return []byte(req.BlueprintText), "blueprintText", nil
	}
	if req.Blueprint == "" && from != nil {
		req.Blueprint = from.Blueprint
	}
	if strings.ContainsAny(req.Blueprint, "/\\") || req.Blueprint == "" {
		return nil, "", fault.New(fault.User, "blueprint %q: want a blueprint's name; see: thaw blueprint list", req.Blueprint)
	}
	if e.cfg.BlueprintsDir != "" {
		for _, n := range []string{req.Blueprint + ".yaml", req.Blueprint + ".yml", filepath.Join(req.Blueprint, library.File)} {
			file = filepath.Join(e.cfg.BlueprintsDir, n)
			text, err := os.ReadFile(file)
			if err == nil {
				return text, file, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, "", fault.New(fault.Permanent, "blueprint %s: %w", req.Blueprint, err)
			}
		}
	}
	text, err = library.Load(req.Blueprint)
	if err != nil && from != nil && from.Blueprint == req.Blueprint {
		return []byte(from.BlueprintText), "restore point " + from.ID, nil
	}
	if err != nil && e.cfg.Cluster != nil {
		if text, where, getErr := binding.Blueprint(ctx, e.cfg.Cluster, req.Blueprint, req.Target.Namespace); getErr != nil || text != nil {
			return text, where, getErr
		}
	}
	return text, req.Blueprint + ".yaml", err
}

// hasAttributes reports whether the namespace has Thaw's search attributes.
// A run that sets one that is not there would hang.
func (e *Engine) hasAttributes(ctx context.Context) bool {
	if e.cfg.Client == nil {
		return false
	}
	e.attrMu.Lock()
	defer e.attrMu.Unlock()
	if e.attrKnown {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := e.cfg.Client.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: activity.GetInfo(ctx).Namespace})
	if err != nil {
		e.log.Warn("search attributes unknown; this run sets none", "error", err)
		return false
	}
	for _, n := range plan.SearchAttributes {
		if _, ok := r.GetCustomAttributes()[n]; !ok {
			e.log.Warn("search attribute missing; runs set none. Create them with: thaw setup", "attribute", n)
			return false
		}
	}
	e.attrKnown = true
	return true
}
