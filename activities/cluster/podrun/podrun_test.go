package podrun

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/activities/function/functiontest"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
)

func task(namespace, script string) Task {
	return Task{Output: "container", Containers: []string{"container"}, Pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace},
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
			Name: "container", Image: testcluster.Tools, Command: []string{"sh", "-c", script},
		}}},
	}}
}

type result struct {
	out function.Outputs
	err error
}

func start(ctx context.Context, c *cluster.Cluster, env *functiontest.Env, t Task) <-chan result {
	done := make(chan result, 1)
	go func() { out, err := Run(ctx, c, &env.Env, t); done <- result{out, err} }()
	return done
}

// text is the pod's own log, as it is now.
func text(t *testing.T, c *cluster.Cluster, namespace, pod string) string {
	stream, err := c.Kube.CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{}).Stream(context.WithoutCancel(t.Context()))
	if err != nil {
		return ""
	}
	defer stream.Close()
	b, _ := io.ReadAll(stream)
	return string(b)
}

// A worker that loses its API server waits, goes on, and misses no line.
func TestStreamsBreakAndTheServerGoesAway(t *testing.T) {
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	far, line := testcluster.Through(t, c)
	env := functiontest.NewEnv(t, "thaw-breaks")
	script := `i=0; while [ $i -lt 60 ]; do i=$((i+1)); kando output n$i $i; sleep 0.1; done; echo 'the last words' >&2; exit 3`
	done := start(t.Context(), far, env, task(ns, script))
	has := func(what string) {
		require.Eventually(t, func() bool { return strings.Contains(text(t, c, ns, "thaw-breaks"), what) }, testcluster.Wait, testcluster.Tick)
	}
	has(`"n5"`)
	line.Break()
	has(`"n20"`)
	line.Cut()
	has(`"n40"`)
	line.Mend()
	r := <-done
	require.ErrorContains(t, r.err, "exit code 3")
	require.ErrorContains(t, r.err, "the last words")
	require.Equal(t, fault.Command, fault.Of(r.err))
	for i := 1; i <= 60; i++ {
		require.Contains(t, env.Memory(), fmt.Sprintf(`"n%d":"%d"`, i, i))
	}
	env.Clean(t.Context())
}

// The kubelet rotates a long log away while no worker reads it.
func TestOutputInRotatedFiles(t *testing.T) {
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	env := functiontest.NewEnv(t, "thaw-rotated")
	// 12 MiB a round, of which the kubelet keeps 10 in a file.
	script := `until [ -e /tmp/go ]; do sleep 0.1; done
kando output early 1
for i in 1 2 3; do head -c 9000000 /dev/urandom | base64; kando output between$i $i; sleep 7; done
kando output late 1; echo the end`
	ctx, die := context.WithCancel(t.Context())
	env.Stopping = func() bool { return true }
	lost := start(ctx, c, env, task(ns, "echo begun; "+script))
	require.Eventually(t, func() bool { return strings.Contains(env.Memory(), `"at"`) }, testcluster.Wait, testcluster.Tick)
	die()
	require.Error(t, (<-lost).err)

	pods := c.Kube.CoreV1().Pods(ns)
	pod, err := pods.Get(t.Context(), "thaw-rotated", metav1.GetOptions{})
	require.NoError(t, err)
	touch(t, c, ns, pod.Name)
	require.Eventually(t, func() bool {
		p, err := pods.Get(t.Context(), pod.Name, metav1.GetOptions{})
		return err == nil && p.Status.Phase == corev1.PodSucceeded
	}, testcluster.Wait, testcluster.Tick)
	require.NotContains(t, text(t, c, ns, pod.Name), `"early"`, "it is in no file that the API shows")

	again := env.Again(t, false)
	r := <-start(t.Context(), c, again, task(ns, script))
	require.NoError(t, r.err)
	require.Equal(t, function.Outputs{"early": "1", "between1": "1", "between2": "2", "between3": "3", "late": "1"}, r.out)
	again.Clean(t.Context())
}

// touch lets the rotating pod go on, through an ephemeral path: exec.
func touch(t *testing.T, c *cluster.Cluster, ns, pod string) {
	testcluster.Exec(t, c, ns, pod, "container", "touch /tmp/go")
}

// Pods whose activity is over are swept; those that are still wanted are not.
func TestSweep(t *testing.T) {
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	for _, key := range []string{"thaw-wanted", "thaw-orphan", "thaw-others"} {
		env := functiontest.NewEnv(t, key)
		env.Owner = "us"
		if key == "thaw-others" {
			env.Owner = "them"
		}
		env.Run = plan.Run{ID: "run/" + key, RunID: "1"}
		require.NoError(t, (<-start(t.Context(), c, env, task(ns, "true"))).err)
	}
	self := func(context.Context) (string, error) { return "us", nil }
	sweep(t.Context(), c, slog.New(slog.DiscardHandler), self, func(_ context.Context, run plan.Run, activity string) (bool, error) {
		require.Equal(t, "1", activity)
		return run.ID != "run/thaw-orphan", nil
	})
	_, err := c.Kube.CoreV1().Pods(ns).Get(t.Context(), "thaw-orphan", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err))
	for _, left := range []string{"thaw-wanted", "thaw-others"} {
		_, err = c.Kube.CoreV1().Pods(ns).Get(t.Context(), left, metav1.GetOptions{})
		require.NoError(t, err, left)
	}
}

// A pod that cannot start says why, when its time is over.
func TestWhyAPodDoesNotStart(t *testing.T) {
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	k := task(ns, "true")
	k.Pod.Spec.NodeSelector = map[string]string{"no": "such-node"}
	env := functiontest.NewEnv(t, "thaw-pending")
	_, err := Run(ctx, c, &env.Env, k)
	require.ErrorContains(t, err, "not scheduled")
	require.ErrorContains(t, err, "affinity")
	_, err = c.Kube.CoreV1().Pods(ns).Get(t.Context(), "thaw-pending", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "and is gone")
}
