// Package when evaluates a phase's `when`: a CEL expression over target,
// options, the outputs of earlier phases, and where the restore point goes. Evaluation costs are bounded.
// Start with Compile.
package when

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"thaw/blueprints/plan"
)

// Limits of one expression.
const (
	maxLength = 8 << 10
	maxCost   = 1_000_000 // of CEL's units: far below a second
)

// Expr is a compiled expression.
type Expr struct {
	text    string
	program cel.Program
	refs    [][]string
}

// Error is why an expression does not compile, and where.
type Error struct {
	Line, Column int // in the expression, from 1
	Message      string
}

func (e *Error) Error() string { return e.Message }

// Input is what an expression sees.
type Input struct {
	Target  plan.Target
	Options map[string]any
	// Outputs of phases that ran, by the phase's name.
	Outputs map[string]map[string]any
	// Published: the restore point goes to the location of the run's profile.
	Published bool
}

var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("target", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("options", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("outputs", cel.MapType(cel.StringType, cel.MapType(cel.StringType, cel.DynType))),
		cel.Variable("published", cel.BoolType),
		cel.CrossTypeNumericComparisons(true),
		ext.Strings(),
	)
})

// Compile compiles an expression, which must be a boolean. The error is an
// *Error.
func Compile(text string) (*Expr, error) {
	if len(text) > maxLength {
		return nil, &Error{1, 1, fmt.Sprintf("the expression has %d bytes; at most %d are allowed", len(text), maxLength)}
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("set up CEL: %w", err)
	}
	compiled, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		errs := issues.Errors()
		if len(errs) == 0 {
			return nil, &Error{1, 1, issues.Err().Error()}
		}
		first := errs[0]
		return nil, &Error{max(first.Location.Line(), 1), max(first.Location.Column()+1, 1), explain(first.Message)}
	}
	if t := compiled.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, &Error{1, 1, fmt.Sprintf("the expression is of type %s; it must be true or false", t)}
	}
	program, err := env.Program(compiled, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, &Error{1, 1, err.Error()}
	}
	return &Expr{text: text, program: program, refs: references(compiled.NativeRep().Expr())}, nil
}

func explain(msg string) string {
	if strings.Contains(msg, "undeclared reference") {
		return msg + "; known are target, options, outputs and published"
	}
	return msg
}

// Refs are the paths that the expression names, such as [outputs copy path].
func (e *Expr) Refs() [][]string { return e.refs }

// references finds chains of constant selections from a variable.
func references(root ast.Expr) [][]string {
	var refs [][]string
	var chain func(x ast.Expr) []string
	chain = func(x ast.Expr) []string {
		switch x.Kind() {
		case ast.IdentKind:
			return []string{x.AsIdent()}
		case ast.SelectKind:
			if c := chain(x.AsSelect().Operand()); c != nil {
				return append(c, x.AsSelect().FieldName())
			}
		case ast.CallKind:
			if c := x.AsCall(); c.FunctionName() == "_[_]" && len(c.Args()) == 2 && c.Args()[1].Kind() == ast.LiteralKind {
				if s, ok := c.Args()[1].AsLiteral().(types.String); ok {
					if of := chain(c.Args()[0]); of != nil {
						return append(of, string(s))
					}
				}
			}
		}
		return nil
	}
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(x ast.Expr) {
		if c := chain(x); len(c) > 1 {
			refs = append(refs, c)
		}
	}))
	return refs
}

// Eval evaluates the expression. An output or option that is not there is an
// error, as in templates; has(outputs.copy.path) asks whether it is.
func (e *Expr) Eval(in Input) (bool, error) {
	outputs := make(map[string]any, len(in.Outputs))
	for name, o := range in.Outputs {
		outputs[name] = o
	}
	options := in.Options
	if options == nil {
		options = map[string]any{}
	}
	out, _, err := e.program.Eval(map[string]any{
		"target": map[string]string{
			"kind": in.Target.Kind, "name": in.Target.Name, "namespace": in.Target.Namespace,
			"apiVersion": in.Target.APIVersion, "group": in.Target.Group, "resource": in.Target.Resource,
		},
		"options": options,
		"outputs": outputs, "published": in.Published,
	})
	if err != nil {
		return false, fmt.Errorf("when %q: %w", e.text, err)
	}
	b, ok := out.Value().(bool)
	if !ok {
		return false, fmt.Errorf("when %q: %w, it is %s", e.text, errNotBool, out.Type().TypeName())
	}
	return b, nil
}

var errNotBool = errors.New("want true or false")

// Eval compiles and evaluates. An empty expression is true.
func Eval(text string, in Input) (bool, error) {
	if strings.TrimSpace(text) == "" {
		return true, nil
	}
	e, err := Compile(text)
	if err != nil {
		return false, fmt.Errorf("when %q: %w", text, err)
	}
	return e.Eval(in)
}
