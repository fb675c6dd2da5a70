package volume

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type deleteArgs struct {
	Volumes   any    `arg:"volumes" type:"object" doc:"what CutVolumes or WaitSnapshotsReady put out; also the output temporary of RestoreVolumes (default: all snapshots that this very run made in the namespace, as a compensation needs that knows no outputs)"`
	Namespace string `arg:"namespace" doc:"where the default looks (default: the target's)"`
}

// deleteSnapshots deletes what a cut made, in the cluster and in the storage:
// whatever the class says of retaining, a backup that is deleted is gone.
// Without volumes it is the compensation of a cut that told nobody of them.
//
// Idempotent: what is gone already is a success.
func deleteSnapshots(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "DeleteSnapshots", Family: family,
		Summary:    "Delete the snapshots of a cut, in the storage too (even where their class retains them), and wait until they are gone. Those that are gone already are a success.",
		Idempotent: true,
		Timeout:    time.Hour,
		Rules: []catalogue.Rule{
			snapshotRule("get", "list", "watch", "delete"),
			contentRule("get", "list", "watch", "patch", "delete"),
			{Group: groupName, Resources: []string{"volumegroupsnapshots"}, Verbs: []string{"get", "list", "watch", "delete"}},
			{Group: groupName, Resources: []string{"volumegroupsnapshotcontents"}, Verbs: []string{"get", "list", "watch", "patch", "delete"}, Cluster: true},
		},
	}, func(ctx context.Context, env *function.Env, a deleteArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		volumes, err := decode[Volume]("volumes", a.Volumes)
		if err != nil {
			return nil, nil, fmt.Errorf("delete snapshots: %w", err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			var err error
			if len(volumes) == 0 {
				volumes, err = madeByRun(ctx, c, env, a.Namespace)
			}
			if err == nil {
				err = remove(ctx, c, env, volumes)
			}
			return function.Outputs{}, wrap("delete snapshots", err)
		}, nil, nil
	})
}

// madeByRun finds the snapshots that this run made, by their marks: a worker
// that died while it cut could tell nobody of them.
func madeByRun(ctx context.Context, c *cluster.Cluster, env *function.Env, namespace string) (volumes []Volume, err error) {
	if namespace, err = namespaceOf(namespace, env.Target); err != nil {
		return nil, nil //nolint:nilerr // a run without a namespace has cut nothing either
	}
	list, err := get(ctx, env, func(ctx context.Context) (*snapshotv1.VolumeSnapshotList, error) {
		return c.Snapshots.SnapshotV1().VolumeSnapshots(namespace).List(ctx, metav1.ListOptions{})
	})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		if s := &list.Items[i]; ofRun(s, env) {
			volumes = append(volumes, Volume{Namespace: namespace, Snapshot: s.Name, Content: contentOf(s)})
		}
	}
	groups, err := groupsOfRun(ctx, c, env, namespace)
	return append(volumes, groups...), err
}

