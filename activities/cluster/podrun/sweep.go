package podrun

import (
	"context"
	"log/slog"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/blueprints/plan"
)

// sweepEvery is how often pods are looked for that nobody will take.
const sweepEvery = time.Minute

// Sweep deletes pods whose activity is over: their worker died between taking
// the result and taking the pod away. It looks at once, and then from time to
// time, until the context ends. pending says whether an activity is not over.
func Sweep(ctx context.Context, c *cluster.Cluster, log *slog.Logger, owner func(context.Context) (string, error), pending func(ctx context.Context, run plan.Run, activity string) (bool, error)) {
	for {
		sweep(ctx, c, log, owner, pending)
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepEvery):
		}
	}
}

func sweep(ctx context.Context, c *cluster.Cluster, log *slog.Logger, owner func(context.Context) (string, error), pending func(context.Context, plan.Run, string) (bool, error)) {
	self, err := owner(ctx)
	if err != nil {
		return // Temporal is away: nobody can say whose anything is
	}
	namespace := metav1.NamespaceAll
	opts := metav1.ListOptions{LabelSelector: cluster.LabelManaged + "=" + cluster.Managed}
	list, err := c.Kube.CoreV1().Pods(namespace).List(ctx, opts)
	if apierrors.IsForbidden(err) { // a worker of one namespace
		list, err = c.Kube.CoreV1().Pods(c.Namespace).List(ctx, opts)
	}
	if err != nil {
		if ctx.Err() == nil {
			log.Warn("pods left by dead workers are not looked for", "error", err)
		}
		return
	}
	for i := range list.Items {
		pod := &list.Items[i]
		runID, activity, ok := strings.Cut(pod.Annotations[AnnotationActivity], "/")
		run := plan.Run{ID: pod.Annotations[cluster.AnnotationRun], RunID: runID}
		if run.ID == "" || !ok || pod.Annotations[cluster.AnnotationOwner] != self {
			continue
		}
		open, err := pending(ctx, run, activity)
		if err != nil || open {
			continue
		}
		log.Info("deleting a pod whose run has its result", "pod", pod.Namespace+"/"+pod.Name, "run", run.ID)
		if err := remove(ctx, c, pod.Namespace, pod.Name, pod.UID); err != nil {
			log.Warn("pod not deleted", "pod", pod.Namespace+"/"+pod.Name, "error", err)
		}
	}
}
