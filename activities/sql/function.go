package sql

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

const family = "sql"

// Connection is the arguments that say which database.
type Connection struct {
	Driver      string `arg:"driver,required" enum:"postgres|mysql|mariadb|sqlite" doc:"postgres, mysql (MariaDB too), or sqlite"`
	Address     string `arg:"address,required" doc:"host:port, a unix socket's path, or the database file (sqlite)"`
	Database    string `arg:"database" doc:"name of the database to connect to; not for sqlite"`
	Credentials string `arg:"credentials" doc:"name of a secret that the run gives, or the phase names in objects (keys: username, password; optional sslmode as in libpq, and ca, a PEM bundle); without it the server must trust the worker's user"`
	Username    string `arg:"username" doc:"user, where the secret has no key username"`
	PasswordKey string `arg:"passwordKey" default:"password" doc:"key of the secret that holds the password"`
}

type statementsArgs struct {
	Connection `arg:",squash"`
	Statements []any `arg:"statements,required" type:"object" doc:"statements, run in order in one session: each a string, or an object {query, into, expect, until, attempts, timeout}. into maps an output of this phase to a column of the statement's last row; expect fails unless the first column of that row is this text; until repeats the statement until its first column is true; attempts is how often it is tried where the server refuses it (default 1); timeout bounds it"`
	ReadOnly   bool  `arg:"readOnly" default:"false" doc:"the session may not write: the server refuses"`
}

// statements is SQL. It is not idempotent by itself: say so of the phase where
// its statements are.
func statements() function.Function {
	return function.Prepared(catalogue.Function{
		Name: "SQL", Family: family,
		Summary:     "Run SQL statements in one session. Each statement commits by itself, unless the statements say otherwise.",
		Outputs:     []catalogue.Output{{Name: "rows", Description: "rows that the last statement returned"}},
		OpenOutputs: true,
		Timeout:     5 * time.Minute,
	}, func(ctx context.Context, env *function.Env, a statementsArgs) (function.Act, func(), error) {
		list, err := parseStatements(env, a.Statements)
		if err != nil {
			return nil, nil, err
		}
		db, err := open(ctx, env, a.Connection)
		if err != nil {
			return nil, nil, err
		}
		s, err := db.connect(ctx, a.ReadOnly)
		if err != nil {
			return nil, nil, err
		}
		act := func(ctx context.Context) (function.Outputs, error) {
			out := function.Outputs{}
			rows, err := run(ctx, s, list, out)
			if err != nil {
				if ctx.Err() != nil && a.ReadOnly {
					err = fault.New(fault.Transient, "%w", err)
				}
				return nil, fmt.Errorf("SQL on %s at %s: %w", a.Driver, a.Address, err)
			}
			out["rows"] = rows
			return out, nil
		}
		return act, s.close, nil
	})
}

type restoreArgs struct {
	Source string `arg:"source,required" doc:"database file to load; a -wal file beside it belongs to it"`
	Path   string `arg:"path,required" doc:"database file to load it into; made where it does not exist"`
}

// restoreSQLite is idempotent: a second attempt loads the same content.
func restoreSQLite() function.Function {
	return function.New(catalogue.Function{
		Name: "RestoreSQLite", Family: family,
		Summary: "Load a database file into a SQLite database, in one transaction by SQLite's online backup API: open connections see the restored content, and a failure leaves the old one.",
		Outputs: []catalogue.Output{
			{Name: "path", Description: "the restored database"},
			{Name: "pages", Description: "pages loaded"},
		},
		Idempotent: true,
		Timeout:    30 * time.Minute,
	}, func(ctx context.Context, env *function.Env, a restoreArgs) (function.Outputs, error) {
		for _, p := range []string{a.Source, a.Path} {
			if !filepath.IsAbs(p) {
				return nil, fault.New(fault.User, "restore SQLite: %q is not an absolute path", p)
			}
		}
		h, err := startHelper(ctx, env.StateDir, noToken, a.Path)
		if err != nil {
			return nil, err
		}
		defer h.close()
		r, err := h.call(ctx, request{Op: opRestore, Path: a.Path, Source: a.Source})
		if err != nil {
			return nil, fmt.Errorf("restore SQLite database %s from %s: %w", a.Path, a.Source, err)
		}
		return function.Outputs{"path": a.Path, "pages": r.Pages}, nil
	})
}
