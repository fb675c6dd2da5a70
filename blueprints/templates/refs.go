package templates

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"
)

// Any is the element of a path that only rendering can tell.
const Any = "*"

// Ref is one thing that a template names: a path from the root, such as
// [Phases copy Output path].
type Ref struct {
	Path []string
	// Index[i]: element i was a number given to `index`, or a range's element.
	Index []bool
	// Keyed[i]: element i was a text given to `index` or `get`.
	Keyed  []bool
	Offset int  // of the reference in the text
	Ranged bool // it is ranged over
	// Guarded: the template asks whether it is there (if, with, default).
	Guarded bool
	// Action is the text of the action that it stands in.
	Action string
}

// String is the path as a template spells it.
func (r Ref) String() string {
	var b strings.Builder
	for _, p := range r.Path {
		b.WriteString("." + p)
	}
	return b.String()
}

// Call is the use of a function.
type Call struct {
	Func   string
	Offset int
}

// Refs returns what the template names, and the functions that it calls.
// References behind variables, `with`, `range`, `index` and `get` are
// followed as far as they are constant.
func (t *Template) Refs() ([]Ref, []Call) {
	a := &analysis{text: t.text, spans: spans(t.text)}
	for _, d := range t.tmpl.Templates() {
		if d.Tree == nil {
			continue
		}
		root := &path{}
		if d.Name() != "" {
			root = nil // the dot of a defined template is whatever it is given
		}
		top := &scope{dot: root}
		top.declare("$", root)
		a.list(d.Root, top)
	}
	return a.refs, a.calls
}

type path struct {
	elems []string
	how   []step
}

// step is how an element was reached.
type step int

const (
	byField step = iota
	byKey
	byNumber
)

func (p *path) add(elem string, how step) *path {
	if p == nil {
		return nil
	}
	return &path{elems: append(append([]string{}, p.elems...), elem), how: append(append([]step{}, p.how...), how)}
}

func (p *path) fields(names []string) *path {
	for _, n := range names {
		p = p.add(n, byField)
	}
	return p
}

func (p *path) are(how step) []bool {
	out := make([]bool, len(p.how))
	for i, h := range p.how {
		out[i] = h == how
	}
	return out
}

// scope is what the names at a place stand for. Scopes are chained, not
// copied: a hostile template has many of both.
type scope struct {
	outer  *scope
	dot    *path
	vars   map[string]*path
	guards []*path // what the condition around asks for
	depth  int     // of guards, over all outer scopes
}

func (s *scope) nested(dot *path) *scope { return &scope{outer: s, dot: dot, depth: s.depth} }

func (s *scope) lookup(name string) *path {
	for ; s != nil; s = s.outer {
		if v, ok := s.vars[name]; ok {
			return v
		}
	}
	return nil
}

func (s *scope) declare(name string, v *path) {
	if s.vars == nil {
		s.vars = map[string]*path{}
	}
	s.vars[name] = v
}

// assign: from here on the variable is one thing or the other.
func (s *scope) assign(name string) {
	for ; s != nil; s = s.outer {
		if _, ok := s.vars[name]; ok {
			s.vars[name] = nil
			return
		}
	}
}

// maxGuards bounds how many conditions a reference is compared with.
const maxGuards = 64

func (s *scope) guard(p *path) {
	if p != nil && s.depth < maxGuards {
		s.guards = append(s.guards, p)
		s.depth++
	}
}

func (s *scope) unguard() { s.guards, s.depth = nil, s.outer.depth }

func (s *scope) guarded(elems []string) bool {
	for ; s != nil; s = s.outer {
		for _, g := range s.guards {
			if len(g.elems) <= len(elems) && slices.Equal(g.elems, elems[:len(g.elems)]) {
				return true
			}
		}
	}
	return false
}

type analysis struct {
	text  string
	spans []int // where actions start
	refs  []Ref
	calls []Call
}

func spans(text string) []int {
	var out []int
	for at := 0; ; {
		i := strings.Index(text[at:], "{{")
		if i < 0 {
			return out
		}
		out = append(out, at+i)
		at += i + 2
	}
}

