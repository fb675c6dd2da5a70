package activities

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/render"
)

// resolve puts into the plan what its templates see of a target in a cluster.
func (e *Engine) resolve(ctx context.Context, p *plan.Plan) error {
	t := p.Scope.Target
	if e.cfg.Cluster == nil || !inCluster(t) {
		return nil
	}
	ref := reference(t)
	o, err := e.cfg.Cluster.Get(ctx, ref, nil)
	if apierrors.IsNotFound(err) && p.Action == plan.ActionDelete {
		// What a backup left elsewhere outlives what it is a backup of, and is
		// deleted all the same.
		p.Warnings = append(p.Warnings, fmt.Sprintf("target %s is not there any more: templates see its name alone", t.Key()))
		return nil
	}
	if err != nil {
		return fault.New(fault.Of(err), "target %w", err)
	}
	if p.Scope.Workload, err = e.cfg.Cluster.Workload(ctx, o); err != nil {
		return fault.New(fault.Of(err), "target %s: %w", t.Key(), err)
	}
	if strings.EqualFold(o.GetKind(), "Secret") || !names(p, ".Object") {
		return nil
	}
	// A copy of all of it, which Thaw has no use for.
	o.SetManagedFields(nil)
	annotations := o.GetAnnotations()
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	o.SetAnnotations(annotations)
	p.Scope.Object, _ = e.redact.Value(o.Object).(map[string]any)
	return nil
}

// inCluster reports whether a target is a Kubernetes object: one of Kanister's
// kinds, or one that says its resource.
func inCluster(t plan.Target) bool {
	switch strings.ToLower(t.Kind) {
	case "statefulset", "deployment", "deploymentconfig", "pvc", "persistentvolumeclaim", "namespace":
		return true
	}
	return t.Resource != "" || t.APIVersion != ""
}

func reference(t plan.Target) plan.Reference {
	ref := plan.Reference{Name: t.Name, Namespace: t.Namespace, Kind: t.Kind, APIVersion: t.APIVersion, Group: t.Group, Resource: t.Resource}
	if strings.EqualFold(t.Kind, "namespace") && ref.Name == "" {
		ref.Name = t.Namespace
	}
	return ref
}

// secretTarget reads a target that is itself a Secret, which no plan holds.
func (e *Engine) secretTarget(ctx context.Context, s *plan.Scope, p *render.Params) error {
	t := s.Target
	if e.cfg.Cluster == nil || s.Object != nil || !inCluster(t) || !strings.EqualFold(t.Kind, "Secret") && t.Resource != "secrets" {
		return nil
	}
	o, err := e.cfg.Cluster.Get(ctx, reference(t), nil)
	if err != nil {
		return fault.New(fault.Of(err), "target %w", err)
	}
	if _, err := e.cfg.Secrets.Secret(ctx, plan.Reference{Name: t.Name, Namespace: t.Namespace}); err != nil { // to know its values again
		return err
	}
	p.Object = o.Object
	return nil
}

// calls reports whether a template of a phase has this text.
func calls(ph *plan.Phase, text string) bool {
	found := false
	var walk func(v any)
	walk = func(v any) {
		switch t := v.(type) {
		case string:
			found = found || strings.Contains(t, "{{") && strings.Contains(t, text)
		case []any:
			for _, x := range t {
				walk(x)
			}
		case map[string]any:
			for k, x := range t {
				walk(k)
				walk(x)
			}
		}
	}
	walk(map[string]any(ph.Args))
	for _, r := range ph.Objects {
		walk([]any{r.Name, r.Namespace})
	}
	return found
}

// names reports whether any template of a plan has this text.
func names(p *plan.Plan, text string) bool {
	found := false
	var phase func(ph *plan.Phase)
	phase = func(ph *plan.Phase) {
		if ph == nil {
			return
		}
		found = found || calls(ph, text)
		phase(ph.Compensate)
		if f := ph.Freeze; f != nil {
			phase(&f.Do)
			phase(&f.Undo)
			for i := range f.Phases {
				phase(&f.Phases[i])
			}
		}
	}
	for _, l := range [][]plan.Phase{p.Phases, p.Verify} {
		for i := range l {
			phase(&l[i])
		}
	}
	phase(p.Defer)
	rest := plan.Values{}
	for n, a := range p.Artifacts {
		rest[n] = a.KopiaSnapshot
		for k, v := range a.KeyValue {
			rest[n+"."+k] = v
		}
	}
	if p.Approval != nil {
		rest["approval"] = p.Approval.Message
	}
	return found || calls(&plan.Phase{Args: rest}, text)
}
