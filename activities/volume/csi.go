package volume

import (
	"context"
	"fmt"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

// snapshotOutputs are what Kanister's functions tell of a snapshot.
var snapshotOutputs = []catalogue.Output{
	{Name: "name", Description: "name of the VolumeSnapshot"},
	{Name: "namespace", Description: "its namespace"},
	{Name: "restoreSize", Description: "size of a volume restored from it"},
	{Name: "snapshotContent", Description: "name of its VolumeSnapshotContent"},
}

type createArgs struct {
	Name          string            `arg:"name" doc:"name of the snapshot (default: made of the claim's name and of the call)"`
	PVC           string            `arg:"pvc,required" doc:"name of the claim"`
	Namespace     string            `arg:"namespace,required" doc:"namespace of the claim"`
	SnapshotClass string            `arg:"snapshotClass,required" doc:"VolumeSnapshotClass"`
	Labels        map[string]string `arg:"labels" doc:"labels of the snapshot"`
}

// createCSISnapshot is Kanister's: it waits until the snapshot is ready, which
// can be long after the cut. In a freeze CutVolumes is the better one.
//
// Idempotent: another attempt takes the snapshot of the first one. A snapshot
// that fails, or is not ready in time, is deleted again.
func createCSISnapshot(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "CreateCSISnapshot", Family: family,
		Summary:    "Snapshot one claim, and wait until the snapshot is ready to use. In a freeze use CutVolumes, which returns at the cut.",
		Outputs:    append([]catalogue.Output{{Name: "pvc", Description: "name of the claim"}}, snapshotOutputs...),
		Cut:        true,
		Idempotent: true,
		Timeout:    time.Hour,
		Rules: []catalogue.Rule{
			claimRule("get"),
			volumeRule("get"),
			{Group: snapshotv1.GroupName, Resources: []string{"volumesnapshotclasses"}, Verbs: []string{"list"}, Cluster: true},
			snapshotRule("get", "list", "watch", "create", "delete"),
			contentRule("get", "list", "watch", "patch", "delete"),
		},
	}, func(ctx context.Context, env *function.Env, a createArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		doing := fmt.Sprintf("snapshot pvc %s/%s", a.Namespace, a.PVC)
		t, err := prepareOne(ctx, c, env, a)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", doing, err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			if err := t.run(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			v := []Volume{t.parts[0].Volume}
			if err := ready(ctx, c, env, v); err != nil {
				return nil, fmt.Errorf("%s: %w", doing, t.undo(ctx, err))
			}
			out := outputsOf(v[0])
			out["pvc"] = a.PVC
			return out, nil
		}, t.release, nil
	})
}

// prepareOne is the cut of one claim, by one class.
func prepareOne(ctx context.Context, c *cluster.Cluster, env *function.Env, a createArgs) (*cut, error) {
	found, faults, err := claims(ctx, c, env, wanted{namespace: a.Namespace, names: []string{a.PVC}})
	if err != nil {
		return nil, err
	}
	if err := whole("look it up", faults); err != nil {
		return nil, err
	}
	p, why, err := prepare(ctx, c, env, &found[0])
	if err != nil {
		return nil, err
	}
	if why != "" {
		return nil, fault.New(fault.User, "%s", why)
	}
	classes, err := snapshotClasses(ctx, c, env)
	if err != nil {
		return nil, err
	}
	if p.class, err = choose(classes, a.SnapshotClass, p.Driver, "VolumeSnapshotClass", "snapshotClass"); err != nil {
		return nil, fault.New(fault.User, "%w", err)
	}
	p.SnapshotClass, p.Snapshot = p.class.name, a.Name
	if p.Snapshot == "" {
		p.Snapshot = named(a.PVC+"-snapshot", env.Key)
	}
	t := &cut{c: c, env: env, namespace: a.Namespace, labels: a.Labels, parts: []*part{p}}
	return t, t.listen(ctx)
}

