package activities

import (
	"fmt"

	"thaw/blueprints/plan"
)

// proof compares what `do` and `undo` found (design: G3): each output that
// identifies the freeze must be in both, and the same.
func (f *freezing) proof() plan.Proof {
	p := f.report.Proof
	p.Consistent, p.Reason = compare(f.in.Freeze.Proof, p.Do, p.Undo)
	if p.Consistent && f.report.Failure != nil {
		p.Consistent, p.Reason = false, "failure of "+f.report.Failure.Phase
	}
	if !p.Consistent {
		p.Cuts = nil
	}
	return p
}

func compare(keys []string, do, undo plan.Values) (bool, string) {
	if len(keys) == 0 {
		return false, "the freeze declares no proof"
	}
	for _, k := range keys {
		d, u := do[k], undo[k]
		switch {
		case d == nil || d == "":
			return false, fmt.Sprintf("do reported no %s", k)
		case u == nil || u == "":
			reason := fmt.Sprintf("undo found no %s: the freeze had ended before it was thawed", k)
			if lost, ok := undo["lost"]; ok {
				reason += fmt.Sprintf(" (%v)", lost)
			}
			return false, reason
		case fmt.Sprint(d) != fmt.Sprint(u):
			return false, fmt.Sprintf("%s was %v when frozen and %v when thawed", k, d, u)
		}
	}
	return true, ""
}
