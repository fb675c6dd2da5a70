// Package render renders the templates of a blueprint into arguments, within
// limits, and makes up parameters for rendering without a target. It runs
// inside activities, since what it returns may hold secrets; its errors never
// do. Start with Value and Params.
package render

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/templates"
)

// What templates see; see package templates for each.
type (
	Params       = templates.Params
	Workload     = templates.Workload
	Named        = templates.Named
	Artifact     = templates.Artifact
	Meta         = templates.Meta
	Secret       = templates.Secret
	ConfigMap    = templates.ConfigMap
	Phase        = templates.Phase
	Profile      = templates.Profile
	Location     = templates.Location
	Credential   = templates.Credential
	KeyPair      = templates.KeyPair
	RestorePoint = templates.RestorePoint
)

// Options of rendering.
type Options struct {
	// Path of the value, for errors ("phase copy: args").
	Path string
	// Lenient renders outputs and secrets of phases that did not run as
	// empty: undo, compensate and deferPhase must run whatever came before.
	Lenient bool
	// Placeholder renders outputs that are not there yet as
	// «phase.Output.key», and secrets as ********. What else is missing is an
	// error all the same.
	Placeholder bool
}

const maxDepth = 100

// Value renders every string in a value: keys of mappings too. A rendered
// string stays a string; other values stay what they are. The error, of kind
// fault.User, names every template that does not render, and quotes no value.
func Value(v any, p *Params, o Options) (any, error) {
	r := newRenderer(p, o)
	out := r.value(v, o.Path, 0)
	if err := r.err(); err != nil {
		return nil, err
	}
	return out, nil
}

// String renders one string.
func String(s string, p *Params, o Options) (string, error) {
	v, err := Value(s, p, o)
	if err != nil {
		return "", err
	}
	return v.(string), nil
}

