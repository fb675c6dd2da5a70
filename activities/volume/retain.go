package volume

import (
	"context"
	"fmt"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/function"
)

// retain lets what the storage has outlive the VolumeSnapshots, which go with
// their namespace: a backup that is lost together with what it is a backup of
// is none. DeleteSnapshots deletes it all the same.
func retain(ctx context.Context, c *cluster.Cluster, env *function.Env, volumes []Volume) error {
	patch := merge(map[string]any{"spec": map[string]any{"deletionPolicy": snapshotv1.VolumeSnapshotContentRetain}})
	groups := map[types.NamespacedName]bool{}
	for _, v := range volumes {
		if v.Group != "" {
			groups[types.NamespacedName{Namespace: v.Namespace, Name: v.Group}] = true
		}
		err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
			_, err := c.Snapshots.SnapshotV1().VolumeSnapshotContents().Patch(ctx, v.Content, types.MergePatchType, patch, metav1.PatchOptions{})
			return err
		})
		if err != nil {
			return fmt.Errorf("retain VolumeSnapshotContent %s: %w", v.Content, err)
		}
	}
	for at := range groups {
		if err := retainGroup(ctx, c, env, at, patch); err != nil {
			return fmt.Errorf("retain VolumeGroupSnapshot %s: %w", at, err)
		}
	}
	return nil
}

func retainGroup(ctx context.Context, c *cluster.Cluster, env *function.Env, at types.NamespacedName, patch []byte) error {
	g, err := openGroups(ctx, c, env)
	if err != nil || g == nil {
		return err
	}
	o, err := get(ctx, env, func(ctx context.Context) (*unstructured.Unstructured, error) {
		return c.Dynamic.Resource(g.resource("volumegroupsnapshots")).Namespace(at.Namespace).Get(ctx, at.Name, metav1.GetOptions{})
	})
	if err != nil {
		return err
	}
	err = cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
		_, err := c.Dynamic.Resource(g.resource("volumegroupsnapshotcontents")).Patch(ctx, groupContentOf(o), types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
