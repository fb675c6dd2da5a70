package actionset

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"thaw/blueprints/plan"
)

// run is what is known of the run of one action.
type run struct {
	id       string
	progress *plan.Progress
	outputs  map[string]plan.Values // of phases, by name
	trouble  string                 // why something of it is tried again
	end      *end
}

// end is how a run ended.
type end struct {
	outcome *plan.Outcome // may be nil where it failed
	message string        // why it failed; "" where it did not
}

// picture draws the runs into a status. It is pure, and draws the same however
// often and by however many workers it is asked.
func picture(st *status, runs []run, now time.Time) *status {
	st = st.clone()
	var failures []string
	st.Progress.RunningPhase = ""
	ended := 0
	for i := range st.Actions {
		r := run{}
		if i < len(runs) {
			r = runs[i]
		}
		a := &st.Actions[i]
		running := draw(a, &r, now)
		if st.Progress.RunningPhase == "" {
			st.Progress.RunningPhase = running
		}
		if r.end == nil {
			continue
		}
		ended++
		if m := r.end.message; m != "" {
			if len(st.Actions) > 1 {
				m = fmt.Sprintf("action %d, %s: %s", i, a.Name, m)
			}
			failures = append(failures, m)
		}
	}
	st.Error.Message = short(strings.Join(failures, "\n"), mostMessage)
	// The end is written last: an ActionSet that has failed and still holds a
	// database frozen would be one that nobody looks at any more.
	switch {
	case ended < len(st.Actions):
		st.State = stateRunning
	case len(failures) > 0:
		st.State = stateFailed
	default:
		st.State = stateComplete
	}
	percent(st, now)
	return st
}

// draw draws one run into its action's status, and says which phase runs.
func draw(a *actionStatus, r *run, now time.Time) (running string) {
	states := map[string]string{}
	for _, rec := range r.records() {
		states[rec.Name] = word(rec.State) // the last round's
	}
	if r.end == nil && r.progress != nil {
		// A phase that failed and is retried by its operator runs again.
		if name := r.progress.Phase; a.phase(name) != nil && states[name] != stateComplete {
			states[name], running = stateRunning, name
		}
	}
	for _, p := range a.all() {
		if state := states[p.Name]; state != "" {
			p.become(state, now)
		}
	}
	for name, out := range r.outputs {
		if p := a.phase(name); p != nil && p.State == stateComplete && len(out) > 0 {
			p.Output = out
		}
	}
	switch {
	case r.end == nil:
	case r.end.message == "":
		for _, p := range a.all() {
			p.become(stateComplete, now) // skipped ones too: Kanister has no such state
		}
		if o := r.end.outcome; o != nil {
			a.Artifacts = o.Artifacts
		}
	default:
		a.fail(now)
	}
	return running
}

func (r *run) records() []plan.PhaseRecord {
	switch {
	case r.end != nil && r.end.outcome != nil:
		return r.end.outcome.Phases
	case r.progress != nil:
		return r.progress.Phases
	}
	return nil
}

// fail marks a phase of a failed action as failed, where none is: the one that
// ran, or the first, as Kanister does for what failed before any.
func (a *actionStatus) fail(now time.Time) {
	all := a.all()
	if slices.ContainsFunc(all, func(p *phase) bool { return p.State == stateFailed }) {
		for _, p := range all {
			if p.State == stateRunning {
				p.become(stateFailed, now)
			}
		}
		return
	}
	started := false
	for _, p := range all {
		if p.State == stateRunning {
			p.become(stateFailed, now)
		}
		started = started || p.State != statePending
	}
	if !started && len(all) > 0 {
		all[0].become(stateFailed, now)
	}
}

func (a *actionStatus) all() []*phase {
	var all []*phase
	for i := range a.Phases {
		all = append(all, &a.Phases[i])
	}
	if a.DeferPhase != nil {
		all = append(all, a.DeferPhase)
	}
	return all
}

