package activities

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"thaw/blueprints/plan"
)

// Thaw thaws by token, whoever froze. In the process that froze it ends the
// freeze there, and returns that one's own report; elsewhere it runs undo,
// which finds by the token what is to be thawed. It succeeds only when nothing
// is frozen by this token any more. Idempotent.
func (e *Engine) Thaw(ctx context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
	stop := heartbeats(ctx, time.Second, nothing)
	defer stop()
	r, err := e.thaw(ctx, in)
	return r, e.toTemporal(err)
}

// yield is how long the freezing activity of this process has to thaw by
// itself, before undo runs beside it.
const yield = time.Second

func (e *Engine) thaw(ctx context.Context, in plan.FreezeInput) (*plan.FreezeReport, error) {
	w, mine := e.fence(in.Token)
	over := true
	if mine {
		w.cancel(errThaw)
		t := time.NewTimer(yield)
		defer t.Stop()
		select {
		case <-w.done:
			if w.report != nil {
				return w.report, nil
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-t.C:
			over = false
		}
	}
	f := &freezing{e: e, in: in, report: plan.FreezeReport{Token: in.Token, Results: map[string]plan.Result{}, ThawAt: time.Now()}}
	out, err := e.undoOnce(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("thaw %s: %w", in.Scope.Target.Key(), err)
	}
	f.report.ThawedAt = time.Now()
	f.report.Proof = plan.Proof{Undo: out, Reason: "thawed from outside the freeze"}
	f.report.Gone = over && (mine || e.journal.orphaned(in.Token))
	if over {
		return &f.report, e.journal.clear(in.Token)
	}
	return &f.report, nil
}

// fence makes sure that no freeze of this token begins in this process, and
// returns the one that did (mine), or its stand-in.
func (e *Engine) fence(token string) (w *window, mine bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w, ok := e.windows[token]; ok {
		return w, !w.fence
	}
	e.forget()
	w = &window{cancel: func(error) {}, done: make(chan struct{}), fence: true}
	close(w.done)
	e.windows[token] = w
	return w, false
}

func (e *Engine) undoOnce(ctx context.Context, f *freezing) (plan.Values, error) {
	b, err := f.bind(ctx, &f.in.Freeze.Undo, true)
	if err != nil {
		return nil, err
	}
	defer b.free()
	return b.run(ctx)
}

// Sweep thaws what dead workers of this state directory left frozen. A worker
// does it when it starts, before it asks Temporal for work: a database does
// not wait for a Temporal that is away. It tries each until the context ends.
func (e *Engine) Sweep(ctx context.Context) error {
	left, faults := e.journal.abandoned()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, in := range left {
		// Side by side: no database waits for another that does not answer.
		wg.Go(func() {
			if err := e.sweep(ctx, in); err != nil {
				mu.Lock()
				defer mu.Unlock()
				faults = errors.Join(faults, err)
			}
		})
	}
	wg.Wait()
	return faults
}

func (e *Engine) sweep(ctx context.Context, in plan.FreezeInput) error {
	f := &freezing{e: e, in: in, report: plan.FreezeReport{Token: in.Token}}
	e.log.Warn("sweeping a freeze that its worker left", "target", in.Scope.Target.Key(), "token", in.Token, "run", in.Run.ID)
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	_, err := e.undoOnce(ctx, f)
	if err == nil {
		err = e.journal.clear(in.Token)
	}
	if err != nil {
		return fmt.Errorf("sweep freeze %s of %s: %w", in.Token, in.Scope.Target.Key(), err)
	}
	return nil
}

// sweepTimeout bounds one thaw of a sweep; what fails is swept again.
const sweepTimeout = 20 * time.Second
