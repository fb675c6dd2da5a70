// Package planner turns a blueprint and a request into a plan: resolved,
// checked, without secrets, the same whenever it is made from the same input.
// It reads no clock and calls nothing. Start with Build.
package planner

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/templates"
	"thaw/blueprints/when"
)

// Defaults of what neither the blueprint nor the request says.
const (
	// Attempts on transient faults: those before an effect.
	defaultAttempts   = 5
	defaultBackoff    = time.Second
	defaultMaxBackoff = time.Minute

	// defaultUndoTimeout of one attempt of an undo that says nothing.
	defaultUndoTimeout     = time.Minute
	defaultApprovalTimeout = 72 * time.Hour
)

// Extra is what the worker knows besides the request.
type Extra struct {
	// Text of the blueprint, for the plan. Default: the blueprint's own.
	Text []byte
	// RestorePoint that the run makes, or works on.
	RestorePoint plan.RestorePointRef
	// From is the restore point that the run works on, if any. Its artifacts
	// are the input artifacts that the request leaves out.
	From *plan.RestorePoint
}

// Build makes the plan of a request. The blueprint has been linted. The error,
// of kind fault.User, holds everything that is wrong with the request.
func Build(bp *blueprints.Blueprint, cat catalogue.Catalogue, in plan.PlanInput, extra Extra) (*plan.Plan, error) {
	b := &builder{bp: bp, cat: cat, in: in, extra: extra}
	p := b.plan()
	if len(b.errs) > 0 {
		return nil, fault.New(fault.User, "plan %s.%s: %w", bp.Metadata.Name, in.Request.Action, errors.Join(b.errs...))
	}
	if err := p.Seal(); err != nil {
		return nil, fault.New(fault.Permanent, "%w", err)
	}
	return p, nil
}

type builder struct {
	bp    *blueprints.Blueprint
	cat   catalogue.Catalogue
	in    plan.PlanInput
	extra Extra
	errs  []error
	warns []string
}

func (b *builder) fail(format string, args ...any) {
	b.errs = append(b.errs, fmt.Errorf(format, args...))
}

func (b *builder) plan() *plan.Plan {
	req := b.in.Request
	text := b.extra.Text
	if text == nil {
		text = b.bp.Text
	}
	p := &plan.Plan{
		Blueprint: b.bp.Metadata.Name, BlueprintDigest: b.bp.Digest, BlueprintText: string(text),
		Action: req.Action, Target: req.Target,
	}
	if req.Target.Name == "" {
		b.fail("target.name is missing: name what to work on")
	}
	if !oneOf(req.OnFailure, "", "fail", "pause") {
		b.fail("onFailure is %q; want fail or pause", req.OnFailure)
	}
	a, hooks := b.action()
	if a == nil {
		return p
	}
	b.kind(a)
	p.Scope = b.scope(a)
	switch {
	case hooks != nil:
		p.Phases = b.pair(hooks)
	default:
		p.Phases = b.chain(a.Phases)
	}
	p.Verify = b.chain(a.Verify)
	if a.DeferPhase != nil {
		d := b.call(a.DeferPhase, or(a.DeferPhase.Name, "deferPhase"))
		p.Defer = &d
	}
	if len(a.OutputArtifacts) > 0 {
		p.Artifacts = a.OutputArtifacts
	}
	p.Approval = b.approval(a)
	b.never(p.Phases, p.Scope)
	b.never(p.Verify, p.Scope)
	b.unserved(p)
	b.profile(p)
	p.Warnings = b.warns
	return p
}

// never marks the phases whose condition is false already: it names nothing
// that another phase puts out, and of the target nothing that is looked up.
func (b *builder) never(phases []plan.Phase, s plan.Scope) {
	in := when.Input{Options: s.Options, Published: s.RestorePoint.Profile != nil}
	for i := range phases {
		ph := &phases[i]
		if ph.When == "" || strings.Contains(ph.When, "outputs") || strings.Contains(ph.When, "target") {
			continue
		}
		yes, err := when.Eval(ph.When, in)
		ph.Never = err == nil && !yes // what is wrong with it fails the phase
	}
}

