package planner

import (
	"maps"

	"thaw/blueprints/plan"
	"thaw/blueprints/render"
)

// Show fills in, for people, what each phase will run with: arguments
// rendered, outputs that are not there yet as «phase.Output.key», secrets as
// ********. An argument that cannot be rendered before the run (it ranges over
// an output, say) is shown as its template. Seal the plan again afterwards.
func Show(p *plan.Plan, params *render.Params) error {
	masked := render.Mask(params)
	p.Walk(func(ph *plan.Phase) {
		if len(ph.Args) == 0 {
			return
		}
		masked.CurrentPhase = ph.Name
		ph.Shown = make(plan.Values, len(ph.Args))
		for name, v := range ph.Args {
			one, err := render.Args(nil, plan.Values{name: v}, masked, render.Options{Placeholder: true})
			if err != nil {
				one = plan.Values{name: v}
			}
			maps.Copy(ph.Shown, one)
		}
	})
	return p.Seal()
}
