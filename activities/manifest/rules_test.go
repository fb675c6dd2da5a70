package manifest

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"thaw/activities/cluster"
	"thaw/activities/cluster/manifests"
	"thaw/activities/function"
	"thaw/activities/function/functiontest"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
)

// scene is a namespace, and a restore point of it.
type scene struct {
	*cluster.Cluster
	t       *testing.T
	ns, dir string

	mu    sync.Mutex
	asked map[string][]*testcluster.Asked
}

func newScene(t *testing.T) *scene {
	c := testcluster.Open(t)
	return &scene{Cluster: c, t: t, ns: testcluster.Namespace(t, c), dir: t.TempDir(), asked: map[string][]*testcluster.Asked{}}
}

func rulesOf(name string) []catalogue.Rule {
	for _, f := range Functions(nil, "") {
		if f.Name == name {
			return f.Rules
		}
	}
	panic(name)
}

// call calls a function with the permissions that it declares, and more.
func (s *scene) call(name string, args map[string]any, more ...catalogue.Rule) (function.Outputs, error) {
	s.t.Helper()
	own, asked := testcluster.Least(s.t, s.Cluster, append(more, rulesOf(name)...), s.ns)
	s.mu.Lock()
	s.asked[name] = append(s.asked[name], asked)
	s.mu.Unlock()
	env := functiontest.NewEnv(s.t, "k")
	env.RestorePoint = plan.RestorePointRef{Directory: s.dir}
	return functiontest.Call(s.t.Context(), s.t, Functions(own, filepath.Join(s.dir, "key")), env, name, args)
}

func (s *scene) must(name string, args map[string]any) function.Outputs {
	s.t.Helper()
	out, err := s.call(name, args)
	require.NoError(s.t, err)
	return out
}

func (s *scene) settings(color string) {
	s.t.Helper()
	maps := s.Kube.CoreV1().ConfigMaps(s.ns)
	m, err := maps.Get(s.t.Context(), "settings", metav1.GetOptions{})
	if err != nil {
		_, err = maps.Create(s.t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"color": color}}, metav1.CreateOptions{})
	} else {
		m.Data["color"] = color
		_, err = maps.Update(s.t.Context(), m, metav1.UpdateOptions{})
	}
	require.NoError(s.t, err)
}

func (s *scene) color() string {
	s.t.Helper()
	m, err := s.Kube.CoreV1().ConfigMaps(s.ns).Get(s.t.Context(), "settings", metav1.GetOptions{})
	require.NoError(s.t, err)
	return m.Data["color"]
}

func (s *scene) delete(name string) {
	s.t.Helper()
	require.NoError(s.t, s.Kube.CoreV1().ConfigMaps(s.ns).Delete(s.t.Context(), name, metav1.DeleteOptions{}))
}

