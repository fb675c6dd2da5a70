package kube

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/activities/function/functiontest"
	"thaw/internal/testcluster"
)

// scene is a namespace of a real cluster.
type scene struct {
	*cluster.Cluster
	t  *testing.T
	ns string
}

func newScene(t *testing.T) *scene {
	c := testcluster.Open(t)
	return &scene{c, t, testcluster.Namespace(t, c)}
}

func (s *scene) call(ctx context.Context, e *functiontest.Env, name string, args map[string]any) (function.Outputs, error) {
	return functiontest.Call(ctx, s.t, Functions(s.Cluster), e, name, args)
}

// sh is a command of a shell.
func sh(script string) []any { return []any{"sh", "-c", script} }

func (s *scene) task(script string) map[string]any {
	return map[string]any{"namespace": s.ns, "image": testcluster.Tools, "command": sh(script)}
}

// pod runs a pod that sleeps, with two containers.
func (s *scene) pod(name string) {
	container := func(n string) corev1.Container {
		return corev1.Container{Name: n, Image: testcluster.Tools, Command: []string{"sh", "-c", "trap exit TERM; while :; do sleep 1 & wait; done"}}
	}
	_, err := s.Kube.CoreV1().Pods(s.ns).Create(s.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{container("one"), container("two")}},
	}, metav1.CreateOptions{})
	require.NoError(s.t, err)
	require.Eventually(s.t, func() bool {
		p, err := s.Kube.CoreV1().Pods(s.ns).Get(s.t.Context(), name, metav1.GetOptions{})
		if err != nil || len(p.Status.ContainerStatuses) < 2 {
			return false
		}
		return p.Status.ContainerStatuses[0].State.Running != nil && p.Status.ContainerStatuses[1].State.Running != nil
	}, testcluster.Wait, testcluster.Tick)
}

// pods lists what is left in the namespace.
func (s *scene) pods() (names []string) {
	list, err := s.Kube.CoreV1().Pods(s.ns).List(context.Background(), metav1.ListOptions{})
	require.NoError(s.t, err)
	for _, p := range list.Items {
		names = append(names, p.Name)
	}
	return names
}

func TestMain(m *testing.M) { os.Exit(m.Run()) }
