package activities

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster/binding"
	"thaw/activities/cluster/manifests"
	"thaw/blueprints"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// PlanApplication plans the backup of an application: its manifests, the
// actions of the blueprints that are bound to its objects, and the cut of every
// volume that none of them captures. It changes nothing.
func (e *Engine) PlanApplication(ctx context.Context, in plan.ApplicationInput) (*plan.PlanOutput, error) {
	p, err := e.planApplication(ctx, in)
	if err != nil {
		return nil, e.toTemporal(err)
	}
	return &plan.PlanOutput{Plan: *p, Attributes: e.hasAttributes(ctx)}, nil
}

func (e *Engine) planApplication(ctx context.Context, in plan.ApplicationInput) (*plan.Plan, error) {
	req := in.Request
	if req.Namespace == "" {
		return nil, fault.New(fault.User, "namespace is missing: say which application")
	}
	if err := e.cfg.Cluster.Need(); err != nil {
		return nil, err
	}
	location, err := e.location(req.Location)
	if err != nil {
		return nil, err
	}
	target := plan.Target{Kind: "Namespace", Name: req.Namespace, Namespace: req.Namespace, TaskQueue: req.TaskQueue}
	ref := e.restorePointOf(plan.PlanInput{Request: plan.Request{Target: target, Profile: req.Profile}, Run: in.Run, Time: in.Time}, nil, location)
	ns, err := e.cfg.Cluster.Get(ctx, plan.Reference{Kind: "Namespace", Name: req.Namespace}, nil)
	if err != nil {
		return nil, err
	}
	objects, warnings, err := manifests.List(ctx, e.cfg.Cluster, req.Namespace, req.Selector)
	if err != nil {
		return nil, err
	}
	if req.Profile != nil {
		if _, err := e.profile(ctx, *req.Profile); err != nil {
			return nil, err
		}
	} else if req.DropSnapshots {
		return nil, fault.New(fault.User, "dropSnapshots without profile: nothing would be left of the volumes; say where their data goes")
	}
	if len(objects) == 0 && req.Selector != "" {
		return nil, fault.New(fault.User, "the selector %q selects nothing in namespace %s", req.Selector, req.Namespace)
	}
	if req.Selector == "" { // a blueprint can be bound to the namespace itself
		objects = append(objects, *ns)
	}
	a := &assembly{e: e, in: in, ref: ref, captured: map[string]bool{}, options: maps.Clone(req.Options)}
	if err := a.members(ctx, objects); err != nil {
		return nil, err
	}
	p := &plan.Plan{
		Blueprint: "application", Action: "backup", Target: target, Approval: req.Approval, Warnings: append(warnings, a.warnings...),
		Application: &plan.Application{Namespace: req.Namespace, Selector: req.Selector},
		Scope: plan.Scope{
			Target: target, RestorePoint: ref, Profile: req.Profile, Time: in.Time.UTC().Format("2006-01-02T15:04:05.999999999Z07:00"), Options: plan.Values{},
		},
		Phases: a.phases(objects),
	}
	if req.Approval != nil && req.Approval.Count == 0 {
		p.Approval.Count = 1
	}
	if err := p.Seal(); err != nil {
		return nil, fault.New(fault.Permanent, "%w", err)
	}
	return p, nil
}

// location is where restore points go.
func (e *Engine) location(given string) (string, error) {
	if given == "" {
		given = e.cfg.Location
	}
	if !filepath.IsAbs(given) {
		return "", fault.New(fault.User, "location %q: want an absolute path, in the input or as the worker's default", given)
	}
	return given, nil
}

// assembly puts the plan of an application together.
type assembly struct {
	e   *Engine
	in  plan.ApplicationInput
	ref plan.RestorePointRef

	group    []plan.Member
	captured map[string]bool // claims that a member's own action captures
	options  map[string]plan.Values
	warnings []string
}

// members finds the actions of the application. What is wrong with any of them
// is in one error.
func (a *assembly) members(ctx context.Context, objects []unstructured.Unstructured) error {
	bindings, warnings, err := binding.List(ctx, a.e.cfg.Cluster)
	if err != nil {
		return err
	}
	a.warnings = append(a.warnings, warnings...)
	var faults []error
	bound := map[types.UID]*binding.Bound{}
	for i := range objects {
		b, err := bindings.For(&objects[i])
		faults = append(faults, err)
		if b != nil {
			bound[objects[i].GetUID()] = b
		}
	}
	for i := range objects {
		o := &objects[i]
		// Controllers copy annotations to what they make: a Deployment to its
		// ReplicaSets.
		owner := metav1.GetControllerOf(o)
		if b := bound[o.GetUID()]; b != nil && (owner == nil || bound[owner.UID] == nil) {
			faults = append(faults, a.member(ctx, o, b))
		}
	}
	for i := range a.in.Request.With {
		faults = append(faults, a.elsewhere(ctx, i))
	}
	return errors.Join(faults...)
}

