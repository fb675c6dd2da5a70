package volume

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// wanted says which claims are meant.
type wanted struct {
	namespace string
	names     []string
	selector  string
	target    plan.Target
}

// namespaceOf is where the claims of a target are, unless an argument says.
func namespaceOf(given string, t plan.Target) (string, error) {
	switch {
	case given != "":
		return given, nil
	case t.Namespace != "":
		return t.Namespace, nil
	case strings.EqualFold(t.Kind, "namespace"):
		return t.Name, nil
	}
	return "", fault.New(fault.User, "give namespace: the target has none")
}

// claims returns the claims that are meant, by name. Those that are not there
// are in faults, as is a target of which nobody knows what volumes it has.
func claims(ctx context.Context, c *cluster.Cluster, env *function.Env, w wanted) (found []corev1.PersistentVolumeClaim, faults []string, err error) {
	kind := strings.ToLower(w.target.Kind)
	names := w.names
	switch {
	case len(names) > 0:
	case w.selector != "":
		if _, err := labels.Parse(w.selector); err != nil {
			return nil, []string{fmt.Sprintf("selector %q: %v", w.selector, err)}, nil
		}
		found, err = list(ctx, c, env, w)
		if err == nil && len(found) == 0 {
			faults = append(faults, fmt.Sprintf("no claim in namespace %s has the labels %q", w.namespace, w.selector))
		}
		return found, faults, err
	case kind == "namespace":
		all, err := list(ctx, c, env, w)
		if err != nil {
			return nil, nil, err
		}
		for _, pvc := range all { // what nothing ever used holds no data
			if pvc.Status.Phase == corev1.ClaimBound {
				found = append(found, pvc)
			}
		}
		if len(found) == 0 {
			faults = append(faults, fmt.Sprintf("namespace %s has no bound claim", w.namespace))
		}
		return found, faults, nil
	case kind == "persistentvolumeclaim" || kind == "pvc":
		names = []string{w.target.Name}
	case kind == "statefulset":
		s, err := get(ctx, env, func(ctx context.Context) (*appsv1.StatefulSet, error) {
			return c.Kube.AppsV1().StatefulSets(w.namespace).Get(ctx, w.target.Name, metav1.GetOptions{})
		})
		if err != nil {
			return nil, nil, err
		}
		var has []corev1.PersistentVolumeClaim
		if deref(s.Spec.Replicas) == 0 {
			if has, err = list(ctx, c, env, w); err != nil {
				return nil, nil, err
			}
		}
		names = ofStatefulSet(s, has)
	case kind == "deployment":
		d, err := get(ctx, env, func(ctx context.Context) (*appsv1.Deployment, error) {
			return c.Kube.AppsV1().Deployments(w.namespace).Get(ctx, w.target.Name, metav1.GetOptions{})
		})
		if err != nil {
			return nil, nil, err
		}
		names = ofPod(&d.Spec.Template.Spec)
	case kind == "pod":
		p, err := get(ctx, env, func(ctx context.Context) (*corev1.Pod, error) {
			return c.Kube.CoreV1().Pods(w.namespace).Get(ctx, w.target.Name, metav1.GetOptions{})
		})
		if err != nil {
			return nil, nil, err
		}
		names = ofPod(&p.Spec)
	default:
		return nil, []string{fmt.Sprintf("nobody knows what volumes a target of kind %q has; give pvcs or selector", w.target.Kind)}, nil
	}
	if len(names) == 0 {
		return nil, []string{fmt.Sprintf("%s %s/%s has no volume of a claim", kind, w.namespace, w.target.Name)}, nil
	}
	for _, name := range unique(names) {
		pvc, err := get(ctx, env, func(ctx context.Context) (*corev1.PersistentVolumeClaim, error) {
			return c.Kube.CoreV1().PersistentVolumeClaims(w.namespace).Get(ctx, name, metav1.GetOptions{})
		})
		switch {
		case apierrors.IsNotFound(err):
			faults = append(faults, fmt.Sprintf("pvc %s/%s: not found", w.namespace, name))
		case err != nil:
			return nil, nil, err
		default:
			found = append(found, *pvc)
		}
	}
	return found, faults, nil
}

func list(ctx context.Context, c *cluster.Cluster, env *function.Env, w wanted) ([]corev1.PersistentVolumeClaim, error) {
	l, err := get(ctx, env, func(ctx context.Context) (*corev1.PersistentVolumeClaimList, error) {
		return c.Kube.CoreV1().PersistentVolumeClaims(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: w.selector})
	})
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

// get reads, and waits for an API server that is away.
func get[T any](ctx context.Context, env *function.Env, read func(ctx context.Context) (T, error)) (v T, err error) {
	err = cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) (err error) {
		v, err = read(ctx)
		return err
	})
	return v, err
}

// ofPod are the claims that a pod mounts. Volumes that live and die with the
// pod are no one's data.
func ofPod(spec *corev1.PodSpec) []string {
	var names []string
	for _, v := range spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		}
	}
	return names
}

// ofStatefulSet are the claims of a StatefulSet's replicas. One that is scaled
// to nothing (to be backed up cold) has those that its replicas had.
func ofStatefulSet(s *appsv1.StatefulSet, has []corev1.PersistentVolumeClaim) []string {
	names := ofPod(&s.Spec.Template.Spec)
	first := 0
	if s.Spec.Ordinals != nil {
		first = int(s.Spec.Ordinals.Start)
	}
	for _, t := range s.Spec.VolumeClaimTemplates {
		prefix := t.Name + "-" + s.Name + "-"
		for i := range int(deref(s.Spec.Replicas)) {
			names = append(names, fmt.Sprintf("%s%d", prefix, first+i))
		}
		for _, pvc := range has {
			if n, ok := strings.CutPrefix(pvc.Name, prefix); ok && n != "" && strings.Trim(n, "0123456789") == "" {
				names = append(names, pvc.Name)
			}
		}
	}
	return names
}

func unique(names []string) []string {
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}
