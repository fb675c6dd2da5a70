package volume

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/internal/testcluster"
)

// plain is the least that a program must do to cut volumes: create the
// snapshots at once, and watch until the driver has cut them.
func plain(ctx context.Context, c *cluster.Cluster, namespace, suffix string, pvcs []string) error {
	api := c.Snapshots.SnapshotV1()
	l, err := api.VolumeSnapshotContents().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	w, err := api.VolumeSnapshotContents().Watch(ctx, metav1.ListOptions{ResourceVersion: l.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	class := testcluster.SnapshotClass
	errs := make(chan error, len(pvcs))
	left := map[string]bool{}
	for _, pvc := range pvcs {
		left[pvc+suffix] = true
		go func() {
			_, err := api.VolumeSnapshots(namespace).Create(ctx, &snapshotv1.VolumeSnapshot{
				ObjectMeta: metav1.ObjectMeta{Name: pvc + suffix},
				Spec:       snapshotv1.VolumeSnapshotSpec{Source: snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &pvc}, VolumeSnapshotClassName: &class},
			}, metav1.CreateOptions{})
			errs <- err
		}()
	}
	for range pvcs {
		if err := <-errs; err != nil {
			return err
		}
	}
	for ev := range w.ResultChan() {
		s, ok := ev.Object.(*snapshotv1.VolumeSnapshotContent)
		if !ok || s.Spec.VolumeSnapshotRef.Namespace != namespace || s.Status == nil || s.Status.SnapshotHandle == nil || s.Status.CreationTime == nil {
			continue
		}
		if delete(left, s.Spec.VolumeSnapshotRef.Name); len(left) == 0 {
			return nil
		}
	}
	return fmt.Errorf("not cut: %v (%w)", left, ctx.Err())
}

// BenchmarkCut measures the window of a cut of several volumes, beside the
// least that any program must do for it: pairs in turn, medians.
func BenchmarkCut(b *testing.B) {
	for _, n := range []int{1, 4} {
		b.Run(fmt.Sprintf("volumes=%d", n), func(b *testing.B) {
			c := testcluster.Open(b)
			ns := testcluster.Namespace(b, c)
			var pvcs []string
			for i := range n {
				pvcs = append(pvcs, fmt.Sprintf("data-%d", i))
				claim(b, c, ns, pvcs[i])
			}
			var ours, plains []time.Duration
			for i := range 7 {
				ctx, cancel := context.WithTimeout(b.Context(), testcluster.Wait)
				first := func() {
					env := frozen(ns)
					act, release := bind(ctx, b, c, env, "CutVolumes", map[string]any{"pvcs": pvcs, "groupSnapshotClass": "none"})
					start := time.Now()
					_, err := act(ctx)
					ours = append(ours, time.Since(start))
					require.NoError(b, err)
					release()
				}
				second := func() {
					start := time.Now()
					require.NoError(b, plain(ctx, c, ns, fmt.Sprintf("-p%d", i), pvcs))
					plains = append(plains, time.Since(start))
				}
				if i%2 == 0 {
					first()
					second()
				} else {
					second()
					first()
				}
				cancel()
			}
			a, p := median(ours), median(plains)
			b.ReportMetric(float64(a.Microseconds())/1000, "thaw-ms")
			b.ReportMetric(float64(p.Microseconds())/1000, "plain-ms")
			b.ReportMetric(float64(a)/float64(p), "ratio")
		})
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
