package planner

import (
	"maps"
	"slices"
	"strings"
	"time"

	"thaw/blueprints"
	"thaw/blueprints/plan"
	"thaw/blueprints/templates"
)

// action finds the action that is asked for. A request for `backup` of a
// blueprint with K10's pair of hooks is the pair around its backup.
func (b *builder) action() (*blueprints.Action, *hooks) {
	name := b.in.Request.Action
	a, ok := b.bp.Action(name)
	if h := b.hooks(); h != nil && name == "backup" {
		if a == nil {
			a = &blueprints.Action{Name: name, Path: h.pre.Path, Kind: h.pre.Kind}
		}
		return a, h
	}
	if ok {
		return a, nil
	}
	names := b.bp.ActionNames()
	switch hint := templates.Suggest(name, names); {
	case name == "":
		b.fail("action is missing; blueprint %s has %s", b.bp.Metadata.Name, strings.Join(names, ", "))
	case hint != "":
		b.fail("blueprint %s has no action %q%s", b.bp.Metadata.Name, name, hint)
	default:
		b.fail("blueprint %s has no action %q; it has %s", b.bp.Metadata.Name, name, strings.Join(names, ", "))
	}
	return nil, nil
}

// scope resolves what templates may see.
func (b *builder) scope(a *blueprints.Action) plan.Scope {
	req := b.in.Request
	s := plan.Scope{
		Target: req.Target, Options: b.options(), Secrets: req.Secrets, ConfigMaps: req.ConfigMaps, Profile: req.Profile,
		Pod: req.Pod, RestorePoint: b.extra.RestorePoint, Time: b.in.Time.UTC().Format(time.RFC3339Nano),
	}
	if b.extra.From != nil {
		s.Artifacts = maps.Clone(b.extra.From.Artifacts)
	}
	if s.Artifacts == nil && len(req.Artifacts) > 0 {
		s.Artifacts = map[string]plan.Artifact{}
	}
	maps.Copy(s.Artifacts, req.Artifacts)
	for _, name := range a.SecretNames {
		if ref, ok := s.Secrets[name]; !ok || ref.Name == "" {
			b.fail("secret %q is missing: action %s names it in secretNames; give it as secrets.%s.name", name, a.Name, name)
		}
	}
	for _, name := range a.ConfigMapNames {
		if ref, ok := s.ConfigMaps[name]; !ok || ref.Name == "" {
			b.fail("config map %q is missing: action %s names it in configMapNames; give it as configMaps.%s.name", name, a.Name, name)
		}
	}
	for _, name := range a.InputArtifactNames {
		if _, ok := s.Artifacts[name]; !ok {
			b.fail("artifact %q is missing: action %s names it in inputArtifactNames; give the restore point that has it (from), or artifacts.%s", name, a.Name, name)
		}
	}
	return s
}

// options are those of the request, checked and with defaults.
func (b *builder) options() plan.Values {
	given := b.in.Request.Options
	out := plan.Values{}
	if !b.bp.Thaw() {
		maps.Copy(out, given)
		return out
	}
	var names []string
	for _, p := range b.bp.Parameters {
		names = append(names, p.Name)
		v, ok := given[p.Name]
		switch {
		case !ok && p.Required:
			b.fail("option %q is missing%s", p.Name, about(p))
			continue
		case !ok:
			out[p.Name] = deep(p.Zero())
			continue
		}
		v, wrong := p.Check(v)
		for _, w := range wrong {
			b.fail("option %q: %s%s", p.Name, w, about(p))
		}
		out[p.Name] = v
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if slices.Contains(names, name) {
			continue
		}
		hint := templates.Suggest(name, names)
		if hint == "" && len(names) > 0 {
			hint = "; it has " + strings.Join(names, ", ")
		} else if hint == "" {
			hint = "; it has no parameters"
		}
		b.fail("option %q is not a parameter of blueprint %s%s", name, b.bp.Metadata.Name, hint)
	}
	return out
}

func about(p *blueprints.Parameter) string {
	if p.Description == "" {
		return ""
	}
	return " (" + strings.TrimSuffix(strings.TrimSpace(p.Description), ".") + ")"
}

// approval joins what the blueprint's action asks for and what the request
// asks for. A request can make an approval stricter, never laxer; it drops one
// only where the blueprint says that it may.
func (b *builder) approval(a *blueprints.Action) *plan.Approval {
	req := b.in.Request
	var out *plan.Approval
	if a.Approval != nil {
		c := *a.Approval
		out = &c
	}
	if req.NoApproval && out != nil {
		if out.Optional {
			out = nil
		} else {
			b.fail("noApproval: the approval of action %s is not optional", a.Name)
		}
	}
	if r := req.Approval; r != nil {
		if out == nil {
			c := *r
			out = &c
		} else {
			out.Message = or(r.Message, out.Message)
			out.FourEyes = out.FourEyes || r.FourEyes
			out.Count = max(out.Count, r.Count)
			if r.Timeout > 0 && (out.Timeout == 0 || r.Timeout < out.Timeout) {
				out.Timeout = r.Timeout
			}
			out.Approvers = narrowed(out.Approvers, r.Approvers)
			if len(out.Approvers) == 0 && len(a.Approval.Approvers) > 0 {
				b.fail("approval.approvers: none of them may approve action %s; its blueprint says %s", a.Name, strings.Join(a.Approval.Approvers, ", "))
			}
		}
	}
	if out == nil {
		return nil
	}
	out.Count = max(out.Count, 1)
	out.Timeout = or(out.Timeout, plan.Duration(defaultApprovalTimeout))
	able := len(out.Approvers)
	if out.FourEyes && slices.Contains(out.Approvers, req.RequestedBy) {
		able--
	}
	switch {
	case out.FourEyes && req.RequestedBy == "":
		b.fail("requestedBy is missing: the approval must not be the requester's own (fourEyes), so say who asks")
	case len(out.Approvers) > 0 && able < out.Count:
		b.fail("the approval can never be given: it needs %d, and only %d may give one", out.Count, able)
	}
	return out
}

func narrowed(a, b []string) []string {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	var out []string
	for _, s := range a {
		if slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return out
}