// remove deletes snapshots: all of them are asked to go before any is waited
// for.
func remove(ctx context.Context, c *cluster.Cluster, env *function.Env, volumes []Volume) error {
	var errs []error
	groups := map[types.NamespacedName]bool{}
	var rest []Volume
	for _, v := range volumes {
		if at := (types.NamespacedName{Namespace: v.Namespace, Name: v.Group}); v.Group != "" {
			groups[at] = true
			continue
		}
		if v.Snapshot == "" || v.Namespace == "" {
			errs = append(errs, fault.New(fault.User, "volume %s: it has no snapshot and namespace", v.claim()))
			continue
		}
		rest = append(rest, v)
	}
	for at := range groups {
		if err := removeGroup(ctx, c, env, at); err != nil {
			errs = append(errs, fmt.Errorf("VolumeGroupSnapshot %s: %w", at, err))
		}
	}
	asked := make([]bool, len(rest))
	for i, v := range rest {
		err := v.ask(ctx, c, env)
		if err != nil {
			errs = append(errs, fmt.Errorf("VolumeSnapshot %s: %w", v.snapshot(), err))
		}
		asked[i] = err == nil
	}
	for i, v := range rest {
		if !asked[i] {
			continue
		}
		err := reminding(ctx, c, contentResource, v.Content, func() error { return gone(ctx, c, env, v.Namespace, v.Snapshot, "") })
		if err == nil {
			err = v.dropContent(ctx, c, env)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return together(errs)
}

// ask asks for the deletion of a snapshot, if it is still the one that is meant.
func (v *Volume) ask(ctx context.Context, c *cluster.Cluster, env *function.Env) error {
	s, err := getSnapshot(ctx, c, env, v.Namespace, v.Snapshot)
	if err != nil || s == nil {
		return err
	}
	if v.Content == "" {
		v.Content = contentOf(s)
	}
	content, err := getContent(ctx, c, env, v.Content)
	if err != nil {
		return err
	}
	if content != nil && content.Status != nil && v.Handle != "" && deref(content.Status.SnapshotHandle) != "" && *content.Status.SnapshotHandle != v.Handle {
		return fault.New(fault.Permanent, "it is not the snapshot that was cut: the storage calls it %s, and that was %s; delete it by hand if it is not needed", *content.Status.SnapshotHandle, v.Handle)
	}
	_, err = dismiss(ctx, c, env, v.Namespace, v.Snapshot, nil)
	return err
}

// dropContent deletes the content that outlived its snapshot, since it was
// retained, or made by hand (CreateCSISnapshotStatic, RestoreVolumes): then
// the storage keeps what it has, if the content says so.
func (v *Volume) dropContent(ctx context.Context, c *cluster.Cluster, env *function.Env) error {
	content, err := getContent(ctx, c, env, v.Content)
	if err != nil || content == nil {
		return err
	}
	if ref := content.Spec.VolumeSnapshotRef; ref.Namespace != v.Namespace || ref.Name != v.Snapshot {
		return nil
	}
	return endContent(ctx, c, env, content)
}

// vanish waits until a snapshot is gone, and makes sure that its content goes
// too: the controllers let one go its own way, where the snapshot is deleted
// before its status names the content, and it would be cut all the same.
func vanish(ctx context.Context, c *cluster.Cluster, env *function.Env, namespace, name string, uid types.UID) error {
	own := "snapcontent-" + string(uid)
	if err := reminding(ctx, c, contentResource, own, func() error { return gone(ctx, c, env, namespace, name, uid) }); err != nil {
		return err
	}
	content, err := getContent(ctx, c, env, own)
	if err != nil || content == nil {
		return err
	}
	return endContent(ctx, c, env, content)
}

// endContent deletes the content of a snapshot that is gone. The driver's
// sidecar lets go of it only where it is told that the snapshot is deleted.
func endContent(ctx context.Context, c *cluster.Cluster, env *function.Env, content *snapshotv1.VolumeSnapshotContent) error {
	api := c.Snapshots.SnapshotV1().VolumeSnapshotContents()
	patch := map[string]any{"metadata": map[string]any{"annotations": map[string]any{beingDeleted: "yes"}}}
	if content.Spec.Source.VolumeHandle != nil { // taken for it; else the storage had it before
		patch["spec"] = map[string]any{"deletionPolicy": snapshotv1.VolumeSnapshotContentDelete}
	}
	err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
		if _, err := api.Patch(ctx, content.Name, types.MergePatchType, merge(patch), metav1.PatchOptions{}); err != nil {
			return err
		}
		return api.Delete(ctx, content.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &content.UID}})
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("VolumeSnapshotContent %s: %w", content.Name, err)
	}
	return reminding(ctx, c, contentResource, content.Name, func() error { return goneOf(ctx, c, env, contentResource, "", content.Name, content.UID) })
}

