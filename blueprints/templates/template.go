package templates

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
)

// Limits of one rendered string. A blueprint is text from outside: none may
// hang a worker or exhaust its memory.
const (
	MaxText   = 1 << 20 // bytes of one template
	MaxOutput = 4 << 20 // bytes of one rendered string
	maxResult = 4 << 20 // bytes, or so, of what one function returns
	maxWork   = 64 << 20
	maxNest   = 1000

	costCall     = 64
	costTemplate = 6 << 10
	costCrypto   = 4 << 20
)

// Template is a parsed template.
type Template struct {
	text string
	tmpl *template.Template
	// funcs are the functions that it calls.
	funcs map[string]bool
}

// Error is why a template does not parse, and where in its text.
type Error struct {
	Offset  int
	Message string
}

func (e *Error) Error() string { return e.Message }

// Has reports whether the text holds any template action at all.
func Has(text string) bool { return strings.Contains(text, "{{") }

// Parse parses a template. The error is an *Error.
func Parse(text string) (*Template, error) {
	if len(text) > MaxText {
		return nil, &Error{Message: fmt.Sprintf("template of %d bytes; at most %d are allowed", len(text), MaxText)}
	}
	if off := tooDeep(text); off >= 0 {
		return nil, &Error{Offset: off, Message: fmt.Sprintf("template nests deeper than %d levels", maxNest)}
	}
	t, err := template.New("").Option("missingkey=error").Funcs(stubs()).Parse(text)
	if err != nil {
		return nil, parseError(text, err)
	}
	p := &Template{text: text, tmpl: t, funcs: map[string]bool{}}
	for _, d := range t.Templates() {
		if d.Tree != nil {
			walk(d.Root, func(n parse.Node) {
				if id, ok := n.(*parse.IdentifierNode); ok {
					p.funcs[id.Ident] = true
				}
			})
			meter(d.Tree)
		}
	}
	return p, nil
}

var parseMessage = regexp.MustCompile(`^template: [^:]*:(\d+)(?::\d+)?: (.*)$`)

// parseError finds the place of text/template's message, which has a line only.
func parseError(text string, err error) *Error {
	m := parseMessage.FindStringSubmatch(err.Error())
	if m == nil {
		return &Error{Message: strings.TrimPrefix(err.Error(), "template: ")}
	}
	line, _ := strconv.Atoi(m[1])
	e := &Error{Message: m[2]}
	for i, l := range strings.SplitAfter(text, "\n") {
		if i+1 == line {
			// The action that is named in the message, or the line's first.
			at := strings.Index(l, "{{")
			if q := regexp.MustCompile(`"([^"]+)"`).FindStringSubmatch(m[2]); q != nil && strings.Contains(l, q[1]) {
				at = strings.Index(l, q[1])
			}
			e.Offset += max(at, 0)
			break
		}
		e.Offset += len(l)
	}
	if e.Message == "unexpected EOF" {
		e.Offset = unclosed(text, e.Offset)
	}
	if m := regexp.MustCompile(`^function "([^"]+)" not defined$`).FindStringSubmatch(e.Message); m != nil {
		e.Message += Suggest(m[1], FuncNames())
	}
	return e
}

var opener = regexp.MustCompile(`\{\{-?\s*(if|with|range|block|define|end)\b`)

// unclosed is where the innermost block without an end starts.
func unclosed(text string, otherwise int) int {
	var open []int
	for _, m := range opener.FindAllStringSubmatchIndex(text, -1) {
		switch {
		case text[m[2]:m[3]] != "end":
			open = append(open, m[0])
		case len(open) > 0:
			open = open[:len(open)-1]
		}
	}
	if len(open) == 0 {
		return otherwise
	}
	return open[len(open)-1]
}

// tooDeep returns where nesting passes what the parser and the executor, both
// recursive, can stand; -1 where it does not.
func tooDeep(text string) int {
	parens, blocks := 0, 0
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '(':
			parens++
		case text[i] == ')' && parens > 0:
			parens--
		case strings.HasPrefix(text[i:], "{{"):
			parens = 0
			word := strings.TrimLeft(strings.TrimPrefix(text[i+2:], "-"), " \t\r\n")
			switch {
			case strings.HasPrefix(word, "end"):
				blocks--
			case strings.HasPrefix(word, "if"), strings.HasPrefix(word, "with"), strings.HasPrefix(word, "range"),
				strings.HasPrefix(word, "block"), strings.HasPrefix(word, "define"), strings.HasPrefix(word, "else"):
				blocks++ // `else if` nests too, and is closed by one end: an overestimate is fine
			}
		}
		if parens > maxNest || blocks > maxNest {
			return i
		}
	}
	return -1
}

