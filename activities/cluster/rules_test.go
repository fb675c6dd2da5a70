package cluster_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"thaw/activities/cluster"
	"thaw/activities/cluster/binding"
	"thaw/activities/cluster/manifests"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
)

// The role "engine" is what the engine's own activities ask of a cluster: all
// of it, and nothing that they do not ask.
func TestTheRoleOfTheEngineIsWhatItAsks(t *testing.T) {
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	role, ok := catalogue.RoleOf("engine")
	require.True(t, ok)
	own, asked := testcluster.Least(t, c, role.Rules, ns)
	own.Namespace = ns
	ctx := t.Context()

	none, labels := int32(0), map[string]string{"app": "db"}
	meta, selector := metav1.ObjectMeta{Name: "db"}, &metav1.LabelSelector{MatchLabels: labels}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: testcluster.Tools}}}}
	_, err := c.Kube.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &none, Selector: selector, Template: template}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = c.Kube.AppsV1().StatefulSets(ns).Create(ctx, &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: &none, Selector: selector, Template: template}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = c.Kube.CoreV1().Services(ns).Create(ctx, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIP: "None", Selector: labels, Ports: []corev1.ServicePort{{Port: 5432}}}}, metav1.CreateOptions{})
	require.NoError(t, err)

	// Targets, and their pods.
	for _, kind := range []string{"Namespace", "Deployment", "StatefulSet", "PVC"} {
		ref := plan.Reference{Kind: kind, Name: "db", Namespace: ns}
		if kind == "Namespace" {
			ref.Name = ns
		}
		o, err := own.Get(ctx, ref, nil)
		if kind == "PVC" {
			require.True(t, apierrors.IsNotFound(err), "%v", err)
			continue
		}
		require.NoError(t, err)
		_, err = own.Workload(ctx, o)
		require.NoError(t, err)
	}
	// Kinds that a plan scales down.
	set := &manifests.Set{Namespace: ns}
	for _, kind := range []string{"Deployment", "StatefulSet"} {
		o := unstructured.Unstructured{Object: map[string]any{"apiVersion": "apps/v1", "kind": kind}}
		o.SetName("db")
		set.Objects = append(set.Objects, o)
	}
	present, err := manifests.Present(ctx, own, ns, set)
	require.NoError(t, err)
	require.Len(t, present, 2)
	// What a run names.
	_, err = own.Secret(ctx, ns, "nothing")
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	_, err = own.ConfigMap(ctx, ns, "nothing")
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	_, err = own.Lookup(ctx, "db."+ns+".svc")
	require.ErrorContains(t, err, "no pod of the service is ready")
	// Bindings, and blueprints.
	_, warnings, err := binding.List(ctx, own)
	require.NoError(t, err)
	require.Empty(t, warnings)
	_, _, err = binding.Blueprint(ctx, &cluster.Cluster{Dynamic: own.Dynamic, Namespace: ns}, "nothing", ns)
	require.NoError(t, err)
	asked.Allow(" cr.kanister.io/blueprints", " thaw.dev/blueprints") // of kasten-io and kanister, where there may be none
	// Pods that dead workers left, of all namespaces or of its own, and that of a
	// workload, are lists of pods: asked above.
	testcluster.Everything(t, "engine", role.Rules, nil, asked)
}
