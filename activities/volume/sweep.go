package volume

import (
	"context"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/plan"
)

// sweepEvery is how often snapshots are looked for that belong to nobody.
const sweepEvery = time.Minute

// Sweep deletes snapshots that a run cut whose end nobody could clean after: it
// was terminated, or ran out of time, and so compensated nothing. It looks at
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

func sweep(ctx context.Context, c *cluster.Cluster, log *slog.Logger, owner func(context.Context) (string, error), orphaned func(context.Context, plan.Run) (bool, error)) {
	self, err := owner(ctx)
	if err != nil {
		return // Temporal is away: nobody can say whose anything is
	}
	opts := metav1.ListOptions{LabelSelector: cluster.LabelManaged + "=" + cluster.Managed}
	list, err := c.Snapshots.SnapshotV1().VolumeSnapshots(metav1.NamespaceAll).List(ctx, opts)
	if apierrors.IsForbidden(err) { // a worker of one namespace
		list, err = c.Snapshots.SnapshotV1().VolumeSnapshots(c.Namespace).List(ctx, opts)
	}
	if apierrors.IsNotFound(err) {
		return // a cluster without snapshots
	}
	if err != nil {
		if ctx.Err() == nil {
			log.Warn("snapshots left by terminated runs are not looked for", "error", err)
		}
		return
	}
	known := map[plan.Run]bool{}
	for i := range list.Items {
		s := &list.Items[i]
		run := plan.Run{ID: s.Annotations[cluster.AnnotationRun], Original: s.Annotations[cluster.AnnotationRunID]}
		if run.ID == "" || run.Original == "" || s.Annotations[cluster.AnnotationOwner] != self {
			continue
		}
		gone, asked := known[run]
		if !asked {
			if gone, err = orphaned(ctx, run); err != nil {
				continue
			}
			known[run] = gone
		}
		if !gone {
			continue
		}
		at := s.Namespace + "/" + s.Name
		log.Warn("deleting a snapshot of a run that was terminated", "snapshot", at, "run", run.ID)
		env := &function.Env{Run: run, Log: log, Heartbeat: func(string) {}}
		if err := remove(ctx, c, env, []Volume{{Namespace: s.Namespace, Snapshot: s.Name, Content: contentOf(s)}}); err != nil {
			log.Warn("snapshot not deleted", "snapshot", at, "error", err)
		}
	}
}
