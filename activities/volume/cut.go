package volume

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
)

// defaultClass marks the class of a driver that is taken where none is named.
const defaultClass = "snapshot.storage.kubernetes.io/is-default-class"

type cutArgs struct {
	Namespace     string            `arg:"namespace" doc:"namespace of the claims (default: the target's)"`
	PVCs          []string          `arg:"pvcs" doc:"names of the claims (default: all that the target has; of a Namespace, all that are bound)"`
	Selector      string            `arg:"selector" doc:"labels of the claims, in place of pvcs: app=shop,tier!=cache"`
	SnapshotClass string            `arg:"snapshotClass" doc:"VolumeSnapshotClass (default: that of the volume's driver that is annotated as default, or its only one)"`
	GroupClass    string            `arg:"groupSnapshotClass" doc:"VolumeGroupSnapshotClass, for one snapshot of all volumes at one instant (default: the driver's, where it has one and all of several volumes are of it); none: a snapshot for each"`
	Labels        map[string]string `arg:"labels" doc:"labels of the snapshots"`
}

// noGroup turns group snapshots off.
const noGroup = "none"

// cutVolumes is the cut, of all volumes at once. Everything is looked up and
// the watches are opened before; inside the window the snapshots are created
// in parallel, and the first moment at which the driver has cut all of them
// ends it. That they are not ready to use then is as it should be.
//
// Idempotent: names derive from the call's key, which is of one freeze, so
// that another attempt finds the snapshots of the first one. Where one volume
// cannot be cut, the snapshots of the others are deleted again.
func cutVolumes(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "CutVolumes", Family: family,
		Summary: "Snapshot all volumes of the target at once, and return at the cut: the data is captured then, though the snapshots may not be ready to use for a long time. Run it in a freeze, and WaitSnapshotsReady after it.",
		Outputs: []catalogue.Output{
			{Name: "volumes", Description: "list of what was cut: pvc, namespace, snapshot, content, handle, driver, snapshotClass, storageClass, size, accessModes, volumeMode, labels, cutAt; for WaitSnapshotsReady, RestoreVolumes, DeleteSnapshots"},
			{Name: "cutFrom", Description: "when the first volume was cut, by the clock of the storage"},
			{Name: "cutTo", Description: "when the last one was"},
			{Name: "spread", Description: "how far apart that is"},
		},
		Cut:        true,
		Idempotent: true,
		Timeout:    10 * time.Minute,
		Rules: []catalogue.Rule{
			claimRule("get", "list", "patch"),
			volumeRule("get"),
			podRule("get"),
			{Group: "apps", Resources: []string{"statefulsets", "deployments"}, Verbs: []string{"get"}},
			{Group: snapshotv1.GroupName, Resources: []string{"volumesnapshotclasses"}, Verbs: []string{"list"}, Cluster: true},
			snapshotRule("get", "list", "watch", "create", "delete"),
			contentRule("get", "list", "watch", "patch", "delete"),
			{Group: groupName, Resources: []string{"volumegroupsnapshotclasses"}, Verbs: []string{"list"}, Cluster: true},
			{Group: groupName, Resources: []string{"volumegroupsnapshots"}, Verbs: []string{"get", "list", "watch", "create", "delete"}},
			{Group: groupName, Resources: []string{"volumegroupsnapshotcontents"}, Verbs: []string{"get", "list", "watch", "patch", "delete"}, Cluster: true},
		},
	}, func(ctx context.Context, env *function.Env, a cutArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		doing := "cut volumes"
		cut, err := prepareCut(ctx, c, env, a)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", doing, err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			if err := cut.run(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			return cutOutputs(cut.parts), nil
		}, cut.release, nil
	})
}

// part is one volume of a cut.
type part struct {
	Volume
	volumeHandle string
	class        class
	uid          string // of the snapshot, once it is made
	cut          time.Time
	last         string // what its status said went wrong last
}

