package volume

import (
	"context"
	"log/slog"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/plan"
)

// sweepEvery is how often snapshots are looked for that belong to nobody.
const sweepEvery = time.Minute

// Sweep deletes snapshots that a run cut, and claims that it read, whose end
// nobody could clean after: it was terminated, or ran out of time, and so
// compensated nothing. It looks at
// once, and then from time to time, until the context ends. owner names the
// worker's Temporal; orphaned says whether nothing of a run can need what it made.
func Sweep(ctx context.Context, c *cluster.Cluster, log *slog.Logger, owner func(context.Context) (string, error), orphaned func(ctx context.Context, run plan.Run) (bool, error)) {
	for {
		sweep(ctx, c, log, owner, orphaned)
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepEvery):
		}
	}
}

// sweeping is one look.
type sweeping struct {
	c        *cluster.Cluster
	log      *slog.Logger
	self     string // the worker's Temporal
	orphaned func(ctx context.Context, run plan.Run) (bool, error)
	known    map[plan.Run]bool
}

func sweep(ctx context.Context, c *cluster.Cluster, log *slog.Logger, owner func(context.Context) (string, error), orphaned func(context.Context, plan.Run) (bool, error)) {
	self, err := owner(ctx)
	if err != nil {
		return // Temporal is away: nobody can say whose anything is
	}
	s := &sweeping{c: c, log: log, self: self, orphaned: orphaned, known: map[plan.Run]bool{}}
	managed := cluster.LabelManaged + "=" + cluster.Managed
	snapshots, err := everywhere(ctx, c, metav1.ListOptions{LabelSelector: managed}, func(ctx context.Context, namespace string, o metav1.ListOptions) (*snapshotv1.VolumeSnapshotList, error) {
		return c.Snapshots.SnapshotV1().VolumeSnapshots(namespace).List(ctx, o)
	})
	if err == nil {
		for i := range snapshots.Items {
			s.snapshot(ctx, &snapshots.Items[i])
		}
	} else if ctx.Err() == nil && !apierrors.IsNotFound(err) { // that of a cluster without snapshots
		log.Warn("snapshots left by terminated runs are not looked for", "error", err)
	}
	// Those of exports: what a restore made may be in use.
	claims, err := everywhere(ctx, c, metav1.ListOptions{LabelSelector: managed + "," + labelTemporary}, func(ctx context.Context, namespace string, o metav1.ListOptions) (*corev1.PersistentVolumeClaimList, error) {
		return c.Kube.CoreV1().PersistentVolumeClaims(namespace).List(ctx, o)
	})
	if err == nil {
		for i := range claims.Items {
			s.claim(ctx, &claims.Items[i])
		}
	} else if ctx.Err() == nil {
		log.Warn("claims left by terminated runs are not looked for", "error", err)
	}
}

// everywhere lists in all namespaces, or where that is forbidden in the
// worker's own.
func everywhere[T any](ctx context.Context, c *cluster.Cluster, o metav1.ListOptions, list func(ctx context.Context, namespace string, o metav1.ListOptions) (T, error)) (T, error) {
	all, err := list(ctx, metav1.NamespaceAll, o)
	if apierrors.IsForbidden(err) {
		return list(ctx, c.Namespace, o)
	}
	return all, err
}

// abandoned reports whether a run of this worker's Temporal made an object, and
// nothing of that run can need it any more.
func (s *sweeping) abandoned(ctx context.Context, o metav1.Object) bool {
	a := o.GetAnnotations()
	run := plan.Run{ID: a[cluster.AnnotationRun], Original: a[cluster.AnnotationRunID]}
	if run.ID == "" || run.Original == "" || a[cluster.AnnotationOwner] != s.self {
		return false
	}
	gone, asked := s.known[run]
	if !asked {
		var err error
		if gone, err = s.orphaned(ctx, run); err != nil {
			return false
		}
		s.known[run] = gone
	}
	return gone
}

func (s *sweeping) snapshot(ctx context.Context, o *snapshotv1.VolumeSnapshot) {
	if !s.abandoned(ctx, o) {
		return
	}
	at, run := o.Namespace+"/"+o.Name, plan.Run{ID: o.Annotations[cluster.AnnotationRun], Original: o.Annotations[cluster.AnnotationRunID]}
	s.log.Warn("deleting a snapshot of a run that was terminated", "snapshot", at, "run", run.ID)
	env := &function.Env{Run: run, Log: s.log, Heartbeat: func(string) {}}
	if err := remove(ctx, s.c, env, []Volume{{Namespace: o.Namespace, Snapshot: o.Name, Content: contentOf(o)}}); err != nil {
		s.log.Warn("snapshot not deleted", "snapshot", at, "error", err)
	}
}

// claim asks for the deletion: the pod that reads it is swept by itself.
func (s *sweeping) claim(ctx context.Context, o *corev1.PersistentVolumeClaim) {
	if o.DeletionTimestamp != nil || !s.abandoned(ctx, o) {
		return
	}
	at := o.Namespace + "/" + o.Name
	s.log.Warn("deleting a claim that a terminated run made for an export", "claim", at, "run", o.Annotations[cluster.AnnotationRun])
	err := s.c.Kube.CoreV1().PersistentVolumeClaims(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &o.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		s.log.Warn("claim not deleted", "claim", at, "error", err)
	}
}
