package matrix

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"thaw/blueprints/plan"
	"thaw/internal/testdb"
	"thaw/internal/testenv"
	"thaw/worker/wiring"
)

// lane is one database under write load with a Temporal server and a worker
// of its own. Lanes run beside each other, cells of a lane one after another.
type lane struct {
	t         testing.TB
	name      string
	blueprint string
	db        database
	dir       string
	server    *testenv.Server
	client    client.Client
	cfg       *wiring.Config
	worker    *testenv.Process
	seen      observer
	// reach is the time in which a backup has reached its cut, and maxFreeze
	// that of its freeze.
	reach, maxFreeze time.Duration
	pg               *testdb.Postgres
	kube             *kube // of a lane whose database is in pods
}

// database is what a lane needs of its database.
type database struct {
	target  plan.Target
	secrets map[string]plan.Reference
	options plan.Values
	// verify are the options with which its blueprint's verify recovers a
	// backup as a server would; data checks what is in one, beside that.
	verify plan.Values
	data   func(x *trial, restorePoint string) error
	load   *testdb.Load
	// held counts the sessions that hold a freeze; nil where a freeze shows
	// in the writes that it stops.
	held func(context.Context) (int, error)
}

func newLane(t testing.TB, name string) *lane {
	l := &lane{t: t, name: name, blueprint: name, dir: t.TempDir(), reach: 2 * time.Second, maxFreeze: 8 * time.Second}
	l.cfg = testenv.Config(l.dir)
	l.cfg.Exec.Allow = []string{"/bin/false", "/usr/bin/false"}
	switch name {
	case "sqlite":
		db := testdb.NewSQLite(t)
		db.StartLoad()
		l.db = database{target: plan.Target{Kind: "sqlite", Name: db.Path}, load: db.Load}
		l.db.data = func(x *trial, restorePoint string) error {
			other := filepath.Join(l.dir, "restored.db")
			if err := x.act("restore", restorePoint, plan.Values{"path": other}); err != nil {
				return err
			}
			_, err := db.Check(other)
			return err
		}
	case "postgres":
		db := testdb.StartPostgres(t)
		l.pg = db
		l.recover("postgres", filepath.Join(db.BinDir, "postgres"), db.Account)
		l.admin(db.Secret())
		l.db.target, l.db.load = plan.Target{Kind: "postgres", Name: db.Addr}, testdb.StartLoad(t, db.DB, 2)
		l.db.held = func(ctx context.Context) (n int, err error) {
			err = db.DB.QueryRowContext(ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'thaw:%'").Scan(&n)
			return n, err
		}
	case "mariadb":
		db := testdb.StartMariaDB(t)
		l.recover("mariadbd", db.Args[0], db.Account)
		l.admin(db.Secret())
		l.db.options = plan.Values{"flush": 0} // each cell would wait for it
		// Under FLUSH TABLES WITH READ LOCK InnoDB comes to rest in one to
		// three seconds, and once in a while in ten.
		l.reach, l.maxFreeze = 6*time.Second, 20*time.Second
		l.db.target, l.db.load = plan.Target{Kind: "mariadb", Name: db.Addr}, testdb.StartLoad(t, db.DB, 2)
	}
	if strings.HasSuffix(name, "-csi") {
		l.inPods(strings.TrimSuffix(name, "-csi"))
	}
	l.server = testenv.StartServer(t, filepath.Join(l.dir, "server"))
	l.client = l.server.Client()
	l.startWorker(nil)
	l.seen.start(t, l.db)
	return l
}

// recover lets verify start the server's program on a copy of a backup.
func (l *lane) recover(option, program, account string) {
	scratch := filepath.Join(l.dir, "scratch")
	require.NoError(l.t, os.Mkdir(scratch, 0o755))
	// The account must get there; the way is the test's own.
	for d := scratch; d != filepath.Dir(os.TempDir()) && len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		require.NoError(l.t, os.Chmod(d, 0o755))
	}
	l.cfg.Exec.Allow = append(l.cfg.Exec.Allow, program)
	l.db.verify = plan.Values{option: program, "scratch": scratch, "user": account}
}

func (l *lane) admin(secret map[string][]byte) {
	testenv.WriteSecret(l.t, l.cfg, "db-admin", secret)
	l.db.secrets = map[string]plan.Reference{"admin": {Name: "db-admin"}}
}

func (l *lane) startWorker(f *testenv.Fault) {
	l.worker = testenv.StartWorker(l.t, l.server, l.cfg, f)
}

