package sql

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/activities/function"
	"thaw/blueprints/fault"
	"thaw/internal/testdb"
)

func TestSQLReturnsWhatIntoNames(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		out := mustCall(t, newEnv(t, s.secret), "SQL", s.args([]any{
			"DELETE FROM ledger WHERE writer = 99",
			"INSERT INTO ledger (writer, seq, note) VALUES (99, 1, 'a'), (99, 2, 'it''s')",
			map[string]any{
				"query": "SELECT seq, note, NULL AS empty_one FROM ledger WHERE writer = 99 ORDER BY seq",
				"into":  map[string]any{"number": "seq", "text": "NOTE", "empty": "empty_one"},
			},
		}))
		require.Equal(t, function.Outputs{"rows": int64(2), "number": int64(2), "text": "it's", "empty": ""}, out)
	})
}

func TestSQLSaysWhatIsWrong(t *testing.T) {
	cases := []struct {
		name       string
		statements []any
		kind       fault.Kind
		contains   []string
	}{
		{"a failing statement", []any{"SELECT 1", "SELECT secretword FROM nowhere_x"}, fault.Command, []string{"statement 2 of 2 (SELECT SECRETWORD)", "nowhere_x"}},
		{"an unknown column", []any{map[string]any{"query": "SELECT 1 AS one", "into": map[string]any{"x": "two"}}}, fault.User, []string{`no column "two"`, "one"}},
		{"no row", []any{map[string]any{"query": "SELECT id FROM accounts WHERE id = -1", "into": map[string]any{"x": "id"}}}, fault.Command, []string{"no row"}},
		{"another value than expected", []any{map[string]any{"query": "SELECT 'broken' AS a", "expect": "ok"}}, fault.Command, []string{`"broken"`, `"ok"`}},
		{"an unknown key", []any{map[string]any{"query": "SELECT 1", "intoo": map[string]any{}}}, fault.User, []string{"intoo"}},
		{"an output that would forge a proof", []any{map[string]any{"query": "SELECT 1 AS a", "into": map[string]any{"since": "a"}}}, fault.User, []string{`"since"`}},
		{"an empty query", []any{" "}, fault.User, []string{"statement 1"}},
		{"until that never comes true", []any{map[string]any{"query": "SELECT 0 AS no", "until": true, "timeout": "200ms"}}, fault.Command, []string{"did not become true", "0"}},
	}
	eachSubject(t, func(t *testing.T, s *subject) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				_, err := call(t.Context(), newEnv(t, s.secret), "SQL", s.args(c.statements))
				require.Error(t, err)
				require.Equal(t, c.kind, fault.Of(err), err.Error())
				for _, want := range c.contains {
					require.ErrorContains(t, err, want)
				}
			})
		}
	})
}

func TestAttemptsAskAgain(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		mustCall(t, env, "SQL", s.args([]any{"DROP TABLE IF EXISTS later"}))
		done := make(chan error, 1)
		go func() {
			_, err := call(t.Context(), env, "SQL", s.args([]any{map[string]any{"query": "SELECT count(*) FROM later", "attempts": 20}}))
			done <- err
		}()
		select {
		case err := <-done:
			t.Fatalf("it gave up: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
		mustCall(t, newEnv(t, s.secret), "SQL", s.args([]any{"CREATE TABLE later (id INTEGER)"}))
		require.NoError(t, <-done)
		_, err := call(t.Context(), env, "SQL", s.args([]any{map[string]any{"query": "SELECT count(*) FROM never", "attempts": 2}}))
		require.Equal(t, fault.Command, fault.Of(err))
	})
}

func TestUntilWaits(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		env := newEnv(t, s.secret)
		mustCall(t, env, "SQL", s.args([]any{"DELETE FROM ledger WHERE writer = 98"}))
		done := make(chan error, 1)
		go func() {
			_, err := call(t.Context(), env, "SQL", s.args([]any{map[string]any{"query": "SELECT count(*) FROM ledger WHERE writer = 98", "until": true}}))
			done <- err
		}()
		select {
		case err := <-done:
			t.Fatalf("it returned before: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
		mustCall(t, newEnv(t, s.secret), "SQL", s.args([]any{"INSERT INTO ledger (writer, seq, note) VALUES (98, 1, '')"}))
		require.NoError(t, <-done)
	})
}

func TestAReadOnlySessionCannotWrite(t *testing.T) {
	eachSubject(t, func(t *testing.T, s *subject) {
		args := s.args([]any{"UPDATE accounts SET balance = 5 WHERE id = 1"})
		args["readOnly"] = true
		_, err := call(t.Context(), newEnv(t, s.secret), "SQL", args)
		require.Error(t, err)
		args["statements"] = []any{"SELECT 1"}
		mustCall(t, newEnv(t, s.secret), "SQL", args)
	})
}

