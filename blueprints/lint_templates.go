package blueprints

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"

	"thaw/blueprints/templates"
	"thaw/blueprints/when"
)

// env is what a template at some place may name.
type env struct {
	action *Action
	phases map[string]*seen // that ran before
	others map[string]bool  // of the same action, not before: true where later in the file
	self   string           // the phase itself: its secrets are there
	cond   string           // its `when`: others with the same ran, if it runs
	owners []*Phase         // whose objects are the phase's: of a freeze, do and undo

	deferred  *Phase // the deferPhase, where it may be named
	artifacts bool   // in outputArtifacts
	lenient   bool   // what is absent renders as empty: undo, compensate, deferPhase
	objects   bool   // in objects, which are rendered before any phase
}

// seen is a phase that may be named.
type seen struct {
	calls []*Phase // whose outputs and objects it has: one, or do and undo
	may   string   // why it may not have run
	when  string   // its condition
}

func newEnv(a *Action) *env {
	return &env{action: a, phases: map[string]*seen{}, others: map[string]bool{}}
}

func (e *env) child() *env {
	return &env{action: e.action, phases: maps.Clone(e.phases), others: maps.Clone(e.others), cond: e.cond, deferred: e.deferred, lenient: e.lenient}
}

// raw checks an argument whose conditions the function renders itself: they
// must parse. What else is in it is rendered as usual.
func (l *linter) raw(v any, path string, e *env) {
	switch t := v.(type) {
	case []any:
		for i, x := range t {
			l.raw(x, item(path, i), e)
		}
	case map[string]any:
		for _, k := range sortedKeys(t) {
			if text, ok := t[k].(string); ok && k == "condition" {
				l.condition(text, join(path, k))
				continue
			}
			l.raw(t[k], join(path, k), e)
		}
	default:
		EachString(v, path, func(s, path string, key bool) { l.template(s, path, key, e) })
	}
}

// jsonPath is one in a condition of Kanister's Wait: { $.status.phase }. Its
// value takes its place before the template is parsed.
var jsonPath = regexp.MustCompile(`\{\s*\$[^{}]*\}`)

// condition is a template over an object, with JSON paths or without.
func (l *linter) condition(text, path string) {
	if !templates.Has(text) {
		return
	}
	if _, err := templates.Parse(text); err != nil {
		if _, filled := templates.Parse(jsonPath.ReplaceAllString(text, "x")); filled != nil {
			l.unparsed(err, path, false)
		}
	}
}

func (l *linter) unparsed(err error, path string, key bool) {
	offset := 0
	var te *templates.Error
	if errors.As(err, &te) {
		offset = te.Offset
	}
	hint := ""
	switch msg := err.Error(); {
	case strings.Contains(msg, "bad character U+002D '-'"):
		hint = `; a name with - in it is read with index: {{ (index .Phases "my-phase").Output.key }}`
	case strings.Contains(msg, "unexpected EOF"):
		hint = "; an {{ if }}, {{ range }} or {{ with }} lacks its {{ end }}"
	}
	line, col := l.bp.source.locate(path, key, offset)
	l.add(Error, line, col, path, "bad-template", "the template does not parse: %s%s", err, hint)
}

// maxSaid bounds what is said about one string.
const maxSaid = 50

// template checks one string.
func (l *linter) template(s, path string, key bool, e *env) {
	if !templates.Has(s) {
		return
	}
	t, err := templates.Parse(s)
	if err != nil {
		l.unparsed(err, path, key)
		return
	}
	refs, calls := t.Refs()
	for _, c := range calls {
		if why := templates.Refused(c.Func); why != "" {
			line, col := l.bp.source.locate(path, key, c.Offset)
			l.add(Error, line, col, path, "refused-function", "function %q is refused in templates: %s", c.Func, why)
		}
	}
	said := 0
	for _, r := range refs {
		sev, code, msg := l.reference(r, e)
		if msg != "" && said < maxSaid {
			said++
			line, col := l.bp.source.locate(path, key, r.Offset)
			l.add(sev, line, col, path, code, "%s", msg)
		}
	}
}

