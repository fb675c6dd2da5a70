package blueprints

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"thaw/blueprints/catalogue"
	"thaw/blueprints/templates"
)

// Lint checks a blueprint against the functions that there are: arguments,
// references, freezes, parameters. It reports all that it finds.
func Lint(b *Blueprint, c catalogue.Catalogue) Faults {
	if b == nil {
		return nil
	}
	l := &linter{bp: b, cat: c, used: map[string]bool{}, options: map[string]bool{}}
	for _, p := range b.Parameters {
		l.options[p.Name] = true
		l.parameter(p)
	}
	for _, a := range b.Actions {
		l.action(a)
	}
	l.duplicates()
	l.hooks()
	l.unused()
	return l.faults.Sort()
}

type linter struct {
	bp      *Blueprint
	cat     catalogue.Catalogue
	faults  Faults
	options map[string]bool // declared
	used    map[string]bool
	allUsed bool // .Options as a whole is named somewhere
}

func (l *linter) add(sev Severity, line, col int, path, code, format string, args ...any) {
	l.faults = append(l.faults, Fault{File: l.bp.File, Line: line, Column: col, Path: path, Severity: sev, Code: code, Message: fmt.Sprintf(format, args...)})
}

// at reports about the value of a path, or what is nearest to it.
func (l *linter) at(sev Severity, path, code, format string, args ...any) {
	line, col := l.bp.source.position(path)
	l.add(sev, line, col, path, code, format, args...)
}

// atKey reports about the key of a mapping's entry.
func (l *linter) atKey(sev Severity, path, code, format string, args ...any) {
	line, col := l.bp.source.keyPosition(path)
	l.add(sev, line, col, path, code, format, args...)
}

func (l *linter) has(path string) bool {
	if l.bp.source == nil {
		return false
	}
	_, ok := l.bp.source.values[path]
	return ok
}

func (l *linter) parameter(p *Parameter) {
	for _, k := range sortedKeys(p.Schema) {
		if !slices.Contains(keywords, k) {
			l.atKey(Error, join(p.Path, k), "bad-schema", "JSON Schema has no keyword %q%s", k, templates.Suggest(k, keywords))
		}
	}
	if _, err := p.Compile(); err != nil {
		l.at(Error, p.Path, "bad-schema", "the schema of parameter %q is wrong: %s", p.Name, err)
		return
	}
	if p.HasDefault {
		// As written: no coercion, since what a default says is what runs.
		strict := *p
		strict.Schema = maps.Clone(p.Schema)
		if _, isText := p.Default.(string); isText && p.Schema["type"] != "string" && p.Schema["type"] != nil {
			if _, isName := p.Schema["type"].(string); isName {
				l.at(Error, join(p.Path, "default"), "bad-default", "the default of parameter %q is text, and its type is %v; take the quotes off", p.Name, p.Schema["type"])
				return
			}
		}
		if _, wrong := strict.Check(p.Default); len(wrong) > 0 {
			l.at(Error, join(p.Path, "default"), "bad-default", "the default of parameter %q does not fit its schema: %s", p.Name, strings.Join(wrong, "; "))
		}
	}
}

func (l *linter) unused() {
	if l.allUsed {
		return
	}
	for _, p := range l.bp.Parameters {
		if !l.used[p.Name] {
			l.atKey(Warning, p.Path, "unused-parameter", "parameter %q is used nowhere; templates name it as .Options.%s", p.Name, p.Name)
		}
	}
}

// hooks checks for K10's pair: a hook that freezes alone never thaws.
func (l *linter) hooks() {
	for _, pair := range [][2]string{{"backupPrehook", "backupPosthook"}, {"backupPosthook", "backupPrehook"}} {
		a, has := l.bp.Action(pair[0])
		if _, other := l.bp.Action(pair[1]); has && !other {
			l.atKey(Warning, a.Path, "lonely-hook", "action %s has no %s: what one does, nothing undoes", pair[0], pair[1])
		}
	}
}

