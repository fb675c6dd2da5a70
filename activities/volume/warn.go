package volume

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/function"
)

// fsGroupWarnings says which workloads will have the modes of a restored
// volume's files changed before they start on it.
func fsGroupWarnings(ctx context.Context, c *cluster.Cluster, env *function.Env, namespace string, claims []string) ([]string, error) {
	sets, err := get(ctx, env, func(ctx context.Context) (*appsv1.StatefulSetList, error) {
		return c.Kube.AppsV1().StatefulSets(namespace).List(ctx, metav1.ListOptions{})
	})
	if err != nil {
		return nil, err
	}
	deployments, err := get(ctx, env, func(ctx context.Context) (*appsv1.DeploymentList, error) {
		return c.Kube.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	})
	if err != nil {
		return nil, err
	}
	var warnings []string
	for i := range sets.Items {
		s := &sets.Items[i]
		has := make([]corev1.PersistentVolumeClaim, len(claims))
		for i, n := range claims {
			has[i].Name = n
		}
		warnings = append(warnings, fsGroupWarning("statefulset "+namespace+"/"+s.Name, &s.Spec.Template.Spec, ofStatefulSet(s, has), claims)...)
	}
	for i := range deployments.Items {
		d := &deployments.Items[i]
		warnings = append(warnings, fsGroupWarning("deployment "+namespace+"/"+d.Name, &d.Spec.Template.Spec, ofPod(&d.Spec.Template.Spec), claims)...)
	}
	slices.Sort(warnings)
	return warnings, nil
}

func fsGroupWarning(workload string, pod *corev1.PodSpec, uses, claims []string) []string {
	sc := pod.SecurityContext
	if sc == nil || sc.FSGroup == nil || deref(sc.FSGroupChangePolicy) == corev1.FSGroupChangeOnRootMismatch {
		return nil
	}
	var hit []string
	for _, n := range claims {
		if slices.Contains(uses, n) {
			hit = append(hit, n)
		}
	}
	if len(hit) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s has fsGroup %d without fsGroupChangePolicy: OnRootMismatch: Kubernetes makes the restored files of claim %v writable by that group, and PostgreSQL refuses to start on such a data directory; set securityContext.fsGroupChangePolicy: OnRootMismatch", workload, *sc.FSGroup, hit)}
}
