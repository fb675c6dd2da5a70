package activities

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/testsuite"

	"thaw/activities/function"
	"thaw/activities/secret"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// lock is a database that can be frozen, and notes what is done to it.
type lock struct {
	mu     sync.Mutex
	frozen bool
	log    []string
}

func (l *lock) do(what string, frozen bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = append(l.log, what)
	l.frozen = frozen
}

func (l *lock) seen() ([]string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string{}, l.log...), l.frozen
}

type acts struct{ do, cut, undo function.Act }

func fn(name string, cut bool, act function.Act) function.Function {
	return function.New(catalogue.Function{Name: name, Family: "test", Summary: "test", Cut: cut},
		func(ctx context.Context, _ *function.Env, _ struct{}) (function.Outputs, error) { return act(ctx) })
}

func newEngine(t *testing.T, fns ...function.Function) *Engine {
	e, err := New(Config{
		StateDir: t.TempDir(), Location: t.TempDir(), Functions: fns, Log: slog.New(slog.DiscardHandler),
		Secrets: &secret.Store{Redact: secret.NewRedactor()},
	})
	require.NoError(t, err)
	return e
}

func freezeInput(token string) plan.FreezeInput {
	ph := func(name, fn string, timeout time.Duration) plan.Phase {
		return plan.Phase{Name: name, Func: fn, Timeout: plan.Duration(timeout), Retry: plan.Retry{MaxAttempts: 3}}
	}
	return plan.FreezeInput{
		Token: token, Name: "f", Session: "freeze/x", Scope: plan.Scope{Target: plan.Target{Kind: "test", Name: "db"}},
		Freeze: plan.Freeze{
			Do: ph("f.do", "Do", time.Second), Undo: ph("f.undo", "Undo", 2*time.Second), MaxFreeze: plan.Duration(2 * time.Second),
			Phases: []plan.Phase{ph("cut", "Cut", time.Second)}, Proof: []string{"session"},
		},
	}
}

func runFreeze(t *testing.T, e *Engine, in plan.FreezeInput) (*plan.FreezeReport, error) {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.SetTestTimeout(10 * time.Second)
	e.Register(env)
	v, err := env.ExecuteActivity(plan.ActivityFreeze, in)
	if err != nil {
		return nil, err
	}
	var r plan.FreezeReport
	require.NoError(t, v.Get(&r))
	return &r, nil
}

func journaled(t *testing.T, e *Engine) int {
	files, err := filepath.Glob(filepath.Join(e.journal.dir, "*.json"))
	require.NoError(t, err)
	return len(files)
}

