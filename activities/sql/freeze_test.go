package sql

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/activities/function"
	"thaw/blueprints/fault"
	"thaw/internal/testdb"
)

// database under test, with a freeze that its writers notice.
type subject struct {
	conn   map[string]any
	secret map[string][]byte
	freeze []any
	thaw   []any
	bad    string
	// write makes one write, and gives up soon.
	write func() error
	// block holds what the freeze waits for, until the returned func.
	block func(t *testing.T) (unblock func())
	// waiting counts statements that wait on the server.
	waiting func(t *testing.T) int
	// kill ends the session of an output `session`, as an administrator would.
	kill func(t *testing.T, env *function.Env)
}

func (s *subject) args(statements []any) map[string]any {
	a := maps.Clone(s.conn)
	if statements != nil {
		a["statements"] = statements
	}
	return a
}

// subjects are started when asked for, one server for all tests of a driver.
var subjects = map[string]func(t *testing.T) *subject{
	"postgres": postgresSubject, "mariadb": mariadbSubject, "sqlite wal": walSubject, "sqlite rollback journal": deleteSubject,
}

func eachSubject(t *testing.T, f func(t *testing.T, s *subject)) {
	for name, start := range subjects {
		t.Run(name, func(t *testing.T) { f(t, start(t)) })
	}
}

func brief() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 300*time.Millisecond)
}

func serverWrite(db *sql.DB) func() error {
	return func() error {
		ctx, cancel := brief()
		defer cancel()
		_, err := db.ExecContext(ctx, "UPDATE accounts SET balance = balance WHERE id = 1")
		return err
	}
}

// serverBlock runs statements in a session of their own; unblock ends it.
func serverBlock(db *sql.DB, id, running, kill string, statements ...string) func(t *testing.T) func() {
	return func(t *testing.T) func() {
		conn, err := db.Conn(t.Context())
		require.NoError(t, err)
		var session int64
		require.NoError(t, conn.QueryRowContext(t.Context(), id).Scan(&session))
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, s := range statements {
				_, _ = conn.ExecContext(context.Background(), s)
			}
		}()
		require.Eventually(t, func() bool { return count(t, db, fmt.Sprintf(running, session)) == 1 }, 5*time.Second, 5*time.Millisecond)
		return sync.OnceFunc(func() {
			_, _ = db.ExecContext(context.Background(), fmt.Sprintf(kill, session))
			<-done
			_ = conn.Close()
		})
	}
}

func count(t *testing.T, db *sql.DB, query string, args ...any) int {
	t.Helper()
	var n int
	require.NoError(t, db.QueryRowContext(t.Context(), query, args...).Scan(&n))
	return n
}

