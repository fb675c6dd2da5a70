package kube

import (
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster/podexec"
	"thaw/activities/function"
	"thaw/activities/function/functiontest"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
)

// started waits until a pod's container runs.
func (s *scene) started(name string) *corev1.Pod {
	var pod *corev1.Pod
	require.Eventually(s.t, func() bool {
		p, err := s.Kube.CoreV1().Pods(s.ns).Get(context.Background(), name, metav1.GetOptions{})
		pod = p
		return err == nil && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Running != nil
	}, testcluster.Wait, testcluster.Tick)
	return pod
}

func (s *scene) kill(pod string) {
	require.NoError(s.t, s.Kube.CoreV1().Pods(s.ns).Delete(context.Background(), pod, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
}

func (s *scene) exec(pod, script string) {
	require.NoError(s.t, podexec.Stream(s.t.Context(), s.Cluster, podexec.Where{Namespace: s.ns, Pod: pod}, podexec.Command{Args: []string{"sh", "-c", script}}, io.Discard, io.Discard, func(string) {}))
}

// running waits until a command runs in a pod.
func (s *scene) running(pod, command string) {
	require.Eventually(s.t, func() bool {
		script := `for p in /proc/[0-9]*; do tr '\0' ' ' < $p/cmdline 2>/dev/null; done | grep -q "` + command + ` "`
		return podexec.Stream(s.t.Context(), s.Cluster, podexec.Where{Namespace: s.ns, Pod: pod, Container: "one"}, podexec.Command{Args: []string{"sh", "-c", script}}, io.Discard, io.Discard, func(string) {}) == nil
	}, testcluster.Wait, testcluster.Tick)
}

func (s *scene) claim(name string) {
	_, err := s.Kube.CoreV1().PersistentVolumeClaims(s.ns).Create(s.t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("64Mi")}},
		},
	}, metav1.CreateOptions{})
	require.NoError(s.t, err)
}

func TestKubeOps(t *testing.T) {
	s := newScene(t)
	spec := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made}\ndata: {a: '1'}\n"
	ref := map[string]any{"apiVersion": "v1", "resource": "configmaps", "name": "made"}
	want := function.Outputs{"apiVersion": "v1", "group": "", "resource": "configmaps", "kind": "ConfigMap", "name": "made", "namespace": s.ns}
	call := func(e *functiontest.Env, args map[string]any) (function.Outputs, error) {
		args["namespace"] = s.ns
		return s.call(t.Context(), e, "KubeOps", args)
	}
	get := func() (*corev1.ConfigMap, error) {
		return s.Kube.CoreV1().ConfigMaps(s.ns).Get(t.Context(), "made", metav1.GetOptions{})
	}

	env := functiontest.NewEnv(t, "thaw-ops")
	out, err := call(env, map[string]any{"operation": "create", "spec": spec})
	require.NoError(t, err)
	require.Equal(t, want, out)
	out, err = call(env.Again(t, false), map[string]any{"operation": "create", "spec": spec})
	require.NoError(t, err, "another attempt finds it")
	require.Equal(t, want, out)
	_, err = call(functiontest.NewEnv(t, "thaw-other"), map[string]any{"operation": "create", "spec": spec})
	require.ErrorContains(t, err, "already exists", "of another call")
	require.Equal(t, fault.Permanent, fault.Of(err))

	out, err = call(env, map[string]any{"operation": "patch", "objectReference": ref, "spec": "data: {b: '2'}"})
	require.NoError(t, err)
	require.Equal(t, want, out)
	m, err := get()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "1", "b": "2"}, m.Data)

	out, err = call(env, map[string]any{"operation": "delete", "objectReference": ref})
	require.NoError(t, err)
	require.Equal(t, want, out)
	_, err = get()
	require.True(t, apierrors.IsNotFound(err))
	_, err = call(functiontest.NewEnv(t, "thaw-other"), map[string]any{"operation": "delete", "objectReference": ref})
	require.ErrorContains(t, err, "not found", "Kanister's rule")
	_, err = call(env.Again(t, false), map[string]any{"operation": "delete", "objectReference": ref})
	require.NoError(t, err, "the first attempt deleted it")
}

func TestKubeOpsMakesUpANameOnce(t *testing.T) {
	s := newScene(t)
	env := functiontest.NewEnv(t, "thaw-0123456789abcdef")
	args := map[string]any{"operation": "create", "namespace": s.ns, "spec": "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: session-}\n"}
	out, err := s.call(t.Context(), env, "KubeOps", args)
	require.NoError(t, err)
	require.Equal(t, "session-89abcdef", out["name"])
	again, err := s.call(t.Context(), env.Again(t, false), "KubeOps", args)
	require.NoError(t, err)
	require.Equal(t, out, again)
}

