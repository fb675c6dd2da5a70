package blueprints

import (
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"thaw/blueprints/plan"
	"thaw/blueprints/templates"
)

var (
	objectName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)
	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)
)

// blueprint reads one document; nil where it is no mapping.
func (d *decoder) blueprint(n *yaml.Node) *Blueprint {
	b := &Blueprint{}
	// The version decides which fields there are, wherever it stands.
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == "apiVersion" {
				d.thaw = n.Content[i+1].Value == ThawVersion
			}
		}
	}
	var actions *yaml.Node
	ok := d.fields(n, "", "a blueprint", map[string]string{
		"spec": "actions stand at the top level of a Blueprint, not under spec",
	},
		field{name: "apiVersion", read: d.str(&b.APIVersion), required: true},
		field{name: "kind", read: d.str(&b.Kind), required: true},
		field{name: "metadata", read: func(n *yaml.Node, path string) { d.metadata(n, path, &b.Metadata) }, required: true},
		field{name: "description", read: d.str(&b.Description), thaw: true},
		field{name: "parameters", read: d.mapping(func(e entry, path string) { d.parameter(e, path, b) }), thaw: true},
		field{name: "actions", read: func(n *yaml.Node, path string) {
			actions = n
			d.mapping(func(e entry, path string) { d.action(e, path, b) })(n, path)
		}, required: true},
		field{name: "status", hidden: true},
	)
	if !ok || d.bomb {
		return nil // what was cut off would only look missing
	}
	if b.APIVersion != "" && b.APIVersion != KanisterVersion && b.APIVersion != ThawVersion {
		d.fault(d.src.values["apiVersion"], "apiVersion", "unknown-version", "apiVersion %q is not known; write %s, or %s to use Thaw's additions",
			short(b.APIVersion), KanisterVersion, ThawVersion)
	}
	if b.Kind != "" && b.Kind != Kind {
		hint := ""
		if b.Kind == "List" {
			hint = "; put each blueprint of the list into a file of its own"
		}
		d.fault(d.src.values["kind"], "kind", "wrong-kind", "want kind %s, have %q%s", Kind, short(b.Kind), hint)
	}
	if actions != nil && len(b.Actions) == 0 && len(d.faults.Errors()) == 0 {
		d.fault(actions, "actions", "no-actions", "a blueprint needs at least one action, such as backup")
	}
	return b
}

func (d *decoder) metadata(n *yaml.Node, path string, m *Metadata) {
	generated := false
	fields := []field{
		{name: "name", read: d.str(&m.Name)},
		{name: "namespace", read: d.str(&m.Namespace)},
		{name: "labels", read: d.stringMap(&m.Labels)},
		{name: "annotations", read: d.stringMap(&m.Annotations)},
		{name: "generateName", hidden: true, read: func(*yaml.Node, string) { generated = true }},
	}
	// What `kubectl get -o yaml` adds.
	for _, name := range []string{"creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers",
		"generation", "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid"} {
		fields = append(fields, field{name: name, hidden: true})
	}
	if !d.fields(n, path, "metadata", nil, fields...) {
		return
	}
	switch {
	case m.Name == "" && !generated:
		d.fault(n, path, "missing-field", "metadata needs the field \"name\"")
	case m.Name != "" && (!objectName.MatchString(m.Name) || len(m.Name) > 253):
		d.fault(d.src.values[join(path, "name")], join(path, "name"), "bad-name",
			"%q is no name of an object: use lower-case letters, digits, - and .", short(m.Name))
	}
}

func (d *decoder) parameter(e entry, path string, b *Blueprint) {
	p := &Parameter{Name: e.key, Path: path}
	if !identifier.MatchString(e.key) {
		d.fault(e.node, path, "bad-name", "parameter %q: use letters, digits and _, so that templates can write .Options.name", short(e.key))
	}
	schema, ok := d.value(e.value, path).(map[string]any)
	if !ok {
		if n := d.src.values[path]; n != nil && !isNull(n) {
			d.wrongType(n, path, "a JSON Schema, such as {type: string, description: …}")
			return
		}
		schema = map[string]any{}
	}
	p.Schema = map[string]any{}
	for k, v := range schema {
		switch k {
		case "description":
			p.Description, _ = v.(string)
		case "default":
			p.Default, p.HasDefault = v, true
		case "required":
			// In JSON Schema `required` lists an object's properties; a boolean
			// here says that the parameter itself must be given.
			if r, isBool := v.(bool); isBool {
				p.Required = r
				continue
			}
		}
		p.Schema[k] = v
	}
	if p.Required && p.HasDefault {
		d.report(Warning, e.node, path, "required-default", "parameter %q has a default, so it is never required", p.Name)
	}
	b.Parameters = append(b.Parameters, p)
}