// member adds the action of the blueprint that is bound to an object.
func (a *assembly) member(ctx context.Context, o *unstructured.Unstructured, b *binding.Bound) error {
	req := plan.Request{
		Blueprint: b.Blueprint, Action: "backup", Options: a.optionsOf(b.Blueprint, b.Options), Secrets: b.Secrets,
		Target: targetOf(o, a.in.Request.TaskQueue), Location: filepath.Join(a.ref.Directory, "members"),
		Profile: a.in.Request.Profile, Unpublished: true, // it goes with the application's
	}
	m := plan.Member{Name: strings.ToLower(o.GetKind()) + "-" + o.GetName(), Request: req}
	claims, err := a.e.claimsOf(ctx, o)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	return a.add(ctx, m, claims)
}

// elsewhere adds an action that the request names, on a target of its own.
func (a *assembly) elsewhere(ctx context.Context, i int) error {
	req := a.in.Request.With[i]
	if req.Action == "" {
		req.Action = "backup"
	}
	req.Location = filepath.Join(a.ref.Directory, "members")
	if req.Profile == nil {
		req.Profile, req.Unpublished = a.in.Request.Profile, true
	}
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(req.Target.Kind+"-"+req.Target.Name))
	return a.add(ctx, plan.Member{Name: name, Request: req}, nil)
}

