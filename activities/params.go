package activities

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"thaw/blueprints/plan"
	"thaw/blueprints/render"
)

// params builds what the templates of a call may see. Secrets are read here,
// in the activity, and go no further than the rendered arguments. The location
// profile is read where a template names it, or the function needs it: a thaw
// does not wait for what it does not use.
func (e *Engine) params(ctx context.Context, c *plan.Call, profile bool) (*render.Params, error) {
	s := &c.Scope
	p := render.FromScope(*s)
	p.CurrentPhase = c.Phase.Name
	if err := e.secretTarget(ctx, s, p); err != nil {
		return nil, err
	}
	for n, ref := range s.Secrets {
		data, err := e.cfg.Secrets.Secret(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("secret %s of the run: %w", n, err)
		}
		p.Secrets[n] = secretOf(ref, data)
	}
	for n, ref := range s.ConfigMaps {
		data, err := e.cfg.Secrets.ConfigMap(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("config map %s of the run: %w", n, err)
		}
		p.ConfigMaps[n] = configMapOf(ref, data)
	}
	if s.Profile != nil && (profile || calls(&c.Phase, ".Profile")) {
		var err error
		if p.Profile, err = e.profile(ctx, *s.Profile); err != nil {
			return nil, err
		}
	}
	start := *p // objects are rendered with what is known at the start
	start.Phases = map[string]*render.Phase{}
	for n, r := range c.Results {
		ph, err := e.phase(ctx, &start, r)
		if err != nil {
			return nil, fmt.Errorf("objects of phase %s: %w", n, err)
		}
		p.Phases[n] = ph
	}
	own, err := e.phase(ctx, &start, plan.Result{Objects: c.Phase.Objects})
	if err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	if was, ok := p.Phases[c.Phase.Name]; ok {
		own.Output = was.Output
	}
	p.Phases[c.Phase.Name] = own
	if c.Defer != nil {
		if p.DeferPhase, err = e.phase(ctx, &start, *c.Defer); err != nil {
			return nil, fmt.Errorf("objects of deferPhase: %w", err)
		}
	}
	return p, nil
}

// phase builds what templates see of one phase. Its objects' references are
// templates over what is known at the start (Kanister renders them then).
func (e *Engine) phase(ctx context.Context, p *render.Params, r plan.Result) (*render.Phase, error) {
	ph := &render.Phase{Output: r.Output, Secrets: map[string]render.Secret{}, ConfigMaps: map[string]render.ConfigMap{}}
	objects, err := render.References(r.Objects, p, render.Options{})
	if err != nil {
		return nil, err
	}
	for n, ref := range objects {
		switch strings.ToLower(ref.Kind) {
		case "configmap":
			data, err := e.cfg.Secrets.ConfigMap(ctx, ref)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", n, err)
			}
			ph.ConfigMaps[n] = configMapOf(ref, data)
		default:
			data, err := e.cfg.Secrets.Secret(ctx, ref)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", n, err)
			}
			ph.Secrets[n] = secretOf(ref, data)
		}
	}
	return ph, nil
}

func secretOf(ref plan.Reference, data map[string][]byte) render.Secret {
	return render.Secret{Meta: render.Meta{Name: ref.Name, Namespace: ref.Namespace}, Data: data}
}

func configMapOf(ref plan.Reference, data map[string]string) render.ConfigMap {
	return render.ConfigMap{Meta: render.Meta{Name: ref.Name, Namespace: ref.Namespace}, Data: data}
}

// secretsOf are the secrets that a call may name: those of the run, and those
// that its phase names in objects.
func secretsOf(c *plan.Call, p *render.Params) (map[string]plan.Reference, error) {
	if len(c.Phase.Objects) == 0 {
		return c.Scope.Secrets, nil
	}
	start := *p
	start.Phases = map[string]*render.Phase{}
	objects, err := render.References(c.Phase.Objects, &start, render.Options{})
	if err != nil {
		return nil, err
	}
	all := maps.Clone(c.Scope.Secrets)
	if all == nil {
		all = map[string]plan.Reference{}
	}
	for n, ref := range objects {
		if !strings.EqualFold(ref.Kind, "configmap") {
			all[n] = ref
		}
	}
	return all, nil
}