// softly is an error in Thaw's language and a warning in Kanister's, which
// never enforced it.
func (l *linter) softly() Severity {
	if l.bp.Thaw() {
		return Error
	}
	return Warning
}

// reference says what is wrong with one reference, or "".
func (l *linter) reference(r templates.Ref, e *env) (sev Severity, code, msg string) {
	if why := templates.Check(r); why != "" {
		return Error, "unknown-reference", why
	}
	path := r.Path
	second := ""
	if len(path) > 1 && path[1] != templates.Any {
		second = path[1]
	}
	switch path[0] {
	case "Phases":
		if e.objects {
			return Error, "phase-in-objects", "objects are resolved before any phase runs, so they cannot name " + r.String()
		}
		if second != "" {
			sev, code, msg = l.phase(second, path[2:], e)
			if code == "may-be-absent" && r.Guarded && e.lenient {
				return "", "", "" // the author knows
			}
			return sev, code, msg
		}
	case "DeferPhase":
		switch {
		case e.deferred == nil:
			return Error, "unknown-phase", ".DeferPhase is there in outputArtifacts and in the deferPhase itself, of an action that has one"
		case len(path) > 1 && path[1] == "Output" && !e.artifacts:
			return Error, "unknown-phase", "the deferPhase cannot read its own output: it has not run yet"
		case len(path) > 1:
			return l.within("deferPhase", &seen{calls: []*Phase{e.deferred}}, path[1:], e.artifacts, e.lenient)
		}
	case "ArtifactsIn":
		if second != "" && !slices.Contains(e.action.InputArtifactNames, second) {
			return l.softly(), "undeclared-artifact", "input artifact " + quote(second) + " is not among the action's inputArtifactNames" + templates.Suggest(second, e.action.InputArtifactNames)
		}
	case "Secrets":
		if second != "" && !slices.Contains(e.action.SecretNames, second) {
			return l.softly(), "undeclared-secret", "secret " + quote(second) + " is not among the action's secretNames" + templates.Suggest(second, e.action.SecretNames)
		}
	case "ConfigMaps":
		if second != "" && !slices.Contains(e.action.ConfigMapNames, second) {
			return l.softly(), "undeclared-config-map", "config map " + quote(second) + " is not among the action's configMapNames" + templates.Suggest(second, e.action.ConfigMapNames)
		}
	case "Options":
		if second == "" {
			l.allUsed = true
			return
		}
		return l.option(second)
	}
	return
}

func quote(s string) string { return "\"" + short(s) + "\"" }

func (l *linter) option(name string) (sev Severity, code, msg string) {
	l.used[name] = true
	if !l.bp.Thaw() || l.options[name] {
		return
	}
	hint := templates.Suggest(name, sortedKeys(l.options))
	if hint == "" {
		hint = "; declare it under the blueprint's parameters"
	}
	return Error, "undeclared-option", "option " + quote(name) + " is not a parameter of the blueprint" + hint
}

// phase checks .Phases.<name>.<rest>.
func (l *linter) phase(name string, rest []string, e *env) (sev Severity, code, msg string) {
	s, ran := e.phases[name]
	if name == e.self {
		switch {
		case len(rest) == 0 || rest[0] == "Secrets" || rest[0] == "ConfigMaps":
			return l.within(name, &seen{calls: e.owners}, rest, false, e.lenient)
		case !ran:
			return Error, "unknown-phase", "phase " + quote(name) + " cannot read its own output: it has not run yet"
		}
	}
	if !ran {
		if later, there := e.others[name]; there {
			if later {
				return Error, "unknown-phase", "phase " + quote(name) + " runs after this one, so it has no output yet"
			}
			return Error, "unknown-phase", "phase " + quote(name) + " is not known to have run before this one: name it in needs"
		}
		var names []string
		names = append(names, slices.Collect(maps.Keys(e.phases))...)
		slices.Sort(names)
		hint := templates.Suggest(name, names)
		if hint == "" {
			hint = l.elsewhere(name)
		}
		return Error, "unknown-phase", "no earlier phase of action " + e.action.Name + " is named " + quote(name) + hint
	}
	// What runs in the same freeze, or for a compensation, finds its objects.
	return l.within(name, s, rest, e.cond == "" || e.cond != s.when, e.lenient)
}

