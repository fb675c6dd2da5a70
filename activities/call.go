package activities

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"

	"thaw/activities/function"
	"thaw/activities/secret"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/render"
	"thaw/blueprints/when"
)

// Call runs one call of a function: it renders the arguments just before they
// are used, and returns the outputs without secrets.
func (e *Engine) Call(ctx context.Context, c plan.Call) (*plan.CallResult, error) {
	t := e.attempt(ctx)
	stop := heartbeats(ctx, 2*time.Second, t.detail)
	defer stop()
	defer t.clean()
	ctx, cancel := inTime(ctx)
	defer cancel()
	r, err := e.call(ctx, c, t)
	if ctx.Err() == context.DeadlineExceeded && err != nil && fault.Of(err) == fault.Transient {
		// Nobody cut its time short before an effect: it had begun.
		err = fault.New(fault.Unknown, "%w", err)
	}
	return r, e.toTemporal(withCause(ctx, err), plan.FailedCall{Attempt: activity.GetInfo(ctx).Attempt})
}

// inTime ends a call a little before Temporal gives it up, so that what it was
// at, in its own words, is told.
func inTime(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	left := time.Until(end)
	return context.WithDeadlineCause(ctx, end.Add(-min(left/10, 2*time.Second)), fmt.Errorf("not done within %s", left.Round(time.Second)))
}

func (e *Engine) call(ctx context.Context, c plan.Call, t *attempt) (*plan.CallResult, error) {
	r := &plan.CallResult{Started: time.Now()}
	skip, err := e.skips(&c.Phase, c.Scope, c.Results)
	if err != nil {
		return nil, err
	}
	if skip != "" {
		r.Skipped, r.Ended = true, time.Now()
		return r, nil
	}
	b, err := e.bind(ctx, c, setting{attempt: t})
	if err != nil {
		return nil, err
	}
	defer b.free()
	started := time.Now()
	r.Output, err = b.run(ctx)
	if err != nil {
		return nil, err
	}
	r.Ended = time.Now()
	if b.fn.Cut {
		r.Cut = &plan.Span{Start: started, End: r.Ended}
	}
	return r, nil
}

// skips says why a phase is not to run: "" where it is.
func (e *Engine) skips(ph *plan.Phase, s plan.Scope, results map[string]plan.Result) (string, error) {
	if ph.Skip != "" {
		return ph.Skip, nil
	}
	if ph.When == "" {
		return "", nil
	}
	in := when.Input{Target: s.Target, Options: s.Options, Outputs: map[string]map[string]any{}, Published: s.RestorePoint.Profile != nil}
	for n, r := range results {
		in.Outputs[n] = r.Output
	}
	yes, err := when.Eval(ph.When, in)
	if err != nil {
		return "", fault.New(fault.User, "phase %s: %w", ph.Name, err)
	}
	if !yes {
		return "when: " + ph.When, nil
	}
	return "", nil
}

// setting is what a call has besides: the attempt that makes it, and inside a
// freeze the freeze's token and end.
type setting struct {
	token     string
	maxFreeze time.Duration
	attempt   *attempt
}

// bound is a call whose arguments are rendered and whose function is prepared.
type bound struct {
	e       *Engine
	fn      *function.Function
	env     *function.Env
	phase   *plan.Phase
	act     function.Act
	release func()
	after   []func(context.Context) // of a call without an attempt
}