func postgresSubject(t *testing.T) *subject {
	p := sharedPostgres(t)
	return &subject{
		conn:   map[string]any{"driver": "postgres", "address": p.Addr, "credentials": "admin"},
		secret: p.Secret(),
		freeze: []any{"BEGIN", "LOCK TABLE accounts IN EXCLUSIVE MODE"},
		thaw:   []any{"ROLLBACK"},
		bad:    "SELECT nonsense FROM nowhere",
		write:  serverWrite(p.DB),
		block:  serverBlock(p.DB, "SELECT pg_backend_pid()", "SELECT count(*) FROM pg_locks WHERE pid = %d AND granted AND mode = 'ExclusiveLock' AND relation = 'accounts'::regclass", "SELECT pg_terminate_backend(%d)", "BEGIN", "LOCK TABLE accounts IN EXCLUSIVE MODE"),
		waiting: func(t *testing.T) int {
			return count(t, p.DB, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'thaw:%'")
		},
		kill: func(t *testing.T, env *function.Env) {
			require.Equal(t, 1, count(t, p.DB, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1", "thaw:"+env.Token))
		},
	}
}

func mariadbSubject(t *testing.T) *subject {
	m := sharedMariaDB(t)
	return &subject{
		conn:   map[string]any{"driver": "mariadb", "address": m.Addr, "database": m.Database, "credentials": "admin"},
		secret: m.Secret(),
		freeze: []any{"FLUSH TABLES WITH READ LOCK"},
		thaw:   []any{"UNLOCK TABLES"},
		bad:    "SELECT nonsense FROM nowhere.at_all",
		write:  serverWrite(m.DB),
		block:  serverBlock(m.DB, "SELECT CONNECTION_ID()", "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID = %d AND STATE LIKE 'User sleep%%'", "KILL %d", "UPDATE accounts SET balance = balance WHERE id = 1 AND SLEEP(60) = 0"),
		waiting: func(t *testing.T) int {
			return count(t, m.DB, "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = ? AND INFO LIKE 'FLUSH%'", m.User)
		},
		kill: func(t *testing.T, env *function.Env) {
			id := count(t, m.DB, "SELECT IS_USED_LOCK(?)", "thaw:"+env.Token)
			_, err := m.DB.ExecContext(t.Context(), "KILL ?", id)
			require.NoError(t, err)
		},
	}
}

func walSubject(t *testing.T) *subject    { return sqliteSubject(t, "wal") }
func deleteSubject(t *testing.T) *subject { return sqliteSubject(t, "delete") }

func sqliteSubject(t *testing.T, journal string) *subject {
	s := testdb.NewSQLite(t, journal)
	return &subject{
		conn:   map[string]any{"driver": "sqlite", "address": s.Path},
		freeze: []any{"BEGIN IMMEDIATE"},
		thaw:   []any{"ROLLBACK"},
		bad:    "SELECT nonsense FROM nowhere",
		write:  func() error { return s.Exec("UPDATE accounts SET balance = balance WHERE id = 1") },
		block: func(t *testing.T) func() {
			// Another worker's freeze of the same file.
			env := newEnv(t, nil)
			mustCall(t, env, "SQLFreeze", map[string]any{"driver": "sqlite", "address": s.Path, "statements": []any{"BEGIN IMMEDIATE"}})
			return sync.OnceFunc(func() {
				mustCall(t, env, "SQLThaw", map[string]any{"driver": "sqlite", "address": s.Path})
			})
		},
		waiting: func(*testing.T) int { return 0 },
		kill: func(t *testing.T, env *function.Env) {
			found, err := sweepHelpers(t.Context(), t.TempDir(), env.Token)
			require.NoError(t, err)
			require.True(t, found)
		},
	}
}

func TestAFreezeStopsWritersUntilItsThawAndIsProven(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		require.NoError(t, s.write())
		do := mustCall(t, env, "SQLFreeze", s.args(s.freeze))
		require.NotEmpty(t, do["session"])
		require.NotEmpty(t, do["since"])
		require.Error(t, s.write(), "a write while frozen")

		undo := mustCall(t, env, "SQLThaw", s.args(s.thaw))
		require.NoError(t, s.write(), "a write after the thaw")
		require.Equal(t, function.Outputs{"held": true, "session": do["session"], "since": do["since"]}, undo)
		require.Empty(t, env.Holds.Tokens())

		again := mustCall(t, env, "SQLThaw", s.args(s.thaw))
		require.Equal(t, false, again["held"])
		require.NotContains(t, again, "session", "a thaw that found nothing proves nothing")
	})
}

func TestAThawWithoutStatementsEndsTheSession(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		do := mustCall(t, env, "SQLFreeze", s.args(s.freeze))
		undo := mustCall(t, env, "SQLThaw", s.args(nil))
		require.NoError(t, s.write())
		require.Equal(t, do["session"], undo["session"])
	})
}

func TestAnotherWorkerThawsAndProvesNothing(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		mustCall(t, env, "SQLFreeze", s.args(s.freeze))
		stranger := elsewhere(env)
		stranger.Token = "somebody-else"
		out := mustCall(t, stranger, "SQLThaw", s.args(s.thaw))
		require.Equal(t, false, out["held"])
		require.Error(t, s.write(), "another token thaws nothing")

		out = mustCall(t, elsewhere(env), "SQLThaw", s.args(s.thaw))
		require.NoError(t, s.write())
		require.Equal(t, false, out["held"])
		require.NotContains(t, out, "session")
		require.Contains(t, out["lost"], "found in the database")

		out = mustCall(t, env, "SQLThaw", s.args(s.thaw))
		require.Equal(t, false, out["held"])
		require.Contains(t, out["lost"], "ended before the thaw")
	})
}

func TestAFreezeEndsByItselfAtMaxFreeze(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		env.MaxFreeze = 2 * time.Second
		start := time.Now()
		mustCall(t, env, "SQLFreeze", s.args(s.freeze))
		require.Eventually(t, func() bool { return s.write() == nil }, 10*time.Second, 20*time.Millisecond)
		require.Greater(t, time.Since(start), 1900*time.Millisecond)
		out := mustCall(t, env, "SQLThaw", s.args(s.thaw))
		require.Equal(t, false, out["held"])
		require.NotContains(t, out, "session")
		require.Contains(t, out["lost"], "maxFreeze")
	})
}