// A custom resource has no strategic merge; and what has no namespace is given
// none.
func TestKubeOpsOnWhatIsNoBuiltIn(t *testing.T) {
	s := newScene(t)
	call := func(args map[string]any) (function.Outputs, error) {
		return s.call(t.Context(), functiontest.NewEnv(t, "thaw-"+s.ns[:20]), "KubeOps", args)
	}
	class := "c-" + s.ns
	out, err := call(map[string]any{"operation": "create", "spec": "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshotClass\nmetadata: {name: " + class + "}\ndriver: none.example\ndeletionPolicy: Delete\n"})
	require.NoError(t, err)
	require.Equal(t, "", out["namespace"])
	ref := map[string]any{"kind": "VolumeSnapshotClass", "group": "snapshot.storage.k8s.io", "apiVersion": "v1", "name": class}
	_, err = call(map[string]any{"operation": "patch", "objectReference": ref, "spec": `{"parameters": {"a": "b"}}`})
	require.NoError(t, err)
	got, err := s.Snapshots.SnapshotV1().VolumeSnapshotClasses().Get(t.Context(), class, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "b"}, got.Parameters)
	_, err = call(map[string]any{"operation": "delete", "objectReference": ref})
	require.NoError(t, err)
}

func TestKubeOpsRefuses(t *testing.T) {
	c := testcluster.Open(t)
	for name, args := range map[string]map[string]any{
		"operation is create, patch or delete": {"operation": "replace"},
		"spec is required":                     {"operation": "create"},
		"more than one object":                 {"operation": "create", "spec": "apiVersion: v1\nkind: A\nmetadata: {name: a}\n---\napiVersion: v1\nkind: A\nmetadata: {name: b}\n"},
		"metadata.name":                        {"operation": "create", "spec": "apiVersion: v1\nkind: ConfigMap\n"},
		"objectReference: give name":           {"operation": "delete"},
		"the patch, is required":               {"operation": "patch", "objectReference": map[string]any{"resource": "pods", "apiVersion": "v1", "name": "x"}},
		"knows no such resource":               {"operation": "create", "spec": "apiVersion: nowhere.example/v1\nkind: Thing\nmetadata: {name: a}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := functiontest.Call(t.Context(), t, Functions(c), functiontest.NewEnv(t, "k"), "KubeOps", args)
			if name == "operation is create, patch or delete" {
				name = "create, patch, delete"
			}
			require.ErrorContains(t, err, name)
			require.Equal(t, fault.User, fault.Of(err))
		})
	}
}

func TestScaleWorkload(t *testing.T) {
	s := newScene(t)
	labels := map[string]string{"app": "web"}
	replicas := int32(2)
	grace := int64(1)
	_, err := s.Kube.AppsV1().Deployments(s.ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				TerminationGracePeriodSeconds: &grace,
				Containers:                    []corev1.Container{{Name: "c", Image: testcluster.Tools, Command: []string{"sleep", "3600"}}},
			}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	env := functiontest.NewEnv(t, "thaw-scale")
	env.Target = plan.Target{Kind: "Deployment", Name: "web", Namespace: s.ns}
	out, err := s.call(t.Context(), env, "ScaleWorkload", map[string]any{"replicas": "0"})
	require.NoError(t, err)
	require.Equal(t, function.Outputs{"originalReplicaCount": int64(2)}, out)
	require.Empty(t, s.pods(), "the pods are gone, and not only uncounted")

	out, err = s.call(t.Context(), env.Again(t, false), "ScaleWorkload", map[string]any{"replicas": 0})
	require.NoError(t, err)
	require.Equal(t, function.Outputs{"originalReplicaCount": int64(2)}, out, "what was there before the first attempt")

	out, err = s.call(t.Context(), functiontest.NewEnv(t, "thaw-scale-2"), "ScaleWorkload", map[string]any{"replicas": 1, "name": "web", "namespace": s.ns, "kind": "deployment"})
	require.NoError(t, err)
	require.Equal(t, function.Outputs{"originalReplicaCount": int64(0)}, out)
	require.Len(t, s.pods(), 1)

	for says, args := range map[string]map[string]any{
		"not found":                   {"replicas": 1, "name": "nobody", "namespace": s.ns, "kind": "deployment"},
		"give namespace, name":        {"replicas": 1},
		`"replicas" is required`:      {},
		"replicas is -1":              {"replicas": -1, "name": "web", "namespace": s.ns, "kind": "deployment"},
		"deployment, statefulset, de": {"replicas": 1, "name": "web", "namespace": s.ns, "kind": "daemonset"},
	} {
		_, err := s.call(t.Context(), functiontest.NewEnv(t, "k"), "ScaleWorkload", args)
		require.ErrorContains(t, err, says)
		require.Equal(t, fault.User, fault.Of(err), says)
	}
}
