package volume

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
)

const (
	// remindAfter is how long a deletion may take before the driver's sidecar
	// is reminded of it; later reminders are farther apart, up to remindEvery.
	remindAfter = 3 * time.Second
	remindEvery = time.Minute
	// annotationReminded is what reminds it: when that was last.
	annotationReminded = "thaw.dev/reminded"
)

// beingCreated are on contents, of a snapshot and of a group, whose cut the
// driver has not answered yet: their deletion waits for that.
var beingCreated = []string{
	"snapshot.storage.kubernetes.io/volumesnapshot-being-created",
	"groupsnapshot.storage.kubernetes.io/volumegroupsnapshot-being-created",
}

// reminding runs wait, which waits for the deletion of a content, and reminds
// the driver's sidecar of it meanwhile. A content whose deletion was asked for
// while it was being cut is forgotten once it is cut (external-snapshotter 8.7:
// the removal of its own annotation wakes the sidecar no more), until the next
// resync in 15 minutes; any change of its metadata by another wakes it.
func reminding(ctx context.Context, c *cluster.Cluster, resource schema.GroupVersionResource, content string, wait func() error) error {
	own, stop := context.WithCancel(ctx)
	var reminder sync.WaitGroup
	reminder.Go(func() { remind(own, c, resource, content) })
	err := wait()
	stop()
	reminder.Wait()
	return err
}

func remind(ctx context.Context, c *cluster.Cluster, resource schema.GroupVersionResource, content string) {
	api := c.Dynamic.Resource(resource)
	for pause := remindAfter; ; pause = min(2*pause, remindEvery) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		// Failures do not matter: it is tried again, and the deletion goes on
		// without it in the end.
		o, err := api.Get(ctx, content, metav1.GetOptions{})
		if err != nil || o.GetDeletionTimestamp() == nil || creating(o) {
			continue
		}
		patch := merge(map[string]any{"metadata": map[string]any{"annotations": map[string]any{annotationReminded: stamp(time.Now())}}})
		_, _ = api.Patch(ctx, content, types.MergePatchType, patch, metav1.PatchOptions{})
	}
}

func creating(o metav1.Object) bool {
	for _, name := range beingCreated {
		if _, ok := o.GetAnnotations()[name]; ok {
			return true
		}
	}
	return false
}
