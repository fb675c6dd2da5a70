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
	a := &analysis{text: t.text}
	for _, d := range t.tmpl.Templates() {
		if d.Tree == nil {
			continue
		}
		root := &path{}
		if d.Name() != "" {
			root = nil // the dot of a defined template is whatever it is given
		}
		a.list(d.Root, &scope{dot: root, vars: map[string]*path{"$": root}})
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

type scope struct {
	dot    *path
	vars   map[string]*path
	guards []*path // what enclosing conditions ask for
}

func (s *scope) nested(dot *path) *scope {
	vars := make(map[string]*path, len(s.vars))
	for k, v := range s.vars {
		vars[k] = v
	}
	return &scope{dot: dot, vars: vars, guards: slices.Clone(s.guards)}
}

type analysis struct {
	text  string
	refs  []Ref
	calls []Call
}

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
			in.guards = s.guards
			a.list(n.ElseList, in)
		case *parse.WithNode:
			in := s.nested(s.dot)
			in.dot = a.condition(n.Pipe, in)
			a.list(n.List, in)
			in.dot, in.guards = s.dot, s.guards
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
				in.vars[v.Ident[0]] = each
				if len(n.Pipe.Decl) == 2 && i == 0 {
					in.vars[v.Ident[0]] = nil
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
		s.guards = append(s.guards, &path{elems: a.refs[i].Path})
	}
	if v != nil {
		s.guards = append(s.guards, v)
	}
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
	for i := before; i < len(a.refs); i++ {
		for _, g := range s.guards {
			if len(g.elems) <= len(a.refs[i].Path) && slices.Equal(g.elems, a.refs[i].Path[:len(g.elems)]) {
				a.refs[i].Guarded = true
			}
		}
	}
	for _, v := range p.Decl {
		s.vars[v.Ident[0]] = value
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
			a.note(v, at)
			return v
		}
	}
	id, ok := c.Args[0].(*parse.IdentifierNode)
	if !ok {
		for _, arg := range c.Args {
			v, at := a.operand(arg, s)
			a.note(v, at)
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
				a.note(w, wat)
			}
		}
		a.note(v, at)
		return v
	}
	for _, arg := range c.Args[1:] {
		v, at := a.operand(arg, s)
		a.note(v, at)
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
		return s.vars[n.Ident[0]].fields(n.Ident[1:]), int(n.Pos)
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

func (a *analysis) note(p *path, at int) {
	if p == nil || len(p.elems) == 0 {
		return
	}
	at = a.start(p, at)
	action := ""
	if from := strings.LastIndex(a.text[:min(at, len(a.text))], "{{"); from >= 0 {
		action, _, _ = strings.Cut(a.text[from+2:], "}}")
	}
	a.refs = append(a.refs, Ref{Path: p.elems, Index: p.are(byNumber), Keyed: p.are(byKey), Offset: at, Action: action})
}

// start finds the beginning of a reference: the parser gives the position of
// a chain's second field.
func (a *analysis) start(p *path, at int) int {
	head := "." + p.elems[0]
	from := strings.LastIndex(a.text[:min(max(at, 0), len(a.text))], "{{")
	if from < 0 {
		return at
	}
	if i := strings.LastIndex(a.text[from:min(at+len(head), len(a.text))], head); i >= 0 {
		return from + i
	}
	return at
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
