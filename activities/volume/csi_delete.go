package volume

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
)

type deleteSnapshotArgs struct {
	Name      string `arg:"name,required" doc:"name of the snapshot"`
	Namespace string `arg:"namespace,required" doc:"its namespace"`
}

// deleteCSISnapshot is Kanister's: what the storage has of the snapshot goes
// or stays by its class's deletion policy. Idempotent.
func deleteCSISnapshot(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "DeleteCSISnapshot", Family: family,
		Summary: "Delete a VolumeSnapshot, and wait until it is gone. One that is gone already is a success. Its class decides whether the storage keeps its data.",
		Outputs: []catalogue.Output{
			{Name: "name", Description: "name of the snapshot"},
			{Name: "namespace", Description: "its namespace"},
			{Name: "snapshotContent", Description: "name of its VolumeSnapshotContent; empty where the snapshot was gone already"},
		},
		Idempotent: true,
		Timeout:    time.Hour,
		Rules:      []catalogue.Rule{snapshotRule("get", "list", "watch", "delete")},
	}, func(_ context.Context, env *function.Env, a deleteSnapshotArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context) (function.Outputs, error) {
			out := function.Outputs{"name": a.Name, "namespace": a.Namespace, "snapshotContent": ""}
			doing := fmt.Sprintf("delete snapshot %s/%s", a.Namespace, a.Name)
			s, err := getSnapshot(ctx, c, env, a.Namespace, a.Name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			if s == nil {
				return out, nil
			}
			out["snapshotContent"] = contentOf(s)
			err = cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
				return c.Snapshots.SnapshotV1().VolumeSnapshots(a.Namespace).Delete(ctx, a.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
			})
			if err != nil && !apierrors.IsNotFound(err) {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			return out, wrap(doing, gone(ctx, c, env, a.Namespace, a.Name, s.UID))
		}, nil, nil
	})
}

type deleteContentArgs struct {
	Name string `arg:"name,required" doc:"name of the content"`
}

// beingDeleted is on a content whose snapshot is deleted: the driver's sidecar
// lets go of no other.
const beingDeleted = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"

// deleteCSISnapshotContent is Kanister's. A content whose snapshot is still
// there goes with it, and is not waited for. Idempotent.
func deleteCSISnapshotContent(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "DeleteCSISnapshotContent", Family: family,
		Summary:    "Delete a VolumeSnapshotContent, and wait until it is gone; one that a VolumeSnapshot is still bound to goes when that is deleted. One that is gone already is a success.",
		Idempotent: true,
		Timeout:    time.Hour,
		Rules:      []catalogue.Rule{contentRule("get", "list", "watch", "delete")},
	}, func(_ context.Context, env *function.Env, a deleteContentArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context) (function.Outputs, error) {
			doing := "delete snapshot content " + a.Name
			content, err := getContent(ctx, c, env, a.Name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			if content == nil {
				return function.Outputs{}, nil
			}
			err = cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
				return c.Snapshots.SnapshotV1().VolumeSnapshotContents().Delete(ctx, a.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &content.UID}})
			})
			if err != nil && !apierrors.IsNotFound(err) {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			ref := content.Spec.VolumeSnapshotRef
			if _, ok := content.Annotations[beingDeleted]; !ok && ref.UID != "" {
				speak(env, "content %s goes when VolumeSnapshot %s/%s is deleted", a.Name, ref.Namespace, ref.Name)
				return function.Outputs{}, nil
			}
			return function.Outputs{}, wrap(doing, goneOf(ctx, c, env, contentResource, "", a.Name, content.UID))
		}, nil, nil
	})
}