func (l *linter) elsewhere(name string) string {
	for _, a := range l.bp.Actions {
		found := false
		a.Each(func(p *Phase) { found = found || p.Name == name })
		if found {
			return "; the one of action " + a.Name + " is out of reach: pass its output on as an artifact"
		}
	}
	return ""
}

// within checks what is read of a phase that may be named.
func (l *linter) within(name string, s *seen, rest []string, warn, lenient bool) (sev Severity, code, msg string) {
	if len(rest) < 2 || rest[1] == templates.Any {
		return
	}
	key := rest[1]
	switch rest[0] {
	case "Output":
		var last string
		for _, c := range s.calls {
			fn, ok := l.cat.Lookup(c.Func)
			if !ok || fn.Output(key) {
				if s.may != "" && warn {
					then := "rendering its output then fails"
					if lenient {
						then = "its output then renders as empty; where that is meant, say so with | default \"\""
					}
					return Warning, "may-be-absent", "phase " + quote(name) + " may not have run (" + s.may + "); " + then
				}
				return
			}
			last = c.Func + " of phase " + quote(name) + " has no output " + quote(key) + suggestOutput(fn, key)
		}
		if len(s.calls) == 0 {
			return
		}
		return Error, "unknown-output", last
	case "Secrets", "ConfigMaps":
		want := strings.TrimSuffix(rest[0], "s")
		names := []string{}
		for _, c := range s.calls {
			for n, ref := range c.Objects {
				if n == key {
					if strings.EqualFold(ref.Kind, "ConfigMap") != (want == "ConfigMap") && !templates.Has(ref.Kind) {
						return Error, "unknown-object", quote(key) + " of phase " + quote(name) + " is no " + want + ": read it as .Phases." + name + "." + other(rest[0]) + "." + key
					}
					return
				}
				names = append(names, n)
			}
		}
		slices.Sort(names)
		hint := templates.Suggest(key, names)
		if hint == "" && len(names) == 0 {
			hint = "; name it under the phase's objects"
		} else if hint == "" {
			hint = "; it has " + strings.Join(names, ", ")
		}
		return Error, "unknown-object", "phase " + quote(name) + " has no object " + quote(key) + hint
	}
	return
}

func other(kind string) string {
	if kind == "Secrets" {
		return "ConfigMaps"
	}
	return "Secrets"
}

// when checks a phase's condition.
func (l *linter) when(p *Phase, e *env) {
	if p.When == "" {
		return
	}
	path := join(p.Path, "when")
	if templates.Has(p.When) {
		l.at(Error, path, "bad-when", "when is CEL, not a template: write outputs.copy.path == \"x\", without {{ }}")
		return
	}
	expr, err := when.Compile(p.When)
	if err != nil {
		offset := 0
		var we *when.Error
		if errors.As(err, &we) {
			lines := strings.SplitAfter(p.When, "\n")
			for i := 0; i < we.Line-1 && i < len(lines); i++ {
				offset += len(lines[i])
			}
			offset = min(offset+we.Column-1, len(p.When))
		}
		line, col := l.bp.source.locate(path, false, offset)
		l.add(Error, line, col, path, "bad-when", "when does not compile: %s", err)
		return
	}
	for _, r := range expr.Refs() {
		var sev Severity
		var code, msg string
		switch r[0] {
		case "outputs":
			if len(r) == 2 {
				sev, code, msg = l.phase(r[1], nil, e)
			} else {
				// has() makes an absent output a question, not a mistake.
				c := *e
				c.cond = p.When
				sev, code, msg = l.phase(r[1], []string{"Output", r[2]}, &c)
				if sev == Warning {
					msg = ""
				}
			}
		case "options":
			sev, code, msg = l.option(r[1])
		}
		if msg != "" {
			l.at(sev, path, code, "%s", msg)
		}
	}
}
