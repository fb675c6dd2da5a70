package blueprints

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"thaw/blueprints/catalogue"
	"thaw/blueprints/templates"
)

// call checks a call of a function: arguments, then every template in it.
// name is that under which it finds its own secrets.
func (l *linter) call(p *Phase, e *env, name string) {
	e.self = name
	if e.owners == nil {
		e.owners = []*Phase{p}
	}
	eachReference(p.Objects, join(p.Path, "objects"), func(s, path string, key bool) {
		o := e.child()
		o.self, o.objects = name, true
		l.template(s, path, key, o)
	})
	fn, ok := l.cat.Lookup(p.Func)
	switch {
	case p.Func == "":
	case templates.Has(p.Func):
		l.at(Error, join(p.Path, "func"), "unknown-function", "func may not be a template: a plan says which functions run")
	case !ok:
		l.at(Error, join(p.Path, "func"), "unknown-function", "there is no function %q%s", short(p.Func), l.suggestFunction(p.Func))
	default:
		l.arguments(p, fn)
		l.retry(p, fn)
	}
	for _, key := range sortedKeys(p.Args) {
		path := join(join(p.Path, "args"), key)
		raw := false
		if fn != nil {
			a, ok := fn.Arg(key)
			raw = ok && a.Raw
		}
		if raw {
			l.raw(p.Args[key], path, e)
			continue
		}
		EachString(p.Args[key], path, func(s, path string, key bool) { l.template(s, path, key, e) })
	}
}

func (l *linter) suggestFunction(name string) string {
	switch name {
	case "CreateVolumeSnapshot", "WaitForSnapshotCompletion", "CreateVolumeFromSnapshot", "DeleteVolumeSnapshot":
		return "; Kanister removed it in 0.115.0, use the CSI snapshot functions"
	}
	if s := templates.Suggest(name, FunctionNames(l.cat)); s != "" {
		return s
	}
	return "; see `thaw blueprint explain`"
}

// retry: without `idempotent`, an author may expect retries that never come.
func (l *linter) retry(p *Phase, fn *catalogue.Function) {
	if p.Retry != nil && p.Retry.MaxAttempts > 1 && p.Idempotent == nil && !fn.Idempotent && !fn.ReadOnly && l.takesIdempotent(p) {
		l.at(Warning, join(p.Path, "retry"), "retry-not-idempotent",
			"%s is not idempotent, so an attempt whose outcome is unknown is not retried; say `idempotent: true` where it may run twice, or `idempotent: false`", fn.Name)
	}
}

// takesIdempotent: do, undo, compensate and deferPhase have no such field;
// they are retried whatever happens.
func (l *linter) takesIdempotent(p *Phase) bool { return strings.HasSuffix(p.Path, "]") }

func (l *linter) arguments(p *Phase, fn *catalogue.Function) {
	args := join(p.Path, "args")
	given := map[string]string{}
	for _, key := range sortedKeys(p.Args) {
		path := join(args, key)
		a, ok := fn.Arg(key)
		switch other, dup := given[a.Name]; {
		case templates.Has(key):
			l.atKey(Error, path, "unknown-argument", "the name of an argument may not be a template")
		case !ok:
			l.atKey(Error, path, "unknown-argument", "%s has no argument %q%s", fn.Name, short(key), suggestArgument(fn, key))
		case dup:
			l.atKey(Error, path, "duplicate-argument", "%q and %q are the same argument of %s; give one of them", other, key, fn.Name)
		default:
			given[a.Name] = key
			l.argument(p.Args[key], a, path)
		}
	}
	if l.unread(args) {
		return
	}
	var missing []string
	for _, a := range fn.Args {
		key, ok := given[a.Name]
		if a.Required && (!ok || p.Args[key] == nil) && !l.unread(join(args, key)) {
			missing = append(missing, strconv.Quote(a.Name))
		}
	}
	if len(missing) > 0 {
		line, col := l.bp.source.keyPosition(args)
		if !l.has(args) {
			line, col = l.bp.source.position(p.Path)
		}
		l.add(Error, line, col, args, "missing-argument", "%s needs the %s %s", fn.Name, plural(len(missing), "argument"), strings.Join(missing, ", "))
	}
}