// duplicates reports names that two phases of one action share, and, for
// Kanister, which refuses it, of one blueprint.
func (l *linter) duplicates() {
	first := map[string]*Phase{} // over the whole blueprint
	for _, a := range l.bp.Actions {
		own := map[string]*Phase{}
		a.Each(func(p *Phase) {
			if p.Name == "" {
				return
			}
			path := join(p.Path, "name")
			if other, dup := own[p.Name]; dup {
				line, _ := l.bp.Position(join(other.Path, "name"))
				l.at(Error, path, "duplicate-phase", "two phases of action %s are named %q; the first is in line %d", a.Name, p.Name, line)
				return
			}
			own[p.Name] = p
			if other, dup := first[p.Name]; dup && !l.bp.Thaw() {
				line, _ := l.bp.Position(join(other.Path, "name"))
				l.at(Warning, path, "duplicate-phase-name", "a phase of another action is named %q too (line %d); Kanister refuses such a blueprint, Thaw runs it", p.Name, line)
				return
			}
			if _, dup := first[p.Name]; !dup {
				first[p.Name] = p
			}
		})
	}
}

func (l *linter) action(a *Action) {
	top := l.level(a.Phases, newEnv(a))
	rest := newEnv(a)
	maps.Copy(rest.phases, top)
	l.level(a.Verify, rest)
	if a.DeferPhase != nil {
		e := newEnv(a)
		e.deferred, e.lenient = a.DeferPhase, true
		for name, s := range top {
			c := *s
			c.may = or(c.may, "an earlier failure may keep it from running")
			e.phases[name] = &c
		}
		l.call(a.DeferPhase, e, a.DeferPhase.Name)
	}
	l.cutsOutside(a)
	out := newEnv(a)
	maps.Copy(out.phases, top)
	out.deferred, out.artifacts = a.DeferPhase, true
	eachArtifact(a.OutputArtifacts, join(a.Path, "outputArtifacts"), func(s, path string, key bool) { l.template(s, path, key, out) })
}

// level checks one list of phases, and returns what they leave behind, added
// to what was there before.
func (l *linter) level(phases []*Phase, before *env) map[string]*seen {
	graph := l.needs(phases)
	left := make([]map[string]*seen, len(phases)) // by phase: its own and its inner phases' outputs
	for i, p := range phases {
		left[i] = l.leaves(p)
	}
	for i, p := range phases {
		e := before.child()
		for j := range phases {
			switch {
			case graph[i][j]:
				maps.Copy(e.phases, left[j])
			case j != i:
				for name := range left[j] {
					e.others[name] = j > i
				}
			}
		}
		l.when(p, e)
		e.cond = or(p.When, before.cond)
		if p.Freeze != nil {
			l.freeze(p, e)
			continue
		}
		l.call(p, e, p.Name)
		if p.Compensate != nil {
			c := e.child()
			c.lenient, c.cond = true, p.When
			c.owners = []*Phase{p, p.Compensate}
			c.phases[p.Name] = &seen{calls: []*Phase{p}} // it is undone only if it ran
			l.call(p.Compensate, c, p.Name)
		}
	}
	all := maps.Clone(before.phases)
	for _, m := range left {
		maps.Copy(all, m)
	}
	return all
}

// leaves is what later phases may name once p is over.
func (l *linter) leaves(p *Phase) map[string]*seen {
	may := ""
	if p.When != "" {
		may = "its `when` may skip it"
	}
	if p.Freeze == nil {
		return map[string]*seen{p.Name: {calls: []*Phase{p}, may: may, when: p.When}}
	}
	out := map[string]*seen{}
	for _, in := range p.Freeze.Phases {
		for name, s := range l.leaves(in) {
			s.may, s.when = or(s.may, may), or(s.when, p.When)
			out[name] = s
		}
	}
	out[p.Name] = &seen{calls: compact(p.Freeze.Do, p.Freeze.Undo), may: may, when: p.When}
	return out
}