func (d *decoder) action(e entry, path string, b *Blueprint) {
	a := &Action{Name: e.key, Path: path}
	if !identifier.MatchString(e.key) {
		d.fault(e.node, path, "bad-name", "action %q: use letters, digits, _ and -", short(e.key))
	}
	var name string
	var phases *yaml.Node
	ok := d.fields(e.value, path, "an action", map[string]string{
		"type":  "did you mean \"kind\"?",
		"steps": "did you mean \"phases\"?",
	},
		field{name: "name", read: d.str(&name)},
		field{name: "kind", read: d.str(&a.Kind)},
		field{name: "description", read: d.str(&a.Description), thaw: true},
		field{name: "configMapNames", read: d.strings("names", &a.ConfigMapNames)},
		field{name: "secretNames", read: d.strings("names", &a.SecretNames)},
		field{name: "inputArtifactNames", read: d.strings("names", &a.InputArtifactNames)},
		field{name: "outputArtifacts", read: func(n *yaml.Node, path string) {
			a.OutputArtifacts = map[string]plan.Artifact{}
			d.mapping(func(e entry, path string) { a.OutputArtifacts[e.key] = d.artifact(e.value, path) })(n, path)
		}},
		field{name: "phases", required: true, read: func(n *yaml.Node, path string) {
			phases = n
			d.phases(&a.Phases)(n, path)
		}},
		field{name: "deferPhase", read: d.given(func(n *yaml.Node, path string) { a.DeferPhase = d.phase(n, path, deferPart) })},
		field{name: "verify", read: d.phases(&a.Verify), thaw: true},
		field{name: "approval", read: d.given(func(n *yaml.Node, path string) { a.Approval = d.approval(n, path) }), thaw: true},
	)
	if !ok {
		return
	}
	if phases != nil && len(a.Phases) == 0 && (isNull(phases) || phases.Kind == yaml.SequenceNode && len(phases.Content) == 0) {
		d.fault(phases, join(path, "phases"), "no-phases", "action %q has no phases", a.Name)
	}
	b.Actions = append(b.Actions, a)
}

func (d *decoder) artifact(n *yaml.Node, path string) plan.Artifact {
	var a plan.Artifact
	if d.fields(n, path, "an output artifact", nil,
		field{name: "keyValue", read: d.stringMap(&a.KeyValue)},
		field{name: "kopiaSnapshot", read: d.str(&a.KopiaSnapshot)},
	) && len(a.KeyValue) == 0 && a.KopiaSnapshot == "" && len(n.Content) == 0 {
		d.fault(n, path, "missing-field", "an output artifact needs keyValue or kopiaSnapshot")
	}
	return a
}

func (d *decoder) approval(n *yaml.Node, path string) *plan.Approval {
	a := &plan.Approval{}
	ok := d.fields(n, path, "an approval", nil,
		field{name: "message", read: d.str(&a.Message)},
		field{name: "approvers", read: d.strings("people", &a.Approvers)},
		field{name: "fourEyes", read: d.boolean(&a.FourEyes)},
		field{name: "count", read: d.integer(&a.Count, 1)},
		field{name: "timeout", read: func(n *yaml.Node, path string) { a.Timeout = plan.Duration(d.span(n, path)) }},
		field{name: "optional", read: d.boolean(&a.Optional)},
	)
	if ok && len(a.Approvers) > 0 && a.Count > len(a.Approvers) {
		d.fault(n, path, "never-approved", "%d people must approve, and only %d may", a.Count, len(a.Approvers))
	}
	return a
}

// maxPhases of one list: who needs whom is worked out for every pair.
const maxPhases = 500

func (d *decoder) phases(into *[]*Phase) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		said := false
		d.list("phases", func(n *yaml.Node, path string) {
			if len(*into) >= maxPhases {
				if !said {
					d.fault(n, path, "too-many-phases", "a list holds at most %d phases", maxPhases)
				}
				said = true
				return
			}
			if p := d.phase(n, path, 0); p != nil {
				*into = append(*into, p)
			}
		})(n, path)
	}
}

