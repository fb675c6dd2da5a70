package activities

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"thaw/activities/cluster/manifests"
	"thaw/blueprints"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// PlanRestore plans the restore of an application: what is scaled down,
// replaced and made, and which actions are run. It changes nothing.
func (e *Engine) PlanRestore(ctx context.Context, in plan.RestoreInput) (*plan.PlanOutput, error) {
	p, err := e.planRestore(ctx, in)
	if err != nil {
		return nil, e.toTemporal(err)
	}
	return &plan.PlanOutput{Plan: *p, Attributes: e.hasAttributes(ctx)}, nil
}

func (e *Engine) planRestore(ctx context.Context, in plan.RestoreInput) (*plan.Plan, error) {
	req := in.Request
	if err := e.cfg.Cluster.Need(); err != nil {
		return nil, err
	}
	location, err := e.location(req.Location)
	if err != nil {
		return nil, err
	}
	rp, err := e.readRestorePoint(req.From, location)
	if err != nil {
		return nil, err
	}
	if rp.Application == nil {
		return nil, fault.New(fault.User, "restore point %s is of %s, not of an application; restore it with: thaw run %s.restore --from %s", rp.ID, rp.Target.Key(), rp.Blueprint, rp.ID)
	}
	r := &restoring{e: e, in: in, rp: rp, app: rp.Application, into: req.Namespace}
	if r.into == "" {
		r.into = r.app.Namespace
	}
	set, err := manifests.Read(filepath.Join(rp.Directory, manifests.File))
	if err != nil {
		return nil, err
	}
	if err := r.look(ctx, set); err != nil {
		return nil, err
	}
	target := plan.Target{Kind: "Namespace", Name: r.into, Namespace: r.into, TaskQueue: req.TaskQueue}
	p := &plan.Plan{
		Blueprint: "application", Action: "restore", Target: target, Warnings: r.warnings, Approval: r.approval(),
		Scope: plan.Scope{
			Target: target, RestorePoint: plan.RestorePointRef{ID: rp.ID, Directory: rp.Directory, Consistent: rp.Consistent},
			Profile: r.profile(), Time: in.Time.UTC().Format(time.RFC3339Nano), Options: plan.Values{},
		},
	}
	if p.Phases, err = r.phases(); err != nil {
		return nil, err
	}
	if err := p.Seal(); err != nil {
		return nil, fault.New(fault.Permanent, "%w", err)
	}
	return p, nil
}

// restoring puts the plan of a restore together.
type restoring struct {
	e    *Engine
	in   plan.RestoreInput
	rp   *plan.RestorePoint
	app  *plan.Application
	into string

	exists   bool
	running  []manifests.Workload // workloads that are there now, and were backed up
	warnings []string
}

// look finds what a restore would meet.
func (r *restoring) look(ctx context.Context, set *manifests.Set) error {
	_, err := r.e.cfg.Cluster.Get(ctx, plan.Reference{Kind: "Namespace", Name: r.into}, nil)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	}
	r.exists = true
	r.running, err = manifests.Present(ctx, r.e.cfg.Cluster, r.into, set)
	return err
}

// approval is asked for unless the request drops it: a restore replaces data.
func (r *restoring) approval() *plan.Approval {
	req := r.in.Request
	if req.Approval == nil && req.NoApproval {
		return nil
	}
	a := plan.Approval{}
	if req.Approval != nil {
		a = *req.Approval
	}
	a.Count = max(a.Count, 1)
	if a.Message == "" {
		var replaced []string
		for _, v := range r.app.Volumes {
			m, _ := v.(map[string]any)
			replaced = append(replaced, fmt.Sprint(m["pvc"]))
		}
		slices.Sort(replaced)
		a.Message = fmt.Sprintf("Restore %s into namespace %s: volumes %s", r.rp.ID, r.into, strings.Join(replaced, ", "))
		if len(r.running) > 0 {
			a.Message += fmt.Sprintf("; %d workloads are scaled down meanwhile, and the volumes that are there are replaced", len(r.running))
		}
	}
	return &a
}

