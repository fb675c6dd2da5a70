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
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type returnArgs struct {
	Replaced  any    `arg:"replaced" type:"object" doc:"what RestoreVolumes put out (default, where claims is not given either: all that this run replaced, restored and made for it in the namespace)"`
	Claims    any    `arg:"claims" type:"object" doc:"what RestoreVolumes put out: claims that replaced nothing are deleted"`
	Namespace string `arg:"namespace" doc:"where the default looks (default: the target's)"`
}

// returnVolumes is the compensation of RestoreVolumes. Its default needs no
// output of it: the worker that restored may have died before it could tell.
//
// Idempotent: what is as it was is a success.
func returnVolumes(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "ReturnVolumes", Family: family,
		Summary: "Put back the volumes that RestoreVolumes replaced, and delete the claims that it made. No pod may use those. The compensation of RestoreVolumes.",
		Outputs: []catalogue.Output{
			{Name: "returned", Description: "list of the claims that have their former volume again"},
			{Name: "deleted", Description: "list of the claims that were deleted, since they replaced nothing"},
		},
		Idempotent: true,
		Timeout:    time.Hour,
		Rules: []catalogue.Rule{
			claimRule("get", "list", "watch", "create", "delete"),
			volumeRule("get", "list", "watch", "patch"),
			podRule("list"),
			{Resources: []string{"events"}, Verbs: []string{"list"}},
			snapshotRule("get", "list", "watch", "delete"),
			contentRule("get", "list", "watch", "patch", "delete"),
		},
	}, func(_ context.Context, env *function.Env, a returnArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		doing := "return volumes"
		replaced, err := decode[Replaced]("replaced", a.Replaced)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", doing, err)
		}
		claims, err := decode[claimOut]("claims", a.Claims)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", doing, err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			r := returning{c: c, env: env, replaced: replaced, claims: claims}
			if len(replaced)+len(claims) == 0 {
				namespace, err := namespaceOf(a.Namespace, env.Target)
				if err == nil {
					err = r.ofRun(ctx, namespace)
				}
				if err != nil {
					return nil, fmt.Errorf("%s: %w", doing, err)
				}
			}
			if err := r.run(ctx); err != nil {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			return function.Outputs{"returned": data(r.returned), "deleted": data(r.deleted)}, nil
		}, nil, nil
	})
}

type returning struct {
	c         *cluster.Cluster
	env       *function.Env
	replaced  []Replaced
	claims    []claimOut
	temporary []Volume
	returned  []string
	deleted   []string
}

// ofRun finds what the run replaced and made, by its marks.
func (r *returning) ofRun(ctx context.Context, namespace string) error {
	if r.env.Run.Original == "" {
		return fault.New(fault.User, "the run has no id; give replaced or claims")
	}
	kept, err := replacedBy(ctx, r.c, r.env, "", r.env.Run.Original)
	if err != nil {
		return err
	}
	r.replaced = slices.SortedFunc(maps.Values(kept), func(a, b Replaced) int { return strings.Compare(a.at().String(), b.at().String()) })
	l, err := get(ctx, r.env, func(ctx context.Context) (*corev1.PersistentVolumeClaimList, error) {
		return r.c.Kube.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{})
	})
	if err != nil {
		return err
	}
	for i := range l.Items {
		pvc := &l.Items[i]
		if s := fromSnapshot(pvc); s != "" && ofRun(pvc, r.env) {
			r.claims = append(r.claims, claimOut{Namespace: pvc.Namespace, Name: pvc.Name, Snapshot: s})
		}
	}
	snapshots, err := get(ctx, r.env, func(ctx context.Context) (*snapshotv1.VolumeSnapshotList, error) {
		return r.c.Snapshots.SnapshotV1().VolumeSnapshots(namespace).List(ctx, metav1.ListOptions{LabelSelector: labelTemporary})
	})
	if err != nil {
		return err
	}
	for i := range snapshots.Items {
		if s := &snapshots.Items[i]; ofRun(s, r.env) {
			r.temporary = append(r.temporary, Volume{Namespace: s.Namespace, Snapshot: s.Name, Content: contentOf(s)})
		}
	}
	return nil
}

// run goes through all of it, and then says all that failed.
func (r *returning) run(ctx context.Context) error {
	r.returned, r.deleted = []string{}, []string{}
	var errs []error
	back := map[types.NamespacedName]bool{}
	for _, was := range r.replaced {
		back[was.at()] = true
		if was.PVC == "" || was.Namespace == "" {
			errs = append(errs, fault.New(fault.User, "replaced: it has no pvc and namespace"))
			continue
		}
		speak(r.env, "putting %s back", was)
		if err := was.putBack(ctx, r.c, r.env); err != nil {
			errs = append(errs, err)
			continue
		}
		r.returned = append(r.returned, was.at().String())
	}
	for _, claim := range r.claims {
		at := types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}
		if back[at] {
			continue
		}
		if err := r.drop(ctx, at, claim.Snapshot); err != nil {
			errs = append(errs, err)
			continue
		}
		r.deleted = append(r.deleted, at.String())
	}
	if err := remove(ctx, r.c, r.env, r.temporary); err != nil {
		errs = append(errs, err)
	}
	return together(errs)
}

