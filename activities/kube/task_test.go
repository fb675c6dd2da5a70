package kube

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster/podrun"
	"thaw/activities/function"
	"thaw/activities/function/functiontest"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
)

func TestKubeTask(t *testing.T) {
	s := newScene(t)
	for name, c := range map[string]struct {
		args map[string]any
		want map[string]any
		says []string
		kind fault.Kind
	}{
		"outputs":        {args: s.task("kando output a 1; echo noise; kando output b 'two words'"), want: map[string]any{"a": "1", "b": "two words"}},
		"a long output":  {args: s.task(`kando output size "$(head -c 100000 /dev/zero | tr '\0' x)"`)},
		"a failure":      {args: s.task("echo one; echo 'FATAL: no pg_hba.conf entry' >&2; exit 4"), says: []string{"exit code 4", "FATAL: no pg_hba.conf entry", "pod " + s.ns + "/thaw-"}, kind: fault.Command},
		"out of memory":  {args: with(s.task("head -c 200m /dev/zero | tail"), "podOverride", memory("32Mi")), says: []string{"OOMKilled"}, kind: fault.Command},
		"no such image":  {args: map[string]any{"namespace": s.ns, "image": "Not An Image", "command": sh("true")}, says: []string{"Not An Image"}, kind: fault.User},
		"no command":     {args: map[string]any{"namespace": s.ns, "image": testcluster.Tools}, says: []string{`"command" is required`}, kind: fault.User},
		"a bad override": {args: with(s.task("true"), "podOverride", map[string]any{"restartPolicy": "Always"}), says: []string{"restartPolicy"}, kind: fault.User},
	} {
		t.Run(name, func(t *testing.T) {
			env := functiontest.NewEnv(t, fmt.Sprintf("thaw-task-%d", time.Now().UnixNano()))
			out, err := s.call(t.Context(), env, "KubeTask", c.args)
			env.Clean(t.Context())
			require.Empty(t, s.pods(), "the pod is taken away")
			if len(c.says) > 0 {
				require.Error(t, err)
				for _, text := range c.says {
					require.ErrorContains(t, err, text)
				}
				require.Equal(t, c.kind, fault.Of(err))
				return
			}
			require.NoError(t, err)
			if c.want == nil {
				require.Len(t, out["size"], 100000)
				return
			}
			require.Equal(t, c.want, map[string]any(out))
		})
	}
}

func memory(limit string) map[string]any {
	return map[string]any{"containers": []any{map[string]any{"name": "container", "resources": map[string]any{"limits": map[string]any{"memory": limit}}}}}
}

func with(args map[string]any, key string, v any) map[string]any {
	args[key] = v
	return args
}

// A pod is made once, whatever becomes of the worker that made it.
func TestKubeTaskIsFoundAgain(t *testing.T) {
	s := newScene(t)
	script := "kando output started \"$(date +%s%N)\"; while [ ! -e /tmp/go ]; do sleep 0.1; done; kando output ended yes"
	env := functiontest.NewEnv(t, "thaw-found")
	// A worker that dies stops in the middle, and does nothing after it.
	ctx, die := context.WithCancel(t.Context())
	env.Stopping = func() bool { return true }
	lost := make(chan error, 1)
	go func() { _, err := s.call(ctx, env, "KubeTask", s.task(script)); lost <- err }()
	pod := s.started("thaw-found")
	require.Eventually(t, func() bool { return len(env.Memory()) > 60 }, testcluster.Wait, testcluster.Tick)
	die()
	require.Error(t, <-lost)

	again := env.Again(t, false)
	type result struct {
		out function.Outputs
		err error
	}
	got := make(chan result, 1)
	go func() { out, err := s.call(t.Context(), again, "KubeTask", s.task(script)); got <- result{out, err} }()
	s.exec(pod.Name, "touch /tmp/go")
	r := <-got
	require.NoError(t, r.err)
	require.Equal(t, "yes", r.out["ended"])
	require.NotEmpty(t, r.out["started"], "what was printed before the death is known")
	now, err := s.Kube.CoreV1().Pods(s.ns).Get(t.Context(), pod.Name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, pod.UID, now.UID, "the same pod: the command ran once")

	// The worker dies once more, before it can tell: the finished pod's result
	// is taken again.
	third, err := s.call(t.Context(), again.Again(t, false), "KubeTask", s.task(script))
	require.NoError(t, err)
	require.Equal(t, r.out, third)
	// A retry after a failure that was told is a new run of the command.
	told := again.Again(t, true)
	out, err := s.call(t.Context(), told, "KubeTask", s.task("kando output run anew"))
	require.NoError(t, err)
	require.Equal(t, function.Outputs{"run": "anew"}, out)
	told.Clean(t.Context())
	require.Empty(t, s.pods())
}