// Which part a phase plays: parts have no name, and fewer fields.
type part int

const (
	callPart  part = iota + 1 // do, undo, compensate
	deferPart                 // may have a name
)

var phaseHints = map[string]string{
	"function": "did you mean \"func\"?", "type": "did you mean \"func\"?", "action": "did you mean \"func\"?",
	"if": "did you mean \"when\"?", "condition": "did you mean \"when\"?", "dependsOn": "did you mean \"needs\"?",
	"image": "did you mean args.image?", "command": "did you mean args.command?", "namespace": "did you mean args.namespace?",
	"secrets": "did you mean \"objects\"?", "undo": "it stands inside freeze", "do": "it stands inside freeze",
	"maxFreeze": "it stands inside freeze", "podOverride": "did you mean args.podOverride?",
}

func (d *decoder) phase(n *yaml.Node, path string, role part) *Phase {
	p := &Phase{Path: path}
	of := map[part]string{0: "a phase", callPart: "a call", deferPart: "a deferPhase"}[role]
	var inner []*Phase
	hasInner := false
	fields := []field{
		{name: "func", read: d.str(&p.Func)},
		{name: "args", read: func(n *yaml.Node, path string) {
			if r := d.at(n, path); r != nil && !isNull(r) {
				if r.Kind != yaml.MappingNode || unquoted(r) {
					d.wrongType(r, path, "a mapping of arguments")
					return
				}
				p.Args, _ = d.value(n, path).(map[string]any)
			}
		}},
		{name: "objects", read: func(n *yaml.Node, path string) {
			p.Objects = map[string]plan.Reference{}
			d.mapping(func(e entry, path string) { p.Objects[e.key] = d.reference(e.value, path) })(n, path)
		}},
		{name: "timeout", read: d.duration(&p.Timeout), thaw: true},
		{name: "retry", read: d.given(func(n *yaml.Node, path string) { p.Retry = d.retry(n, path) }), thaw: true},
	}
	if role != callPart {
		fields = append(fields, field{name: "name", read: d.str(&p.Name)})
	}
	if role == 0 {
		fields = append(fields,
			field{name: "when", read: d.str(&p.When), thaw: true},
			field{name: "needs", read: d.strings("phase names", &p.Needs), thaw: true},
			field{name: "idempotent", read: func(n *yaml.Node, path string) { p.Idempotent = new(bool); d.boolean(p.Idempotent)(n, path) }, thaw: true},
			field{name: "compensate", read: d.given(func(n *yaml.Node, path string) { p.Compensate = d.phase(n, path, callPart) }), thaw: true},
			field{name: "freeze", read: d.given(func(n *yaml.Node, path string) { p.Freeze = d.freeze(n, path) }), thaw: true},
			field{name: "phases", read: func(n *yaml.Node, path string) {
				hasInner = true
				d.phases(&inner)(n, path)
			}, thaw: true},
		)
	}
	if d.depth > maxDepth/2 || !d.fields(n, path, of, phaseHints, fields...) {
		return nil
	}
	d.shape(n, p, role, hasInner)
	if p.Freeze != nil {
		p.Freeze.Phases = inner
	}
	return p
}