// Each function does all that it does with the permissions that it declares,
// and asks for every one of them.
func TestTheRulesOfEachFunctionAreWhatItAsks(t *testing.T) {
	s := newScene(t)
	one, zero := int32(1), int64(0)
	labels := map[string]string{"app": "web"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &zero, Containers: []corev1.Container{{Name: "c", Image: testcluster.Tools, Command: []string{"sleep", "3600"}, ReadinessProbe: &corev1.Probe{
			PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/tmp/ready"}}},
		}}},
	}}
	meta, selector := metav1.ObjectMeta{Name: "web"}, &metav1.LabelSelector{MatchLabels: labels}
	_, err := s.Kube.AppsV1().Deployments(s.ns).Create(t.Context(), &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: selector, Template: template}}, metav1.CreateOptions{})
	require.NoError(t, err)
	template.Labels = map[string]string{"app": "db"}
	_, err = s.Kube.AppsV1().StatefulSets(s.ns).Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: &one, ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template,
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = s.Kube.CoreV1().Secrets(s.ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "login"}, StringData: map[string]string{"password": "xyzzy-xyzzy"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	s.settings("blue")

	captured := s.must("CaptureManifests", map[string]any{"namespace": s.ns})
	require.Empty(t, captured["warnings"])
	file := captured["file"]
	s.waits(file, map[string]string{"deployments": "app=web", "statefulsets": "app=db"})

	s.settings("red")
	require.NoError(t, s.Kube.CoreV1().Secrets(s.ns).Delete(t.Context(), "login", metav1.DeleteOptions{}))
	s.must("ApplyManifests", map[string]any{"file": file})
	require.Equal(t, "blue", s.color())
	s.must("RevertManifests", nil)
	require.Equal(t, "red", s.color())
	_, err = s.Kube.CoreV1().Secrets(s.ns).Get(t.Context(), "login", metav1.GetOptions{})
	require.Error(t, err, "what the restore made is deleted")

	s.must("ApplyManifests", map[string]any{"file": file})
	s.delete("settings") // by somebody, meanwhile
	s.must("RevertManifests", nil)
	require.Equal(t, "red", s.color(), "it is made anew")

	other := "t-rules-" + rand.String(8)
	s.must("CreateNamespace", map[string]any{"name": other, "file": file})
	s.must("CreateNamespace", map[string]any{"name": other, "file": file})
	s.must("DeleteNamespace", map[string]any{"name": other})
	s.must("DeleteNamespace", map[string]any{"name": other})

	for _, f := range Functions(nil, "") {
		testcluster.Everything(t, f.Name, f.Rules, nil, s.of(f.Name)...)
	}
}

// waits calls WaitWorkloads; each workload becomes ready when it is watched.
func (s *scene) waits(file any, workloads map[string]string) {
	s.t.Helper()
	done := make(chan error, 1)
	ready := map[string]bool{}
	go func() { _, err := s.call("WaitWorkloads", map[string]any{"file": file}); done <- err }()
	require.Eventually(s.t, func() bool {
		select {
		case err := <-done:
			require.NoError(s.t, err)
			return true
		default:
		}
		for _, asked := range s.of("WaitWorkloads") {
			for resource, labels := range workloads {
				if ready[resource] || !slices.Contains(asked.Verbs(), "watch apps/"+resource) {
					continue
				}
				pods, err := s.Kube.CoreV1().Pods(s.ns).List(s.t.Context(), metav1.ListOptions{LabelSelector: labels, FieldSelector: "status.phase=Running"})
				require.NoError(s.t, err)
				if len(pods.Items) == 1 {
					testcluster.Exec(s.t, s.Cluster, s.ns, pods.Items[0].Name, "c", "touch /tmp/ready")
					ready[resource] = true
				}
			}
		}
		return false
	}, testcluster.Wait, testcluster.Tick)
	require.Len(s.t, ready, len(workloads))
}

func (s *scene) of(name string) []*testcluster.Asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked[name])
}

// Kubernetes lets nobody make a role that gives more than he has: a restore of
// one needs the optional role restore-roles.
func TestRestoreOfARoleThatGivesMore(t *testing.T) {
	s := newScene(t)
	_, err := s.Kube.RbacV1().Roles(s.ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "operator"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"watch"}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = s.Kube.RbacV1().RoleBindings(s.ns).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "operator"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "operator"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "operator", Namespace: s.ns}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	file := s.must("CaptureManifests", map[string]any{"namespace": s.ns})["file"].(string)
	_, err = os.Stat(filepath.Join(s.dir, manifests.File))
	require.NoError(t, err)
	require.NoError(t, s.Kube.RbacV1().RoleBindings(s.ns).Delete(t.Context(), "operator", metav1.DeleteOptions{}))
	require.NoError(t, s.Kube.RbacV1().Roles(s.ns).Delete(t.Context(), "operator", metav1.DeleteOptions{}))

	_, err = s.call("ApplyManifests", map[string]any{"file": file})
	require.ErrorContains(t, err, "attempting to grant RBAC permissions not currently held")
	role, ok := catalogue.RoleOf("restore-roles")
	require.True(t, ok)
	_, err = s.call("ApplyManifests", map[string]any{"file": file}, role.Rules...)
	require.NoError(t, err)
}
