package clustertest

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // driver "mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // driver "pgx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
	"thaw/internal/testdb"
)

// app is a database in pods, under write load.
type app struct {
	name      string // of its manifests
	set       string // its StatefulSet
	labels    string
	service   string
	blueprint string
	connect   func(t testing.TB, host string) books
}

// books are what a database holds of the load's writes.
type books interface {
	start(t testing.TB) *clock
	// check says how many writes are there, and that they are whole.
	check(ctx context.Context) (int64, error)
	// destroy takes them away, and leaves no connection.
	destroy(ctx context.Context) error
}

// clock says how many writes had been answered by a moment.
type clock struct {
	until   func(time.Time) int64
	writers int64
	stop    func()
}

var apps = []app{
	{"postgres", "pg-postgresql", "app.kubernetes.io/name=postgresql", "pg-postgresql", "postgres-csi", func(t testing.TB, host string) books {
		return sqlBooks{open(t, "pgx", fmt.Sprintf("host=%s port=5432 user=postgres password=thaw-postgres dbname=postgres sslmode=disable", host))}
	}},
	{"mariadb", "mariadb", "app.kubernetes.io/name=mariadb", "mariadb", "mariadb-csi", func(t testing.TB, host string) books {
		return sqlBooks{open(t, "mysql", fmt.Sprintf("root:thaw-mariadb@tcp(%s:3306)/shop", host))}
	}},
	{"redis", "redis-master", "app.kubernetes.io/instance=redis", "redis-master", "redis-csi", func(_ testing.TB, host string) books {
		return redisBooks{net.JoinHostPort(host, "6379")}
	}},
}

func open(t testing.TB, driver, dsn string) *sql.DB {
	db, err := sql.Open(driver, dsn)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

func (a *app) manifests(t testing.TB) string { return testcluster.App(t, a.name) }

// host is the address of the app's service, which the host reaches.
func (s *scene) host(namespace string, a *app) string {
	svc, err := s.Kube.CoreV1().Services(namespace).Get(s.t.Context(), a.service, metav1.GetOptions{})
	require.NoError(s.t, err)
	return svc.Spec.ClusterIP
}

type sqlBooks struct{ db *sql.DB }

const writers = 2

func (b sqlBooks) start(t testing.TB) *clock {
	l := testdb.StartLoad(t, b.db, writers)
	return &clock{until: l.CommitsUntil, writers: writers, stop: l.Stop}
}

func (b sqlBooks) check(ctx context.Context) (int64, error) {
	testdb.Reconnect(b.db)
	return testdb.CheckLoad(ctx, b.db)
}

func (b sqlBooks) destroy(ctx context.Context) error {
	_, err := b.db.ExecContext(ctx, "DROP TABLE ledger")
	testdb.Reconnect(b.db)
	return err
}

// redisBooks count in one key, and note each count in a list.
type redisBooks struct{ address string }

func (b redisBooks) dial(ctx context.Context) (net.Conn, *bufio.Reader, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", b.address)
	if err != nil {
		return nil, nil, err
	}
	in := bufio.NewReader(conn)
	_, err = ask(conn, in, "AUTH thaw-redis")
	return conn, in, err
}

// ask sends an inline command, whose answer is one line, or a string.
func ask(conn net.Conn, in *bufio.Reader, command string) (string, error) {
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return "", err
	}
	line, err := in.ReadString('\n')
	line = strings.TrimRight(line, "\r\n")
	switch {
	case err != nil:
		return "", err
	case strings.HasPrefix(line, "-"):
		return "", fmt.Errorf("%s: %s", command, line)
	case line == "$-1":
		return "0", nil
	case strings.HasPrefix(line, "$"):
		text, err := in.ReadString('\n')
		return strings.TrimRight(text, "\r\n"), err
	}
	return line[1:], nil
}

func (b redisBooks) start(t testing.TB) *clock {
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var times []time.Time
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			conn, in, err := b.dial(ctx)
			for err == nil && ctx.Err() == nil {
				_, err = ask(conn, in, `EVAL "redis.call('RPUSH','ledger',redis.call('INCR','count')) return 1" 0`)
				if err == nil {
					mu.Lock()
					times = append(times, time.Now())
					mu.Unlock()
				}
				time.Sleep(time.Millisecond)
			}
			if conn != nil {
				conn.Close()
			}
		}
	})
	stop := sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return &clock{writers: 1, stop: stop, until: func(at time.Time) (n int64) {
		mu.Lock()
		defer mu.Unlock()
		for _, x := range times {
			if !x.After(at) {
				n++
			}
		}
		return n
	}}
}