func TestALostSessionIsNoProof(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		mustCall(t, env, "SQLFreeze", s.args(s.freeze))
		s.kill(t, env)
		require.Eventually(t, func() bool { return s.write() == nil }, 5*time.Second, 10*time.Millisecond)
		out := mustCall(t, env, "SQLThaw", s.args(s.thaw))
		require.Equal(t, false, out["held"])
		require.NotEmpty(t, out["lost"])
		require.NotContains(t, out, "since")
	})
}

func TestADoThatFailsLeavesNothingFrozen(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		_, err := call(t.Context(), env, "SQLFreeze", s.args(append(append([]any{}, s.freeze...), s.bad)))
		require.ErrorContains(t, err, "nothing is frozen")
		require.Equal(t, fault.Command, fault.Of(err))
		require.NoError(t, s.write())
		require.Empty(t, env.Holds.Tokens())
	})
}

func TestADoRefusesAfterItsDeadline(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		env.Deadline = time.Now().Add(-time.Second)
		_, err := call(t.Context(), env, "SQLFreeze", s.args(s.freeze))
		require.ErrorContains(t, err, "deadline")
		require.Equal(t, fault.Permanent, fault.Of(err))
		require.NoError(t, s.write())
	})
}

func TestADoCancelledWhileItWaitsLeavesNothing(t *testing.T) {
	ends := map[string]func(*function.Env) (context.Context, context.CancelFunc){
		"cancelled": func(*function.Env) (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), time.Second)
		},
		"past its deadline": func(env *function.Env) (context.Context, context.CancelFunc) {
			env.Deadline = time.Now().Add(time.Second)
			return context.WithCancel(context.Background())
		},
	}
	for how, end := range ends {
		t.Run(how, func(t *testing.T) {
			eachSubject(t, func(t *testing.T, s *subject) {
				unblock := s.block(t)
				defer unblock()
				env := newEnv(t, s.secret)
				ctx, cancel := end(env)
				defer cancel()
				start := time.Now()
				out, err := call(ctx, env, "SQLFreeze", s.args(s.freeze))
				require.Nil(t, out)
				require.ErrorContains(t, err, "nothing is frozen")
				require.Less(t, time.Since(start), 8*time.Second)
				require.Zero(t, s.waiting(t), "statements that still wait")
				require.Empty(t, env.Holds.Tokens())
				unblock()
				require.NoError(t, s.write(), "a freeze that came late would stop this")
			})
		})
	}
}

// startChild freezes in another process.
func startChild(t *testing.T, s *subject, env *function.Env, stop bool) *exec.Cmd {
	t.Helper()
	spec, err := json.Marshal(childSpec{Args: s.args(s.freeze), Secret: s.secret, Token: env.Token, MaxFreeze: env.MaxFreeze, StateDir: env.StateDir, Stop: stop})
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVar+"="+string(spec))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "frozen\n", line)
	return cmd
}

func TestAStoppedWorkersFreezeEndsOnTheServer(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		env.MaxFreeze = 2 * time.Second
		start := time.Now()
		startChild(t, s, env, true)
		require.Error(t, s.write())
		require.Eventually(t, func() bool { return s.write() == nil }, 15*time.Second, 50*time.Millisecond)
		t.Logf("ended after %s of maxFreeze %s", time.Since(start).Round(time.Millisecond), env.MaxFreeze)
	})
}

// maxFreeze counts from before do, also on the server: a do that waits long for
// its lock leaves the freeze less, not as much again.
func TestAStoppedWorkersFreezeEndsOnTheServerAfterASlowDo(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		env.MaxFreeze = 5 * time.Second
		unblock := s.block(t)
		defer unblock()
		time.AfterFunc(3*time.Second, unblock)
		start := time.Now()
		startChild(t, s, env, true)
		require.Greater(t, time.Since(start), 2500*time.Millisecond, "do did not wait")
		require.Error(t, s.write())
		require.Eventually(t, func() bool { return s.write() == nil }, 15*time.Second, 50*time.Millisecond)
		require.Less(t, time.Since(start), env.MaxFreeze+2*time.Second)
	})
}

func TestAStoppedWorkersFreezeIsThawedByAnother(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		startChild(t, s, env, true)
		require.Error(t, s.write())
		out := mustCall(t, env, "SQLThaw", s.args(s.thaw))
		require.Equal(t, false, out["held"])
		require.NoError(t, s.write())
	})
}

func TestAKilledWorkersFreezeEnds(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		child := startChild(t, s, env, false)
		require.Error(t, s.write())
		require.NoError(t, child.Process.Signal(syscall.SIGKILL))
		require.Eventually(t, func() bool { return s.write() == nil }, 5*time.Second, 10*time.Millisecond)
	})
}