// dismiss asks for the deletion of a snapshot, and of what the storage has of
// it though its class retains it. mine, where not nil, says whether it is the
// caller's. It returns the snapshot's identity; "" where there is none to
// delete, which is a success.
func dismiss(ctx context.Context, c *cluster.Cluster, env *function.Env, namespace, name string, mine func(metav1.Object) bool) (types.UID, error) {
	s, err := getSnapshot(ctx, c, env, namespace, name)
	if err != nil || s == nil || (mine != nil && !mine(s)) {
		return "", err
	}
	content, err := getContent(ctx, c, env, contentOf(s))
	if err != nil {
		return "", err
	}
	if content != nil {
		if err := unretain(ctx, c, env, content); err != nil {
			return "", err
		}
	}
	err = cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
		return c.Snapshots.SnapshotV1().VolumeSnapshots(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or another took its place
		return "", nil
	}
	return s.UID, err
}

// unretain lets the storage delete a snapshot that was taken for its content.
// One that the storage had before is not ours to delete.
func unretain(ctx context.Context, c *cluster.Cluster, env *function.Env, content *snapshotv1.VolumeSnapshotContent) error {
	if content.Spec.Source.VolumeHandle == nil || content.Spec.DeletionPolicy != snapshotv1.VolumeSnapshotContentRetain {
		return nil
	}
	patch := merge(map[string]any{"spec": map[string]any{"deletionPolicy": snapshotv1.VolumeSnapshotContentDelete}})
	err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
		_, err := c.Snapshots.SnapshotV1().VolumeSnapshotContents().Patch(ctx, content.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// contentOf names the content of a snapshot. The controller's name for it is
// fixed, and known before the snapshot's status says it.
func contentOf(s *snapshotv1.VolumeSnapshot) string {
	if s.Status != nil && deref(s.Status.BoundVolumeSnapshotContentName) != "" {
		return *s.Status.BoundVolumeSnapshotContentName
	}
	if s.Spec.Source.VolumeSnapshotContentName != nil {
		return *s.Spec.Source.VolumeSnapshotContentName
	}
	return "snapcontent-" + string(s.UID)
}

// getSnapshot returns nil where there is none.
func getSnapshot(ctx context.Context, c *cluster.Cluster, env *function.Env, namespace, name string) (*snapshotv1.VolumeSnapshot, error) {
	s, err := get(ctx, env, func(ctx context.Context) (*snapshotv1.VolumeSnapshot, error) {
		return c.Snapshots.SnapshotV1().VolumeSnapshots(namespace).Get(ctx, name, metav1.GetOptions{})
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return s, err
}

// getContent returns nil where there is none.
func getContent(ctx context.Context, c *cluster.Cluster, env *function.Env, name string) (*snapshotv1.VolumeSnapshotContent, error) {
	if name == "" {
		return nil, nil
	}
	s, err := get(ctx, env, func(ctx context.Context) (*snapshotv1.VolumeSnapshotContent, error) {
		return c.Snapshots.SnapshotV1().VolumeSnapshotContents().Get(ctx, name, metav1.GetOptions{})
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return s, err
}

// gone waits until a snapshot is no more. uid, where not empty, is that of the
// one that was deleted: another of its name may be there by now.
func gone(ctx context.Context, c *cluster.Cluster, env *function.Env, namespace, name string, uid types.UID) error {
	return goneOf(ctx, c, env, snapshotResource, namespace, name, uid)
}

func goneOf(ctx context.Context, c *cluster.Cluster, env *function.Env, resource schema.GroupVersionResource, namespace, name string, uid types.UID) error {
	at := name
	if namespace != "" {
		at = namespace + "/" + name
	}
	return cluster.Until(ctx, c, cluster.Watched{Resource: resource, Namespace: namespace, Name: name, Note: env.Heartbeat}, func(items []unstructured.Unstructured) (string, error) {
		for _, o := range items {
			if uid == "" || o.GetUID() == uid {
				return fmt.Sprintf("%s %s is still there, held by %v", o.GetKind(), at, o.GetFinalizers()), nil
			}
		}
		return "", nil
	})
}

// merge writes a merge patch.
func merge(m map[string]any) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("patch of package volume: %v", err)) // strings and maps: a bug
	}
	return b
}

// wrap says what was being done, where there is an error.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