func compact(phases ...*Phase) []*Phase {
	return slices.DeleteFunc(phases, func(p *Phase) bool { return p == nil })
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// needs checks the names in needs, and returns which phases run before which.
func (l *linter) needs(phases []*Phase) [][]bool {
	index := map[string]int{}
	for i, p := range phases {
		if _, dup := index[p.Name]; !dup {
			index[p.Name] = i
		}
	}
	n := len(phases)
	before := make([][]bool, n)
	for i, p := range phases {
		before[i] = make([]bool, n)
		if p.Needs == nil {
			if i > 0 {
				before[i][i-1] = true
			}
			continue
		}
		for k, name := range p.Needs {
			j, ok := index[name]
			path := item(join(p.Path, "needs"), k)
			switch {
			case !ok:
				l.at(Error, path, "unknown-phase", "there is no phase %q beside this one%s", name, templates.Suggest(name, slices.Collect(maps.Keys(index))))
			case j == i:
				l.at(Error, path, "needs-cycle", "phase %q needs itself", name)
			default:
				before[i][j] = true
			}
		}
	}
	for k := range n {
		for i := range n {
			if before[i][k] {
				for j := range n {
					before[i][j] = before[i][j] || before[k][j]
				}
			}
		}
	}
	var ring []string
	for i := range n {
		if before[i][i] {
			ring = append(ring, phases[i].Name)
		}
	}
	for i := range n {
		if before[i][i] {
			path := join(phases[i].Path, "needs")
			if !l.has(path) {
				path = phases[i].Path
			}
			l.at(Error, path, "needs-cycle", "phases need each other in a circle (%s), so none can start", strings.Join(ring, ", "))
			break
		}
	}
	return before
}

func (l *linter) freeze(p *Phase, e *env) {
	f := p.Freeze
	if f.MaxFreeze > 24*time.Hour {
		l.at(Warning, join(f.Path, "maxFreeze"), "long-freeze", "a freeze of up to %s keeps the application from writing for as long", f.MaxFreeze)
	}
	owners := compact(f.Do, f.Undo)
	do := e.child()
	do.owners = owners
	if f.Do != nil {
		l.call(f.Do, do, p.Name)
		l.person(f.Do)
	}
	in := e.child()
	in.phases[p.Name] = &seen{calls: compact(f.Do)}
	inside := l.level(f.Phases, in)
	cut, unknown := false, false
	for _, ph := range f.Phases {
		if ph.Freeze != nil {
			l.at(Error, ph.Path, "nested-freeze", "a freeze stands inside freeze %q; write one after the other", p.Name)
			continue
		}
		l.person(ph)
		fn, ok := l.cat.Lookup(ph.Func)
		unknown = unknown || !ok
		cut = cut || ok && fn.Cut
		if ph.Timeout > f.MaxFreeze && f.MaxFreeze > 0 {
			l.at(Warning, join(ph.Path, "timeout"), "timeout-past-freeze", "timeout %s is longer than the freeze around it may last (%s)", ph.Timeout, f.MaxFreeze)
		}
	}
	if !cut && !unknown {
		l.at(Warning, p.Path, "nothing-cut", "nothing inside freeze %q captures data (no phase's function makes a cut), so there is nothing that the freeze makes consistent", p.Name)
	}
	if f.Undo != nil {
		undo := e.child()
		undo.owners, undo.lenient = owners, true
		for name, s := range inside {
			c := *s
			if _, outer := e.phases[name]; !outer {
				c.may = or(c.may, "the freeze may end before it is done")
			}
			undo.phases[name] = &c
		}
		l.call(f.Undo, undo, p.Name)
		l.person(f.Undo)
	}
	l.proof(p)
}

// cutsOutside: of an action that freezes, what is captured outside a freeze
// belongs to another moment.
func (l *linter) cutsOutside(a *Action) {
	if !slices.ContainsFunc(a.Phases, func(p *Phase) bool { return p.Freeze != nil }) {
		return
	}
	for _, p := range a.Phases {
		if fn, ok := l.cat.Lookup(p.Func); ok && fn.Cut && p.Freeze == nil {
			l.at(Warning, join(p.Path, "func"), "cut-outside-freeze", "%s captures data outside the action's freeze, so the restore point will not be called consistent", p.Func)
		}
	}
}

func (l *linter) person(p *Phase) {
	if fn, ok := l.cat.Lookup(p.Func); ok && fn.Person {
		l.at(Error, join(p.Path, "func"), "person-in-freeze", "function %s waits for a person, and may not while the database is frozen; put it before the freeze", p.Func)
	}
}

func (l *linter) proof(p *Phase) {
	f := p.Freeze
	if f.Do == nil || f.Undo == nil {
		return
	}
	do, ok1 := l.cat.Lookup(f.Do.Func)
	undo, ok2 := l.cat.Lookup(f.Undo.Func)
	if !ok1 || !ok2 {
		return
	}
	for i, key := range f.Proof {
		for _, side := range []struct {
			name string
			fn   *catalogue.Function
		}{{"do", do}, {"undo", undo}} {
			if !side.fn.Output(key) {
				l.at(Error, item(join(f.Path, "proof"), i), "unknown-output", "%s (%s) has no output %q to compare%s", side.name, side.fn.Name, key, suggestOutput(side.fn, key))
			}
		}
	}
	if len(f.Proof) == 0 && len(do.Proof) == 0 {
		l.at(Warning, f.Path, "no-proof", "nothing proves that this freeze held from do to undo, so its restore point will not be called consistent; name outputs that both report: proof: [session]")
	}
}
