package activities

import (
	"context"
	"errors"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// errThaw is the cause of a window that was ended by a Thaw.
var errThaw = errors.New("thaw asked")

// window is a freeze under way in this process, or one that is over.
type window struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
	// report is set before done is closed; nil where undo was not confirmed.
	report *plan.FreezeReport
	fence  bool // nothing was begun: it keeps a freeze out
}

// Freeze makes one freeze, runs the phases inside, and thaws. All that can be
// done before `do` is done before it. Whatever ends the freeze (a failed phase,
// a cancel, the end of its session, maxFreeze) it thaws, in a context of its
// own. A failure of `do` or of a phase is in the report; the error of Freeze
// says that the thaw is not confirmed, and the session goes on thawing.
func (e *Engine) Freeze(ctx context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w, err := e.enter(in.Token, cancel)
	if err != nil {
		return nil, e.toTemporal(err)
	}
	f := &freezing{e: e, in: in, report: plan.FreezeReport{Token: in.Token, Results: map[string]plan.Result{}}}
	err = f.run(ctx)
	if err == nil {
		w.report = &f.report
	}
	close(w.done)
	if err != nil {
		return nil, e.toTemporal(err)
	}
	return &f.report, nil
}

// enter admits a freeze, unless a Thaw of its token came first.
func (e *Engine) enter(token string, cancel context.CancelCauseFunc) (*window, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.windows[token]; ok {
		return nil, fault.New(fault.Permanent, "freeze %s: it was thawed before it began, or runs already; it is not made again", token)
	}
	w := &window{cancel: cancel, done: make(chan struct{})}
	e.windows[token] = w
	e.forget()
	return w, nil
}

// errStop is the cause of a window that was ended by the worker's end.
var errStop = errors.New("the worker stops")

// Stop ends the freezes that are under way in this process, and waits until
// each is thawed, or the context ends. It returns how many are not.
func (e *Engine) Stop(ctx context.Context) (left int) {
	e.mu.Lock()
	var open []*window
	for _, w := range e.windows {
		open = append(open, w)
	}
	e.mu.Unlock()
	for _, w := range open {
		w.cancel(errStop)
	}
	for _, w := range open {
		select {
		case <-w.done:
			continue
		default:
		}
		select {
		case <-w.done:
		case <-ctx.Done():
			left++
		}
	}
	return left
}

// remembered is how many freezes that are over a process remembers.
const remembered = 1000

func (e *Engine) forget() {
	if len(e.windows) <= remembered {
		return
	}
	for t, w := range e.windows {
		select {
		case <-w.done:
			delete(e.windows, t)
		default:
		}
	}
}
