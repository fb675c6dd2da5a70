// Package librarytest runs the blueprints of the library as users do: on a
// real Temporal server, by a worker in a process of its own, against real
// databases under write load; and checks what a restore brings back.
package librarytest

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"thaw/blueprints/plan"
	"thaw/internal/testdb"
	"thaw/internal/testenv"
	"thaw/worker/wiring"
)

func TestMain(m *testing.M) {
	testenv.Main()
	os.Exit(m.Run())
}

// house is a Temporal server and a worker.
type house struct {
	t   *testing.T
	c   client.Client
	cfg *wiring.Config
	n   int
}

func newHouse(t *testing.T, secret map[string][]byte, allow ...string) *house {
	t.Helper()
	dir, err := os.MkdirTemp("", "thaw-library-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &house{t: t, cfg: testenv.Config(dir)}
	h.cfg.Exec.Allow = allow
	if secret != nil {
		testenv.WriteSecret(t, h.cfg, "db-admin", secret)
	}
	s := testenv.StartServer(t, filepath.Join(dir, "server"))
	h.c = s.Client()
	testenv.StartWorker(t, s, h.cfg, nil)
	return h
}

func (h *house) try(action string, req plan.Request) (plan.Outcome, error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	h.n++
	req.NoApproval = true
	if req.Secrets == nil && h.cfg.SecretsDir != "" {
		if _, err := os.Stat(filepath.Join(h.cfg.SecretsDir, "db-admin")); err == nil {
			req.Secrets = map[string]plan.Reference{"admin": {Name: "db-admin"}}
		}
	}
	var out plan.Outcome
	run, err := h.c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: fmt.Sprintf("%s/%d", action, h.n), TaskQueue: plan.DefaultTaskQueue, WorkflowExecutionTimeout: 3 * time.Minute}, action, req)
	if err != nil {
		return out, err
	}
	return out, run.Get(ctx, &out)
}

func (h *house) run(action string, req plan.Request) plan.Outcome {
	h.t.Helper()
	out, err := h.try(action, req)
	require.NoError(h.t, err, action)
	return out
}

func (h *house) backup(blueprint string, req plan.Request) *plan.RestorePoint {
	h.t.Helper()
	out := h.run(blueprint+".backup", req)
	rp := out.RestorePoint
	require.NotNil(h.t, rp)
	for _, f := range out.Freezes {
		h.t.Logf("%s: frozen %s, do took %s: %s", blueprint, f.ThawedAt.Sub(f.FrozenAt).Round(time.Millisecond), f.FrozenAt.Sub(f.DoStart).Round(time.Millisecond), rp.Consistency)
	}
	return rp
}

// leftovers are what a run must not leave beside its archive.
func leftovers(t *testing.T, rp *plan.RestorePoint) {
	t.Helper()
	list, err := os.ReadDir(rp.Directory)
	require.NoError(t, err)
	for _, e := range list {
		require.False(t, e.IsDir() || strings.Contains(e.Name(), "partial") || strings.Contains(e.Name(), ".thaw-"), "left behind: %s", e.Name())
	}
}

func awaitLoad(t *testing.T, l *testdb.Load, n int64) {
	t.Helper()
	from := l.Commits()
	require.Eventually(t, func() bool { return l.Commits() >= from+n }, 60*time.Second, 5*time.Millisecond)
}

