package cluster

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"thaw/blueprints/plan"
)

// revision is where a Deployment says which of its ReplicaSets is current.
const revision = "deployment.kubernetes.io/revision"

// Workload describes the running pods of a StatefulSet, a Deployment or a
// DeploymentConfig; nil for an object of another kind.
func (c *Cluster) Workload(ctx context.Context, o *unstructured.Unstructured) (*plan.Workload, error) {
	var owner types.UID
	var err error
	switch strings.ToLower(o.GetKind()) {
	case "statefulset":
		owner = o.GetUID()
	case "deployment":
		owner, err = c.replicaSet(ctx, o)
	case "deploymentconfig":
		owner, err = c.replicationController(ctx, o)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pods, err := c.PodsOf(ctx, o.GetNamespace(), owner)
	if err != nil {
		return nil, err
	}
	w := &plan.Workload{Pods: []string{}, Containers: [][]string{}, Claims: map[string]map[string]string{}}
	for i := range pods {
		pod := &pods[i]
		if pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil {
			continue
		}
		var containers []string
		for j := range pod.Spec.Containers {
			containers = append(containers, pod.Spec.Containers[j].Name)
		}
		w.Pods = append(w.Pods, pod.Name)
		w.Containers = append(w.Containers, containers)
		if claims := ClaimsOf(pod); len(claims) > 0 {
			w.Claims[pod.Name] = claims
		}
	}
	return w, nil
}

// PodsOf lists the pods that an object owns, in the order of their numbers.
func (c *Cluster) PodsOf(ctx context.Context, namespace string, owner types.UID) ([]corev1.Pod, error) {
	if owner == "" {
		return nil, nil
	}
	var list *corev1.PodList
	err := Insist(ctx, nil, func(ctx context.Context) (err error) {
		list, err = c.Kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("pods of namespace %s: %w", namespace, err)
	}
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !ownedBy(p.OwnerReferences, owner) })
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		if d := ordinal(a.Name) - ordinal(b.Name); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	return pods, nil
}

func ordinal(name string) int {
	n, err := strconv.Atoi(name[strings.LastIndex(name, "-")+1:])
	if err != nil {
		return 0
	}
	return n
}

func ownedBy(refs []metav1.OwnerReference, owner types.UID) bool {
	return slices.ContainsFunc(refs, func(r metav1.OwnerReference) bool { return r.UID == owner })
}

// ClaimsOf are a pod's claims, and where its containers mount them.
func ClaimsOf(pod *corev1.Pod) map[string]string {
	claims := map[string]string{}
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim == nil {
			continue
		}
		for i := range pod.Spec.Containers {
			for _, m := range pod.Spec.Containers[i].VolumeMounts {
				if m.Name == v.Name {
					claims[v.PersistentVolumeClaim.ClaimName] = m.MountPath
				}
			}
		}
	}
	return claims
}

// replicaSet finds the current one of a Deployment.
func (c *Cluster) replicaSet(ctx context.Context, o *unstructured.Unstructured) (types.UID, error) {
	var uid types.UID
	err := Insist(ctx, nil, func(ctx context.Context) error {
		sets, err := c.Kube.AppsV1().ReplicaSets(o.GetNamespace()).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range sets.Items {
			s := &sets.Items[i]
			if ownedBy(s.OwnerReferences, o.GetUID()) && s.Annotations[revision] == o.GetAnnotations()[revision] {
				uid = s.UID
			}
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("replica sets: %w", err)
	}
	return uid, nil
}

// replicationController finds the current one of a DeploymentConfig.
func (c *Cluster) replicationController(ctx context.Context, o *unstructured.Unstructured) (types.UID, error) {
	latest, _, _ := unstructured.NestedInt64(o.Object, "status", "latestVersion")
	var uid types.UID
	err := Insist(ctx, nil, func(ctx context.Context) error {
		all, err := c.Kube.CoreV1().ReplicationControllers(o.GetNamespace()).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range all.Items {
			r := &all.Items[i]
			if ownedBy(r.OwnerReferences, o.GetUID()) && r.Annotations["openshift.io/deployment-config.latest-version"] == strconv.FormatInt(latest, 10) {
				uid = r.UID
			}
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("replication controllers: %w", err)
	}
	return uid, nil
}