// A pod that somebody deleted is no pod that never was.
func TestKubeTaskThatWasDeletedIsNotStartedAgain(t *testing.T) {
	s := newScene(t)
	env := functiontest.NewEnv(t, "thaw-deleted")
	done := make(chan error, 1)
	go func() { _, err := s.call(t.Context(), env, "KubeTask", s.task("sleep 60")); done <- err }()
	s.started("thaw-deleted")
	s.kill("thaw-deleted")
	err := <-done
	require.ErrorContains(t, err, "deleted before its end")
	require.Equal(t, fault.Permanent, fault.Of(err))

	_, err = s.call(t.Context(), env.Again(t, false), "KubeTask", s.task("sleep 60"))
	require.ErrorContains(t, err, "deleted before its end")
	require.Empty(t, s.pods())
}

// What a cancelled call started is ended before its phase is over.
func TestKubeTaskEndsWithItsCall(t *testing.T) {
	s := newScene(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.call(ctx, functiontest.NewEnv(t, "thaw-cancelled"), "KubeTask", s.task("sleep 60"))
		done <- err
	}()
	s.started("thaw-cancelled")
	cancel()
	require.Error(t, <-done)
	require.Empty(t, s.pods())
}

func TestPodOfAnotherIsNotTaken(t *testing.T) {
	s := newScene(t)
	s.pod("thaw-taken")
	_, err := s.call(t.Context(), functiontest.NewEnv(t, "thaw-taken"), "KubeTask", s.task("true"))
	require.ErrorContains(t, err, "not of this call")
	require.Equal(t, fault.Permanent, fault.Of(err))
}

func TestMultiContainerRun(t *testing.T) {
	s := newScene(t)
	args := func(background, output string) map[string]any {
		return map[string]any{
			"namespace": s.ns, "initImage": testcluster.Tools, "initCommand": sh("mkfifo /shared/data"),
			"backgroundImage": testcluster.Tools, "backgroundCommand": sh(background),
			"outputImage": testcluster.Tools, "outputCommand": sh(output), "sharedVolumeDir": "/shared", "sharedVolumeMedium": "Memory", "sharedVolumeSizeLimit": "16Mi",
		}
	}
	env := functiontest.NewEnv(t, "thaw-multi")
	out, err := s.call(t.Context(), env, "MultiContainerRun", args("echo through the pipe > /shared/data; kando output no background", `kando output got "$(cat /shared/data)"`))
	require.NoError(t, err)
	require.Equal(t, function.Outputs{"got": "through the pipe"}, out, "outputs are those of the container output alone")
	env.Clean(t.Context())

	env = functiontest.NewEnv(t, "thaw-multi-fails")
	_, err = s.call(t.Context(), env, "MultiContainerRun", args("echo 'the dump failed' >&2; exit 5", "sleep 30"))
	require.ErrorContains(t, err, "container background: exit code 5: the dump failed")
	env.Clean(t.Context())
	require.Empty(t, s.pods())
}