func (r *restoring) phases() ([]plan.Phase, error) {
	req := r.in.Request
	var phases []plan.Phase
	last := []string{}
	then := func(ph plan.Phase) {
		ph.Needs = last
		phases = append(phases, ph)
		last = []string{ph.Name}
	}
	pre, restore, post, err := r.actions()
	if err != nil {
		return nil, err
	}
	if !r.exists {
		ph := r.e.step("namespace", "CreateNamespace", plan.Values{"name": r.into, "file": filepath.Join(r.rp.Directory, manifests.File)})
		undo := r.e.step("namespace.compensate", "DeleteNamespace", plan.Values{"name": r.into})
		ph.Compensate = &undo
		then(ph)
	}
	if len(pre) > 0 && r.exists {
		then(plan.Phase{Name: "restorePrehooks", Together: &plan.Together{Members: pre}})
	}
	// All of them at once, and the volumes only when none of their pods is left.
	var down []string
	for _, w := range r.running {
		ph := r.e.step("scaleDown-"+strings.ToLower(w.Kind)+"-"+w.Name, "ScaleWorkload", plan.Values{
			"kind": strings.ToLower(w.Kind), "name": w.Name, "namespace": r.into, "replicas": int64(0),
		}, last...)
		up := r.e.step(ph.Name+".compensate", "ScaleWorkload", plan.Values{
			"kind": strings.ToLower(w.Kind), "name": w.Name, "namespace": r.into, "replicas": w.Replicas, "waitForReady": false,
		})
		ph.Compensate = &up
		phases = append(phases, ph)
		down = append(down, ph.Name)
	}
	if len(down) > 0 {
		last = down
	}
	replaced := false
	if volumes := r.volumes(); len(volumes) > 0 {
		replaced = true
		ph := r.e.step("volumes", "RestoreVolumes", plan.Values{
			"volumes": volumes, "namespace": r.into, "replace": true, "storageClass": classes(req.StorageClasses), "fromLocation": req.FromLocation,
		})
		if req.Parallel > 0 {
			ph.Args["parallel"] = int64(req.Parallel)
		}
		if r.profile() != nil {
			ph.Retry.MaxAttempts = movedAgain
		}
		back := r.e.step("volumes.compensate", "ReturnVolumes", plan.Values{"namespace": r.into})
		ph.Compensate = &back
		then(ph)
	}
	apply := r.e.step("manifests", "ApplyManifests", plan.Values{
		"file": filepath.Join(r.rp.Directory, manifests.File), "namespace": r.into,
		"storageClasses": stringsOf(req.StorageClasses), "images": stringsOf(req.Images), "transforms": transforms(req.Transforms),
	})
	revert := r.e.step("manifests.compensate", "RevertManifests", plan.Values{"namespace": r.into})
	apply.Compensate = &revert
	then(apply)
	ready := r.e.step("ready", "WaitWorkloads", plan.Values{"file": filepath.Join(r.rp.Directory, manifests.File), "namespace": r.into})
	if req.ReadyTimeout > 0 {
		ready.Timeout = req.ReadyTimeout
	}
	then(ready)
	for _, g := range []struct {
		name    string
		members []plan.Member
	}{{"restoreActions", restore}, {"restorePosthooks", post}} {
		if len(g.members) > 0 {
			then(plan.Phase{Name: g.name, Together: &plan.Together{Members: g.members}})
		}
	}
	if replaced {
		then(r.e.step("drop", "DropReplacedVolumes", plan.Values{"replaced": "{{ toJson .Phases.volumes.Output.replaced }}"}))
	}
	return phases, nil
}

// volumes are those that the restore point has as snapshots.
func (r *restoring) volumes() []any { return r.app.Volumes }

// profile of the location that has the data, by reference.
func (r *restoring) profile() *plan.Reference {
	if p := r.in.Request.Profile; p != nil {
		return p
	}
	return r.rp.Profile
}

// actions are what the members' blueprints have for a restore: K10's hooks, a
// restore of what their action put elsewhere than into volumes.
func (r *restoring) actions() (pre, restore, post []plan.Member, err error) {
	var faults []error
	for _, m := range r.app.Members {
		req := plan.Request{Target: m.Target, RequestedBy: r.in.Request.RequestedBy, NoApproval: true}
		text := ""
		if m.RestorePoint.Directory != "" {
			of, err := r.e.readRestorePoint(m.RestorePoint.Directory, filepath.Dir(m.RestorePoint.Directory))
			if err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", m.Name, err))
				continue
			}
			req.From, text = of.Directory, of.BlueprintText
			req.Secrets, req.Options = r.moved(of.Secrets), maps.Clone(of.Options)
			req.Profile = profileOf(of, r.profile())
		} else if text = m.BlueprintText; text == "" {
			continue
		}
		bp, bad := blueprints.Parse(m.Blueprint, []byte(text))
		if err := bad.Err(); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", m.Name, err))
			continue
		}
		req.Blueprint, req.BlueprintText = m.Blueprint, text
		if req.Target.Namespace == r.app.Namespace {
			req.Target.Namespace = r.into
			if strings.EqualFold(req.Target.Kind, "Namespace") {
				req.Target.Name = r.into
			}
		}
		if req.Options == nil {
			req.Options = plan.Values{}
		}
		maps.Copy(req.Options, r.in.Request.Options[m.Blueprint])
		add := func(to *[]plan.Member, action string) {
			if _, ok := bp.Action(action); !ok {
				return
			}
			one := req
			one.Action = action
			*to = append(*to, plan.Member{Name: m.Name + "-" + action, Request: one})
		}
		add(&pre, "restorePrehook")
		add(&post, "restorePosthook")
		if !r.inVolumes(m) {
			add(&restore, "restore")
		}
	}
	return pre, restore, post, errors.Join(faults...)
}

