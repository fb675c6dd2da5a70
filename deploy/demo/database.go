package main

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
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
	held func(context.Context) (int, error)
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
	default:
		return nil, fmt.Errorf("--db %q: want sqlite, postgres or mariadb", kind)
	}
	return d, nil
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

func (d *database) frozen() bool {
	if d.held != nil {
		n, err := d.held(context.Background())
		return err == nil && n > 0
	}
	return time.Since(d.load.LastCommit()) > stall
}

// since is when the freeze that is on began.
func (d *database) since() time.Time {
	if d.held != nil {
		return time.Now()
	}
	return d.load.LastCommit()
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