func outputsOf(v Volume) function.Outputs {
	size := v.RestoreSize
	if size == "" {
		size = v.Size // the driver does not say; a volume of the same size holds it
	}
	return function.Outputs{"name": v.Snapshot, "namespace": v.Namespace, "restoreSize": size, "snapshotContent": v.Content}
}

type staticArgs struct {
	Name           string `arg:"name,required" doc:"name of the snapshot"`
	Namespace      string `arg:"namespace,required" doc:"namespace of the snapshot"`
	Driver         string `arg:"driver,required" doc:"CSI driver"`
	SnapshotHandle string `arg:"snapshotHandle,required" alias:"handle" doc:"the storage's name of the snapshot"`
	SnapshotClass  string `arg:"snapshotClass,required" doc:"VolumeSnapshotClass; the snapshot takes its deletion policy"`
}

// createCSISnapshotStatic makes the objects of a snapshot that the storage
// has. Where that fails they are deleted again, and the storage keeps what it
// had before. Idempotent: its objects have names of their own.
func createCSISnapshotStatic(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "CreateCSISnapshotStatic", Family: family,
		Summary:    "Make a VolumeSnapshot of a snapshot that the storage already has, and wait until it is ready to use.",
		Outputs:    snapshotOutputs,
		Idempotent: true,
		Timeout:    10 * time.Minute,
		Rules: []catalogue.Rule{
			{Group: snapshotv1.GroupName, Resources: []string{"volumesnapshotclasses"}, Verbs: []string{"list"}, Cluster: true},
			snapshotRule("get", "list", "watch", "create", "delete"),
			contentRule("get", "list", "watch", "create", "patch", "delete"),
		},
	}, func(ctx context.Context, env *function.Env, a staticArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		doing := fmt.Sprintf("snapshot %s/%s of %s", a.Namespace, a.Name, a.SnapshotHandle)
		classes, err := snapshotClasses(ctx, c, env)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", doing, err)
		}
		k, err := choose(classes, a.SnapshotClass, a.Driver, "VolumeSnapshotClass", "snapshotClass")
		if err != nil {
			return nil, nil, fault.New(fault.User, "%s: %w", doing, err)
		}
		policy := snapshotv1.VolumeSnapshotContentDelete
		if k.retain {
			policy = snapshotv1.VolumeSnapshotContentRetain
		}
		return func(ctx context.Context) (function.Outputs, error) {
			v := Volume{Namespace: a.Namespace, Snapshot: a.Name, Content: named(a.Name+"-content", env.Key), Handle: a.SnapshotHandle, Driver: a.Driver, SnapshotClass: k.name}
			err := v.adopt(ctx, c, env, policy)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			return outputsOf(v), nil
		}, nil, nil
	})
}

// adopt makes the two objects of a snapshot that the storage has, and waits
// until it is ready. Where that fails, they are deleted again.
func (v *Volume) adopt(ctx context.Context, c *cluster.Cluster, env *function.Env, policy snapshotv1.DeletionPolicy) error {
	if err := v.makeStatic(ctx, c, env, policy); err != nil {
		return v.forget(ctx, c, env, err)
	}
	one := []Volume{*v}
	if err := ready(ctx, c, env, one); err != nil {
		return v.forget(ctx, c, env, err)
	}
	*v = one[0]
	return nil
}

