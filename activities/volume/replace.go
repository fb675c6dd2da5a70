package volume

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/fault"
)

const (
	// labelKept is on a volume that a restored one took the place of, until it
	// is put back or dropped. Its value is the key of the call.
	labelKept = "thaw.dev/kept"
	// annotationReplaced is on it too: a Replaced, so that what it takes to put
	// the volume back outlives the worker, and the run.
	annotationReplaced = "thaw.dev/replaced"
)

// Replaced is a claim that a restored one took the place of, with its volume,
// which is kept: an element of the output `replaced` of RestoreVolumes.
type Replaced struct {
	PVC       string `json:"pvc"`
	Namespace string `json:"namespace"`
	// Volume is the PersistentVolume; empty where the claim had none.
	Volume string `json:"volume,omitempty"`
	// ReclaimPolicy that the volume had.
	ReclaimPolicy corev1.PersistentVolumeReclaimPolicy `json:"reclaimPolicy,omitempty"`
	Labels        map[string]string                    `json:"labels,omitempty"`
	Annotations   map[string]string                    `json:"annotations,omitempty"`
	Spec          corev1.PersistentVolumeClaimSpec     `json:"spec"`
	// Call replaced it, in the run of that id (plan.Run.Original).
	Call string `json:"call"`
	Run  string `json:"run,omitempty"`
}

func (r Replaced) at() types.NamespacedName {
	return types.NamespacedName{Namespace: r.Namespace, Name: r.PVC}
}

func (r Replaced) String() string {
	if r.Volume == "" {
		return fmt.Sprintf("claim %s", r.at())
	}
	return fmt.Sprintf("claim %s of volume %s", r.at(), r.Volume)
}

// replacedBy returns the volumes that were replaced and are kept still, by
// claim; those of one call, or of one run.
func replacedBy(ctx context.Context, c *cluster.Cluster, env *function.Env, call, run string) (map[types.NamespacedName]Replaced, error) {
	selector := labelKept
	if call != "" {
		selector += "=" + call
	}
	l, err := get(ctx, env, func(ctx context.Context) (*corev1.PersistentVolumeList, error) {
		return c.Kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{LabelSelector: selector})
	})
	if err != nil {
		return nil, err
	}
	all := map[types.NamespacedName]Replaced{}
	for _, pv := range l.Items {
		var r Replaced
		if err := json.Unmarshal([]byte(pv.Annotations[annotationReplaced]), &r); err != nil {
			return nil, fault.New(fault.Permanent, "volume %s: its annotation %s cannot be read: %w", pv.Name, annotationReplaced, err)
		}
		if run == "" || r.Run == run {
			all[r.at()] = r
		}
	}
	return all, nil
}

// keep makes a claim's volume outlive the claim, and writes down on it what
// it takes to put it back; then it deletes the claim, and waits until it is
// gone.
func keep(ctx context.Context, c *cluster.Cluster, env *function.Env, pvc *corev1.PersistentVolumeClaim) (Replaced, error) {
	r := Replaced{
		PVC: pvc.Name, Namespace: pvc.Namespace, Volume: pvc.Spec.VolumeName,
		Labels: maps.Clone(pvc.Labels), Annotations: keptAnnotations(pvc.Annotations), Spec: pvc.Spec, Call: env.Key, Run: env.Run.Original,
	}
	if r.Volume != "" {
		pv, err := getVolume(ctx, c, env, r.Volume)
		switch {
		case err != nil:
			return r, err
		case pv == nil:
			return r, fault.New(fault.Permanent, "%s: the volume is not found", r)
		case pv.Annotations[annotationReplaced] != "": // by another attempt of this call: it knew the policy
			var had Replaced
			if err := json.Unmarshal([]byte(pv.Annotations[annotationReplaced]), &had); err == nil && had.Call == env.Key {
				r.ReclaimPolicy = had.ReclaimPolicy
				break
			}
			return r, fault.New(fault.Permanent, "%s: the volume is kept for another call already", r)
		default:
			r.ReclaimPolicy = pv.Spec.PersistentVolumeReclaimPolicy
		}
		note, err := json.Marshal(r)
		if err != nil {
			return r, fault.New(fault.Permanent, "%s: %w", r, err)
		}
		err = patchVolume(ctx, c, env, r.Volume, map[string]any{
			"metadata": map[string]any{"labels": map[string]any{labelKept: env.Key}, "annotations": map[string]any{annotationReplaced: string(note)}},
			"spec":     map[string]any{"persistentVolumeReclaimPolicy": corev1.PersistentVolumeReclaimRetain},
		})
		if err != nil {
			return r, fmt.Errorf("keep %s: %w", r, err)
		}
	}
	return r, dropClaim(ctx, c, env, pvc)
}