func TestPrepareData(t *testing.T) {
	s := newScene(t)
	s.claim("data")
	args := func(script string) map[string]any {
		return map[string]any{"namespace": s.ns, "image": testcluster.Tools, "command": sh(script), "volumes": map[string]any{"data": "/mnt/data"}}
	}
	run := func(key string, args map[string]any) (function.Outputs, error) {
		env := functiontest.NewEnv(t, key)
		env.Workload = &plan.Workload{Claims: map[string]map[string]string{"db-0": {"data": "/var/lib/db"}}}
		defer env.Clean(t.Context())
		return s.call(t.Context(), env, "PrepareData", args)
	}
	_, err := run("thaw-prepare-1", args("echo kept > /mnt/data/file"))
	require.NoError(t, err)
	all := args("kando output file \"$(cat /mnt/prepare_data/data/file)\"")
	delete(all, "volumes")
	out, err := run("thaw-prepare-2", all)
	require.NoError(t, err)
	require.Equal(t, function.Outputs{"file": "kept"}, out, "the target's claims are below /mnt/prepare_data")

	out, err = run("thaw-prepare-3", args("echo broken; exit 1"))
	require.NoError(t, err, "Kanister's default")
	require.Contains(t, out["ignoredError"], "broken")
	_, err = run("thaw-prepare-4", with(args("echo broken; exit 1"), "failOnError", true))
	require.ErrorContains(t, err, "broken")
	_, err = run("thaw-prepare-5", with(args("true"), "volumes", map[string]any{"nothing": "/mnt"}))
	require.ErrorContains(t, err, "nothing")
	require.Equal(t, fault.User, fault.Of(err))
	require.Empty(t, s.pods())
}

func TestPodsAreMergedAsKanisterMergesThem(t *testing.T) {
	c := testcluster.Open(t)
	env := functiontest.NewEnv(t, "k")
	env.Pod = function.PodDefaults{
		Override: map[string]any{"serviceAccountName": "of-the-run", "containers": []any{map[string]any{"name": "container", "imagePullPolicy": "Always"}}},
		Labels:   map[string]string{"a": "run", "b": "run"}, Annotations: map[string]string{"x": "run"},
	}
	spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "container", Image: "i", Command: []string{"c"}}}}
	pod, err := podrun.Pod(c, &env.Env, "", spec, podrun.Args{
		PodOverride: map[string]any{
			"serviceAccountName": "of-the-phase", "imagePullSecrets": []any{map[string]any{"name": "registry"}},
			"containers": []any{map[string]any{"name": "container", "resources": map[string]any{"limits": map[string]any{"memory": "1Gi"}}}},
		},
		PodLabels: map[string]string{"a": "phase"}, PodAnnotations: map[string]string{"y": "phase"},
	}, env.Pod.Override)
	require.NoError(t, err)
	require.Equal(t, c.Namespace, pod.Namespace)
	require.Equal(t, "of-the-run", pod.Spec.ServiceAccountName, "the run's override wins")
	require.Equal(t, []corev1.LocalObjectReference{{Name: "registry"}}, pod.Spec.ImagePullSecrets)
	require.Len(t, pod.Spec.Containers, 1)
	got := pod.Spec.Containers[0]
	require.Equal(t, []string{"i", "c", "Always", "1Gi"}, []string{got.Image, got.Command[0], string(got.ImagePullPolicy), got.Resources.Limits.Memory().String()})
	require.Equal(t, map[string]string{"a": "phase", "b": "run"}, pod.Labels, "the phase's labels win")
	require.Equal(t, map[string]string{"x": "run", "y": "phase"}, pod.Annotations)

	both := forBoth(env.Pod.Override)
	require.Equal(t, []any{
		map[string]any{"name": "background", "imagePullPolicy": "Always"}, map[string]any{"name": "output", "imagePullPolicy": "Always"},
	}, both["containers"])
}
