package actionset_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	enums "go.temporal.io/api/enums/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/blueprints/catalogue"
	"thaw/internal/testcluster"
	"thaw/internal/testenv"
	"thaw/worker/actionset"
)

// Without Temporal an ActionSet waits, and says so; what is wrong with one is
// said all the same.
func TestActionSetWithoutTemporal(t *testing.T) {
	s := newScene(t)
	s.create(gated)
	s.server.Kill()
	s.backup("waits", "unlocked")
	a := s.until("waits", "its phases are listed", func(a actionSet) bool { return len(a.Status.Actions) == 1 })
	require.Equal(t, "pending", a.Status.State)
	require.Len(t, a.Status.Actions[0].Phases, 3)
	testenv.Await(t, testcluster.Wait, "it is told why", func() bool { return s.events("waits")["Waiting"] > 0 })
	s.create(`{apiVersion: cr.kanister.io/v1alpha1, kind: ActionSet, metadata: {name: wrong}, spec: {actions: [{name: none, blueprint: gated, object: {kind: Namespace, name: a}}]}}`)
	require.Equal(t, "failed", s.over("wrong").Status.State)

	s.server.Restart()
	s.release(s.pod())
	a = s.over("waits")
	require.Equal(t, "complete", a.Status.State, a.Status.Error.Message)
}

// serve serves the namespace's ActionSets in this process, as another worker.
func (s *scene) serve(on *cluster.Cluster) {
	ctx, stop := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	b := &actionset.Bridge{
		Config: actionset.Config{Enabled: true, Namespaces: []string{s.ns}}, Cluster: on, Client: s.client, TaskQueue: s.cfg.TaskQueue,
		Catalogue: catalogue.Default(), Log: slog.New(slog.DiscardHandler),
	}
	go func() { defer close(done); b.Run(ctx) }()
	s.t.Cleanup(func() { stop(); <-done })
}

// serveNone makes the scene's worker one that runs actions, and serves no
// ActionSets.
func (s *scene) serveNone() {
	s.worker.Kill()
	s.cfg.ActionSets.Enabled = false
	s.startWorker()
}

// Two workers serve one ActionSet, one of them over a line to the API server
// that is cut while the run ends.
func TestActionSetOfTwoWorkers(t *testing.T) {
	s := newScene(t)
	over, line := testcluster.Through(t, s.Cluster)
	s.serve(over)
	s.create(gated)
	s.backup("both", "one")
	s.release(s.pod())
	a := s.over("both")
	require.Equal(t, "complete", a.Status.State, a.Status.Error.Message)
	testenv.Await(t, testcluster.Wait, "each event, once", func() bool {
		e := s.events("both")
		return e["Started Action"] == 1 && e["Started Phase"] == 3 && e["Ended Phase"] == 3 && e["Update Complete"] == 1
	})

	// The second alone: the other worker runs the action, and serves no
	// ActionSets any more.
	s.serveNone()
	s.backup("alone", "two")
	pod := s.pod()
	a = s.until("alone", "it runs", func(a actionSet) bool { return a.Status.Progress.RunningPhase == "dump" })
	line.Cut()
	s.release(pod)
	id := s.workflow(a, 0)
	testenv.Await(t, testcluster.Wait, "the run ends", func() bool { return s.status(id) == enums.WORKFLOW_EXECUTION_STATUS_COMPLETED })
	require.Equal(t, "running", s.get("alone").Status.State)
	line.Mend()
	require.Equal(t, "complete", s.over("alone").Status.State)
}

// A blueprint that freezes, of Thaw's own kind.
const freezes = `
apiVersion: thaw.dev/v1alpha1
kind: Blueprint
metadata: {name: freezes}
actions:
  backup:
    kind: Namespace
    phases:
    - name: quiesce
      freeze:
        maxFreeze: 10m
        do: {func: KubeTask, args: {namespace: '{{ .Namespace.Name }}', image: 'thaw.dev/test/tools:1', command: ['true']}}
        undo:
          func: WaitV2
          args:
            timeout: 10m
            conditions:
              allOf:
              - condition: '{{ if eq .data.thaw "now" }}true{{ else }}false{{ end }}'
                objectReference: {apiVersion: v1, resource: configmaps, name: lock, namespace: '{{ .Namespace.Name }}'}
      phases:
      - {name: cut, func: KubeTask, args: {namespace: '{{ .Namespace.Name }}', image: 'thaw.dev/test/tools:1', command: [sleep, '600']}}
`

