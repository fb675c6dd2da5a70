package volume

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/fault"
)

// claimSpec is a claim that is to be made, from a snapshot or empty.
type claimSpec struct {
	at           types.NamespacedName
	snapshot     string // in the same namespace; empty: of nothing
	storageClass string
	size         resource.Quantity
	accessModes  []string
	volumeMode   string
	labels       map[string]string
	annotations  map[string]string
}

var accessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod}

// check says what is wrong with it, in words for its author.
func (s claimSpec) check() error {
	for _, m := range s.accessModes {
		if !slices.Contains(accessModes, corev1.PersistentVolumeAccessMode(m)) {
			return fault.New(fault.User, "access mode %q: want one of %v", m, accessModes)
		}
	}
	if s.size.Sign() <= 0 {
		return fault.New(fault.User, "size %s: a volume needs one", s.size.String())
	}
	return nil
}

// fits checks that the snapshot's data fits: the provisioner refuses less, and
// the claim would be pending for ever.
func (s claimSpec) fits(restoreSize string) error {
	if restoreSize == "" {
		return nil
	}
	need, err := resource.ParseQuantity(restoreSize)
	if err == nil && s.size.Cmp(need) < 0 {
		return fault.New(fault.User, "size %s is less than the %s of snapshot %s", s.size.String(), restoreSize, s.snapshot)
	}
	return nil
}

func (s claimSpec) claim() *corev1.PersistentVolumeClaim {
	pvc := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: s.at.Name, Namespace: s.at.Namespace, Labels: maps.Clone(s.labels), Annotations: maps.Clone(s.annotations)},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &s.storageClass,
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: s.size}},
		},
	}
	if s.snapshot != "" {
		group := snapshotv1.GroupName
		pvc.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: s.snapshot}
	}
	for _, m := range s.accessModes {
		pvc.Spec.AccessModes = append(pvc.Spec.AccessModes, corev1.PersistentVolumeAccessMode(m))
	}
	if len(s.accessModes) == 0 {
		pvc.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	if s.volumeMode != "" {
		mode := corev1.PersistentVolumeMode(s.volumeMode)
		pvc.Spec.VolumeMode = &mode
	}
	return pvc
}

// makeClaim creates a claim, or finds the one that another attempt of the call
// created.
func makeClaim(ctx context.Context, c *cluster.Cluster, env *function.Env, pvc *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	mark(pvc, env)
	at := types.NamespacedName{Namespace: pvc.Namespace, Name: pvc.Name}
	api := c.Kube.CoreV1().PersistentVolumeClaims(pvc.Namespace)
	made, err := get(ctx, env, func(ctx context.Context) (*corev1.PersistentVolumeClaim, error) {
		return api.Create(ctx, pvc, metav1.CreateOptions{})
	})
	if !apierrors.IsAlreadyExists(err) {
		return made, wrap("claim "+at.String(), err)
	}
	had, err := getClaim(ctx, c, env, at)
	switch {
	case err != nil:
		return nil, err
	case had == nil || had.DeletionTimestamp != nil:
		return nil, fault.New(fault.Transient, "claim %s is being deleted", at)
	case !cluster.MadeBy(had, env.Key):
		return nil, another("claim", at, had.Annotations)
	}
	return had, nil
}

// getClaim returns nil where there is none.
func getClaim(ctx context.Context, c *cluster.Cluster, env *function.Env, at types.NamespacedName) (*corev1.PersistentVolumeClaim, error) {
	pvc, err := get(ctx, env, func(ctx context.Context) (*corev1.PersistentVolumeClaim, error) {
		return c.Kube.CoreV1().PersistentVolumeClaims(at.Namespace).Get(ctx, at.Name, metav1.GetOptions{})
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return pvc, err
}

// dropClaim deletes a claim, and waits until it is gone. Pods that use it keep
// it from going, so that users are looked for before.
func dropClaim(ctx context.Context, c *cluster.Cluster, env *function.Env, pvc *corev1.PersistentVolumeClaim) error {
	at := types.NamespacedName{Namespace: pvc.Namespace, Name: pvc.Name}
	err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
		return c.Kube.CoreV1().PersistentVolumeClaims(pvc.Namespace).Delete(ctx, pvc.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pvc.UID}})
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete claim %s: %w", at, err)
	}
	return wrap("delete claim "+at.String(), goneOf(ctx, c, env, claimResource, pvc.Namespace, pvc.Name, pvc.UID))
}

// users returns the pods that use each of a namespace's claims. One that has
// ended uses nothing any more.
func users(ctx context.Context, c *cluster.Cluster, env *function.Env, namespace string) (map[string][]string, error) {
	l, err := get(ctx, env, func(ctx context.Context) (*corev1.PodList, error) {
		return c.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	})
	if err != nil {
		return nil, err
	}
	by := map[string][]string{}
	for _, p := range l.Items {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, name := range ofPod(&p.Spec) {
			by[name] = append(by[name], p.Name)
		}
	}
	return by, nil
}

// inUse is an error where pods use a claim.
func inUse(at types.NamespacedName, by map[string][]string) error {
	pods := by[at.Name]
	if len(pods) == 0 {
		return nil
	}
	slices.Sort(pods)
	return fault.New(fault.User, "claim %s is used by pod %s; scale down first (ScaleWorkload)", at, strings.Join(pods, ", "))
}

// keptAnnotations are the annotations of a claim that are its owner's, and not those by
// which Kubernetes binds it.
func keptAnnotations(m map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		prefix, _, _ := strings.Cut(k, "/")
		switch prefix {
		case "pv.kubernetes.io", "volume.kubernetes.io", "volume.beta.kubernetes.io", "kubectl.kubernetes.io", "thaw.dev":
			continue
		}
		out[k] = v
	}
	return out
}

// keptLabels are the labels of a claim without ours.
func keptLabels(m map[string]string) map[string]string {
	out := maps.Clone(m)
	delete(out, labelGroup)
	if out[cluster.LabelManaged] == cluster.Managed {
		delete(out, cluster.LabelManaged)
	}
	return out
}
