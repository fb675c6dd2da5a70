// Package sql is the family of functions that speak SQL to PostgreSQL, MySQL,
// MariaDB and SQLite: SQL runs statements, SQLFreeze holds a session that
// freezes the database, SQLThaw ends it and tells whether it was unbroken.
// Start with freeze.go; a driver is one file (postgres.go, mysql.go,
// sqlite.go) that implements database.
package sql

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"time"

	"thaw/activities/function"
	"thaw/blueprints/fault"
)

// Functions of this family.
func Functions() []function.Function {
	return []function.Function{statements(), freeze(), thaw(), restoreSQLite()}
}

// database is what a driver knows of one database, with credentials.
type database interface {
	// connect opens an ordinary session. It changes nothing.
	connect(ctx context.Context, readOnly bool) (session, error)
	// holder opens a session that can hold a freeze of that token, and what it
	// takes to end that session. It changes nothing yet.
	holder(ctx context.Context, token string, maxFreeze time.Duration) (holder, error)
	// sweep ends the session that carries the token, wherever it was made, and
	// returns when it is gone. Nothing found is no error.
	sweep(ctx context.Context, token string) (found bool, err error)
}

// session runs statements.
type session interface {
	// query returns what the statement's last result set held. When ctx ends,
	// the session is unusable and the statement may still run on the server.
	query(ctx context.Context, q string) (result, error)
	close()
}

// holder is a session that holds a freeze.
type holder interface {
	session
	// arm marks the session with its token and gives it an end of its own,
	// after maxFreeze. No statement of it may run past the time left in ctx.
	arm(ctx context.Context) error
	// mark notes the moment of the freeze, in the session itself.
	mark(ctx context.Context) (mark, error)
	// recall reads that note back from the session: it fails where the session
	// is not the one that was marked.
	recall(ctx context.Context) (mark, error)
	// linger takes the token off a session that is thawed already, and lets it
	// live that much longer.
	linger(ctx context.Context, d time.Duration) error
	// end ends the session for sure, whatever it is doing, and returns when
	// it is gone. It may be called twice, and beside a running statement.
	end(ctx context.Context) error
}

// mark identifies one freeze: the proof (design: G3).
type mark struct {
	session string // who holds it: never given again on that server
	since   string // the server's time of the freeze
}

// target is a database as arguments name it.
type target struct {
	driver, address, name string
	secret                map[string][]byte
	stateDir              string
	lookup                func(ctx context.Context, host string) ([]string, error) // may be nil
}

const (
	docDriver  = "postgres, mysql (MariaDB too), or sqlite"
	docAddress = "host:port, a unix socket's path, or the database file (sqlite)"
)

// open checks arguments and resolves the secret; it connects to nothing.
func open(ctx context.Context, env *function.Env, c Connection) (database, error) {
	t := target{driver: strings.ToLower(c.Driver), address: c.Address, name: c.Database, stateDir: env.StateDir, lookup: env.Lookup, secret: map[string][]byte{}}
	if c.Address == "" {
		return nil, fault.New(fault.User, "connect to %s: address is empty; give %s", c.Driver, docAddress)
	}
	if c.Credentials != "" {
		secret, err := env.Secrets.Named(ctx, c.Credentials)
		if err != nil {
			return nil, fmt.Errorf("connect to %s at %s: credentials %q: %w", c.Driver, c.Address, c.Credentials, err)
		}
		maps.Copy(t.secret, secret)
		if c.PasswordKey != "" && c.PasswordKey != "password" {
			password, ok := secret[c.PasswordKey]
			if !ok {
				return nil, fault.New(fault.User, "connect to %s at %s: credentials %q: the secret has no key %q", c.Driver, c.Address, c.Credentials, c.PasswordKey)
			}
			t.secret["password"] = password
		}
	}
	if c.Username != "" && len(t.secret["username"]) == 0 {
		t.secret["username"] = []byte(c.Username)
	}
	switch t.driver {
	case "postgres":
		return newPostgres(t)
	case "mysql", "mariadb":
		return newMySQL(t)
	case "sqlite":
		return newSQLite(t)
	}
	return nil, fault.New(fault.User, "driver %q: want %s", c.Driver, docDriver)
}

// tokens are set by the engine; they become part of statements and of a
// process's arguments, so nothing else is let in.
var tokens = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

func checkToken(env *function.Env, name string) error {
	if !tokens.MatchString(env.Token) {
		return fault.New(fault.User, "%s: it works as do or undo of a freeze only, where the engine gives it a token (got %q)", name, env.Token)
	}
	return nil
}

// cleanup is how long ending a session may take, after its context has ended.
const cleanup = 30 * time.Second

func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanup)
}