// inVolumes: a member whose action cut volumes is restored with them.
func (r *restoring) inVolumes(m plan.MemberPoint) bool { return m.Volumes }

// moved are secrets in the namespace that is restored into.
func (r *restoring) moved(in map[string]plan.Reference) map[string]plan.Reference {
	out := make(map[string]plan.Reference, len(in))
	for k, ref := range in {
		if ref.Namespace == r.app.Namespace {
			ref.Namespace = r.into
		}
		out[k] = ref
	}
	return out
}

func classes(m map[string]string) any {
	if len(m) == 0 {
		return ""
	}
	return stringsOf(m)
}

func stringsOf(m map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

func transforms(list []plan.Transform) []any {
	out := []any{}
	for _, t := range list {
		patch := make([]any, len(t.Patch))
		for i, p := range t.Patch {
			patch[i] = p
		}
		out = append(out, map[string]any{"kind": t.Kind, "name": t.Name, "patch": patch})
	}
	return out
}

// profileOf is the profile for a member of an application: where the
// application's is, if the member had one.
func profileOf(member *plan.RestorePoint, application *plan.Reference) *plan.Reference {
	if member.Profile == nil {
		return nil
	}
	return application
}

// planOfApplication plans an action on the restore point of an application. It
// has one of its own: to delete it.
func (e *Engine) planOfApplication(in plan.PlanInput, rp *plan.RestorePoint) (*plan.Plan, error) {
	req := in.Request
	if req.Action != plan.ActionDelete {
		return nil, fault.New(fault.User, "restore point %s is of the application %s: restore it with: thaw restore %s; delete it with: thaw run application.delete --from %s", rp.ID, rp.Application.Namespace, rp.ID, rp.ID)
	}
	r := &restoring{e: e, rp: rp, app: rp.Application}
	profile := req.Profile // the record's, or by the name that it has here
	var phases []plan.Phase
	last := []string{}
	then := func(ph plan.Phase) {
		ph.Needs = last
		phases = append(phases, ph)
		last = []string{ph.Name}
	}
	// The members first: what they put elsewhere is found by their restore points.
	var members []plan.Member
	for _, m := range r.app.Members {
		if m.RestorePoint.Directory == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(m.RestorePoint.Directory, plan.RestorePointFile)); errors.Is(err, fs.ErrNotExist) {
			continue // an earlier attempt deleted it
		}
		of, err := e.readRestorePoint(m.RestorePoint.Directory, filepath.Dir(m.RestorePoint.Directory))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		bp, bad := blueprints.Parse(m.Blueprint, []byte(of.BlueprintText))
		if err := bad.Err(); err != nil {
			return nil, fault.New(fault.User, "%s: %w", m.Name, err)
		}
		if _, ok := bp.Action(plan.ActionDelete); ok {
			members = append(members, plan.Member{Name: m.Name + "-delete", Request: plan.Request{
				Blueprint: of.Blueprint, BlueprintText: of.BlueprintText, Action: plan.ActionDelete, From: of.Directory, Target: of.Target, Options: of.Options, NoApproval: true,
				Profile: profileOf(of, profile),
			}})
		}
	}
	if len(members) > 0 {
		then(plan.Phase{Name: "deleteActions", Together: &plan.Together{Members: members}})
	}
	if volumes := r.volumes(); len(volumes) > 0 {
		then(r.e.step("snapshots", "DeleteSnapshots", plan.Values{"volumes": volumes}))
		if profile != nil {
			then(r.e.step("exports", "DeleteExports", plan.Values{"volumes": volumes}))
		}
	}
	files := []any{filepath.Join(rp.Directory, manifests.File), filepath.Join(rp.Directory, manifests.SecretsFile), filepath.Join(rp.Directory, "members")}
	kept, err := filepath.Glob(filepath.Join(rp.Directory, "before-*.json.age")) // by restores
	if err != nil {
		return nil, fault.New(fault.Permanent, "%w", err)
	}
	for _, f := range kept {
		files = append(files, f)
	}
	then(r.e.step("files", "DeletePath", plan.Values{"paths": files}))
	p := &plan.Plan{
		Blueprint: "application", Action: plan.ActionDelete, Target: rp.Target, Phases: phases,
		Scope: plan.Scope{
			Target: rp.Target, RestorePoint: plan.RestorePointRef{ID: rp.ID, Directory: rp.Directory, Consistent: rp.Consistent, Profile: profile}, Profile: profile,
			Time: in.Time.UTC().Format(time.RFC3339Nano), Options: plan.Values{},
		},
	}
	if a := req.Approval; a != nil {
		c := *a
		c.Count = max(c.Count, 1)
		p.Approval = &c
	}
	if err := p.Seal(); err != nil {
		return nil, fault.New(fault.Permanent, "%w", err)
	}
	return p, nil
}