func TestSQLite(t *testing.T) {
	for _, journal := range []string{"wal", "delete"} {
		t.Run(journal, func(t *testing.T) {
			db := testdb.NewSQLite(t, journal)
			h := newHouse(t, nil)
			db.StartLoad()
			awaitLoad(t, db.Load, 100)
			target := plan.Target{Kind: "sqlite", Name: db.Path}
			rp := h.backup("sqlite", plan.Request{Target: target})
			require.True(t, rp.Consistent, rp.Consistency)
			leftovers(t, rp)
			awaitLoad(t, db.Load, 20)
			h.run("sqlite.verify", plan.Request{Target: target, From: rp.ID})
			leftovers(t, rp)

			db.Stop()
			h.run("sqlite.restore", plan.Request{Target: target, From: rp.ID})
			back, err := db.Check(db.Path)
			require.NoError(t, err)
			other := filepath.Join(t.TempDir(), "other.db")
			h.run("sqlite.restore", plan.Request{Target: target, From: rp.ID, Options: plan.Values{"path": other}})
			n, err := db.Check(other)
			require.NoError(t, err)
			require.Equal(t, back, n)
			require.Greater(t, n, int64(50))
			h.run("sqlite.delete", plan.Request{Target: target, From: rp.ID})
			require.NoFileExists(t, rp.Artifacts["database"].KeyValue["archive"])
		})
	}
}

func writeScript(t *testing.T, lines ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script")
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"+strings.Join(lines, "\n")+"\n"), 0o755))
	return file
}

func checkAfterRestore(t *testing.T, db *sql.DB, atLeast int64) {
	t.Helper()
	testdb.Reconnect(db)
	require.Eventually(t, func() bool { return db.Ping() == nil }, 30*time.Second, 50*time.Millisecond)
	n, err := testdb.CheckLoad(t.Context(), db)
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, atLeast)
}