// bind renders the arguments of a call and prepares its function. Nothing is
// changed by it.
func (e *Engine) bind(ctx context.Context, c plan.Call, bi setting) (*bound, error) {
	fn, ok := e.functions[c.Phase.Func]
	if !ok {
		return nil, fault.New(fault.User, "phase %s: this worker has no function %s", c.Phase.Name, c.Phase.Func)
	}
	p, err := e.params(ctx, &c, fn.Profile)
	if err != nil {
		return nil, fmt.Errorf("phase %s: %w", c.Phase.Name, err)
	}
	var noProfile error
	if ref := c.Scope.Profile; fn.MayUseProfile && ref != nil && p.Profile == nil {
		p.Profile, noProfile = e.profile(ctx, *ref)
	}
	args, err := render.Args(&fn.Function, c.Phase.Args, p, render.Options{Path: "phase " + c.Phase.Name, Lenient: c.Lenient})
	if err != nil {
		return nil, err
	}
	named, err := secretsOf(&c, p)
	if err != nil {
		return nil, fmt.Errorf("phase %s: %w", c.Phase.Name, err)
	}
	env := &function.Env{
		Run: c.Run, Phase: c.Phase.Name, Key: callKey(c, bi.token), Token: bi.token, MaxFreeze: bi.maxFreeze,
		Target: c.Scope.Target, RestorePoint: c.Scope.RestorePoint, Workload: c.Scope.Workload, Profile: p.Profile, NoProfile: noProfile,
		Redact:  e.redact.Text,
		Log:     e.log.With("run", c.Run.ID, "phase", c.Phase.Name, "function", c.Phase.Func),
		Secrets: secret.Of{Store: e.cfg.Secrets, Names: named}, Holds: e.holds, StateDir: e.cfg.StateDir,
	}
	if e.cfg.Cluster != nil {
		// Unknown for a moment at most, and then what is made is never swept.
		env.Owner, _ = e.Owner(ctx)
		env.Lookup = e.cfg.Cluster.Lookup
	}
	if pod := c.Scope.Pod; pod != nil {
		env.Pod = function.PodDefaults{Override: pod.Override, Labels: pod.Labels, Annotations: pod.Annotations}
	}
	b := &bound{e: e, fn: fn, env: env, phase: &c.Phase}
	bi.attempt.equip(b)
	err = b.guarded(func() error {
		b.act, b.release, err = fn.Bind(ctx, env, args)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("phase %s: %w", c.Phase.Name, err)
	}
	return b, nil
}

// guarded turns a panic of a function into an error. In a freeze it would end
// the worker; elsewhere Temporal would keep its text as it is, secrets too.
func (b *bound) guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			b.env.Log.Error("a function panicked: this is a bug of it", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fault.New(fault.Unknown, "function %s panicked: %v; this is a bug of it, the worker's log has where", b.fn.Name, p)
		}
	}()
	return f()
}

// run has the effect, and returns outputs without secrets.
func (b *bound) run(ctx context.Context) (plan.Values, error) {
	var out function.Outputs
	err := b.guarded(func() (err error) {
		out, err = b.act(ctx)
		return err
	})
	b.clean(ctx)
	if err != nil {
		return nil, fmt.Errorf("phase %s: %w", b.phase.Name, err)
	}
	clean, _ := b.e.redact.Value(map[string]any(out)).(map[string]any)
	return clean, nil
}

// clean takes away what a call without an attempt left.
func (b *bound) clean(ctx context.Context) {
	after := b.after
	b.after = nil
	if len(after) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for _, f := range after {
		f(ctx)
	}
}

func (b *bound) free() {
	if b != nil && b.release != nil {
		b.release()
		b.release = nil
	}
}

// callKey is the same in every attempt of a call, and in no other call. Inside
// a freeze it is of that freeze, by its token: what an earlier freeze of the
// run cut must not be found by a later one, and be called its own.
func callKey(c plan.Call, token string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%d\x00%s", c.Run.ID, c.Run.Original, c.Phase.Name, c.Round, token))
	return "thaw-" + hex.EncodeToString(sum[:10])
}

// mentions reports whether a phase's arguments name the outputs of any of
// these phases.
func mentions(ph *plan.Phase, names []string) bool {
	found := false
	var walk func(v any)
	walk = func(v any) {
		switch t := v.(type) {
		case string:
			if !strings.Contains(t, "{{") || !strings.Contains(t, ".Phases") {
				return
			}
			for _, n := range names {
				found = found || strings.Contains(t, n)
			}
		case []any:
			for _, x := range t {
				walk(x)
			}
		case map[string]any:
			for k, x := range t {
				walk(k)
				walk(x)
			}
		}
	}
	walk(map[string]any(ph.Args))
	return found
}

// Artifacts renders the output artifacts of a finished action.
func (e *Engine) Artifacts(ctx context.Context, in plan.ArtifactsInput) (map[string]plan.Artifact, error) {
	c := plan.Call{Run: in.Run, Scope: in.Scope, Results: in.Results, Defer: in.Defer}
	out, err := e.artifacts(ctx, &c, in.Artifacts)
	return out, e.toTemporal(err)
}

func (e *Engine) artifacts(ctx context.Context, c *plan.Call, templates map[string]plan.Artifact) (map[string]plan.Artifact, error) {
	p, err := e.params(ctx, c, true)
	if err != nil {
		return nil, err
	}
	out, err := render.Artifacts(templates, p, render.Options{})
	if err != nil {
		return nil, err
	}
	for n, a := range out {
		a.KopiaSnapshot = e.redact.Text(a.KopiaSnapshot)
		for k, v := range a.KeyValue {
			a.KeyValue[k] = e.redact.Text(v)
		}
		out[n] = a
	}
	return out, nil
}