// unread: something stands at the path, and Parse has said why it could not be
// read. An argument that was given wrongly is not missing too.
func (l *linter) unread(path string) bool {
	if l.bp.source == nil {
		return false
	}
	n := l.bp.source.values[path]
	switch {
	case n == nil || isNull(n):
		return false
	case path != "" && strings.HasSuffix(path, ".args"):
		return n.Kind != yaml.MappingNode
	}
	return true
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

func suggestArgument(fn *catalogue.Function, key string) string {
	var names []string
	for _, a := range fn.Args {
		names = append(names, a.Name)
	}
	if s := templates.Suggest(key, names); s != "" {
		return s
	}
	slices.Sort(names)
	return "; it has " + strings.Join(names, ", ")
}

func suggestOutput(fn *catalogue.Function, key string) string {
	var names []string
	for _, o := range fn.Outputs {
		names = append(names, o.Name)
	}
	if s := templates.Suggest(key, names); s != "" {
		return s
	}
	if len(names) == 0 {
		return "; it has no outputs"
	}
	return "; it has " + strings.Join(names, ", ")
}

// argument checks a literal value against the argument's type, as weakly as
// arguments are decoded: "3" is a number, a single text a list of one.
func (l *linter) argument(v any, a catalogue.Arg, path string) {
	if v == nil {
		return
	}
	s, isText := v.(string)
	if isText && templates.Has(s) {
		if a.Type == catalogue.Map {
			l.at(Error, path, "wrong-type", "argument %q is a mapping, and a template renders to text; write the mapping out, with templates in its values", a.Name)
		}
		return
	}
	if why := mismatch(v, a); why != "" {
		l.at(Error, path, "wrong-type", "argument %q is %s, not %s", a.Name, article(a.Type), why)
		return
	}
	if len(a.Enum) > 0 {
		text := fmt.Sprint(v)
		if !slices.ContainsFunc(a.Enum, func(e string) bool { return strings.EqualFold(e, text) }) {
			l.at(Error, path, "not-in-enum", "argument %q is %q; want one of %s%s", a.Name, short(text), strings.Join(a.Enum, ", "), templates.Suggest(text, a.Enum))
		}
	}
}

func article(t catalogue.Type) string {
	switch t {
	case catalogue.String:
		return "text"
	case catalogue.Integer:
		return "a whole number"
	case catalogue.Boolean:
		return "true or false"
	case catalogue.Duration:
		return `a duration such as "90s" or "15m"`
	case catalogue.List:
		return "a list of texts"
	case catalogue.Map:
		return "a mapping of texts"
	}
	return "a " + string(t)
}

func name(v any) string {
	switch t := v.(type) {
	case string:
		return strconv.Quote(short(t))
	case map[string]any:
		return "a mapping"
	case []any:
		return "a list"
	case bool:
		return "the boolean " + strconv.FormatBool(t)
	}
	return fmt.Sprintf("the number %v", v)
}

func scalar(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return false
	}
	return true
}

// mismatch names what a value is where it is not of the type.
func mismatch(v any, a catalogue.Arg) string {
	s, isText := v.(string)
	bad := false
	switch a.Type {
	case catalogue.String:
		bad = !scalar(v)
	case catalogue.Integer:
		f, isFloat := v.(float64)
		bad = !scalar(v) || isFloat && f != float64(int64(f))
		if isText && s != "" {
			_, err := strconv.ParseInt(s, 0, 64)
			bad = err != nil
		}
	case catalogue.Number:
		bad = !scalar(v)
		if isText && s != "" {
			_, err := strconv.ParseFloat(s, 64)
			bad = err != nil
		}
	case catalogue.Boolean:
		bad = !scalar(v)
		if isText && s != "" {
			_, err := strconv.ParseBool(s)
			bad = err != nil
		}
	case catalogue.Duration:
		bad = true
		if isText {
			_, err := time.ParseDuration(s)
			bad = err != nil
		}
	case catalogue.List:
		list, isList := v.([]any)
		if _, isMap := v.(map[string]any); isMap {
			bad = true
		}
		for i, e := range list {
			if isList && !scalar(e) {
				return fmt.Sprintf("one whose element %d is %s", i+1, name(e))
			}
		}
	case catalogue.Map:
		m, isMap := v.(map[string]any)
		bad = !isMap
		for _, k := range sortedKeys(m) {
			if !scalar(m[k]) {
				return fmt.Sprintf("one whose value of %q is %s", short(k), name(m[k]))
			}
		}
	}
	if !bad {
		return ""
	}
	return name(v)
}