// Budget is the work that renderings may do together.
type Budget struct{ left int }

// NewBudget returns the budget of one value with all of its templates.
func NewBudget() *Budget { return &Budget{left: maxWork} }

// Execute renders the template. missing is text/template's missingkey option:
// "error", or "zero" where a missing key renders as nothing.
func (t *Template) Execute(data any, missing string, w *Budget) (string, error) {
	c, err := t.tmpl.Clone()
	if err != nil {
		return "", fmt.Errorf("copy template: %w", err)
	}
	c.Funcs(w.funcs(t.funcs)).Option("missingkey=" + missing)
	var out limited
	if err := c.Execute(&out, data); err != nil {
		return "", shorten(err)
	}
	return out.b.String(), nil
}

// limited is a buffer that refuses to grow without end.
type limited struct{ b strings.Builder }

var errOutput = errors.New("the rendered text is larger than 4 MiB")

func (l *limited) Write(b []byte) (int, error) {
	if l.b.Len()+len(b) > MaxOutput {
		return 0, errOutput
	}
	return l.b.Write(b)
}

// tick and enter are the names of functions that Parse puts into the bodies
// of loops and of defined templates: no loop is free.
const (
	tick  = "_thaw_tick"
	enter = "_thaw_enter"
)

func meter(t *parse.Tree) {
	walk(t.Root, func(n parse.Node) {
		if r, ok := n.(*parse.RangeNode); ok {
			prepend(r.List, tick)
		}
	})
	prepend(t.Root, enter)
}

func prepend(l *parse.ListNode, name string) {
	if l == nil {
		return
	}
	probe, err := parse.Parse("", "{{"+name+"}}", "", "", map[string]any{name: true})
	if err != nil {
		return // a constant that parses: see the tests
	}
	l.Nodes = append([]parse.Node{probe[""].Root.Nodes[0]}, l.Nodes...)
}

var executeMessage = regexp.MustCompile(`^template: :(\d+):(\d+): executing "[^"]*" at <(.*?)>: (?s:(.*))$`)

// ExecError is why a template does not render: the action, never a value.
type ExecError struct {
	Line   int    // in the template's text, from 1
	Action string // as written
	Reason string
	Err    error
}

func (e *ExecError) Error() string {
	if e.Action == "" {
		return e.Reason
	}
	return fmt.Sprintf("{{ %s }}: %s", e.Action, e.Reason)
}

func (e *ExecError) Unwrap() error { return e.Err }

// shorten takes text/template's preamble off, and the values that some of its
// messages quote.
func shorten(err error) error {
	e := &ExecError{Reason: err.Error(), Err: err}
	if errors.Is(err, errOutput) {
		e.Reason = errOutput.Error()
		return e
	}
	m := executeMessage.FindStringSubmatch(err.Error())
	if m == nil {
		e.Err = nil // it may quote values
		e.Reason = scrub(strings.TrimPrefix(err.Error(), "template: "))
		return e
	}
	e.Line, _ = strconv.Atoi(m[1])
	e.Action, e.Reason, e.Err = m[3], scrub(m[4]), nil
	var r *Refusal
	if errors.As(err, &r) {
		e.Reason, e.Err = r.Error(), r
	}
	return e
}

var (
	callMessage = regexp.MustCompile(`^error calling (\w+): (?s:.*)$`)
	noEntry     = regexp.MustCompile(`^map has no entry for key "((?:[^"\\]|\\.)*)"$`)
)

// scrub drops what a called function said, since it may hold what it was
// given, which may be a secret.
func scrub(reason string) string {
	if m := callMessage.FindStringSubmatch(reason); m != nil {
		if m[1] == "index" || m[1] == "slice" {
			return "there is no such index"
		}
		return "function " + m[1] + " failed on its arguments"
	}
	if m := noEntry.FindStringSubmatch(reason); m != nil {
		return fmt.Sprintf("there is no %q", m[1])
	}
	return reason
}

// Suggest returns `; did you mean "x"?` where one of the names is close.
func Suggest(name string, names []string) string {
	if best := Closest(name, names); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return ""
}

// Closest returns the name nearest to a misspelt one, or "".
func Closest(name string, names []string) string {
	best, bestD := "", 1+max(1, len(name)/3)
	for _, n := range names {
		if n == name {
			continue
		}
		if strings.EqualFold(n, name) {
			return n
		}
		if d := distance(strings.ToLower(name), strings.ToLower(n), bestD); d < bestD {
			best, bestD = n, d
		}
	}
	return best
}

// distance is the edit distance (with transpositions of neighbours), or limit
// where it is that or more.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit || len(a) > 200 {
		return limit
	}
	var prev2 []int
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev = prev, cur
	}
	return min(prev[len(b)], limit)
}