// Args renders the arguments of a call. Each `condition` in a raw argument is
// left to the function (Kanister's Wait and WaitV2). fn may be nil.
func Args(fn *catalogue.Function, args plan.Values, p *Params, o Options) (plan.Values, error) {
	r := newRenderer(p, o)
	out := make(plan.Values, len(args))
	for _, name := range slices.Sorted(maps.Keys(args)) {
		path := strings.TrimPrefix(o.Path+".args."+name, ".")
		if fn != nil {
			if a, ok := fn.Arg(name); ok && a.Raw {
				out[name] = r.conditions(args[name], path, 0)
				continue
			}
		}
		out[name] = r.value(args[name], path, 0)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return out, nil
}

// References renders a phase's objects.
func References(refs map[string]plan.Reference, p *Params, o Options) (map[string]plan.Reference, error) {
	r := newRenderer(p, o)
	out := make(map[string]plan.Reference, len(refs))
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		ref, path := refs[name], strings.TrimPrefix(o.Path+".objects."+name, ".")
		for _, s := range []*string{&ref.Name, &ref.Namespace, &ref.Kind, &ref.APIVersion, &ref.Group, &ref.Resource} {
			*s = r.text(*s, path)
		}
		out[name] = ref
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return out, nil
}

// Artifacts renders output artifacts.
func Artifacts(as map[string]plan.Artifact, p *Params, o Options) (map[string]plan.Artifact, error) {
	r := newRenderer(p, o)
	out := make(map[string]plan.Artifact, len(as))
	for _, name := range slices.Sorted(maps.Keys(as)) {
		a, path := as[name], strings.TrimPrefix(o.Path+".outputArtifacts."+name, ".")
		b := plan.Artifact{KopiaSnapshot: r.text(a.KopiaSnapshot, path+".kopiaSnapshot")}
		for _, k := range slices.Sorted(maps.Keys(a.KeyValue)) {
			if b.KeyValue == nil {
				b.KeyValue = map[string]string{}
			}
			b.KeyValue[r.text(k, path+".keyValue")] = r.text(a.KeyValue[k], path+".keyValue."+k)
		}
		out[name] = b
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return out, nil
}

// SelfName is the phase under whose name a call finds its own secrets:
// "lock.do", "lock.undo" and "lock.compensate" are calls of phase "lock".
func SelfName(call string) string {
	for _, part := range []string{".do", ".undo", ".compensate"} {
		if s, ok := strings.CutSuffix(call, part); ok {
			return s
		}
	}
	return call
}

type renderer struct {
	budget  *templates.Budget // of all templates of the value
	params  *Params
	options Options
	errs    []error
}

func newRenderer(p *Params, o Options) *renderer {
	return &renderer{params: own(p), options: o, budget: templates.NewBudget()}
}

// own gives a call of a phase (its do, undo or compensate) what it fetched
// itself under the phase's name, by which its templates look for it.
func own(p *Params) *Params {
	self := SelfName(p.CurrentPhase)
	mine := p.Phases[p.CurrentPhase]
	if self == p.CurrentPhase || mine == nil {
		return p
	}
	out := *p
	out.Phases = maps.Clone(p.Phases)
	ph := clonePhase(p.Phases[self])
	maps.Copy(ph.Secrets, mine.Secrets)
	maps.Copy(ph.ConfigMaps, mine.ConfigMaps)
	out.Phases[self] = ph
	return &out
}

// err is everything that did not render, of kind fault.User.
func (r *renderer) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	return fault.New(fault.User, "%w", errors.Join(r.errs...))
}

func (r *renderer) fail(path, format string, args ...any) {
	if path == "" {
		path = "template"
	}
	r.errs = append(r.errs, fmt.Errorf("render "+strings.ReplaceAll(path, "%", "%%")+": "+format, args...))
}

func (r *renderer) value(v any, path string, depth int) any {
	if depth > maxDepth {
		r.fail(path, "nested deeper than %d levels", maxDepth)
		return nil
	}
	switch t := v.(type) {
	case string:
		return r.text(t, path)
	case []any:
		out := make([]any, len(t))
		for i, e := range t {
			out[i] = r.value(e, fmt.Sprintf("%s[%d]", path, i), depth+1)
		}
		return out
	case []string:
		out := make([]string, len(t))
		for i, e := range t {
			out[i] = r.text(e, fmt.Sprintf("%s[%d]", path, i))
		}
		return out
	case map[string]string:
		return entries(r, t, path, func(s, p string) string { return r.text(s, p) })
	case plan.Values:
		return plan.Values(entries(r, t, path, func(e any, p string) any { return r.value(e, p, depth+1) }))
	case map[string]any:
		return entries(r, t, path, func(e any, p string) any { return r.value(e, p, depth+1) })
	}
	return v
}

func entries[V any](r *renderer, m map[string]V, path string, each func(v V, path string) V) map[string]V {
	out := make(map[string]V, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		key := r.text(k, path)
		if _, taken := out[key]; taken {
			r.fail(path, "two keys of the mapping render to the same text (one is %q)", k)
		}
		out[key] = each(m[k], strings.TrimPrefix(path+"."+k, "."))
	}
	return out
}

// conditions renders what does not stand under `condition` in a raw argument.
func (r *renderer) conditions(v any, path string, depth int) any {
	if depth > maxDepth {
		r.fail(path, "nested deeper than %d levels", maxDepth)
		return nil
	}
	switch t := v.(type) {
	case []any:
		out := make([]any, len(t))
		for i, e := range t {
			out[i] = r.conditions(e, fmt.Sprintf("%s[%d]", path, i), depth+1)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(t))
		for _, k := range slices.Sorted(maps.Keys(t)) {
			if k == "condition" {
				out[k] = t[k]
			} else {
				out[k] = r.conditions(t[k], path+"."+k, depth+1)
			}
		}
		return out
	}
	return r.value(v, path, depth)
}

func (r *renderer) text(s, path string) string {
	if !templates.Has(s) {
		return s
	}
	t, err := templates.Parse(s)
	if err != nil {
		r.fail(path, "%w", err)
		return ""
	}
	params, missing := r.params, "error"
	if r.options.Lenient || r.options.Placeholder {
		params = fill(r.params, t, r.options)
	}
	if r.options.Lenient {
		missing = "zero"
	}
	out, err := t.Execute(params, missing, r.budget)
	switch {
	case err != nil:
		r.fail(path, "%w", err)
	case missing == "zero":
		return strings.ReplaceAll(out, noValue, "")
	case strings.Contains(out, noValue) && !strings.Contains(s, noValue):
		// `index` of a key that is not there: what Kanister would run with.
		r.fail(path, "%q names something that is not there; give it a value with | default \"…\"", s)
	}
	return out
}

// noValue is what text/template prints for what is not there.
const noValue = "<no value>"

// Masked stands for a secret's value.
const Masked = "********"

// fill returns params in which every phase, output and secret of a phase that
// the template names exists.
func fill(p *Params, t *templates.Template, o Options) *Params {
	out := *p
	out.Phases = make(map[string]*Phase, len(p.Phases))
	maps.Copy(out.Phases, p.Phases)
	filled := map[string]bool{} // those that are copies
	refs, _ := t.Refs()
	for _, ref := range refs {
		switch path := ref.Path; {
		case path[0] == "Phases" && len(path) > 1 && path[1] != templates.Any:
			if !filled[path[1]] {
				filled[path[1]] = true
				out.Phases[path[1]] = clonePhase(out.Phases[path[1]])
			}
			fillPhase(out.Phases[path[1]], path[1], path[2:], o)
		case path[0] == "DeferPhase":
			out.DeferPhase = clonePhase(out.DeferPhase)
			fillPhase(out.DeferPhase, "deferPhase", path[1:], o)
		}
	}
	return &out
}

func clonePhase(p *Phase) *Phase {
	out := &Phase{Secrets: map[string]Secret{}, ConfigMaps: map[string]ConfigMap{}, Output: map[string]any{}}
	if p != nil {
		maps.Copy(out.Secrets, p.Secrets)
		maps.Copy(out.ConfigMaps, p.ConfigMaps)
		maps.Copy(out.Output, p.Output)
	}
	return out
}

func fillPhase(p *Phase, name string, path []string, o Options) {
	if len(path) < 2 || path[1] == templates.Any {
		return
	}
	key := path[1]
	switch path[0] {
	case "Output":
		if _, ok := p.Output[key]; !ok {
			p.Output[key] = ""
			if o.Placeholder {
				p.Output[key] = "«" + name + ".Output." + key + "»"
			}
		}
	case "Secrets":
		s := p.Secrets[key]
		s.Data = maps.Clone(s.Data)
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		if len(path) > 3 && path[2] == "Data" {
			if _, ok := s.Data[path[3]]; !ok {
				s.Data[path[3]] = nil
				if o.Placeholder {
					s.Data[path[3]] = []byte(Masked)
				}
			}
		}
		p.Secrets[key] = s
	case "ConfigMaps":
		c := p.ConfigMaps[key]
		c.Data = maps.Clone(c.Data)
		if c.Data == nil {
			c.Data = map[string]string{}
		}
		if len(path) > 3 && path[2] == "Data" {
			if _, ok := c.Data[path[3]]; !ok && o.Placeholder {
				c.Data[path[3]] = "«" + name + ".ConfigMaps." + key + "." + path[3] + "»"
			} else if !ok {
				c.Data[path[3]] = ""
			}
		}
		p.ConfigMaps[key] = c
	}
}
