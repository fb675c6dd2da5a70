package main

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"

	"thaw/internal/testdb"
)

// database is the demo's, under write load.
type database struct {
	blueprint, target             string
	secrets, allow                []string
	backupOptions, restoreOptions []string
	load                          *testdb.Load
	db                            *sql.DB
	// held counts the sessions that hold a freeze, where a freeze stops no
	// writes (PostgreSQL's backup mode).
	held      func(context.Context) (int, error)
	heldSince time.Time
}

func open(stage *testdb.Stage, kind, dir string) (*database, error) {
	d := &database{blueprint: kind}
	switch kind {
	case "sqlite":
		s := testdb.NewSQLiteAt(stage, filepath.Join(dir, "shop.db"), testdb.SQLiteJournal)
		s.StartLoad()
		var err error
		// Another process than the writer's and the worker's.
		if d.db, err = sql.Open("sqlite", "file:"+s.Path+"?_pragma=busy_timeout(5000)"); err != nil {
			return nil, err
		}
		stage.Cleanup(func() { _ = d.db.Close() })
		d.target, d.load = "sqlite:"+s.Path, s.Load
	case "postgres":
		p := testdb.StartPostgres(stage)
		d.target, d.db, d.load = "postgres:"+p.Addr, p.DB, testdb.StartLoad(stage, p.DB, 2)
		d.held = func(ctx context.Context) (n int, err error) {
			err = p.DB.QueryRowContext(ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'thaw:%'").Scan(&n)
			return n, err
		}
		ctl := shell(p.Start[:len(p.Start)-8]) + " -D " + p.DataDir // without its options
		err := d.serverCommands(dir, p.Account, ctl+" status >/dev/null && exec "+shell(p.Stop)+" || exit 0", ctl+" status >/dev/null && exit 0; exec "+shell(p.Start))
		if err != nil {
			return nil, err
		}
		return d, secret(dir, "db-admin", p.Secret())
	case "mariadb":
		m := testdb.StartMariaDB(stage)
		d.target, d.db, d.load = "mariadb:"+m.Addr, m.DB, testdb.StartLoad(stage, m.DB, 2)
		as := ""
		if os.Geteuid() == 0 {
			as = "runuser -u " + m.Account + " -- "
		}
		pid := filepath.Join(filepath.Dir(m.Socket), "pid")
		stop := "[ -e " + pid + " ] || exit 0; p=$(cat " + pid + "); kill $p; while kill -0 $p 2>/dev/null; do sleep 0.1; done"
		start := "[ -e " + pid + " ] && exit 0; " + as + "setsid " + shell(m.Args) + " </dev/null >/dev/null 2>&1 & for i in $(seq 600); do [ -S " + m.Socket + " ] && exit 0; sleep 0.1; done; exit 1"
		if err := d.serverCommands(dir, m.Account, stop, start); err != nil {
			return nil, err
		}
		stage.Cleanup(func() { _ = exec.Command("sh", filepath.Join(dir, "stop-server")).Run() }) // the one that a restore started
		return d, secret(dir, "db-admin", m.Secret())
	default:
		return nil, fmt.Errorf("--db %q: want sqlite, postgres or mariadb", kind)
	}
	return d, nil
}

// serverCommands writes the commands by which a restore stops and starts the
// server, and lets the worker run them.
func (d *database) serverCommands(dir, account, stop, start string) error {
	for _, c := range [][2]string{{"stop-server", stop}, {"start-server", start}} {
		file := filepath.Join(dir, c[0])
		if err := os.WriteFile(file, []byte("#!/bin/sh\n"+c[1]+"\n"), 0o755); err != nil {
			return err
		}
		d.allow = append(d.allow, file)
	}
	d.secrets = []string{"admin=db-admin"}
	d.restoreOptions = []string{"--option", "user=" + account, "--option", "stop=" + d.allow[0], "--option", "start=" + d.allow[1]}
	return nil
}

func shell(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

func secret(dir, name string, keys map[string][]byte) error {
	dir = filepath.Join(dir, "secrets", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for k, v := range keys {
		if err := os.WriteFile(filepath.Join(dir, k), v, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// stall is how long without a write is a freeze, and not the machine.
const stall = 150 * time.Millisecond

// frozen reports whether the database is frozen, and since when.
func (d *database) frozen() (since time.Time, yes bool) {
	if d.held == nil {
		last := d.load.LastCommit()
		return last, time.Since(last) > stall
	}
	switch n, err := d.held(context.Background()); {
	case err != nil || n == 0:
		d.heldSince = time.Time{}
	case d.heldSince.IsZero():
		d.heldSince = time.Now()
	}
	return d.heldSince, !d.heldSince.IsZero()
}

// watch measures the longest wait of writers until it is stopped.
func (d *database) watch() (stop func() time.Duration) {
	var worst time.Duration
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		last := d.load.LastCommit()
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
			if now := d.load.LastCommit(); !now.Equal(last) {
				worst, last = max(worst, now.Sub(last)), now
			}
		}
	})
	return func() time.Duration { close(done); wg.Wait(); return worst }
}

func (d *database) stopLoad() { d.load.Stop() }

// rows are the application's, each as one string.
func (d *database) rows(ctx context.Context) ([]string, error) {
	r, err := d.db.QueryContext(ctx, "SELECT writer, seq, note FROM ledger ORDER BY writer, seq")
	if err != nil {
		return nil, fmt.Errorf("read rows: %w", err)
	}
	defer func() { _ = r.Close() }()
	var all []string
	for r.Next() {
		var writer, seq int64
		var note string
		if err := r.Scan(&writer, &seq, &note); err != nil {
			return nil, fmt.Errorf("read rows: %w", err)
		}
		all = append(all, fmt.Sprintf("%d/%d/%s", writer, seq, note))
	}
	return all, r.Err()
}

func (d *database) check(ctx context.Context) (int64, error) { return testdb.CheckLoad(ctx, d.db) }

func dial(address string) (client.Client, error) {
	return client.NewLazyClient(client.Options{HostPort: address, Logger: log.NewStructuredLogger(slog.New(slog.DiscardHandler))})
}