func TestConnectionErrorsSayWhatToDoAndTellNoSecret(t *testing.T) {
	p, m := sharedPostgres(t), sharedMariaDB(t)
	const password = "hunter2-very-secret"
	wrong := map[string][]byte{"username": []byte("thaw_admin"), "password": []byte(password), "sslmode": []byte("disable")}
	for name, c := range map[string]struct {
		args map[string]any
		kind fault.Kind
	}{
		"postgres, wrong password":  {map[string]any{"driver": "postgres", "address": p.Addr, "credentials": "admin"}, fault.User},
		"mariadb, wrong password":   {map[string]any{"driver": "mariadb", "address": m.Addr, "credentials": "admin"}, fault.User},
		"postgres, nobody listens":  {map[string]any{"driver": "postgres", "address": "127.0.0.1:1", "credentials": "admin"}, fault.Transient},
		"mariadb, nobody listens":   {map[string]any{"driver": "mysql", "address": "127.0.0.1:1", "credentials": "admin"}, fault.Transient},
		"postgres, no such address": {map[string]any{"driver": "postgres", "address": "localhost", "credentials": "admin"}, fault.User},
		"no secret of that name":    {map[string]any{"driver": "postgres", "address": p.Addr, "credentials": "other"}, fault.User},
		"sqlite, no such file":      {map[string]any{"driver": "sqlite", "address": "/nowhere/x.db"}, fault.User},
		"sqlite, relative path":     {map[string]any{"driver": "sqlite", "address": "x.db"}, fault.User},
	} {
		t.Run(name, func(t *testing.T) {
			for _, f := range []string{"SQL", "SQLFreeze"} {
				c.args["statements"] = []any{"SELECT 1"}
				_, err := call(t.Context(), newEnv(t, wrong), f, c.args)
				require.Error(t, err)
				require.Equal(t, c.kind, fault.Of(err), err.Error())
				require.NotContains(t, err.Error(), password)
			}
		})
	}
}

func TestRestoreSQLiteIsSeenByOpenConnections(t *testing.T) {
	for _, journal := range []string{"wal", "delete"} {
		t.Run(journal, func(t *testing.T) {
			live, source := testdb.NewSQLite(t, journal), testdb.NewSQLite(t, journal)
			require.NoError(t, source.Exec("UPDATE accounts SET balance = 7 WHERE id = 1", "UPDATE accounts SET balance = -7 WHERE id = 2"))
			live.StartLoad()
			require.Eventually(t, func() bool { return live.Commits() > 20 }, 10*time.Second, 5*time.Millisecond)
			before, err := live.Check(live.Path)
			require.NoError(t, err)
			require.Positive(t, before)

			out := mustCall(t, newEnv(t, nil), "RestoreSQLite", map[string]any{"source": source.Path, "path": live.Path})
			require.Equal(t, live.Path, out["path"])
			require.Positive(t, out["pages"])
			n := live.Commits()
			require.Eventually(t, func() bool { return live.Commits() > n+5 }, 10*time.Second, 5*time.Millisecond, "the open connection goes on, in the restored content")
			live.Stop()
			rows := mustCall(t, newEnv(t, nil), "SQL", map[string]any{"driver": "sqlite", "address": live.Path, "statements": []any{
				map[string]any{"query": "PRAGMA integrity_check", "into": map[string]any{"integrity": "integrity_check"}},
				map[string]any{"query": "SELECT SUM(balance) AS s FROM accounts", "into": map[string]any{"sum": "s"}},
			}})
			require.Equal(t, "ok", rows["integrity"])
			require.Equal(t, int64(0), rows["sum"])
		})
	}
}

func TestRestoreSQLiteMakesAFileAndRefusesRubbish(t *testing.T) {
	source := testdb.NewSQLite(t)
	path := filepath.Join(t.TempDir(), "new.db")
	mustCall(t, newEnv(t, nil), "RestoreSQLite", map[string]any{"source": source.Path, "path": path})
	_, err := source.Check(path)
	require.NoError(t, err)

	rubbish := filepath.Join(t.TempDir(), "rubbish.db")
	require.NoError(t, os.WriteFile(rubbish, []byte("this is no database at all, but long enough to be read as a header of one, or so it seems to be"), 0o600))
	_, err = call(t.Context(), newEnv(t, nil), "RestoreSQLite", map[string]any{"source": rubbish, "path": path})
	require.ErrorContains(t, err, "no sound database")
	_, err = source.Check(path)
	require.NoError(t, err, "the database is what it was")
}

// A server that is being taken away may accept a connection and never speak.
func TestConnectDoesNotWaitForAServerThatIsSilent(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	at := target{address: silent.Addr().String()}
	const within = 200 * time.Millisecond
	my, err := newMySQL(at)
	require.NoError(t, err)
	my.within = within
	pg, err := newPostgres(at)
	require.NoError(t, err)
	pg.config.ConnectTimeout = within
	for name, db := range map[string]database{"mysql": my, "postgres": pg} {
		t.Run(name, func(t *testing.T) {
			done := make(chan error, 1)
			go func() {
				_, err := db.connect(t.Context(), false)
				done <- err
			}()
			select {
			case err := <-done:
				require.Error(t, err)
				require.Equal(t, fault.Transient, fault.Of(err), "%v", err)
				require.ErrorContains(t, err, "connect to "+name+" at "+at.address)
			case <-time.After(5 * time.Second):
				t.Fatal("it waits on")
			}
		})
	}
}
