package blueprintcmd

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/render"
	"thaw/blueprints/templates"
)

func renderCommand() *cobra.Command {
	var out format
	var action, target, object string
	var options []string
	cmd := &cobra.Command{
		Use:   "render BLUEPRINT",
		Short: "Render an action's templates, without a target",
		Long: `Renders the templates of an action with made-up parameters: a target with two pods,
labels and fields as the templates ask for them, artifacts, a location profile. Outputs of
phases are shown as «phase.Output.key», secrets as ********.

BLUEPRINT is a file, - for the standard input, or a name in the library.`,
		Example: `  thaw blueprint render shop.yaml --action backup
  thaw blueprint render sqlite --action backup --target sqlite:/data/shop.db
  thaw blueprint render shop.yaml --action backup --target statefulset/shop/db --option depth=3
  kubectl get statefulset db -o yaml > db.yaml && thaw blueprint render shop.yaml --action backup --object db.yaml`,
		Args:         cobra.ExactArgs(1),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			bp, err := load(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			a, err := chosen(bp, action)
			if err != nil {
				return err
			}
			p, err := params(bp, a, target, object, options)
			if err != nil {
				return err
			}
			r, err := rendered(bp, a, p)
			if err != nil {
				return err
			}
			return out.data(cmd.OutOrStdout(), r)
		},
	}
	out.flag(cmd, "yaml", "yaml", "json")
	cmd.Flags().StringVarP(&action, "action", "a", "", "action to render; may be left out where there is one only")
	cmd.Flags().StringVarP(&target, "target", "t", "", "target, as kind/name, kind/namespace/name or kind:address")
	cmd.Flags().StringArrayVar(&options, "option", nil, "option, as name=value; may be repeated")
	cmd.Flags().StringVar(&object, "object", "", "file with the target's object, as kubectl get -o yaml writes it")
	return cmd
}

func chosen(bp *blueprints.Blueprint, name string) (*blueprints.Action, error) {
	if name == "" && len(bp.Actions) == 1 {
		return bp.Actions[0], nil
	}
	if a, ok := bp.Action(name); ok {
		return a, nil
	}
	names := strings.Join(bp.ActionNames(), ", ")
	if name == "" {
		return nil, usage("say which action to render with --action; blueprint %s has %s", bp.Metadata.Name, names)
	}
	hint := templates.Suggest(name, bp.ActionNames())
	if hint == "" {
		hint = "; it has " + names
	}
	return nil, usage("blueprint %s has no action %q%s", bp.Metadata.Name, name, hint)
}

// params are made up, but for what the command line says.
func params(bp *blueprints.Blueprint, a *blueprints.Action, target, object string, options []string) (*render.Params, error) {
	t, err := parseTarget(target)
	if err != nil {
		return nil, err
	}
	p := render.Sample(bp, a, t.Kind)
	if t.Name != "" {
		render.Rename(p, t.Name, t.Namespace)
	}
	for _, o := range options {
		k, v, ok := strings.Cut(o, "=")
		if !ok || k == "" {
			return nil, usage("--option %q: want name=value", o)
		}
		if p.Options[k], err = option(bp, k, v); err != nil {
			return nil, err
		}
	}
	if object != "" {
		text, err := os.ReadFile(object)
		if err != nil {
			return nil, usage("--object: %w", err)
		}
		p.Object = nil
		if err := yaml.Unmarshal(text, &p.Object); err != nil {
			return nil, usage("--object %s: %w", object, err)
		}
		if p.Object == nil {
			return nil, usage("--object %s: the file holds no object", object)
		}
	}
	return render.Mask(p), nil
}

func option(bp *blueprints.Blueprint, name, value string) (any, error) {
	if !bp.Thaw() {
		return value, nil
	}
	var names []string
	for _, p := range bp.Parameters {
		names = append(names, p.Name)
		if p.Name == name {
			v, wrong := p.Check(value)
			if len(wrong) > 0 {
				return nil, usage("--option %s: %s", name, strings.Join(wrong, "; "))
			}
			return v, nil
		}
	}
	return nil, usage("--option %s: blueprint %s has no such parameter%s", name, bp.Metadata.Name, templates.Suggest(name, names))
}

