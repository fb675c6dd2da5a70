package sql

import (
	"context"
	"fmt"
	"time"

	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type thawArgs struct {
	Connection `arg:",squash"`
	Statements []any         `arg:"statements" type:"object" doc:"statements that thaw, run in the session that froze: each a string, or an object {query, into, expect, until, attempts, timeout}. Without any, the end of the session thaws"`
	Linger     time.Duration `arg:"linger" default:"0s" doc:"keep the session open so long after the thaw, for what lives in it (a temporary replication slot)"`
}

// thaw is SQLThaw: the `undo` of SQLFreeze. It is idempotent: it finds the
// session by its token, in this process or in the database, and where there is
// none it has nothing to do. It touches no session without the token.
//
// Only a session of this process, unbroken, proves a freeze; one found in the
// database is ended, which thaws, and its outputs say held: false.
func thaw() function.Function {
	return function.Prepared(catalogue.Function{
		Name: "SQLThaw", Family: family,
		Summary: "Thaw what SQLFreeze froze, and tell whether its session was unbroken till now.",
		Outputs: []catalogue.Output{
			{Name: "held", Description: "true where the session that froze was found unbroken"},
			{Name: "session", Description: "that session, as found; absent where it was not"},
			{Name: "since", Description: "its time of the freeze, as found; absent where it was not"},
			{Name: "lost", Description: "why the freeze was broken; absent where it was not"},
		},
		OpenOutputs: true,
		Idempotent:  true,
		Timeout:     time.Minute,
	}, func(ctx context.Context, env *function.Env, a thawArgs) (function.Act, func(), error) {
		if err := checkToken(env, "SQLThaw"); err != nil {
			return nil, nil, err
		}
		list, err := parseStatements(env, a.Statements)
		if err != nil {
			return nil, nil, err
		}
		if a.Linger < 0 || a.Linger > 24*time.Hour {
			return nil, nil, fault.New(fault.User, "linger %s: want between 0s and 24h", a.Linger)
		}
		// It connects only where it must: the undo of a freeze is bound before
		// its do, and most often finds the session in this process.
		db, err := open(ctx, env, a.Connection)
		if err != nil {
			return nil, nil, err
		}
		where := a.Driver + " at " + a.Address
		return func(ctx context.Context) (function.Outputs, error) {
			if taken, ok := env.Holds.Take(env.Token); ok {
				h, ours := taken.(*hold)
				if !ours {
					env.Holds.Add(env.Token, taken)
					return nil, fault.New(fault.User, "thaw %s: the freeze %s was not made by SQLFreeze", where, env.Token)
				}
				return h.thaw(ctx, list, a.Linger)
			}
			found, err := db.sweep(ctx, env.Token)
			if err != nil {
				return nil, fmt.Errorf("thaw %s: %w", where, err)
			}
			out := function.Outputs{"held": false, "lost": "its session is not in this worker: the worker was restarted, or another one thaws"}
			if found {
				out["lost"] = "its session was found in the database, left by another worker process, and ended"
			}
			return out, nil
		}, nil, nil
	})
}

// thaw runs the statements in the session that froze. Whatever goes wrong with
// them, it ends the session; only where that fails too is there an error.
func (h *hold) thaw(ctx context.Context, list []statement, linger time.Duration) (function.Outputs, error) {
	out := function.Outputs{}
	err := h.thawInSession(ctx, list, out)
	h.timer.Stop()
	if err == nil && linger > 0 && h.s.linger(ctx, linger) == nil {
		time.AfterFunc(linger, h.s.close)
		return out, nil
	}
	clean, cancel := detached(ctx)
	defer cancel()
	if endErr := h.s.end(clean); endErr != nil {
		return nil, fault.New(fault.Transient, "thaw %s: end the session that holds the freeze: %w", h.where, endErr)
	}
	if err != nil {
		return function.Outputs{"held": false, "lost": err.Error()}, nil
	}
	return out, nil
}

func (h *hold) thawInSession(ctx context.Context, list []statement, out function.Outputs) error {
	if r := h.over.Load(); r != nil {
		return fault.New(fault.Command, "%s", *r)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// Read before the statements: what breaks a freeze breaks its session.
	found, err := h.s.recall(ctx)
	if err != nil {
		return fmt.Errorf("its session ended before the thaw: %w", err)
	}
	if found != h.mark {
		return fault.New(fault.Command, "its session is another one: froze in %s since %s, found %s since %s", h.mark.session, h.mark.since, found.session, found.since)
	}
	if _, err := run(ctx, h.s, list, out); err != nil {
		return fmt.Errorf("thaw by statements: %w", err)
	}
	if r := h.over.Load(); r != nil {
		return fault.New(fault.Command, "%s", *r)
	}
	out["held"], out["session"], out["since"] = true, found.session, found.since
	return nil
}