func TestFreeze(t *testing.T) {
	tests := []struct {
		name       string
		change     func(*lock, *acts)
		log        []string
		failure    string // part of it
		kind       fault.Kind
		consistent bool
		reason     string
		err        string
		thawedBy   string
	}{
		{name: "frozen, cut, thawed, proven", log: []string{"do", "cut", "undo"}, consistent: true, thawedBy: "phases done"},
		{name: "a phase fails", change: func(l *lock, a *acts) {
			a.cut = func(context.Context) (function.Outputs, error) {
				return nil, fault.New(fault.Permanent, "disk is gone")
			}
		}, log: []string{"do", "undo"}, failure: "disk is gone", kind: fault.Permanent, reason: "failure of cut", thawedBy: "failure of cut"},
		{name: "a phase panics, as a bug does", change: func(_ *lock, a *acts) {
			a.cut = func(context.Context) (function.Outputs, error) { panic("index out of range") }
		}, log: []string{"do", "undo"}, failure: "Cut panicked: index out of range", kind: fault.Unknown, reason: "failure of cut", thawedBy: "failure of cut"},
		{name: "do takes effect and reports an error", change: func(l *lock, a *acts) {
			a.do = func(context.Context) (function.Outputs, error) {
				l.do("do", true)
				return nil, errors.New("connection lost")
			}
		}, log: []string{"do", "undo"}, failure: "connection lost", kind: fault.Unknown, reason: "do reported no session", thawedBy: "failure of f.do"},
		{name: "a transient failure inside is retried", change: func(l *lock, a *acts) {
			tries := 0
			cut := a.cut
			a.cut = func(ctx context.Context) (function.Outputs, error) {
				if tries++; tries < 3 {
					return nil, fault.New(fault.Transient, "busy")
				}
				return cut(ctx)
			}
		}, log: []string{"do", "cut", "undo"}, consistent: true, thawedBy: "phases done"},
		{name: "undo is retried until it succeeds", change: func(l *lock, a *acts) {
			tries, undo := 0, a.undo
			a.undo = func(ctx context.Context) (function.Outputs, error) {
				if tries++; tries < 4 {
					return nil, fault.New(fault.Permanent, "no")
				}
				return undo(ctx)
			}
		}, log: []string{"do", "cut", "undo"}, consistent: true, thawedBy: "phases done"},
		{name: "undo never succeeds: the session goes on", change: func(l *lock, a *acts) {
			a.undo = func(context.Context) (function.Outputs, error) { return nil, fault.New(fault.Permanent, "no") }
		}, err: "thaw test:db"},
		{name: "the freeze was another's", change: func(l *lock, a *acts) {
			a.undo = func(context.Context) (function.Outputs, error) {
				l.do("undo", false)
				return function.Outputs{"session": "2"}, nil
			}
		}, log: []string{"do", "cut", "undo"}, reason: "session was 1 when frozen and 2 when thawed", thawedBy: "phases done"},
		{name: "the freeze was gone", change: func(l *lock, a *acts) {
			a.undo = func(context.Context) (function.Outputs, error) {
				l.do("undo", false)
				return function.Outputs{"lost": "it was killed"}, nil
			}
		}, log: []string{"do", "cut", "undo"}, reason: "it was killed", thawedBy: "phases done"},
		{name: "maxFreeze ends a cut that listens", change: func(l *lock, a *acts) {
			a.cut = func(ctx context.Context) (function.Outputs, error) { <-ctx.Done(); return nil, ctx.Err() }
		}, log: []string{"do", "undo"}, failure: "phase not done within 1s", kind: fault.Unknown, reason: "failure of cut", thawedBy: "failure of cut"},
		{name: "a cut that does not listen is left behind", change: func(l *lock, a *acts) {
			a.cut = func(context.Context) (function.Outputs, error) {
				time.Sleep(1800 * time.Millisecond)
				l.do("cut", true)
				return nil, nil
			}
		}, log: []string{"do", "undo", "cut", "undo"}, failure: "left behind", kind: fault.Unknown, reason: "failure of cut", thawedBy: "failure of cut"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := &lock{}
			a := &acts{
				do: func(context.Context) (function.Outputs, error) {
					l.do("do", true)
					return function.Outputs{"session": "1"}, nil
				},
				cut: func(context.Context) (function.Outputs, error) { l.do("cut", true); return nil, nil },
				undo: func(context.Context) (function.Outputs, error) {
					l.do("undo", false)
					return function.Outputs{"session": "1"}, nil
				},
			}
			if tt.change != nil {
				tt.change(l, a)
			}
			e := newEngine(t, fn("Do", false, a.do), fn("Cut", true, a.cut), fn("Undo", false, a.undo))
			r, err := runFreeze(t, e, freezeInput("t"))
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				assert.Equal(t, 1, journaled(t, e), "a freeze that is not thawed stays in the journal")
				return
			}
			require.NoError(t, err)
			log, isFrozen := l.seen()
			assert.Equal(t, tt.log, log)
			assert.False(t, isFrozen)
			assert.True(t, r.Confirmed)
			assert.Equal(t, tt.thawedBy, r.ThawedBy)
			assert.Equal(t, tt.consistent, r.Proof.Consistent)
			assert.Contains(t, r.Proof.Reason, tt.reason)
			assert.Zero(t, journaled(t, e))
			if tt.failure == "" {
				assert.Nil(t, r.Failure)
				assert.Equal(t, tt.consistent, len(r.Proof.Cuts) == 1)
				return
			}
			require.NotNil(t, r.Failure)
			assert.Contains(t, r.Failure.Message, tt.failure)
			assert.Equal(t, string(tt.kind), r.Failure.Kind)
			assert.Empty(t, r.Proof.Cuts)
		})
	}
}