func (b redisBooks) check(ctx context.Context) (int64, error) {
	conn, in, err := b.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	var n [2]int64
	for i, command := range []string{"GET count", "LLEN ledger"} {
		text, err := ask(conn, in, command)
		if err != nil {
			return 0, err
		}
		if n[i], err = strconv.ParseInt(text, 10, 64); err != nil {
			return 0, err
		}
	}
	if n[0] != n[1] {
		return 0, fmt.Errorf("count is %d, the ledger has %d", n[0], n[1])
	}
	return n[0], nil
}

func (b redisBooks) destroy(ctx context.Context) error {
	conn, in, err := b.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = ask(conn, in, "FLUSHALL")
	return err
}

// span is when a backup froze and cut.
type span struct{ frozen, cut time.Time }

func spanOf(t testing.TB, volumes []any, freezes []plan.FreezeReport) span {
	require.NotEmpty(t, freezes)
	require.NotEmpty(t, volumes)
	sp := span{frozen: freezes[0].FrozenAt}
	for _, f := range freezes {
		if f.FrozenAt.After(sp.frozen) {
			sp.frozen = f.FrozenAt
		}
	}
	for _, v := range volumes {
		at, err := time.Parse(time.RFC3339Nano, v.(map[string]any)["cutAt"].(string))
		require.NoError(t, err)
		if at.After(sp.cut) {
			sp.cut = at
		}
	}
	return sp
}

// cutGrain is how exact the time of a cut is: the file system's clock ticks
// every few milliseconds, and its transaction ends after it was read.
const cutGrain = 50 * time.Millisecond

// count waits until a database answers, and says how many writes are there.
func (s *scene) count(b books) (n int64) {
	s.t.Helper()
	require.EventuallyWithT(s.t, func(t *assert.CollectT) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		var err error
		n, err = b.check(ctx)
		require.NoError(t, err)
	}, testcluster.Wait, testcluster.Tick)
	return n
}

// holds checks that a database holds every write from before the freeze, and
// none from after the cut.
func (s *scene) holds(b books, c *clock, sp span) {
	s.t.Helper()
	n := s.count(b)
	before, after := c.until(sp.frozen), c.until(sp.cut.Add(cutGrain))+c.writers
	require.GreaterOrEqual(s.t, n, before, "writes from before the freeze are missing")
	require.LessOrEqual(s.t, n, after, "writes from after the cut are there")
	s.t.Logf("%d writes: %d before the freeze, at most %d before the cut, %d in all", n, before, after, c.until(time.Now()))
}

// reachable waits until the nodes know the way to a service: after its pods are
// ready, that takes a moment.
func reachable(t testing.TB, b books) {
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if s, ok := b.(sqlBooks); ok {
			return s.db.PingContext(ctx) == nil
		}
		conn, _, err := b.(redisBooks).dial(ctx)
		if conn != nil {
			conn.Close()
		}
		return err == nil
	}, testcluster.Wait, testcluster.Tick)
}

// Each database of the library in pods: backup under load, more load, restore,
// delete.
func TestDatabasesInPods(t *testing.T) {
	for _, a := range apps {
		t.Run(a.name, func(t *testing.T) {
			s := newScene(t)
			s.apply(s.ns, a.manifests(t))
			s.ready(s.ns, a.labels, 1)
			b := a.connect(t, s.host(s.ns, &a))
			reachable(t, b)
			c := b.start(t)
			require.Eventually(t, func() bool { return c.until(time.Now()) > 200 }, testcluster.Wait, testcluster.Tick)

			backup := s.run(plan.Request{Blueprint: a.blueprint, Action: "backup", Target: plan.Target{Kind: "StatefulSet", Name: a.set, Namespace: s.ns}})
			rp := backup.RestorePoint
			require.True(t, rp.Consistent, rp.Consistency)
			f := rp.Freezes[0]
			t.Logf("frozen for %s", f.ThawedAt.Sub(f.DoStart).Round(time.Millisecond))
			volumes := f.Results["cut"].Output["volumes"].([]any)
			end := c.until(time.Now())
			require.Eventually(t, func() bool { return c.until(time.Now()) > end+100 }, testcluster.Wait, testcluster.Tick)
			c.stop()

			s.run(plan.Request{From: rp.ID, Action: "restore"})
			s.ready(s.ns, a.labels, 1)
			s.holds(b, c, spanOf(t, volumes, rp.Freezes))
			s.run(plan.Request{From: rp.ID, Action: "delete"})
			require.Empty(t, s.orphans())
		})
	}
}