// shape checks that a phase is either a call or a freeze.
func (d *decoder) shape(n *yaml.Node, p *Phase, role part, hasInner bool) {
	switch {
	case role != 0 || p.Name != "" || d.src.keys[join(p.Path, "name")] != nil && !d.empty(join(p.Path, "name")):
	case d.thaw:
		d.fault(n, p.Path, "missing-field", "a phase needs the field \"name\"")
	default:
		// Kanister runs it; nothing can read its output.
		p.Name = "phase" + strings.Trim(p.Path[strings.LastIndex(p.Path, "["):], "[]")
		d.report(Warning, n, p.Path, "unnamed-phase", "a phase without a name: later phases cannot read its output; it is shown as %s", p.Name)
	}
	if p.Name != "" && (templates.Has(p.Name) || d.thaw && !identifier.MatchString(p.Name)) {
		d.fault(d.src.values[join(p.Path, "name")], join(p.Path, "name"), "bad-name", "phase name %q: use letters, digits, _ and -", short(p.Name))
	}
	_, hasFreeze := d.src.values[join(p.Path, "freeze")]
	_, hasFunc := d.src.values[join(p.Path, "func")]
	switch {
	case hasFreeze:
		for _, f := range []string{"func", "args", "objects", "compensate", "timeout", "retry", "idempotent"} {
			if k, ok := d.src.keys[join(p.Path, f)]; ok {
				d.fault(k, join(p.Path, f), "freeze-shape", "a freeze has no field %q of its own; write it under freeze.do and freeze.undo", f)
			}
		}
	case hasInner && hasFunc:
		d.fault(d.src.keys[join(p.Path, "phases")], join(p.Path, "phases"), "freeze-shape", "only a freeze has phases inside; add freeze: {do, undo, maxFreeze} in place of func")
	case hasInner:
		d.fault(n, p.Path, "missing-field", "a phase with phases inside needs the field \"freeze\"")
	case p.Func == "" && (!hasFunc || isNull(d.src.values[join(p.Path, "func")])):
		d.fault(n, p.Path, "missing-field", "a phase needs the field \"func\"")
	case p.Func == "" && d.src.values[join(p.Path, "func")].Tag == "!!str":
		d.fault(d.src.values[join(p.Path, "func")], join(p.Path, "func"), "missing-field", "func is empty: name a function")
	}
}

func (d *decoder) freeze(n *yaml.Node, path string) *Freeze {
	f := &Freeze{Path: path}
	if !d.fields(n, path, "a freeze", map[string]string{
		"timeout": "did you mean \"maxFreeze\"?", "phases": "they stand beside freeze, not in it",
		"freeze": "did you mean \"do\"?", "thaw": "did you mean \"undo\"?",
	},
		field{name: "do", required: true, read: func(n *yaml.Node, path string) { f.Do = d.phase(n, path, callPart) }},
		field{name: "undo", required: true, read: func(n *yaml.Node, path string) { f.Undo = d.phase(n, path, callPart) }},
		field{name: "maxFreeze", required: true, read: d.duration(&f.MaxFreeze)},
		field{name: "proof", read: d.strings("output names", &f.Proof)},
	) {
		return nil
	}
	return f
}

func (d *decoder) retry(n *yaml.Node, path string) *Retry {
	r := &Retry{}
	d.fields(n, path, "retry", map[string]string{"attempts": "did you mean \"maxAttempts\"?", "max": "did you mean \"maxAttempts\"?"},
		field{name: "maxAttempts", read: d.integer(&r.MaxAttempts, 1)},
		field{name: "backoff", read: d.duration(&r.Backoff)},
		field{name: "maxBackoff", read: d.duration(&r.MaxBackoff)},
		field{name: "nonRetryable", read: d.strings("kinds of errors", &r.NonRetryable)},
		field{name: "exitCodes", read: d.boolean(&r.ExitCodes)},
	)
	if r.Backoff > 0 && r.MaxBackoff > 0 && r.MaxBackoff < r.Backoff {
		d.fault(n, path, "out-of-range", "maxBackoff (%s) is shorter than backoff (%s)", r.MaxBackoff, r.Backoff)
	}
	return r
}

func (d *decoder) reference(n *yaml.Node, path string) plan.Reference {
	var r plan.Reference
	if !d.fields(n, path, "an object reference", nil,
		field{name: "kind", read: d.str(&r.Kind)},
		field{name: "name", read: d.str(&r.Name), required: true},
		field{name: "namespace", read: d.str(&r.Namespace)},
		field{name: "apiVersion", read: d.str(&r.APIVersion)},
		field{name: "group", read: d.str(&r.Group)},
		field{name: "resource", read: d.str(&r.Resource)},
	) {
		return r
	}
	kinds := []string{"Secret", "ConfigMap"}
	sev := Error
	if !d.thaw {
		sev = Warning // Kanister's engine is the one to say
	}
	if r.Kind != "" && !slices.ContainsFunc(kinds, func(k string) bool { return strings.EqualFold(k, r.Kind) }) && !templates.Has(r.Kind) {
		d.report(sev, d.src.values[join(path, "kind")], join(path, "kind"), "unknown-kind", "objects of a phase are Secrets and ConfigMaps, not %q%s",
			short(r.Kind), templates.Suggest(r.Kind, kinds))
	}
	return r
}