func (a *actionStatus) phase(name string) *phase {
	for _, p := range a.all() {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// word is Kanister's word for a state of a run's phase.
func word(state string) string {
	if state == plan.PhaseFailed {
		return stateFailed
	}
	return stateComplete
}

func (p *phase) become(state string, now time.Time) {
	if p.State == state {
		return
	}
	p.State = state
	p.Progress.LastTransitionTime = stamp(now)
	p.Progress.ProgressPercent = "0"
	if state == stateComplete {
		p.Progress.ProgressPercent = "100"
	}
}

// percent is the mean over the phases of all actions; deferPhases do not
// count. Its time is that of its last change (both are Kanister's rules).
func percent(st *status, now time.Time) {
	done, all := 0, 0
	for _, a := range st.Actions {
		for _, p := range a.Phases {
			all++
			if p.State == stateComplete {
				done++
			}
		}
	}
	n := 0
	switch {
	case all > 0:
		n = 100 * done / all
	case st.State == stateComplete:
		n = 100
	}
	if s := strconv.Itoa(n); s != st.Progress.PercentCompleted {
		st.Progress.PercentCompleted, st.Progress.LastTransitionTime = s, stamp(now)
	}
}

// Kubernetes holds no object over 1.5 MiB, spec included.
const (
	mostMessage = 16 << 10
	mostOutputs = 256 << 10
)

// short cuts a text at its middle, where it is least missed.
func short(s string, most int) string {
	if len(s) <= most {
		return s
	}
	const gap = "\n…\n"
	half := (most - len(gap)) / 2
	return strings.ToValidUTF8(s[:half], "") + gap + strings.ToValidUTF8(s[len(s)-half:], "")
}

// fit leaves out outputs, the largest first, until the rest has at most that
// many bytes; it says of which phases.
func (s *status) fit(most int) (left []string) {
	type one struct {
		p    *phase
		size int
	}
	var outputs []one
	total := 0
	for i := range s.Actions {
		for _, p := range s.Actions[i].all() {
			if n := size(p.Output); n > 0 {
				outputs, total = append(outputs, one{p, n}), total+n
			}
		}
	}
	slices.SortStableFunc(outputs, func(x, y one) int { return y.size - x.size })
	for _, o := range outputs {
		if total <= most {
			break
		}
		total -= o.size
		o.p.Output = nil
		left = append(left, o.p.Name)
	}
	return left
}

// change is what becomes of an ActionSet between two pictures of it, for
// Kubernetes events.
type change struct {
	reason, message string
	warning         bool
	action          int
}

// changes lists them, in the order in which they happened.
func changes(before, after *status) (all []change) {
	for i := range after.Actions {
		a := &after.Actions[i]
		was := func(*phase) string { return statePending }
		if i < len(before.Actions) {
			was = func(p *phase) string {
				if b := before.Actions[i].phase(p.Name); b != nil {
					return b.State
				}
				return statePending
			}
		}
		for _, p := range a.all() {
			what, kind := "phase", "Phase"
			if p == a.DeferPhase {
				what, kind = "deferPhase", "deferPhase"
			}
			from := was(p)
			if from == p.State {
				continue
			}
			if from == statePending {
				all = append(all, change{reason: "Started " + kind, message: fmt.Sprintf("Action %s: %s %s started", a.Name, what, p.Name), action: i})
			}
			switch p.State {
			case stateComplete:
				all = append(all, change{reason: "Ended " + kind, message: fmt.Sprintf("Action %s: %s %s is complete", a.Name, what, p.Name), action: i})
			case stateFailed:
				all = append(all, change{reason: failedReason(a.Name), message: fmt.Sprintf("Action %s: %s %s failed", a.Name, what, p.Name), warning: true, action: i})
			}
		}
	}
	if before.State != after.State {
		switch after.State {
		case stateComplete:
			all = append(all, change{reason: "Update Complete", message: "Every action is complete", action: -1})
		case stateFailed:
			all = append(all, change{reason: failedReason(after.name()), message: after.Error.Message, warning: true, action: -1})
		}
	}
	return all
}

// name is that of the first action that failed.
func (s *status) name() string {
	for i := range s.Actions {
		if slices.ContainsFunc(s.Actions[i].all(), func(p *phase) bool { return p.State == stateFailed }) {
			return s.Actions[i].Name
		}
	}
	if len(s.Actions) > 0 {
		return s.Actions[0].Name
	}
	return ""
}

// size of an output as JSON.
func size(v plan.Values) int {
	if len(v) == 0 {
		return 0
	}
	b, err := json.Marshal(v)
	if err != nil {
		return 0
	}
	return len(b)
}

func failedReason(action string) string { return "ActionSetFailed Action: " + action }
