package matrix

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"thaw/blueprints/library"
	"thaw/blueprints/plan"
	"thaw/internal/testdb"
	"thaw/internal/testenv"
)

// rounds of each measurement; medians are reported.
const rounds = 15

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkFreezeWindow measures, for each database, how long a freeze is, and
// the engine's own share of it: from the end of do to the start of undo,
// without the cuts.
func BenchmarkFreezeWindow(b *testing.B) {
	for _, name := range lanes {
		b.Run(name, func(b *testing.B) {
			l := newLane(b, name)
			text, err := library.Load(name)
			require.NoError(b, err)
			for b.Loop() {
				var engine, window []time.Duration
				var actions int
				for i := range rounds {
					out, id := l.backup(string(text), fmt.Sprintf("bench-%d", i))
					f := out.Freezes[0]
					share := f.ThawAt.Sub(f.FrozenAt)
					for _, p := range f.Phases {
						if !strings.HasSuffix(p.Name, ".do") && !strings.HasSuffix(p.Name, ".undo") {
							share -= p.Ended.Sub(p.Started)
						}
					}
					engine = append(engine, share)
					window = append(window, f.ThawedAt.Sub(f.DoStart))
					actions = l.actions(id)
				}
				b.ReportMetric(ms(median(window)), "window-ms")
				b.ReportMetric(ms(median(engine)), "engine-ms")
				b.ReportMetric(float64(actions), "actions/backup")
				b.ReportMetric(0, "ns/op")
				require.Less(b, median(engine), 5*time.Millisecond)
			}
		})
	}
}

// BenchmarkAgainstPlainGo compares the window of the PostgreSQL blueprint with
// that of a plain program that does the same three steps, turn by turn in one
// run.
func BenchmarkAgainstPlainGo(b *testing.B) {
	l := newLane(b, "postgres")
	pg := l.pg
	text, err := library.Load("postgres")
	require.NoError(b, err)
	for b.Loop() {
		var ours, plain []time.Duration
		for i := range rounds {
			out, _ := l.backup(string(text), fmt.Sprintf("plain-%d", i))
			f := out.Freezes[0]
			ours = append(ours, f.ThawedAt.Sub(f.DoStart))
			plain = append(plain, plainWindow(b, pg, filepath.Join(l.dir, fmt.Sprintf("plain-%d", i))))
		}
		ratio := float64(median(ours)) / float64(median(plain))
		b.ReportMetric(ms(median(ours)), "thaw-ms")
		b.ReportMetric(ms(median(plain)), "plain-ms")
		b.ReportMetric(ratio, "ratio")
		b.ReportMetric(0, "ns/op")
		require.LessOrEqual(b, ratio, 1.1)
	}
}

// plainWindow starts a backup, copies the data directory, and stops it.
func plainWindow(b *testing.B, pg *testdb.Postgres, to string) time.Duration {
	ctx := context.Background()
	c, err := pgx.Connect(ctx, fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", pg.User, pg.Password, pg.Addr, pg.Database))
	require.NoError(b, err)
	defer func() { _ = c.Close(ctx) }()
	start := time.Now()
	_, err = c.Exec(ctx, "SELECT pg_backup_start('plain', true)")
	require.NoError(b, err)
	require.NoError(b, copyTree(pg.DataDir, to))
	_, err = c.Exec(ctx, "SELECT * FROM pg_backup_stop(false)")
	require.NoError(b, err)
	took := time.Since(start)
	require.NoError(b, os.RemoveAll(to))
	return took
}

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if rel == "postmaster.pid" {
			return nil
		}
		if rel == "pg_wal" {
			if err := os.Mkdir(filepath.Join(to, rel), 0o700); err != nil {
				return err
			}
			return fs.SkipDir
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		out, err := os.Create(filepath.Join(to, rel))
		if err != nil {
			return err
		}
		_, err = out.ReadFrom(in)
		if cerr := out.Close(); err == nil {
			err = cerr
		}
		return err
	})
}

// BenchmarkTerminateToThaw measures the time from a terminate of the parent to
// the start of the thaw.
func BenchmarkTerminateToThaw(b *testing.B) {
	l := newLane(b, "sqlite")
	text, err := library.Load("sqlite")
	require.NoError(b, err)
	bp := parse(b, text)
	bp.addWait("10s")
	for b.Loop() {
		var took []time.Duration
		for i := range rounds {
			testenv.Await(b, 30*time.Second, "the database takes writes", l.seen.free)
			id := fmt.Sprintf("terminate-%d", i)
			run := l.start(bp.text(), id)
			testenv.Await(b, 30*time.Second, "frozen", func() bool { return time.Since(l.db.load.LastCommit()) > 300*time.Millisecond })
			target := l.db.target
			target.TaskQueue = plan.DefaultTaskQueue
			session := l.client.GetWorkflow(context.Background(), plan.FreezeID(target), "")
			at := time.Now()
			require.NoError(b, l.client.TerminateWorkflow(context.Background(), run.GetID(), run.GetRunID(), "bench"))
			var r plan.FreezeReport
			require.NoError(b, session.Get(context.Background(), &r))
			took = append(took, r.ThawAt.Sub(at))
		}
		b.ReportMetric(ms(median(took)), "terminate-to-thaw-ms")
		b.ReportMetric(0, "ns/op")
		require.Less(b, median(took), 250*time.Millisecond)
	}
}

func (l *lane) start(text, id string) client.WorkflowRun {
	run, err := l.client.ExecuteWorkflow(context.Background(), client.StartWorkflowOptions{ID: id, TaskQueue: plan.DefaultTaskQueue}, l.blueprint+".backup",
		plan.Request{BlueprintText: text, Target: l.db.target, Secrets: l.db.secrets, Options: l.db.options})
	require.NoError(l.t, err)
	return run
}

func (l *lane) backup(text, id string) (out plan.Outcome, run string) {
	require.NoError(l.t, l.start(text, id).Get(context.Background(), &out))
	require.NotEmpty(l.t, out.Freezes)
	return out, id
}

// actions counts what Temporal Cloud would bill a backup and its session for.
func (l *lane) actions(id string) int {
	target := l.db.target
	target.TaskQueue = plan.DefaultTaskQueue
	_, n := testenv.Count(l.t, l.client, id, plan.FreezeID(target))
	return n
}

func (b *blueprint) addWait(d string) {
	ph := b.freezePhase()
	inner, _ := ph["phases"].([]any)
	ph["phases"] = append(inner, map[string]any{"name": "wait", "func": "Wait", "args": map[string]any{"for": d}})
}
