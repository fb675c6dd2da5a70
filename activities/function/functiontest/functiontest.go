// Package functiontest is what the tests of every activity family share.
package functiontest

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/activities/function"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// Env is an environment for calls of a function, and what they did with it.
type Env struct {
	function.Env

	mu     sync.Mutex
	memory string
	after  []func(context.Context)
}

// NewEnv returns the environment of the first attempt of a call.
func NewEnv(t testing.TB, key string) *Env {
	e := &Env{Env: function.Env{
		Run: plan.Run{ID: "test/" + t.Name(), RunID: "1"}, Phase: "phase", Key: key, Attempt: 1, Activity: "1",
		Log: slog.New(slog.DiscardHandler), Holds: function.NewHolds(), StateDir: t.TempDir(), Secrets: Secrets{},
		Heartbeat: func(string) {}, Stopping: func() bool { return false },
	}}
	e.Remember = func(text string) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.memory = text
	}
	e.After = func(f func(context.Context)) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.after = append(e.after, f)
	}
	return e
}

// Again returns the environment of the next attempt: by another worker where
// the one before was lost (reported is false), or after a failure that it told.
func (e *Env) Again(t testing.TB, reported bool) *Env {
	next := NewEnv(t, e.Key)
	next.Run, next.Target, next.Workload, next.Profile, next.Pod = e.Run, e.Target, e.Workload, e.Profile, e.Pod
	next.Attempt, next.Reported, next.Recalled = e.Attempt+1, reported, e.Memory()
	next.memory = next.Recalled
	return next
}

// Memory is what the attempt remembered last.
func (e *Env) Memory() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.memory
}

// Clean runs what was put off until the result is safe.
func (e *Env) Clean(ctx context.Context) {
	e.mu.Lock()
	after := e.after
	e.after = nil
	e.mu.Unlock()
	for _, f := range after {
		f(ctx)
	}
}

// Call binds and runs the function of that name.
func Call(ctx context.Context, t testing.TB, functions []function.Function, e *Env, name string, args map[string]any) (function.Outputs, error) {
	t.Helper()
	for i := range functions {
		if functions[i].Name != name {
			continue
		}
		act, release, err := functions[i].Bind(ctx, &e.Env, args)
		if err != nil {
			return nil, err
		}
		if release != nil {
			defer release()
		}
		return act(ctx)
	}
	require.Fail(t, "no function "+name)
	return nil, nil
}

// Secrets are those of a run, by the name that it gave them.
type Secrets map[string]map[string][]byte

// Named implements function.Secrets.
func (s Secrets) Named(_ context.Context, name string) (map[string][]byte, error) {
	v, ok := s[name]
	if !ok {
		return nil, fault.New(fault.User, "no secret named %q", name)
	}
	return v, nil
}

// Secret implements function.Secrets: families ask by the run's names only.
func (s Secrets) Secret(context.Context, plan.Reference) (map[string][]byte, error) {
	return nil, errors.New("not asked here")
}
