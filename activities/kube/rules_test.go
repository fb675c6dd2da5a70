package kube

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/function/functiontest"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/internal/testcluster"
)

// least is a scene whose worker may do what one function declares.
func (s *scene) least(name string) (*scene, []catalogue.Rule, *testcluster.Asked) {
	s.t.Helper()
	for _, f := range Functions(nil) {
		if f.Name == name {
			own, asked := testcluster.Least(s.t, s.Cluster, f.Rules, s.ns)
			return &scene{own, s.t, s.ns}, f.Rules, asked
		}
	}
	require.Fail(s.t, "no function "+name)
	return nil, nil, nil
}

// execCreate: an API server asks for it since Kubernetes 1.35, besides get;
// those before take either for the method of the request.
var execCreate = map[string]string{"create /pods/exec": "the request is a GET; the API server asks for create besides"}

// Each function does all that it does with the permissions that it declares,
// and asks for every one of them.
func TestTheRulesOfEachFunctionAreWhatItAsks(t *testing.T) {
	s := newScene(t)
	s.pod("db")
	s.claim("data")
	for name, args := range map[string]map[string]any{
		"KubeExec":    {"namespace": s.ns, "pod": "db", "command": sh("true")},
		"KubeExecAll": {"namespace": s.ns, "pods": "db", "containers": "one two", "command": sh("true")},
	} {
		t.Run(name, func(t *testing.T) {
			own, rules, asked := s.least(name)
			_, err := own.call(t.Context(), functiontest.NewEnv(t, "k"), name, args)
			require.NoError(t, err)
			testcluster.Everything(t, name, rules, execCreate, asked)
		})
	}
	for name, args := range map[string]map[string]any{
		"KubeTask": s.task("true"),
		"MultiContainerRun": {
			"namespace": s.ns, "backgroundImage": testcluster.Tools, "backgroundCommand": sh("true"), "outputImage": testcluster.Tools, "outputCommand": sh("true"),
		},
		"PrepareData": {"namespace": s.ns, "image": testcluster.Tools, "command": sh("true"), "volumes": map[string]any{"data": "/data"}},
	} {
		t.Run(name, func(t *testing.T) {
			own, rules, asked := s.least(name)
			env := functiontest.NewEnv(t, "thaw-"+strings.ToLower(name))
			_, err := own.call(t.Context(), env, name, args)
			require.NoError(t, err)
			_, err = own.call(t.Context(), env.Again(t, false), name, args)
			require.NoError(t, err, "another attempt finds the pod")
			env.Clean(t.Context())
			_, err = s.Kube.CoreV1().Pods(s.ns).Get(t.Context(), env.Key, metav1.GetOptions{})
			require.Error(t, err, "the pod is taken away")
			testcluster.Everything(t, name, rules, nil, asked)
		})
	}
	t.Run("ScaleWorkload", func(t *testing.T) {
		own, rules, asked := s.least("ScaleWorkload")
		s.workloads("web")
		for _, kind := range []string{"deployment", "statefulset"} {
			for _, n := range []int{0, 1} {
				_, err := own.call(t.Context(), functiontest.NewEnv(t, "k"), "ScaleWorkload", map[string]any{"replicas": n, "name": "web", "namespace": s.ns, "kind": kind})
				require.NoError(t, err)
			}
		}
		testcluster.Everything(t, "ScaleWorkload", rules, nil, asked)
	})
}

// workloads makes a Deployment and a StatefulSet whose pods take their time to
// end.
func (s *scene) workloads(name string) {
	s.t.Helper()
	labels, one, grace := map[string]string{"app": name}, int32(1), int64(2)
	template := func(kind string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name, "kind": kind}}, Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{Name: "c", Image: testcluster.Tools, Command: []string{"sleep", "3600"}}},
		}}
	}
	selector := func(kind string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name, "kind": kind}}
	}
	meta := metav1.ObjectMeta{Name: name, Labels: labels}
	_, err := s.Kube.AppsV1().Deployments(s.ns).Create(s.t.Context(), &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: selector("d"), Template: template("d")}}, metav1.CreateOptions{})
	require.NoError(s.t, err)
	_, err = s.Kube.AppsV1().StatefulSets(s.ns).Create(s.t.Context(), &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: &one, ServiceName: name, Selector: selector("s"), Template: template("s")}}, metav1.CreateOptions{})
	require.NoError(s.t, err)
}

