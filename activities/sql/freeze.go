package sql

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type freezeArgs struct {
	Connection `arg:",squash"`
	Statements []any `arg:"statements,required" type:"object" doc:"statements that freeze, run in order in one session that stays open until the thaw: each a string, or an object {query, into, expect, until, attempts, timeout}"`
}

// freeze is SQLFreeze: the `do` of a freeze that lives in a database session.
//
// The session carries the freeze's token where the database shows it to
// others, so that any worker can find and end it; and it ends by itself after
// maxFreeze, on the server, with the worker and Temporal gone. When the act
// fails, its session is gone, and with it whatever it had locked.
func freeze() function.Function {
	return function.Prepared(catalogue.Function{
		Name: "SQLFreeze", Family: family,
		Summary: "Freeze a database by statements whose effect lasts as long as their session (FLUSH TABLES WITH READ LOCK, pg_backup_start, BEGIN IMMEDIATE). The server ends the session after maxFreeze by itself. Undo it with SQLThaw.",
		Outputs: []catalogue.Output{
			{Name: "session", Description: "the session that holds the freeze"},
			{Name: "since", Description: "the server's time of the freeze"},
		},
		OpenOutputs: true,
		Proof:       []string{"session", "since"},
		Timeout:     30 * time.Second,
	}, func(ctx context.Context, env *function.Env, a freezeArgs) (function.Act, func(), error) {
		if err := checkToken(env, "SQLFreeze"); err != nil {
			return nil, nil, err
		}
		if env.MaxFreeze <= 0 {
			return nil, nil, fault.New(fault.User, "SQLFreeze: the freeze has no maxFreeze")
		}
		list, err := parseStatements(env, a.Statements)
		if err != nil {
			return nil, nil, err
		}
		db, err := open(ctx, env, a.Connection)
		if err != nil {
			return nil, nil, err
		}
		s, err := db.holder(ctx, env.Token, env.MaxFreeze)
		if err != nil {
			return nil, nil, err
		}
		f := &freezing{env: env, s: s, list: list, where: a.Driver + " at " + a.Address}
		return f.act, f.release, nil
	})
}

type freezing struct {
	env   *function.Env
	s     holder
	list  []statement
	where string
	held  bool
}

// release frees a session that holds nothing. One that does stays open.
func (f *freezing) release() {
	if !f.held {
		f.s.close()
	}
}

func (f *freezing) act(ctx context.Context) (function.Outputs, error) {
	if d := f.env.Deadline; !d.IsZero() {
		if !time.Now().Before(d) {
			return nil, fault.New(fault.Permanent, "freeze %s: not done: its deadline %s has passed, and its thaw may have run already", f.where, d.Format(time.RFC3339Nano))
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, d, fmt.Errorf("the freeze's deadline %s passed", d.Format(time.RFC3339Nano)))
		defer cancel()
	}
	h := newHold(f.env, f.s, f.where)
	// Kept before it takes effect: a thaw that comes meanwhile finds it.
	f.env.Holds.Add(f.env.Token, h)
	f.held = true
	out, err := h.freeze(ctx, f.list)
	if err == nil {
		return out, nil
	}
	clean, cancel := detached(ctx)
	defer cancel()
	if endErr := h.End(clean); endErr != nil {
		return nil, fault.New(fault.Unknown, "freeze %s: %w; and its session could not be ended: %w", f.where, err, endErr)
	}
	f.env.Holds.Take(f.env.Token)
	f.held = false
	if ctx.Err() != nil {
		return nil, fault.New(fault.Command, "freeze %s: %w (%w); its session was ended, nothing is frozen", f.where, err, context.Cause(ctx))
	}
	return nil, fmt.Errorf("freeze %s: %w; its session was ended, nothing is frozen", f.where, err)
}

// hold is a freeze held by a session of this process.
type hold struct {
	s     holder
	where string
	max   time.Duration
	timer *time.Timer
	over  atomic.Pointer[string] // why it ended before its thaw
	mu    sync.Mutex             // one statement at a time
	mark  mark
}

var _ function.Hold = (*hold)(nil)

// newHold starts the clock: the freeze's last moment counts from before its
// first statement.
func newHold(env *function.Env, s holder, where string) *hold {
	h := &hold{s: s, where: where, max: env.MaxFreeze}
	h.timer = time.AfterFunc(env.MaxFreeze, func() {
		h.fail(fmt.Sprintf("it was ended after maxFreeze (%s)", env.MaxFreeze))
		ctx, cancel := context.WithTimeout(context.Background(), cleanup)
		defer cancel()
		if err := h.s.end(ctx); err != nil {
			env.Log.Error("end freeze after maxFreeze; the server ends it by itself", "database", where, "error", err)
		}
	})
	return h
}

func (h *hold) fail(reason string) { h.over.CompareAndSwap(nil, &reason) }

func (h *hold) freeze(ctx context.Context, list []statement) (function.Outputs, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.s.arm(ctx); err != nil {
		return nil, err
	}
	out := function.Outputs{}
	if _, err := run(ctx, h.s, list, out); err != nil {
		return nil, err
	}
	m, err := h.s.mark(ctx)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err // frozen, but too late
	}
	if r := h.over.Load(); r != nil {
		return nil, fault.New(fault.Command, "%s", *r)
	}
	h.mark = m
	out["session"], out["since"] = m.session, m.since
	return out, nil
}

// End implements function.Hold.
func (h *hold) End(ctx context.Context) error {
	h.fail("it was ended")
	h.timer.Stop()
	return h.s.end(ctx)
}