func parseTarget(s string) (plan.Target, error) {
	if s == "" {
		return plan.Target{}, nil
	}
	if kind, address, ok := strings.Cut(s, ":"); ok && kind != "" && address != "" && !strings.Contains(kind, "/") {
		return plan.Target{Kind: kind, Name: address}, nil
	}
	parts := strings.Split(s, "/")
	switch {
	case len(parts) == 2 && parts[0] != "" && parts[1] != "":
		return plan.Target{Kind: parts[0], Name: parts[1]}, nil
	case len(parts) == 3 && parts[0] != "" && parts[1] != "" && parts[2] != "":
		return plan.Target{Kind: parts[0], Namespace: parts[1], Name: parts[2]}, nil
	}
	return plan.Target{}, usage("--target %q: want kind/name, kind/namespace/name or kind:address", s)
}

// renderedAction is what the command prints.
type renderedAction struct {
	Blueprint       string                   `json:"blueprint"`
	Action          string                   `json:"action"`
	Phases          []renderedPhase          `json:"phases"`
	Verify          []renderedPhase          `json:"verify,omitempty"`
	DeferPhase      *renderedPhase           `json:"deferPhase,omitempty"`
	OutputArtifacts map[string]plan.Artifact `json:"outputArtifacts,omitempty"`
}

type renderedPhase struct {
	Name       string                    `json:"name,omitempty"`
	Func       string                    `json:"func,omitempty"`
	When       string                    `json:"when,omitempty"`
	Objects    map[string]plan.Reference `json:"objects,omitempty"`
	Args       plan.Values               `json:"args,omitempty"`
	Compensate *renderedPhase            `json:"compensate,omitempty"`
	Freeze     *renderedFreeze           `json:"freeze,omitempty"`
	Phases     []renderedPhase           `json:"phases,omitempty"`
}

type renderedFreeze struct {
	Do        *renderedPhase `json:"do"`
	Undo      *renderedPhase `json:"undo"`
	MaxFreeze plan.Duration  `json:"maxFreeze"`
}

type rendering struct {
	params *render.Params
	errs   []string
}

func rendered(bp *blueprints.Blueprint, a *blueprints.Action, p *render.Params) (*renderedAction, error) {
	r := &rendering{params: p}
	out := &renderedAction{
		Blueprint: bp.Metadata.Name, Action: a.Name,
		Phases: r.list(a.Phases), Verify: r.list(a.Verify), DeferPhase: r.phase(a.DeferPhase),
	}
	arts, err := render.Artifacts(a.OutputArtifacts, p, render.Options{Path: a.Path, Placeholder: true})
	r.note(err)
	out.OutputArtifacts = arts
	if len(r.errs) > 0 {
		return nil, fault.New(fault.User, "%s", strings.Join(r.errs, "\n"))
	}
	return out, nil
}

func (r *rendering) note(err error) {
	if err != nil {
		r.errs = append(r.errs, fmt.Sprint(err))
	}
}

func (r *rendering) list(phases []*blueprints.Phase) []renderedPhase {
	var out []renderedPhase
	for _, p := range phases {
		out = append(out, *r.phase(p))
	}
	return out
}

func (r *rendering) phase(p *blueprints.Phase) *renderedPhase {
	if p == nil {
		return nil
	}
	out := &renderedPhase{Name: p.Name, Func: p.Func, When: p.When}
	o := render.Options{Path: p.Path, Placeholder: true}
	fn, _ := catalogue.Default().Lookup(p.Func)
	var err error
	out.Args, err = render.Args(fn, plan.Values(p.Args), r.params, o)
	r.note(err)
	out.Objects, err = render.References(p.Objects, r.params, o)
	r.note(err)
	out.Compensate = r.phase(p.Compensate)
	if f := p.Freeze; f != nil {
		out.Freeze = &renderedFreeze{Do: r.phase(f.Do), Undo: r.phase(f.Undo), MaxFreeze: plan.Duration(f.MaxFreeze)}
		out.Phases = r.list(f.Phases)
	}
	return out
}
