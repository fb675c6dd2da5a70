package clustertest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
	"thaw/internal/testenv"
)

// rounds of each measurement; medians are reported.
const rounds = 15

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkWindow compares the freeze window of PostgreSQL on CSI volumes with
// that of a plain client-go program that does the same, turn by turn in one run;
// and with a driver that takes 30 s until a snapshot is ready after its cut.
func BenchmarkWindow(b *testing.B) {
	s := newScene(b)
	a := &apps[0]
	s.apply(s.ns, a.manifests(b))
	s.ready(s.ns, a.labels, 1)
	db := a.connect(b, s.host(s.ns, a))
	reachable(b, db)
	c := db.start(b)
	require.Eventually(b, func() bool { return c.until(time.Now()) > 100 }, testcluster.Wait, testcluster.Tick)
	target := plan.Target{Kind: "StatefulSet", Name: a.set, Namespace: s.ns}
	// Each turn begins with as much to write for the checkpoint that starts a backup.
	dirty := func() {
		n := c.until(time.Now())
		require.Eventually(b, func() bool { return c.until(time.Now()) > n+300 }, testcluster.Wait, testcluster.Tick)
	}
	backup := func() (window time.Duration, events, actions int) {
		dirty()
		run := s.start(plan.Request{Blueprint: a.blueprint, Action: "backup", Target: target})
		out, err := s.await(run)
		require.NoError(b, err)
		require.True(b, out.RestorePoint.Consistent, out.RestorePoint.Consistency)
		f := out.Freezes[0]
		s.run(plan.Request{From: out.RestorePoint.ID, Action: "delete"})
		for _, p := range f.Phases {
			b.Logf("thaw: %s %.1f ms", p.Name, ms(p.Ended.Sub(p.Started)))
		}
		at := target
		at.TaskQueue = plan.DefaultTaskQueue
		events, actions = testenv.Count(b, s.client, run.GetID(), plan.FreezeID(at))
		return f.ThawedAt.Sub(f.DoStart), events, actions
	}
	for b.Loop() {
		var ours, plain []time.Duration
		var events, actions int
		for range rounds {
			var window time.Duration
			window, events, actions = backup()
			ours = append(ours, window)
			dirty()
			plain = append(plain, s.plain(a))
		}
		s.fault("--snapshot-ready-after", "30s")
		slow, _, _ := backup()
		testcluster.Drive(b, "fault", "clear")
		ratio := float64(median(ours)) / float64(median(plain))
		b.Logf("thaw %.1f ms, plain %.1f ms, ratio %.2f, ready after 30 s %.1f ms, %d events, %d actions", ms(median(ours)), ms(median(plain)), ratio, ms(slow), events, actions)
		b.ReportMetric(ms(median(ours)), "thaw-ms")
		b.ReportMetric(ms(median(plain)), "plain-ms")
		b.ReportMetric(ratio, "ratio")
		b.ReportMetric(ms(slow), "ready-after-30s-ms")
		b.ReportMetric(float64(events), "events/backup")
		b.ReportMetric(float64(actions), "actions/backup")
		b.ReportMetric(0, "ns/op")
		require.LessOrEqual(b, ratio, 1.10)
		require.LessOrEqual(b, slow, 2*slices.Max(ours), "a snapshot that is not ready holds nobody")
	}
}

// plain is the window of a program that starts a backup, makes a snapshot of
// the claim, watches until it is cut, and stops the backup.
func (s *scene) plain(a *app) time.Duration {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, "host="+s.host(s.ns, a)+" port=5432 user=postgres password=thaw-postgres dbname=postgres sslmode=disable")
	require.NoError(s.t, err)
	defer func() { _ = conn.Close(ctx) }()
	api, contents := s.Snapshots.SnapshotV1().VolumeSnapshots(s.ns), s.Snapshots.SnapshotV1().VolumeSnapshotContents()
	list, err := contents.List(ctx, metav1.ListOptions{})
	require.NoError(s.t, err)
	events, err := contents.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	require.NoError(s.t, err)
	defer events.Stop()
	claim, class := "data-"+a.set+"-0", testcluster.SnapshotClass

	start := time.Now()
	_, err = conn.Exec(ctx, "SELECT pg_backup_start('plain', true)")
	require.NoError(s.t, err)
	started := time.Now()
	made, err := api.Create(ctx, &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "plain-"},
		Spec:       snapshotv1.VolumeSnapshotSpec{Source: snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &claim}, VolumeSnapshotClassName: &class},
	}, metav1.CreateOptions{})
	require.NoError(s.t, err)
	var seen *snapshotv1.VolumeSnapshotContent
	for ev := range events.ResultChan() {
		o, ok := ev.Object.(*snapshotv1.VolumeSnapshotContent)
		if ok && ev.Type != watch.Deleted && o.Spec.VolumeSnapshotRef.UID == made.UID && o.Status != nil && o.Status.SnapshotHandle != nil && o.Status.CreationTime != nil {
			seen = o
			break
		}
	}
	cut := time.Now()
	require.NotNil(s.t, seen, "the watch ended before the cut")
	_, err = conn.Exec(ctx, "SELECT * FROM pg_backup_stop(false)")
	require.NoError(s.t, err)
	took := time.Since(start)
	s.t.Logf("plain: do %.1f ms, cut %.1f ms, undo %.1f ms", ms(started.Sub(start)), ms(cut.Sub(started)), ms(took-cut.Sub(start)))
	require.Eventually(s.t, func() bool { // the controllers lose one that is deleted before
		o, err := api.Get(ctx, made.Name, metav1.GetOptions{})
		return err == nil && o.Status != nil && o.Status.ReadyToUse != nil && *o.Status.ReadyToUse
	}, testcluster.Wait, testcluster.Tick)
	require.NoError(s.t, api.Delete(ctx, made.Name, metav1.DeleteOptions{}))
	return took
}