// add looks at the action's plan, so that what is wrong with it is known before
// anything is started.
func (a *assembly) add(ctx context.Context, m plan.Member, claims []string) error {
	text, name, err := a.e.blueprint(ctx, &m.Request, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	bp, faults := blueprints.Parse(name, text)
	if err := faults.Err(); err != nil {
		return fault.New(fault.User, "%s: blueprint %s: %w", m.Name, m.Request.Blueprint, err)
	}
	if _, ok := bp.Action("backup"); !ok {
		_, pre := bp.Action("backupPrehook")
		_, post := bp.Action("backupPosthook")
		if !pre || !post {
			a.warnings = append(a.warnings, fmt.Sprintf("%s: blueprint %s has neither an action backup nor K10's pair of hooks; it is not run", m.Name, m.Request.Blueprint))
			return nil
		}
	}
	m.Request.BlueprintText, m.Request.Blueprint = string(text), bp.Metadata.Name
	if queue := m.Request.Target.TaskQueue; queue == "" || queue == a.in.Request.TaskQueue {
		// Another queue's workers know its target, and this one may not.
		p, err := a.e.plan(ctx, plan.PlanInput{Request: m.Request, Run: a.in.Run, Time: a.in.Time})
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		freezes := 0
		for i := range p.Phases {
			if p.Phases[i].Freeze != nil {
				freezes++
			}
		}
		if freezes > 1 {
			return fault.New(fault.User, "%s: action backup of blueprint %s has %d freezes; those of an application are held together, so each blueprint may have one", m.Name, m.Request.Blueprint, freezes)
		}
		m.Freezes = freezes == 1
		if a.e.cuts(p) {
			for _, c := range claims {
				a.captured[c] = true
			}
		}
	} else {
		m.Freezes = freezesIn(bp)
	}
	a.group = append(a.group, m)
	return nil
}

// cuts reports whether any call of a plan captures data.
func (e *Engine) cuts(p *plan.Plan) bool {
	found := false
	p.Walk(func(ph *plan.Phase) {
		if fn, ok := e.functions[ph.Func]; ok && fn.Cut {
			found = true
		}
	})
	return found
}

func freezesIn(bp *blueprints.Blueprint) bool {
	a, ok := bp.Action("backup")
	if !ok {
		return true // K10's pair
	}
	return slices.ContainsFunc(a.Phases, func(p *blueprints.Phase) bool { return p.Freeze != nil })
}

// phases are those of the application's plan.
func (a *assembly) phases(objects []unstructured.Unstructured) []plan.Phase {
	req, call := a.in.Request, a.e.step
	phases := []plan.Phase{call("manifests", "CaptureManifests", plan.Values{"namespace": req.Namespace, "selector": req.Selector})}
	together := plan.Phase{Name: "together", Needs: []string{"manifests"}, Together: &plan.Together{Members: a.group}}
	claims := a.loose(objects)
	if len(claims) > 0 {
		list := make([]any, len(claims))
		for i, c := range claims {
			list[i] = c
		}
		cut := call("cut", "CutVolumes", plan.Values{"namespace": req.Namespace, "pvcs": list, "snapshotClass": req.SnapshotClass})
		undo := call("cut.compensate", "DeleteSnapshots", plan.Values{"volumes": "{{ toJson .Phases.cut.Output.volumes }}", "namespace": req.Namespace})
		cut.Compensate = &undo
		together.Together.Phases = []plan.Phase{cut}
	}
	phases = append(phases, together)
	if len(claims) == 0 && len(a.group) == 0 {
		return phases
	}
	// Those that the members cut by themselves too, which together puts out.
	volumes := "{{ toJson .Phases.together.Output.volumes }}"
	if len(claims) > 0 {
		volumes = "{{ toJson (concat .Phases.cut.Output.volumes .Phases.together.Output.volumes) }}"
	}
	phases = append(phases, call("ready", "WaitSnapshotsReady", plan.Values{"volumes": volumes, "retain": true}, "together"))
	if req.Profile == nil {
		return phases
	}
	volumes = "{{ toJson .Phases.ready.Output.volumes }}"
	export := call("export", "ExportVolumes", plan.Values{"volumes": volumes}, "ready")
	if req.Parallel > 0 {
		export.Args["parallel"] = int64(req.Parallel)
	}
	export.Retry.MaxAttempts = movedAgain
	undo := call("export.compensate", "DeleteExports", plan.Values{"volumes": volumes, "leave": true})
	export.Compensate = &undo
	phases = append(phases, export)
	if req.DropSnapshots {
		phases = append(phases, call("snapshots", "DeleteSnapshots", plan.Values{"volumes": volumes}, "export"))
	}
	return phases
}

// movedAgain is how often moving data is tried: each try goes on near where the
// one before it ended.
const movedAgain = 10

// step is a phase of the plan of an application, which no blueprint has.
func (e *Engine) step(name, fn string, args plan.Values, needs ...string) plan.Phase {
	ph := plan.Phase{Name: name, Func: fn, Args: args, Shown: args, Needs: needs, Retry: plan.Retry{MaxAttempts: 3, Backoff: plan.Duration(time.Second)}}
	if f, ok := e.functions[fn]; ok {
		ph.Timeout, ph.Idempotent, ph.Reattach = plan.Duration(f.Timeout), f.Idempotent || f.ReadOnly, f.Reattach
	}
	return ph
}

// loose are the claims that no member captures.
func (a *assembly) loose(objects []unstructured.Unstructured) []string {
	var names []string
	for i := range objects {
		o := &objects[i]
		if o.GetKind() == "PersistentVolumeClaim" && !a.captured[o.GetName()] {
			names = append(names, o.GetName())
		}
	}
	slices.Sort(names)
	return names
}

// optionsOf joins the options of a binding and those of the request, which win.
func (a *assembly) optionsOf(blueprint string, bound plan.Values) plan.Values {
	out := maps.Clone(bound)
	if out == nil {
		out = plan.Values{}
	}
	maps.Copy(out, a.options[blueprint])
	return out
}

func targetOf(o *unstructured.Unstructured, queue string) plan.Target {
	t := plan.Target{Kind: o.GetKind(), Name: o.GetName(), Namespace: o.GetNamespace(), TaskQueue: queue}
	if strings.EqualFold(t.Kind, "Namespace") {
		t.Namespace = t.Name
		return t
	}
	if !inCluster(t) {
		gvk := o.GroupVersionKind()
		t.Group, t.APIVersion = gvk.Group, gvk.Version
	}
	return t
}

// claimsOf are the claims that an object's pods use.
func (e *Engine) claimsOf(ctx context.Context, o *unstructured.Unstructured) ([]string, error) {
	if o.GetKind() == "PersistentVolumeClaim" {
		return []string{o.GetName()}, nil
	}
	w, err := e.cfg.Cluster.Workload(ctx, o)
	if err != nil || w == nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(w.AllClaims())), nil
}
