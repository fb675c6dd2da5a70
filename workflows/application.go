package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"thaw/blueprints/plan"
)

// BackupApplication backs up a namespace, or the part of it that a selector
// names, as one restore point: its manifests, its volumes, and what the
// blueprints bound to its objects make. Every freeze is in effect before the
// first cut, and every cut is made before the first thaw.
func BackupApplication(ctx workflow.Context, req plan.ApplicationRequest) (*plan.Outcome, error) {
	a, err := newAction(ctx, plan.Request{
		Blueprint: "application", Action: "backup", Target: plan.Target{Kind: "Namespace", Name: req.Namespace, TaskQueue: req.TaskQueue},
		Location: req.Location, RequestedBy: req.RequestedBy, Approval: req.Approval, OnFailure: req.OnFailure, Plan: req.Plan,
	})
	if err != nil {
		return nil, err
	}
	a.planner = func(a *action) (string, any) {
		req.TaskQueue = a.req.Target.TaskQueue
		return plan.ActivityPlanApplication, plan.ApplicationInput{Request: req, Run: a.self, Time: a.start}
	}
	if err := a.holdMeetings(ctx); err != nil {
		return nil, err
	}
	return a.run(ctx)
}

// RestoreApplication restores an application from a restore point: it plans,
// waits for the approval of that plan, and carries it out. What fails is put
// back as it was.
func RestoreApplication(ctx workflow.Context, req plan.RestoreRequest) (*plan.Outcome, error) {
	a, err := newAction(ctx, plan.Request{
		Blueprint: "application", Action: "restore", From: req.From, Target: plan.Target{Kind: "Namespace", Name: req.Namespace, TaskQueue: req.TaskQueue},
		Profile: req.Profile, Location: req.Location, RequestedBy: req.RequestedBy, Approval: req.Approval, OnFailure: req.OnFailure, Plan: req.Plan,
	})
	if err != nil {
		return nil, err
	}
	a.planner = func(a *action) (string, any) {
		req.TaskQueue = a.req.Target.TaskQueue
		return plan.ActivityPlanRestore, plan.RestoreInput{Request: req, Run: a.self, Time: a.start}
	}
	return a.run(ctx)
}

// The phases of an application's plan whose outputs its restore point holds.
const (
	phaseManifests = "manifests"
	phaseCut       = "cut"
	phaseReady     = "ready"
	phaseExport    = "export"
)

// application is what the restore point says of the application.
func (a *action) application() *plan.Application {
	app := *a.plan.Application
	app.Manifests = a.results[phaseManifests].Output
	known := map[string]bool{}
	take := func(volumes []any) {
		for _, v := range volumes {
			m, _ := v.(map[string]any)
			if claim := fmt.Sprint(m["namespace"], "/", m["pvc"]); !known[claim] {
				known[claim] = true
				app.Volumes = append(app.Volumes, v)
			}
		}
	}
	// What the last of them says has what those before it say.
	for _, phase := range []string{phaseExport, phaseReady, phaseCut} {
		if r := a.results[phase]; !r.Skipped {
			volumes, _ := r.Output["volumes"].([]any)
			take(volumes)
		}
	}
	for _, m := range a.members {
		point := plan.MemberPoint{Name: m.Name, Blueprint: m.Request.Blueprint, Target: m.Request.Target}
		if rp := m.out.RestorePoint; rp != nil {
			point.Blueprint, point.Target = rp.Blueprint, rp.Target
			point.RestorePoint = plan.RestorePointRef{ID: rp.ID, Directory: rp.Directory, Consistent: rp.Consistent}
			point.Consistent, point.Consistency = rp.Consistent, rp.Consistency
		}
		if point.RestorePoint.Directory == "" {
			point.BlueprintText = m.Request.BlueprintText
		}
		volumes := m.volumes()
		take(volumes)
		point.Volumes = len(volumes) > 0
		app.Members = append(app.Members, point)
	}
	app.CutFrom, app.CutTo, app.Spread = spread(app.Volumes)
	return &app
}

// spread says how far apart the cuts of volumes are.
func spread(volumes []any) (from, to, apart string) {
	var first, last time.Time
	for _, v := range volumes {
		m, _ := v.(map[string]any)
		text, _ := m["cutAt"].(string)
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			continue
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	if first.IsZero() {
		return "", "", ""
	}
	return first.Format(time.RFC3339Nano), last.Format(time.RFC3339Nano), last.Sub(first).String()
}

// consistentTogether says whether the restore point of an application may be
// called consistent: every freeze is proven, and each was in effect from before
// the first cut to after the last, which the meeting of the freezes sees to.
func (a *action) consistentTogether(app *plan.Application) (bool, string) {
	freezes := 0
	for _, m := range a.members {
		if !m.Freezes {
			return false, fmt.Sprintf("%s is captured without a freeze: as consistent as the tool that read its data makes it", m.Name)
		}
		for _, f := range m.out.Freezes {
			freezes++
			if !f.Proof.Consistent {
				return false, m.Name + ": " + f.Proof.Reason
			}
		}
	}
	switch {
	case freezes == 0 && len(app.Volumes) == 0:
		return false, "nothing was cut"
	case freezes == 0:
		return false, "no freeze: each volume is as after a crash of its machine"
	}
	return true, "every freeze was unbroken from before the first cut to after the last"
}