func TestDoThatSeemsToNameAPhaseInsideIsBoundBefore(t *testing.T) {
	type args struct {
		X string `arg:"x" doc:"x"`
	}
	out := func(context.Context) (function.Outputs, error) { return function.Outputs{"session": "1"}, nil }
	e := newEngine(t, fn("Cut", true, out), fn("Undo", false, out), function.New(catalogue.Function{Name: "Do", Family: "test", Summary: "test"},
		func(ctx context.Context, _ *function.Env, a args) (function.Outputs, error) {
			assert.Equal(t, "7", a.X)
			return out(ctx)
		}))
	in := freezeInput("t")
	in.Results = map[string]plan.Result{"look": {Output: plan.Values{"cut": "7"}}}
	in.Freeze.Do.Args = plan.Values{"x": "{{ .Phases.look.Output.cut }}"}
	r, err := runFreeze(t, e, in)
	require.NoError(t, err)
	assert.True(t, r.Proof.Consistent, r.Proof.Reason)
}

func TestKeysOfTwoFreezesDiffer(t *testing.T) {
	var keys []string
	out := func(context.Context) (function.Outputs, error) { return function.Outputs{"session": "1"}, nil }
	e := newEngine(t, fn("Do", false, out), fn("Undo", false, out), function.New(catalogue.Function{Name: "Cut", Family: "test", Summary: "test", Cut: true},
		func(ctx context.Context, env *function.Env, _ struct{}) (function.Outputs, error) {
			keys = append(keys, env.Key)
			return out(ctx)
		}))
	for _, token := range []string{"a", "b"} { // of a run whose freeze was retried, or that was reset
		_, err := runFreeze(t, e, freezeInput(token))
		require.NoError(t, err)
	}
	require.Len(t, keys, 2)
	assert.NotEqual(t, keys[0], keys[1])
}

func TestProofNeedsValues(t *testing.T) {
	ok, why := compare([]string{"session"}, plan.Values{"session": ""}, plan.Values{"session": ""})
	assert.False(t, ok)
	assert.Contains(t, why, "do reported no session")
}

func TestStopThawsWhatIsHeld(t *testing.T) {
	l := &lock{}
	reached := make(chan struct{})
	e := newEngine(t,
		fn("Do", false, func(context.Context) (function.Outputs, error) { l.do("do", true); return nil, nil }),
		fn("Cut", true, func(ctx context.Context) (function.Outputs, error) {
			close(reached)
			<-ctx.Done()
			return nil, ctx.Err()
		}),
		fn("Undo", false, func(context.Context) (function.Outputs, error) {
			time.Sleep(50 * time.Millisecond)
			l.do("undo", false)
			return nil, nil
		}))
	var report *plan.FreezeReport
	var wg sync.WaitGroup
	wg.Go(func() { report, _ = runFreeze(t, e, freezeInput("t")) })
	<-reached
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	assert.Zero(t, e.Stop(ctx))
	_, frozen := l.seen()
	assert.False(t, frozen, "the process may end now")
	wg.Wait()
	assert.Contains(t, report.Failure.Message, "the worker stops")
}