// A run that is terminated leaves its freeze to the freeze's own session: the
// ActionSet has not failed before that has thawed.
func TestActionSetTerminated(t *testing.T) {
	s := newScene(t)
	crds, err := os.ReadFile(filepath.Join("..", "..", "deploy", "crds", "thaw.dev.yaml"))
	require.NoError(t, err)
	s.kubectl(string(crds), "apply", "-f", "-")
	s.kubectl("", "wait", "--for=condition=Established", "--timeout=60s", "crd/blueprints.thaw.dev")
	s.create(freezes)
	s.kubectl("", "create", "configmap", "lock", "-n", s.ns, "--from-literal=thaw=later")
	s.create(`{apiVersion: cr.kanister.io/v1alpha1, kind: ActionSet, metadata: {name: frozen}, spec: {actions: [{name: backup, blueprint: freezes, object: {kind: Namespace, name: ` + s.ns + `}}]}}`)
	a := s.until("frozen", "it is frozen", func(a actionSet) bool { return a.Status.Progress.RunningPhase == "quiesce" })
	require.Equal(t, []string{"quiesce", "cut"}, []string{a.Status.Actions[0].Phases[0].Name, a.Status.Actions[0].Phases[1].Name})
	id := s.workflow(a, 0)
	session := "freeze/namespace:" + s.ns
	testenv.Await(t, testcluster.Wait, "it is frozen", func() bool {
		pods, err := s.Kube.CoreV1().Pods(s.ns).List(context.Background(), metav1.ListOptions{})
		return err == nil && slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool {
			return p.Status.Phase == corev1.PodRunning && p.Spec.Containers[0].Command[0] == "sleep"
		})
	})
	require.NoError(t, s.client.TerminateWorkflow(t.Context(), id, "", "a test"))
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(testcluster.Tick) {
		require.Equal(t, "running", s.get("frozen").Status.State, "it is not thawed yet")
	}
	s.kubectl("", "patch", "configmap", "lock", "-n", s.ns, "-p", `{"data": {"thaw": "now"}}`)
	a = s.over("frozen")
	require.Equal(t, "failed", a.Status.State)
	require.Contains(t, a.Status.Error.Message, "terminated")
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, s.status(session), "thawed")
}

const lateUnlock = `
apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: late}
actions:
  backup:
    phases:
    - func: KubeTask
      name: dump
      args: {namespace: '{{ .Namespace.Name }}', image: 'thaw.dev/test/tools:1', command: [sh, -c, 'echo no such table >&2; exit 3']}
    deferPhase:
      func: KubeTask
      name: unlock
      args: {namespace: '{{ .Namespace.Name }}', image: 'thaw.dev/test/tools:1', command: ['true'], podOverride: {serviceAccountName: later}}
`

// A deferPhase is tried until it succeeds; it never hides why the action failed.
func TestActionSetWhoseDeferPhaseFails(t *testing.T) {
	s := newScene(t)
	s.create(lateUnlock)
	s.create(`{apiVersion: cr.kanister.io/v1alpha1, kind: ActionSet, metadata: {name: late}, spec: {actions: [{name: backup, blueprint: late, object: {kind: Namespace, name: ` + s.ns + `}}]}}`)
	testenv.Await(t, testcluster.Wait, "it is told that it is tried again", func() bool { return s.events("late")["Retrying"] > 0 })
	a := s.get("late")
	require.Equal(t, "running", a.Status.State)
	require.Equal(t, "unlock", a.Status.Progress.RunningPhase)
	require.Equal(t, "failed", a.Status.Actions[0].Phases[0].State)
	s.kubectl("", "create", "serviceaccount", "later", "-n", s.ns)
	a = s.over("late")
	require.Equal(t, "failed", a.Status.State)
	require.Contains(t, a.Status.Error.Message, "no such table")
	require.Equal(t, "complete", a.Status.Actions[0].DeferPhase.State)
}

// A worker does with its rules all that it does, and asks for every one.
func TestRulesAreWhatIsAsked(t *testing.T) {
	s := newScene(t)
	s.serveNone()
	own, asked := testcluster.Least(t, s.Cluster, actionset.Rules, s.ns)
	s.serve(own)
	s.create(gated)
	s.create(`{apiVersion: cr.kanister.io/v1alpha1, kind: ActionSet, metadata: {name: wrong}, spec: {actions: [{name: backup, blueprint: none, object: {kind: Namespace, name: a}}]}}`)
	require.Equal(t, "failed", s.over("wrong").Status.State)
	s.create(`{apiVersion: cr.kanister.io/v1alpha1, kind: ActionSet, metadata: {name: broken}, spec: {actions: [{name: broken, blueprint: gated, object: {kind: Namespace, name: ` + s.ns + `}}]}}`)
	a := s.over("broken")
	require.Equal(t, "failed", a.Status.State)
	require.Contains(t, a.Status.Error.Message, "no such table")
	testenv.Await(t, testcluster.Wait, "the events", func() bool { return s.events("broken")["ActionSetFailed Action: broken"] > 0 })
	testcluster.Everything(t, "the ActionSet bridge", actionset.Rules, nil, asked)
}