// drop deletes a claim that RestoreVolumes made of that snapshot, and no other.
func (r *returning) drop(ctx context.Context, at types.NamespacedName, snapshot string) error {
	now, err := getClaim(ctx, r.c, r.env, at)
	if err != nil || now == nil {
		return err
	}
	call := now.Annotations[cluster.AnnotationCall]
	if call == "" || fromSnapshot(now) != snapshot {
		return fault.New(fault.Permanent, "claim %s is not the one that was restored", at)
	}
	return dropRestored(ctx, r.c, r.env, now, call)
}

// fromSnapshot names the snapshot that a claim was made of.
func fromSnapshot(pvc *corev1.PersistentVolumeClaim) string {
	if s := pvc.Spec.DataSource; s != nil && s.Kind == "VolumeSnapshot" {
		return s.Name
	}
	return ""
}

type dropArgs struct {
	Replaced any `arg:"replaced,required" type:"object" doc:"what RestoreVolumes put out"`
}

// dropReplacedVolumes ends the possibility to go back. Idempotent.
func dropReplacedVolumes(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "DropReplacedVolumes", Family: family,
		Summary: "Delete for good the volumes that RestoreVolumes replaced and kept. They get their reclaim policy again: where that is Retain, the storage keeps the data.",
		Outputs: []catalogue.Output{
			{Name: "dropped", Description: "list of the PersistentVolumes that are gone"},
		},
		Idempotent: true,
		Timeout:    time.Hour,
		Rules: []catalogue.Rule{
			volumeRule("get", "list", "watch", "patch", "delete"),
			{Resources: []string{"persistentvolumeclaims"}, Verbs: []string{"get"}},
		},
	}, func(_ context.Context, env *function.Env, a dropArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		doing := "drop replaced volumes"
		replaced, err := decode[Replaced]("replaced", a.Replaced)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", doing, err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			dropped := []string{}
			var errs []error
			for _, was := range replaced {
				if was.Volume == "" {
					continue
				}
				if err := was.drop(ctx, c, env); err != nil {
					errs = append(errs, fmt.Errorf("volume %s: %w", was.Volume, err))
					continue
				}
				dropped = append(dropped, was.Volume)
			}
			return function.Outputs{"dropped": data(dropped)}, wrap(doing, together(errs))
		}, nil, nil
	})
}

// released waits until a volume is known to be no claim's: its phase follows
// the end of its claim by some seconds. It returns nil where it is gone.
func released(ctx context.Context, c *cluster.Cluster, env *function.Env, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	ref := pv.Spec.ClaimRef
	if pv.Status.Phase != corev1.VolumeBound || ref == nil {
		return pv, nil
	}
	pvc, err := getClaim(ctx, c, env, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name})
	if err != nil {
		return nil, err
	}
	if pvc != nil && pvc.UID == ref.UID {
		return nil, fault.New(fault.Permanent, "claim %s/%s uses it (again)", ref.Namespace, ref.Name)
	}
	var now *corev1.PersistentVolume
	err = cluster.Until(ctx, c, cluster.Watched{Resource: volumeResource, Name: pv.Name, Note: env.Heartbeat}, func(items []corev1.PersistentVolume) (string, error) {
		if now = nil; len(items) == 0 {
			return "", nil
		}
		now = &items[0]
		if now.Status.Phase == corev1.VolumeBound {
			return "the release of volume " + pv.Name, nil
		}
		return "", nil
	})
	return now, err
}

// drop deletes a volume that is kept, by its own policy.
func (r Replaced) drop(ctx context.Context, c *cluster.Cluster, env *function.Env) error {
	pv, err := getVolume(ctx, c, env, r.Volume)
	if err != nil || pv == nil {
		return err
	}
	if pv, err = released(ctx, c, env, pv); err != nil || pv == nil {
		return err
	}
	if pv.Labels[labelKept] == "" && pv.DeletionTimestamp == nil && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain && r.ReclaimPolicy != corev1.PersistentVolumeReclaimRetain {
		return fault.New(fault.Permanent, "it is not one that Thaw keeps: it has no label %s", labelKept)
	}
	if err := r.unmark(ctx, c, env); err != nil {
		return err
	}
	// A provisioner deletes what was released. What nobody would delete by
	// itself is deleted here.
	if r.ReclaimPolicy != corev1.PersistentVolumeReclaimDelete || pv.Status.Phase != corev1.VolumeReleased {
		err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
			return c.Kube.CoreV1().PersistentVolumes().Delete(ctx, r.Volume, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pv.UID}})
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return goneOf(ctx, c, env, volumeResource, "", r.Volume, pv.UID)
}