// observer samples what the database lets its writers do.
type observer struct {
	mu     sync.Mutex
	db     database
	begin  time.Time // of the cell
	worst  time.Duration
	since  time.Time // a session holds a freeze since then
	commit []time.Time
	spans  []plan.Span // in which a session held a freeze
	down   bool        // the server does not answer: see fall
	fell   time.Time   // since then
}

// stalls are pauses of the machine, not of the database: a gap between two
// samples is not counted as frozen time beyond this.
const sampling = 2 * time.Millisecond

func (o *observer) start(t testing.TB, db database) {
	o.db = db
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(sampling)
		defer tick.Stop()
		for ctx.Err() == nil {
			o.sample(ctx)
			<-tick.C
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func (o *observer) sample(ctx context.Context) {
	last, held := o.db.load.LastCommit(), 0
	if o.db.held != nil {
		n, err := o.db.held(ctx)
		if err != nil {
			return
		}
		held = n
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.commit); n == 0 || !o.commit[n-1].Equal(last) {
		o.commit = append(o.commit, last)
	}
	if o.down {
		return
	}
	now := time.Now()
	o.count(now, last)
	switch {
	case held > 0 && o.since.IsZero():
		o.since = now
	case held == 0 && !o.since.IsZero():
		o.spans = append(o.spans, plan.Span{Start: o.since, End: now})
		o.since = time.Time{}
	}
	if !o.since.IsZero() {
		o.worst = max(o.worst, now.Sub(o.since))
	}
}

// count adds the time since the last commit, of this cell.
func (o *observer) count(now, last time.Time) {
	if last.Before(o.begin) {
		last = o.begin
	}
	o.worst = max(o.worst, now.Sub(last))
}

// fall tells the observer that the cell takes the database's server away, until
// there is another one (back). What is not counted is the time in which it does
// not answer a connection of its own: no lock stops that. Before and after it
// counts as ever, of the new server too. It returns how long that was, and the
// longest that writers had waited before it.
func (o *observer) fall(ctx context.Context, ping func(context.Context) error, back func() bool) (down, before time.Duration) {
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, time.Second)
		err := ping(try)
		cancel()
		// It takes no new sessions then, and has its old ones, with their locks.
		ending := err != nil && strings.Contains(err.Error(), "shutting down")
		answers := err == nil || ending
		down += o.answers(answers)
		if !answers && down == 0 {
			before = o.frozen()
		}
		if err == nil && back() {
			return down, before
		}
		time.Sleep(10 * time.Millisecond)
	}
	return down + o.answers(true), before
}

// answers takes in whether the server does, and returns how long it did not
// where it does again.
func (o *observer) answers(yes bool) (down time.Duration) {
	last := o.db.load.LastCommit()
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	switch {
	case !yes && !o.down:
		o.count(now, last)
		if !o.since.IsZero() { // its sessions went with the server
			o.spans = append(o.spans, plan.Span{Start: o.since, End: now})
			o.since = time.Time{}
		}
		o.fell = now
	case yes && o.down:
		down, o.begin = now.Sub(o.fell), now
	}
	o.down = !yes
	return down
}

func (o *observer) fallen() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.down
}

// reset begins a cell.
func (o *observer) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.begin, o.worst, o.commit, o.spans = time.Now(), 0, nil, nil
}

// free reports whether the database takes writes, and no session holds it.
func (o *observer) free() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(o.commit)
	return o.since.IsZero() && n > 0 && time.Since(o.commit[n-1]) < 200*time.Millisecond
}

// frozen is the longest time that writers waited, or that a session held.
func (o *observer) frozen() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.worst
}

// broken says how a cut was not inside an unbroken freeze, as the database
// itself saw it: "" where it was.
func (o *observer) broken(cut plan.Span) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.db.held != nil {
		for _, s := range o.spans {
			// The sessions are sampled: allow for one sample on either side.
			if !s.Start.After(cut.Start.Add(20*time.Millisecond)) && !s.End.Before(cut.End.Add(-20*time.Millisecond)) {
				return ""
			}
		}
		return fmt.Sprintf("no session held the freeze from %s to %s", cut.Start, cut.End)
	}
	for _, c := range o.commit {
		if c.After(cut.Start) && c.Before(cut.End) {
			return fmt.Sprintf("a write was committed at %s, in the cut from %s to %s", c, cut.Start, cut.End)
		}
	}
	return ""
}