// prepareCut looks up what is to be cut and how, and says everything that
// stands against it in one error.
func prepareCut(ctx context.Context, c *cluster.Cluster, env *function.Env, a cutArgs) (*cut, error) {
	namespace, err := namespaceOf(a.Namespace, env.Target)
	if err != nil {
		return nil, err
	}
	found, faults, err := claims(ctx, c, env, wanted{namespace: namespace, names: a.PVCs, selector: a.Selector, target: env.Target})
	if err != nil {
		return nil, err
	}
	classes, err := snapshotClasses(ctx, c, env)
	if err != nil {
		return nil, err
	}
	var parts []*part
	for i := range found {
		p, why, err := prepare(ctx, c, env, &found[i])
		if err != nil {
			return nil, err
		}
		if why != "" {
			faults = append(faults, fmt.Sprintf("pvc %s/%s: %s", namespace, found[i].Name, why))
			continue
		}
		p.Snapshot = named(p.PVC, env.Key)
		parts = append(parts, p)
	}
	cut := &cut{c: c, env: env, namespace: namespace, labels: a.Labels, parts: parts}
	if a.GroupClass != noGroup && len(faults) == 0 {
		if cut.group, err = prepareGroup(ctx, c, env, a.GroupClass, parts); err != nil {
			return nil, err
		}
	}
	if cut.group == nil {
		for _, p := range parts {
			if p.class, err = choose(classes, a.SnapshotClass, p.Driver, "VolumeSnapshotClass", "snapshotClass"); err != nil {
				faults = append(faults, fmt.Sprintf("pvc %s/%s: %v", namespace, p.PVC, err))
			}
			p.SnapshotClass = p.class.name
		}
	}
	if err := whole(env.Target.Key(), faults); err != nil {
		return nil, err
	}
	return cut, cut.listen(ctx)
}

// prepare looks up one volume. why is what stands against a snapshot of it.
func prepare(ctx context.Context, c *cluster.Cluster, env *function.Env, pvc *corev1.PersistentVolumeClaim) (p *part, why string, err error) {
	switch {
	case pvc.Status.Phase == corev1.ClaimLost:
		return nil, fmt.Sprintf("its volume %s is lost", pvc.Spec.VolumeName), nil
	case pvc.Status.Phase != corev1.ClaimBound || pvc.Spec.VolumeName == "":
		return nil, "not bound to a volume", nil
	case pvc.DeletionTimestamp != nil:
		return nil, "is being deleted", nil
	}
	pv, err := get(ctx, env, func(ctx context.Context) (*corev1.PersistentVolume, error) {
		return c.Kube.CoreV1().PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, metav1.GetOptions{})
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Sprintf("its volume %s is not found", pvc.Spec.VolumeName), nil
	case err != nil:
		return nil, "", err
	case pv.Spec.CSI == nil:
		return nil, fmt.Sprintf("its volume %s is not of a CSI driver, so it has no snapshots; copy its data in place of a snapshot", pv.Name), nil
	}
	size := pvc.Status.Capacity[corev1.ResourceStorage]
	if size.IsZero() {
		size = pvc.Spec.Resources.Requests[corev1.ResourceStorage]
	}
	p = &part{volumeHandle: pv.Spec.CSI.VolumeHandle, Volume: Volume{
		PVC: pvc.Name, Namespace: pvc.Namespace, Driver: pv.Spec.CSI.Driver,
		StorageClass: deref(pvc.Spec.StorageClassName), Size: size.String(),
		VolumeMode: string(deref(pvc.Spec.VolumeMode)), Labels: maps.Clone(pvc.Labels),
	}}
	delete(p.Labels, labelGroup)
	for _, m := range pvc.Spec.AccessModes {
		p.AccessModes = append(p.AccessModes, string(m))
	}
	return p, "", nil
}

func snapshotClasses(ctx context.Context, c *cluster.Cluster, env *function.Env) ([]class, error) {
	l, err := get(ctx, env, func(ctx context.Context) (*snapshotv1.VolumeSnapshotClassList, error) {
		return c.Snapshots.SnapshotV1().VolumeSnapshotClasses().List(ctx, metav1.ListOptions{})
	})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("the cluster has no CSI snapshots (no API %s); install its snapshot controller: %w", snapshotv1.SchemeGroupVersion, err)
	}
	if err != nil {
		return nil, err
	}
	var classes []class
	for _, k := range l.Items {
		classes = append(classes, class{k.Name, k.Driver, k.Annotations[defaultClass] == "true", k.DeletionPolicy == snapshotv1.VolumeSnapshotContentRetain})
	}
	return classes, nil
}

// cutOutputs are what CutVolumes puts out.
func cutOutputs(parts []*part) function.Outputs {
	volumes := make([]Volume, 0, len(parts))
	var from, to time.Time
	for _, p := range slices.SortedFunc(slices.Values(parts), func(a, b *part) int { return strings.Compare(a.PVC, b.PVC) }) {
		p.CutAt = stamp(p.cut)
		volumes = append(volumes, p.Volume)
		if from.IsZero() || p.cut.Before(from) {
			from = p.cut
		}
		if p.cut.After(to) {
			to = p.cut
		}
	}
	return function.Outputs{"volumes": data(volumes), "cutFrom": stamp(from), "cutTo": stamp(to), "spread": to.Sub(from).String()}
}