func TestPostgres(t *testing.T) {
	p := testdb.StartPostgres(t)
	stop := writeScript(t, "set -e", strings.Join(p.Stop[:len(p.Stop)-1], " ")+" status >/dev/null || exit 0", "exec "+strings.Join(p.Stop, " "))
	start := writeScript(t, strings.Join(p.Stop[:len(p.Stop)-1], " ")+" status >/dev/null && exit 0", "exec "+strings.Join(p.Start, " "))
	postgres := filepath.Join(p.BinDir, "postgres")
	// Fails the first time, as a server does that does not start from a backup.
	failing := writeScript(t, "if [ -f "+stop+".tried ]; then exec "+start+"; fi", "touch "+stop+".tried; exit 7")
	h := newHouse(t, p.Secret(), stop, start, failing, postgres)
	load := testdb.StartLoad(t, p.DB, 3)
	awaitLoad(t, load, 300)
	target := plan.Target{Kind: "postgres", Name: p.Addr}
	before := load.Commits()
	rp := h.backup("postgres", plan.Request{Target: target})
	require.True(t, rp.Consistent, rp.Consistency)
	leftovers(t, rp)
	var slots, lingering int
	require.NoError(t, p.DB.QueryRow("SELECT (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'thaw lingering' OR application_name LIKE 'thaw:%')").Scan(&slots, &lingering))
	require.Zero(t, slots)
	require.Zero(t, lingering)

	scratch, err := os.MkdirTemp("", "thaw-scratch-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(scratch, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(scratch) })
	options := plan.Values{"stop": stop, "start": start}
	h.run("postgres.verify", plan.Request{Target: target, From: rp.ID, Options: plan.Values{"postgres": postgres, "scratch": scratch}})
	left, err := os.ReadDir(scratch)
	require.NoError(t, err)
	require.Empty(t, left)

	// A restore whose start fails puts everything back.
	awaitLoad(t, load, 50)
	load.Stop()
	now, err := testdb.CheckLoad(t.Context(), p.DB)
	require.NoError(t, err)
	_, err = h.try("postgres.restore", plan.Request{Target: target, From: rp.ID, Options: plan.Values{"stop": stop, "start": failing}})
	require.ErrorContains(t, err, "exit code 7")
	checkAfterRestore(t, p.DB, now)

	h.run("postgres.restore", plan.Request{Target: target, From: rp.ID, Options: options})
	checkAfterRestore(t, p.DB, before)
	h.run("postgres.delete", plan.Request{Target: target, From: rp.ID})
}

func TestMariaDB(t *testing.T) {
	t.Run("copied", func(t *testing.T) { mariadb(t, "mariadb", "") })
	t.Run("on btrfs", func(t *testing.T) { mariadb(t, "mariadb", testdb.Btrfs(t)) })
	t.Run("by stages on btrfs", func(t *testing.T) { mariadb(t, "mariadb-stage", testdb.Btrfs(t)) })
}

func mariadb(t *testing.T, blueprint, parent string) {
	m := testdb.StartMariaDB(t, parent)
	pidFile := ""
	for _, a := range m.Args {
		if f, ok := strings.CutPrefix(a, "--pid-file="); ok {
			pidFile = f
		}
	}
	stop := writeScript(t, "[ -f "+pidFile+" ] || exit 0", "kill $(cat "+pidFile+")", "while [ -f "+pidFile+" ]; do sleep 0.1; done")
	start := writeScript(t, "[ -f "+pidFile+" ] && exit 0", "setsid "+strings.Join(m.Args, " ")+" --user=mysql </dev/null >/dev/null 2>&1 &", "while [ ! -f "+pidFile+" ]; do sleep 0.1; done")
	t.Cleanup(func() {
		out := writeScriptRun(stop)
		t.Log(out)
	})
	h := newHouse(t, m.Secret(), stop, start, m.Args[0])
	load := testdb.StartLoad(t, m.DB, 3)
	awaitLoad(t, load, 300)
	before := load.Commits()
	target := plan.Target{Kind: "mariadb", Name: m.Addr}
	rp := h.backup(blueprint, plan.Request{Target: target})
	require.True(t, rp.Consistent, rp.Consistency)
	leftovers(t, rp)
	var pct float64
	require.NoError(t, m.DB.QueryRow("SELECT @@innodb_max_dirty_pages_pct").Scan(&pct))
	require.Equal(t, 90.0, pct, "settings are as they were")
	awaitLoad(t, load, 50)

	scratch, err := os.MkdirTemp("", "thaw-scratch-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(scratch, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(scratch) })
	h.run(blueprint+".verify", plan.Request{Target: target, From: rp.ID, Options: plan.Values{"mariadbd": m.Args[0], "scratch": scratch}})
	load.Stop()
	h.run(blueprint+".restore", plan.Request{Target: target, From: rp.ID, Options: plan.Values{"stop": stop, "start": start}})
	checkAfterRestore(t, m.DB, before)
	h.run(blueprint+".delete", plan.Request{Target: target, From: rp.ID})
}

func TestDumps(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		p := testdb.StartPostgres(t)
		h := newHouse(t, p.Secret(), "/usr/bin/pg_*", filepath.Join(p.BinDir, "pg_*"))
		dump(t, h, "postgres-dump", p.Addr, p.DB, plan.Values{"database": p.Database, "bin": p.BinDir})
	})
	t.Run("mariadb", func(t *testing.T) {
		m := testdb.StartMariaDB(t)
		h := newHouse(t, m.Secret(), "/usr/bin/mariadb", "/usr/bin/mariadb-dump")
		dump(t, h, "mariadb-dump", m.Addr, m.DB, plan.Values{"database": m.Database, "user": m.User})
	})
}

func dump(t *testing.T, h *house, blueprint, addr string, db *sql.DB, options plan.Values) {
	load := testdb.StartLoad(t, db, 2)
	awaitLoad(t, load, 200)
	before := load.Commits()
	target := plan.Target{Kind: "server", Name: addr}
	rp := h.backup(blueprint, plan.Request{Target: target, Options: options})
	leftovers(t, rp)
	h.run(blueprint+".verify", plan.Request{Target: target, From: rp.ID, Options: options})
	load.Stop()
	_, err := db.Exec("UPDATE accounts SET balance = 1")
	require.NoError(t, err)
	h.run(blueprint+".restore", plan.Request{Target: target, From: rp.ID, Options: options})
	checkAfterRestore(t, db, before)
	h.run(blueprint+".delete", plan.Request{Target: target, From: rp.ID, Options: options})
}