// unserved reports the functions that no worker of this release runs, all at
// once.
func (b *builder) unserved(p *plan.Plan) {
	p.Walk(func(ph *plan.Phase) {
		if ph.Func == "" {
			return
		}
		if f, ok := b.cat.Lookup(ph.Func); ok && f.Planned {
			b.fail("function %s of phase %s: this release does not run it on any worker; the blueprint can be linted and rendered, not run", ph.Func, ph.Name)
		}
	})
}

// profile reports what needs a location profile where the request names none.
func (b *builder) profile(p *plan.Plan) {
	if b.in.Request.Profile != nil {
		if b.in.Request.Profile.Name == "" {
			b.fail("profile.name is missing: name the location profile")
		}
		return
	}
	const give = "give one, as profile: {name, namespace}, or {kind: Secret, name}"
	p.Walk(func(ph *plan.Phase) {
		if ph.Never {
			return
		}
		if f, ok := b.cat.Lookup(ph.Func); ok && f.Profile {
			b.fail("phase %s: function %s needs a location profile; %s", ph.Name, ph.Func, give)
		} else if asks(map[string]any(ph.Args)) {
			b.fail("phase %s: its arguments name .Profile, and the run has none; %s", ph.Name, give)
		}
	})
	for name, a := range p.Artifacts {
		for _, v := range a.KeyValue {
			if asks(v) {
				b.fail("artifact %s names .Profile, and the run has none; %s", name, give)
			}
		}
	}
}

// asks reports whether a template needs a location profile, and does not ask
// first whether there is one.
func asks(v any) bool {
	switch t := v.(type) {
	case string:
		if !templates.Has(t) || !strings.Contains(t, ".Profile") {
			return false
		}
		parsed, err := templates.Parse(t)
		if err != nil {
			return false // linted already
		}
		refs, _ := parsed.Refs()
		return slices.ContainsFunc(refs, func(r templates.Ref) bool {
			return len(r.Path) > 0 && r.Path[0] == "Profile" && !r.Guarded
		})
	case []any:
		return slices.ContainsFunc(t, asks)
	case map[string]any:
		for _, x := range t {
			if asks(x) {
				return true
			}
		}
	}
	return false
}

func (b *builder) kind(a *blueprints.Action) {
	want, have := a.Kind, b.in.Request.Target.Kind
	if want == "" || have == "" || strings.EqualFold(want, have) {
		return
	}
	// Kanister's kind is informative: its own engine never checks it.
	if b.bp.Thaw() {
		b.fail("target is a %s; action %s is for a %s", have, a.Name, want)
		return
	}
	b.warns = append(b.warns, fmt.Sprintf("target is a %s; action %s says that it is for a %s", have, a.Name, want))
}