func TestThawFencesAFreezeThatComesLater(t *testing.T) {
	l := &lock{}
	e := newEngine(t,
		fn("Do", false, func(context.Context) (function.Outputs, error) { l.do("do", true); return nil, nil }),
		fn("Cut", true, func(context.Context) (function.Outputs, error) { return nil, nil }),
		fn("Undo", false, func(context.Context) (function.Outputs, error) { l.do("undo", false); return nil, nil }))
	_, err := e.thaw(t.Context(), freezeInput("t"))
	require.NoError(t, err)
	_, err = runFreeze(t, e, freezeInput("t"))
	require.ErrorContains(t, err, "it is not made again")
	log, frozen := l.seen()
	assert.Equal(t, []string{"undo"}, log)
	assert.False(t, frozen)
}

func TestThawEndsTheFreezeOfItsOwnProcess(t *testing.T) {
	l := &lock{}
	reached := make(chan struct{})
	e := newEngine(t,
		fn("Do", false, func(context.Context) (function.Outputs, error) {
			l.do("do", true)
			return function.Outputs{"session": "1"}, nil
		}),
		fn("Cut", true, func(ctx context.Context) (function.Outputs, error) {
			close(reached)
			<-ctx.Done()
			return nil, ctx.Err()
		}),
		fn("Undo", false, func(context.Context) (function.Outputs, error) {
			l.do("undo", false)
			return function.Outputs{"session": "1"}, nil
		}))
	var report *plan.FreezeReport
	var freezeErr error
	var wg sync.WaitGroup
	wg.Go(func() { report, freezeErr = runFreeze(t, e, freezeInput("t")) })
	<-reached
	r, err := e.thaw(t.Context(), freezeInput("t"))
	require.NoError(t, err)
	wg.Wait()
	require.NoError(t, freezeErr)
	assert.Equal(t, report.ThawedAt.UnixNano(), r.ThawedAt.UnixNano(), "thawed once, by the freezing activity")
	assert.False(t, r.Proof.Consistent)
	assert.Contains(t, report.Failure.Message, "thaw asked")
	log, frozen := l.seen()
	assert.Equal(t, []string{"do", "undo"}, log)
	assert.False(t, frozen)
}

func TestSweepThawsWhatADeadWorkerLeft(t *testing.T) {
	l := &lock{frozen: true}
	fails := 1
	e := newEngine(t, fn("Undo", false, func(context.Context) (function.Outputs, error) {
		if fails--; fails >= 0 {
			return nil, errors.New("database is away")
		}
		l.do("undo", false)
		return nil, nil
	}))
	require.NoError(t, e.journal.write(freezeInput("mine")))
	require.NoError(t, e.Sweep(t.Context()))
	assert.True(t, l.frozen, "a freeze whose owner lives is not swept")

	b, err := os.ReadFile(e.journal.path("mine"))
	require.NoError(t, err)
	// A pid that is alive, with another start: the pid was used again.
	require.NoError(t, os.WriteFile(e.journal.path("mine"), []byte(replaceStart(string(b))), 0o600))
	require.ErrorContains(t, e.Sweep(t.Context()), "database is away")
	assert.Equal(t, 1, journaled(t, e))
	require.NoError(t, e.Sweep(t.Context()))
	assert.False(t, l.frozen)
	assert.Zero(t, journaled(t, e))
}

func replaceStart(entry string) string {
	return strings.Replace(entry, `"start":"`+processStart(os.Getpid())+`"`, `"start":"1"`, 1)
}

func TestWhatCleansUpAfterACancelIsNotTakenForLost(t *testing.T) {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	var beats atomic.Int32
	env.RegisterActivityWithOptions(func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		stop := heartbeats(ctx, time.Millisecond, func() any { return beats.Add(1) })
		cancel()
		told := beats.Load()
		assert.Eventually(t, func() bool { return beats.Load() > told+2 }, 5*time.Second, time.Millisecond)
		stop()
		told = beats.Load()
		time.Sleep(20 * time.Millisecond)
		assert.Equal(t, told, beats.Load(), "it is over")
		return nil
	}, activity.RegisterOptions{Name: "cleans"})
	_, err := env.ExecuteActivity("cleans")
	require.NoError(t, err)
}