// action is where the action around a place starts, and its text; -1 where
// there is none.
func (a *analysis) action(at int) (from int, text string) {
	i, found := slices.BinarySearch(a.spans, at)
	if !found {
		i--
	}
	if i < 0 || i >= len(a.spans) {
		return -1, ""
	}
	from, to := a.spans[i], len(a.text)
	if i+1 < len(a.spans) {
		to = a.spans[i+1]
	}
	return from, a.text[from+2 : min(to, from+2+maxAction)]
}

// maxAction bounds how much of an action's text is looked at for one reference.
const maxAction = 4 << 10

func (a *analysis) list(l *parse.ListNode, s *scope) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			a.pipe(n.Pipe, s)
		case *parse.IfNode:
			in := s.nested(s.dot)
			a.condition(n.Pipe, in)
			a.list(n.List, in)
			in.unguard()
			a.list(n.ElseList, in)
		case *parse.WithNode:
			in := s.nested(s.dot)
			in.dot = a.condition(n.Pipe, in)
			a.list(n.List, in)
			in.dot = s.dot
			in.unguard()
			a.list(n.ElseList, in)
		case *parse.RangeNode:
			in := s.nested(s.dot)
			before := len(a.refs)
			of := a.pipe(n.Pipe, in)
			if of != nil {
				for i := before; i < len(a.refs); i++ {
					if len(a.refs[i].Path) == len(of.elems) {
						a.refs[i].Ranged = true
					}
				}
			}
			each := of.add(Any, byNumber)
			in.dot = each
			for i, v := range n.Pipe.Decl {
				if len(n.Pipe.Decl) == 2 && i == 0 {
					in.declare(v.Ident[0], nil)
				} else {
					in.declare(v.Ident[0], each)
				}
			}
			a.list(n.List, in)
			in.dot = s.dot
			a.list(n.ElseList, in)
		case *parse.TemplateNode:
			if n.Pipe != nil {
				a.pipe(n.Pipe, s)
			}
		}
	}
}

// condition is a pipe whose references are guards of what is inside.
func (a *analysis) condition(p *parse.PipeNode, s *scope) *path {
	before := len(a.refs)
	v := a.pipe(p, s)
	for i := before; i < len(a.refs); i++ {
		a.refs[i].Guarded = true
		s.guard(&path{elems: a.refs[i].Path})
	}
	s.guard(v)
	return v
}

// pipe records what a pipeline refers to, and returns the path of its value
// where that is one.
func (a *analysis) pipe(p *parse.PipeNode, s *scope) *path {
	if p == nil {
		return nil
	}
	var value *path
	before := len(a.refs)
	for i, c := range p.Cmds {
		value = a.command(c, s)
		if i > 0 {
			value = nil
		}
		if id, ok := c.Args[0].(*parse.IdentifierNode); ok && (id.Ident == "default" || id.Ident == "coalesce" || id.Ident == "empty") {
			for j := before; j < len(a.refs); j++ {
				a.refs[j].Guarded = true
			}
		}
	}
	for _, v := range p.Decl {
		if p.IsAssign {
			s.assign(v.Ident[0])
		} else {
			s.declare(v.Ident[0], value)
		}
	}
	return value
}

func (a *analysis) command(c *parse.CommandNode, s *scope) *path {
	if len(c.Args) == 0 {
		return nil
	}
	if len(c.Args) == 1 {
		if _, ok := c.Args[0].(*parse.IdentifierNode); !ok {
			v, at := a.operand(c.Args[0], s)
			a.note(v, at, s)
			return v
		}
	}
	id, ok := c.Args[0].(*parse.IdentifierNode)
	if !ok {
		for _, arg := range c.Args {
			v, at := a.operand(arg, s)
			a.note(v, at, s)
		}
		return nil
	}
	if id.Ident == tick || id.Ident == enter {
		return nil
	}
	a.calls = append(a.calls, Call{Func: id.Ident, Offset: int(id.Pos)})
	if (id.Ident == "index" || id.Ident == "get") && len(c.Args) > 1 {
		v, at := a.operand(c.Args[1], s)
		for _, arg := range c.Args[2:] {
			switch n := arg.(type) {
			case *parse.StringNode:
				v = v.add(n.Text, byKey)
			case *parse.NumberNode:
				v = v.add(n.Text, byNumber)
			default:
				v = v.add(Any, byKey)
				w, wat := a.operand(arg, s)
				a.note(w, wat, s)
			}
		}
		a.note(v, at, s)
		return v
	}
	for _, arg := range c.Args[1:] {
		v, at := a.operand(arg, s)
		a.note(v, at, s)
	}
	return nil
}

