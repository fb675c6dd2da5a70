package testdb

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Load writes to a database as an application would, until it is stopped. Each
// transaction moves an amount between two accounts and notes it in a ledger:
// a copy is consistent if the balances sum to zero and the ledger has no gap.
type Load struct {
	commits atomic.Int64
	failed  atomic.Int64
	last    atomic.Int64 // unix nanoseconds of the last commit
	lastErr atomic.Pointer[error]
	mu      sync.Mutex
	times   []time.Time // of each commit
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// Commits so far.
func (l *Load) Commits() int64 { return l.commits.Load() }

// LastCommit is when the last transaction committed.
func (l *Load) LastCommit() time.Time { return time.Unix(0, l.last.Load()) }

// Failed transactions so far, and the last error.
func (l *Load) Failed() (int64, error) {
	if e := l.lastErr.Load(); e != nil {
		return l.failed.Load(), *e
	}
	return l.failed.Load(), nil
}

// CommitsUntil is how many transactions had been answered by then.
func (l *Load) CommitsUntil(t time.Time) (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range l.times {
		if !at.After(t) {
			n++
		}
	}
	return n
}

// Stop ends the load and waits for its writers.
func (l *Load) Stop() { l.stop(); l.done.Wait() }

// Schema of the load, on every database alike.
var loadSchema = []string{
	"CREATE TABLE IF NOT EXISTS accounts (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL)",
	"CREATE TABLE IF NOT EXISTS ledger (writer INTEGER NOT NULL, seq BIGINT NOT NULL, note VARCHAR(200) NOT NULL, PRIMARY KEY (writer, seq))",
}

const accounts = 50

// PrepareLoad makes its tables.
func PrepareLoad(ctx context.Context, db *sql.DB) error {
	for _, s := range loadSchema {
		if _, err := db.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("prepare load: %w", err)
		}
	}
	var n int
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM accounts").Scan(&n); err != nil {
		return fmt.Errorf("prepare load: %w", err)
	}
	for i := n; i < accounts; i++ {
		if _, err := db.ExecContext(ctx, fmt.Sprintf("INSERT INTO accounts (id, balance) VALUES (%d, 0)", i)); err != nil {
			return fmt.Errorf("prepare load: %w", err)
		}
	}
	return nil
}

// StartLoad starts writers on a database server; it stops with the test.
func StartLoad(t TB, db *sql.DB, writers int) *Load {
	t.Helper()
	if err := PrepareLoad(context.Background(), db); err != nil {
		t.Fatalf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{stop: cancel}
	for w := range writers {
		l.done.Go(func() { l.write(ctx, db, w) })
	}
	t.Cleanup(l.Stop)
	return l
}

func (l *Load) write(ctx context.Context, db *sql.DB, writer int) {
	seq := int64(-1)
	for i := 0; ctx.Err() == nil; i++ {
		err := transfer(ctx, db, writer, &seq, i)
		switch {
		case ctx.Err() != nil:
		case err == nil:
			l.commits.Add(1)
			now := time.Now()
			l.last.Store(now.UnixNano())
			l.mu.Lock()
			l.times = append(l.times, now)
			l.mu.Unlock()
		default:
			l.failed.Add(1)
			l.lastErr.Store(&err)
			seq = -1
			select { // a server that is down, or a deadlock
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

func transfer(ctx context.Context, db *sql.DB, writer int, seq *int64, i int) error {
	if *seq < 0 {
		var max sql.NullInt64
		if err := db.QueryRowContext(ctx, fmt.Sprintf("SELECT MAX(seq) FROM ledger WHERE writer = %d", writer)).Scan(&max); err != nil {
			return err
		}
		*seq = max.Int64
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	// Ascending order: writers do not deadlock.
	a, b := (writer*7+i)%accounts, (writer*7+i*3+1)%accounts
	amount := i%9 + 1
	if a > b {
		a, b, amount = b, a, -amount
	}
	if a == b {
		amount = 0
	}
	*seq++
	for _, s := range []string{
		fmt.Sprintf("UPDATE accounts SET balance = balance - %d WHERE id = %d", amount, a),
		fmt.Sprintf("UPDATE accounts SET balance = balance + %d WHERE id = %d", amount, b),
		fmt.Sprintf("INSERT INTO ledger (writer, seq, note) VALUES (%d, %d, '%0120d')", writer, *seq, i),
	} {
		if _, err := tx.ExecContext(ctx, s); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Reconnect drops idle connections: those to a server that was stopped and
// started meanwhile fail their next statement.
func Reconnect(db *sql.DB) {
	const defaultIdle = 2 // of database/sql
	db.SetMaxIdleConns(0)
	db.SetMaxIdleConns(defaultIdle)
}

// CheckLoad says whether the load's data is consistent, and how many
// transactions it holds.
func CheckLoad(ctx context.Context, db *sql.DB) (transactions int64, err error) {
	var sum, gaps int64
	if err := db.QueryRowContext(ctx, "SELECT SUM(balance) FROM accounts").Scan(&sum); err != nil {
		return 0, fmt.Errorf("check balances: %w", err)
	}
	if sum != 0 {
		return 0, fmt.Errorf("balances sum to %d, want 0: half a transaction is in it", sum)
	}
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM ledger").Scan(&transactions); err != nil {
		return 0, fmt.Errorf("check ledger: %w", err)
	}
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM (SELECT writer, MAX(seq) - COUNT(*) AS missing FROM ledger GROUP BY writer) AS w WHERE missing <> 0").Scan(&gaps); err != nil {
		return 0, fmt.Errorf("check ledger: %w", err)
	}
	if gaps != 0 {
		return 0, fmt.Errorf("the ledgers of %d writers have gaps: an earlier transaction is missing where a later one is there", gaps)
	}
	return transactions, nil
}