// chain builds phases in order; one that names no needs follows the one
// before it.
func (b *builder) chain(phases []*blueprints.Phase) []plan.Phase {
	out := make([]plan.Phase, 0, len(phases))
	for i, ph := range phases {
		q := b.phase(ph)
		switch {
		case ph.Needs != nil:
			q.Needs = append([]string{}, ph.Needs...)
		case i > 0:
			q.Needs = []string{phases[i-1].Name}
		}
		out = append(out, q)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (b *builder) phase(ph *blueprints.Phase) plan.Phase {
	if ph.Freeze == nil {
		return b.call(ph, ph.Name)
	}
	f := ph.Freeze
	return b.freeze(ph.Name, ph.When, f.Do, f.Undo, ph.Name+".do", ph.Name+".undo", f.MaxFreeze, f.Proof, b.chain(f.Phases))
}

func (b *builder) freeze(name, when string, do, undo *blueprints.Phase, doName, undoName string, limit time.Duration, proof []string, inner []plan.Phase) plan.Phase {
	f := plan.Freeze{Do: b.call(do, doName), Undo: b.call(undo, undoName), MaxFreeze: plan.Duration(limit), Phases: inner, Proof: proof}
	if fn, ok := b.cat.Lookup(do.Func); ok && len(proof) == 0 {
		f.Proof = fn.Proof
	}
	// undo may name the secrets of do: both run under the freeze's name.
	for name, ref := range do.Objects {
		if _, own := f.Undo.Objects[name]; !own {
			if f.Undo.Objects == nil {
				f.Undo.Objects = map[string]plan.Reference{}
			}
			f.Undo.Objects[name] = ref
		}
	}
	// Nothing of a freeze has longer than the freeze, but its undo, which is
	// tried again and again: one attempt that hangs must not stop the next.
	f.Do.Timeout = min(f.Do.Timeout, f.MaxFreeze)
	if undo.Timeout == 0 {
		f.Undo.Timeout = min(f.Undo.Timeout, plan.Duration(defaultUndoTimeout))
	}
	for i := range f.Phases {
		f.Phases[i].Timeout = min(f.Phases[i].Timeout, f.MaxFreeze)
	}
	return plan.Phase{Name: name, When: when, Freeze: &f, Timeout: f.MaxFreeze, Retry: plan.Retry{MaxAttempts: 1, Backoff: plan.Duration(defaultBackoff)}}
}

func (b *builder) call(ph *blueprints.Phase, name string) plan.Phase {
	q := plan.Phase{
		Name: name, Func: ph.Func, Args: copied(ph.Args), When: ph.When, Timeout: plan.Duration(ph.Timeout),
		Retry: plan.Retry{MaxAttempts: defaultAttempts, Backoff: plan.Duration(defaultBackoff), MaxBackoff: plan.Duration(defaultMaxBackoff)},
	}
	if len(ph.Objects) > 0 {
		q.Objects = make(map[string]plan.Reference, len(ph.Objects))
		for k, v := range ph.Objects {
			q.Objects[k] = v
		}
	}
	if r := ph.Retry; r != nil {
		q.Retry.NonRetryable, q.Retry.ExitCodes = r.NonRetryable, r.ExitCodes
		q.Retry.MaxAttempts = or(r.MaxAttempts, defaultAttempts)
		q.Retry.Backoff = plan.Duration(or(r.Backoff, defaultBackoff))
		q.Retry.MaxBackoff = plan.Duration(or(r.MaxBackoff, max(defaultMaxBackoff, r.Backoff)))
	}
	fn, ok := b.cat.Lookup(ph.Func)
	if !ok {
		b.fail("function %q of phase %s is not in the catalogue%s", ph.Func, name, templates.Suggest(ph.Func, blueprints.FunctionNames(b.cat)))
		return q
	}
	if q.Timeout == 0 {
		q.Timeout = plan.Duration(fn.Timeout)
	}
	q.Idempotent = fn.Idempotent || fn.ReadOnly
	if ph.Idempotent != nil {
		q.Idempotent = *ph.Idempotent
	}
	q.Person, q.Reattach = fn.Person, fn.Reattach
	if ph.Compensate != nil {
		c := b.call(ph.Compensate, name+".compensate")
		// What undoes a phase may name its secrets.
		for k, v := range ph.Objects {
			if _, own := c.Objects[k]; !own {
				if c.Objects == nil {
					c.Objects = map[string]plan.Reference{}
				}
				c.Objects[k] = v
			}
		}
		q.Compensate = &c
	}
	return q
}

// copied copies arguments deeply: a plan may be changed (shown, retried with
// other arguments) without changing the blueprint.
func copied(args map[string]any) plan.Values {
	if len(args) == 0 {
		return nil
	}
	out := make(plan.Values, len(args))
	for k, v := range args {
		out[k] = deep(v)
	}
	return out
}

func deep(v any) any {
	switch t := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(t))
		for k, e := range t {
			out[k] = deep(e)
		}
		return out
	case []any:
		out := make([]any, len(t))
		for i, e := range t {
			out[i] = deep(e)
		}
		return out
	}
	return v
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func oneOf(s string, of ...string) bool {
	for _, o := range of {
		if s == o {
			return true
		}
	}
	return false
}