func (v *Volume) makeStatic(ctx context.Context, c *cluster.Cluster, env *function.Env, policy snapshotv1.DeletionPolicy) error {
	content := &snapshotv1.VolumeSnapshotContent{
		ObjectMeta: metav1.ObjectMeta{Name: v.Content},
		Spec: snapshotv1.VolumeSnapshotContentSpec{
			VolumeSnapshotRef: corev1.ObjectReference{APIVersion: snapshotv1.SchemeGroupVersion.String(), Kind: "VolumeSnapshot", Namespace: v.Namespace, Name: v.Snapshot},
			DeletionPolicy:    policy,
			Driver:            v.Driver,
			Source:            snapshotv1.VolumeSnapshotContentSource{SnapshotHandle: &v.Handle},
		},
	}
	if v.SnapshotClass != "" && v.Group == "" {
		content.Spec.VolumeSnapshotClassName = &v.SnapshotClass
	}
	if v.VolumeMode != "" {
		mode := corev1.PersistentVolumeMode(v.VolumeMode)
		content.Spec.SourceVolumeMode = &mode
	}
	if v.temporary {
		content.Labels = map[string]string{labelTemporary: "true"}
	}
	mark(content, env)
	api := c.Snapshots.SnapshotV1().VolumeSnapshotContents()
	err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
		_, err := api.Create(ctx, content, metav1.CreateOptions{})
		return err
	})
	if apierrors.IsAlreadyExists(err) {
		had, err := getContent(ctx, c, env, v.Content)
		if err != nil {
			return err
		}
		if had == nil || !cluster.MadeBy(had, env.Key) {
			return fault.New(fault.Permanent, "VolumeSnapshotContent %s exists, and another call made it", v.Content)
		}
	} else if err != nil {
		return err
	}
	s := &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: v.Snapshot, Namespace: v.Namespace},
		Spec: snapshotv1.VolumeSnapshotSpec{
			Source:                  snapshotv1.VolumeSnapshotSource{VolumeSnapshotContentName: &v.Content},
			VolumeSnapshotClassName: content.Spec.VolumeSnapshotClassName,
		},
	}
	if v.temporary {
		s.Labels = map[string]string{labelTemporary: "true"}
	}
	mark(s, env)
	_, err = ensure(ctx, c, env, s)
	return err
}

// forget deletes the objects of an import that failed, and keeps what the
// storage has. It returns the error that it was given, with what is left.
func (v *Volume) forget(ctx context.Context, c *cluster.Cluster, env *function.Env, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	content, err := getContent(ctx, c, env, v.Content)
	if err == nil && content != nil && cluster.MadeBy(content, env.Key) && content.Spec.DeletionPolicy != snapshotv1.VolumeSnapshotContentRetain {
		patch := merge(map[string]any{"spec": map[string]any{"deletionPolicy": snapshotv1.VolumeSnapshotContentRetain}})
		err = cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
			_, err := c.Snapshots.SnapshotV1().VolumeSnapshotContents().Patch(ctx, v.Content, types.MergePatchType, patch, metav1.PatchOptions{})
			return err
		})
	}
	if err == nil {
		err = v.dropStatic(ctx, c, env)
	}
	if err != nil {
		return fmt.Errorf("%w; not gone yet: VolumeSnapshot %s and VolumeSnapshotContent %s (%w)", why, v.snapshot(), v.Content, err)
	}
	return why
}

// dropStatic deletes the two objects of an import that this call made. Both are
// asked to go before either is waited for: a claim that was being made of the
// snapshot may hold it for minutes, and nobody asks later.
func (v *Volume) dropStatic(ctx context.Context, c *cluster.Cluster, env *function.Env) error {
	mine := func(o metav1.Object) bool { return cluster.MadeBy(o, env.Key) }
	uid, err := dismiss(ctx, c, env, v.Namespace, v.Snapshot, mine)
	if err != nil {
		return err
	}
	content, err := getContent(ctx, c, env, v.Content)
	if err != nil {
		return err
	}
	if content != nil && mine(content) {
		err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
			return c.Snapshots.SnapshotV1().VolumeSnapshotContents().Delete(ctx, content.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &content.UID}})
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	if uid != "" {
		if err := gone(ctx, c, env, v.Namespace, v.Snapshot, uid); err != nil {
			return err
		}
	}
	if content == nil || !mine(content) {
		return nil
	}
	if content, err = getContent(ctx, c, env, v.Content); err != nil || content == nil {
		return err
	}
	return endContent(ctx, c, env, content)
}