// KubeOps declares nothing, since its arguments name the kind. What each
// operation asks is in docs/rbac.md.
func TestWhatKubeOpsAsksOfTheObjectsKind(t *testing.T) {
	s := newScene(t)
	ref := map[string]any{"apiVersion": "v1", "resource": "configmaps", "name": "made"}
	spec := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made, finalizers: [thaw.dev/test]}\n"
	for _, c := range []struct {
		operation string
		args      map[string]any
		verbs     []string
	}{
		{"create", map[string]any{"spec": spec}, []string{"get", "create"}},
		{"patch", map[string]any{"spec": "data: {a: b}", "objectReference": ref}, []string{"patch"}},
		{"delete", map[string]any{"objectReference": ref}, []string{"get", "list", "watch", "delete"}},
	} {
		t.Run(c.operation, func(t *testing.T) {
			rules := []catalogue.Rule{{Resources: []string{"configmaps"}, Verbs: c.verbs}}
			cl, asked := testcluster.Least(t, s.Cluster, rules, s.ns)
			own := &scene{cl, t, s.ns}
			c.args["operation"], c.args["namespace"] = c.operation, s.ns
			env := functiontest.NewEnv(t, "thaw-ops")
			done := make(chan error, 1)
			go func() {
				_, err := own.call(t.Context(), env, "KubeOps", c.args)
				done <- err
			}()
			if c.operation == "delete" { // it is held, so that it is watched
				require.Eventually(t, func() bool {
					m, err := s.Kube.CoreV1().ConfigMaps(s.ns).Get(t.Context(), "made", metav1.GetOptions{})
					return err == nil && m.DeletionTimestamp != nil
				}, testcluster.Wait, testcluster.Tick)
				require.Eventually(t, func() bool { return len(asked.Verbs()) == len(c.verbs) }, testcluster.Wait, testcluster.Tick)
				s.release("made")
			}
			require.NoError(t, <-done)
			if c.operation == "create" {
				_, err := own.call(t.Context(), env.Again(t, false), "KubeOps", c.args)
				require.NoError(t, err)
			}
			testcluster.Everything(t, "KubeOps "+c.operation, rules, nil, asked)
		})
	}
}

// release takes the finalizers off a config map.
func (s *scene) release(name string) {
	require.Eventually(s.t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		m, err := s.Kube.CoreV1().ConfigMaps(s.ns).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false
		}
		m.Finalizers = nil
		_, err = s.Kube.CoreV1().ConfigMaps(s.ns).Update(ctx, m, metav1.UpdateOptions{})
		return err == nil
	}, testcluster.Wait, testcluster.Tick)
}

// What is not allowed is refused at once, and the error says what to allow.
func TestWhatIsNotAllowedIsSaid(t *testing.T) {
	s := newScene(t)
	s.pod("db")
	exec := map[string]any{"namespace": s.ns, "pod": "db", "command": sh("true")}
	pods := catalogue.Rule{Resources: []string{"pods"}, Verbs: []string{"get"}}
	for _, c := range []struct {
		name, says string
		args       map[string]any
		rules      []catalogue.Rule
	}{
		{"KubeTask", `cannot create resource "pods"`, s.task("true"), nil},
		{"ScaleWorkload", `cannot get resource "deployments/scale"`, map[string]any{"replicas": 0, "name": "web", "namespace": s.ns, "kind": "deployment"}, nil},
		{"KubeExec", `cannot get resource "pods"`, exec, nil},
		{"KubeExec", `resource "pods/exec"`, exec, []catalogue.Rule{pods}},
		{"KubeExec", `get and create of pods/exec`, exec, []catalogue.Rule{pods, {Resources: []string{"pods/exec"}, Verbs: []string{"get"}}}},
		{"KubeExec", `cannot get resource "pods/exec"`, exec, []catalogue.Rule{pods, {Resources: []string{"pods/exec"}, Verbs: []string{"create"}}}},
	} {
		cl, _ := testcluster.Least(t, s.Cluster, c.rules, s.ns)
		own := &scene{cl, t, s.ns}
		ctx, cancel := context.WithTimeout(t.Context(), testcluster.Wait)
		_, err := own.call(ctx, functiontest.NewEnv(t, "k"), c.name, c.args)
		cancel()
		require.ErrorContains(t, err, c.says)
		require.ErrorContains(t, err, "forbidden")
		require.Equal(t, fault.User, fault.Of(err))
	}
}