// putBack gives a volume that was replaced its claim again. What is as it was
// already is a success. The claim that took its place is deleted, if that is
// the one that the same call made, and no pod uses it.
func (r Replaced) putBack(ctx context.Context, c *cluster.Cluster, env *function.Env) error {
	// First of all: is there something to put back? What took its place is
	// deleted only then.
	if r.Volume != "" {
		pv, err := getVolume(ctx, c, env, r.Volume)
		if err != nil {
			return err
		}
		if pv == nil || pv.DeletionTimestamp != nil {
			return fault.New(fault.Permanent, "%s: the volume is gone; nothing was changed", r)
		}
		if ref := pv.Spec.ClaimRef; ref != nil && (ref.Namespace != r.Namespace || ref.Name != r.PVC) {
			return fault.New(fault.Permanent, "%s: the volume belongs to claim %s/%s by now; nothing was changed", r, ref.Namespace, ref.Name)
		}
	}
	now, err := getClaim(ctx, c, env, r.at())
	if err != nil {
		return err
	}
	if now != nil && (now.Spec.VolumeName != r.Volume || now.DeletionTimestamp != nil) {
		if err := dropRestored(ctx, c, env, now, r.Call); err != nil {
			return err
		}
		now = nil
	}
	if r.Volume != "" && now == nil {
		if err := r.free(ctx, c, env); err != nil {
			return err
		}
	}
	if now == nil {
		pvc := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: r.PVC, Namespace: r.Namespace, Labels: r.Labels, Annotations: r.Annotations},
			Spec:       r.Spec,
		}
		pvc.Spec.VolumeName = r.Volume
		err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
			_, err := c.Kube.CoreV1().PersistentVolumeClaims(r.Namespace).Create(ctx, pvc, metav1.CreateOptions{})
			return err
		})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("%s: %w", r, err)
		}
	}
	if r.Volume == "" {
		return nil
	}
	if err := bound(ctx, c, env, []types.NamespacedName{r.at()}); err != nil {
		return err
	}
	return r.unmark(ctx, c, env)
}

// free lets the former claim, and no other, have the volume again.
func (r Replaced) free(ctx context.Context, c *cluster.Cluster, env *function.Env) error {
	return wrap("free "+r.String(), patchVolume(ctx, c, env, r.Volume, map[string]any{"spec": map[string]any{"claimRef": map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": r.Namespace, "name": r.PVC, "uid": nil, "resourceVersion": nil,
	}}}))
}

// unmark gives the volume its reclaim policy again: it is not kept any more.
func (r Replaced) unmark(ctx context.Context, c *cluster.Cluster, env *function.Env) error {
	policy := r.ReclaimPolicy
	if policy == "" {
		policy = corev1.PersistentVolumeReclaimRetain // whoever wrote the argument did not know: lose nothing
	}
	return wrap("volume "+r.Volume, patchVolume(ctx, c, env, r.Volume, map[string]any{
		"metadata": map[string]any{"labels": map[string]any{labelKept: nil}, "annotations": map[string]any{annotationReplaced: nil}},
		"spec":     map[string]any{"persistentVolumeReclaimPolicy": policy},
	}))
}

// dropRestored deletes a claim that the call of that key made, with its
// volume.
func dropRestored(ctx context.Context, c *cluster.Cluster, env *function.Env, pvc *corev1.PersistentVolumeClaim, call string) error {
	at := types.NamespacedName{Namespace: pvc.Namespace, Name: pvc.Name}
	if !cluster.MadeBy(pvc, call) && pvc.DeletionTimestamp == nil {
		return another("claim", at, pvc.Annotations)
	}
	by, err := users(ctx, c, env, pvc.Namespace)
	if err != nil {
		return err
	}
	if err := inUse(at, by); err != nil {
		return err
	}
	var pv *corev1.PersistentVolume
	if pvc.Spec.VolumeName != "" {
		if pv, err = getVolume(ctx, c, env, pvc.Spec.VolumeName); err != nil {
			return err
		}
	}
	if err := dropClaim(ctx, c, env, pvc); err != nil {
		return err
	}
	if pv == nil || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return nil
	}
	return goneOf(ctx, c, env, volumeResource, "", pv.Name, pv.UID)
}

// bound waits until claims are bound.
func bound(ctx context.Context, c *cluster.Cluster, env *function.Env, claims []types.NamespacedName) error {
	for _, at := range claims {
		err := cluster.Until(ctx, c, cluster.Watched{Resource: claimResource, Namespace: at.Namespace, Name: at.Name, Note: env.Heartbeat}, func(items []corev1.PersistentVolumeClaim) (string, error) {
			switch {
			case len(items) == 0:
				return "", fault.New(fault.Permanent, "claim %s: somebody deleted it", at)
			case items[0].Status.Phase == corev1.ClaimLost:
				return "", fault.New(fault.Permanent, "claim %s: its volume %s is lost", at, items[0].Spec.VolumeName)
			case items[0].Status.Phase != corev1.ClaimBound:
				return fmt.Sprintf("claim %s is not bound", at), nil
			}
			return "", nil
		})
		if err != nil {
			return withEvents(ctx, c, at, err)
		}
	}
	return nil
}

// withEvents adds what the provisioner said last of a claim: its status says
// nothing of why it is pending.
func withEvents(ctx context.Context, c *cluster.Cluster, at types.NamespacedName, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), oneLook)
	defer cancel()
	l, err := c.Kube.CoreV1().Events(at.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.kind=PersistentVolumeClaim,involvedObject.name=" + at.Name})
	if err != nil || len(l.Items) == 0 {
		return why
	}
	last := l.Items[0]
	for _, e := range l.Items[1:] {
		if e.LastTimestamp.After(last.LastTimestamp.Time) {
			last = e
		}
	}
	return fmt.Errorf("%w; %s: %s", why, last.Reason, last.Message)
}

// getVolume returns nil where there is none.
func getVolume(ctx context.Context, c *cluster.Cluster, env *function.Env, name string) (*corev1.PersistentVolume, error) {
	pv, err := get(ctx, env, func(ctx context.Context) (*corev1.PersistentVolume, error) {
		return c.Kube.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return pv, err
}

func patchVolume(ctx context.Context, c *cluster.Cluster, env *function.Env, name string, patch map[string]any) error {
	return cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
		_, err := c.Kube.CoreV1().PersistentVolumes().Patch(ctx, name, types.MergePatchType, merge(patch), metav1.PatchOptions{})
		return err
	})
}