// operand returns the path of an operand without noting it, since `index`
// may go on from there.
func (a *analysis) operand(n parse.Node, s *scope) (*path, int) {
	switch n := n.(type) {
	case *parse.DotNode:
		return s.dot, int(n.Pos)
	case *parse.FieldNode:
		return s.dot.fields(n.Ident), int(n.Pos)
	case *parse.VariableNode:
		return s.lookup(n.Ident[0]).fields(n.Ident[1:]), int(n.Pos)
	case *parse.ChainNode:
		var v *path
		at := int(n.Pos)
		if p, ok := n.Node.(*parse.PipeNode); ok {
			before := len(a.refs)
			v = a.pipe(p, s)
			if v != nil && len(a.refs) > before && len(a.refs[len(a.refs)-1].Path) == len(v.elems) {
				at = a.refs[len(a.refs)-1].Offset
				a.refs = a.refs[:len(a.refs)-1] // the longer one says it all
			}
		} else {
			v, at = a.operand(n.Node, s)
		}
		return v.fields(n.Field), at
	case *parse.PipeNode:
		before := len(a.refs)
		v := a.pipe(n, s)
		if v != nil && len(a.refs) > before && len(a.refs[len(a.refs)-1].Path) == len(v.elems) {
			at := a.refs[len(a.refs)-1].Offset
			a.refs = a.refs[:len(a.refs)-1]
			return v, at
		}
		return v, int(n.Pos)
	case *parse.IdentifierNode:
		a.calls = append(a.calls, Call{Func: n.Ident, Offset: int(n.Pos)})
	}
	return nil, 0
}

func (a *analysis) note(p *path, at int, s *scope) {
	if p == nil || len(p.elems) == 0 {
		return
	}
	// The parser gives the position of a chain's second field.
	head := "." + p.elems[0]
	from, action := a.action(at)
	if from >= 0 {
		if i := strings.LastIndex(action[:min(max(at+len(head)-from-2, 0), len(action))], head); i >= 0 {
			at = from + 2 + i
		}
		action, _, _ = strings.Cut(action, "}}")
	}
	a.refs = append(a.refs, Ref{Path: p.elems, Index: p.are(byNumber), Keyed: p.are(byKey), Offset: at, Action: action, Guarded: s.guarded(p.elems)})
}

// walk calls f for every node of a tree.
func walk(n parse.Node, f func(parse.Node)) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return
		}
		for _, c := range n.Nodes {
			walk(c, f)
		}
	case *parse.ActionNode:
		walk(n.Pipe, f)
	case *parse.PipeNode:
		if n == nil {
			return
		}
		for _, c := range n.Cmds {
			walk(c, f)
		}
	case *parse.CommandNode:
		for _, c := range n.Args {
			walk(c, f)
		}
	case *parse.ChainNode:
		walk(n.Node, f)
	case *parse.IfNode:
		branch(&n.BranchNode, f)
	case *parse.WithNode:
		branch(&n.BranchNode, f)
	case *parse.RangeNode:
		branch(&n.BranchNode, f)
	case *parse.TemplateNode:
		walk(n.Pipe, f)
	}
	f(n)
}

func branch(b *parse.BranchNode, f func(parse.Node)) {
	walk(b.Pipe, f)
	walk(b.List, f)
	walk(b.ElseList, f)
}

// Number reads an element that was a number given to `index`.
func Number(elem string) (int, error) {
	n, err := strconv.Atoi(elem)
	if err != nil {
		return 0, fmt.Errorf("index %s: %w", elem, err)
	}
	return n, nil
}
