package manifests

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"thaw/activities/cluster"
)

// Workload is one that can be scaled.
type Workload struct {
	Kind     string
	Name     string
	Replicas int64
}

// scalable are the resources of workloads that can be scaled.
var scalable = map[string]schema.GroupVersionResource{
	"Deployment":       {Group: "apps", Version: "v1", Resource: "deployments"},
	"StatefulSet":      {Group: "apps", Version: "v1", Resource: "statefulsets"},
	"DeploymentConfig": {Group: "apps.openshift.io", Version: "v1", Resource: "deploymentconfigs"},
}

// Workloads are those of a set.
func (s *Set) Workloads() (all []Workload) {
	for i := range s.Objects {
		o := &s.Objects[i]
		if _, ok := scalable[o.GetKind()]; ok {
			all = append(all, Workload{o.GetKind(), o.GetName(), replicas(o)})
		}
	}
	return all
}

func replicas(o *unstructured.Unstructured) int64 {
	n, ok, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
	if !ok {
		return 1
	}
	return n
}

// Present are the workloads of a set that are in a namespace now, with the
// replicas that they have there.
func Present(ctx context.Context, c *cluster.Cluster, namespace string, set *Set) (all []Workload, err error) {
	for _, w := range set.Workloads() {
		var o *unstructured.Unstructured
		err := cluster.Insist(ctx, nil, func(ctx context.Context) (err error) {
			o, err = c.Dynamic.Resource(scalable[w.Kind]).Namespace(namespace).Get(ctx, w.Name, metav1.GetOptions{})
			return err
		})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s %s/%s: %w", strings.ToLower(w.Kind), namespace, w.Name, err)
		}
		all = append(all, Workload{w.Kind, w.Name, replicas(o)})
	}
	return all, nil
}

// status is what workloads say of themselves.
type status struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		Replicas *int64 `json:"replicas"`
	} `json:"spec"`
	Status struct {
		ObservedGeneration int64 `json:"observedGeneration"`
		ReadyReplicas      int64 `json:"readyReplicas"`
		UpdatedReplicas    int64 `json:"updatedReplicas"`
	} `json:"status"`
}

// Ready waits until the workloads of a set are ready in a namespace.
func Ready(ctx context.Context, c *cluster.Cluster, namespace string, set *Set, note func(string)) error {
	for _, w := range set.Workloads() {
		err := cluster.Until(ctx, c, cluster.Watched{Resource: scalable[w.Kind], Namespace: namespace, Name: w.Name, Note: note},
			func(all []status) (string, error) {
				if len(all) == 0 {
					return fmt.Sprintf("%s %s is not there", strings.ToLower(w.Kind), w.Name), nil
				}
				s := all[0]
				want := int64(1)
				if s.Spec.Replicas != nil {
					want = *s.Spec.Replicas
				}
				if s.Status.ObservedGeneration < s.Metadata.Generation || s.Status.ReadyReplicas < want || s.Status.UpdatedReplicas < want {
					return fmt.Sprintf("%s %s: %d of %d pods are ready", strings.ToLower(w.Kind), w.Name, s.Status.ReadyReplicas, want), nil
				}
				return "", nil
			})
		if err != nil {
			return err
		}
	}
	return nil
}
