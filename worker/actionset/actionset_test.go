package actionset_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	enums "go.temporal.io/api/enums/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/internal/testcluster"
	"thaw/internal/testenv"
)

// The application and the form of the blueprint are those of Kanister's
// tutorial.
const timeLogger = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: time-logger}
spec:
  replicas: 1
  selector: {matchLabels: {app: time-logger}}
  template:
    metadata: {labels: {app: time-logger}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: test-container
        image: thaw.dev/test/tools:1
        command: [sh, -c, 'while true; do date >> /var/log/time.log; sleep 1; done']
---
apiVersion: v1
kind: Secret
metadata: {name: store-credentials}
stringData: {password: pw-4711-secret}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: store-location}
data: {path: s3://time-log-test-bucket/tutorial}
`

const timeLog = `
apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: time-log-bp}
actions:
  backup:
    kind: Deployment
    configMapNames: [location]
    secretNames: [store]
    outputArtifacts:
      timeLog: {keyValue: {path: '{{ .Phases.backupToS3.Output.path }}', by: '{{ .Options.by }}'}}
    phases:
    - func: KubeTask
      name: prepare
      args:
        namespace: '{{ .Deployment.Namespace }}'
        image: thaw.dev/test/tools:1
        command: [sh, -c, 'kando output pod "{{ index .Deployment.Pods 0 }}"']
    - func: KubeTask
      name: backupToS3
      args:
        namespace: '{{ .Deployment.Namespace }}'
        image: thaw.dev/test/tools:1
        command: [sh, -c, 'kando output path "{{ .ConfigMaps.location.Data.path }}/time-log"; kando output said "{{ .Secrets.store.Data.password | toString }}"']
    deferPhase:
      func: KubeTask
      name: unlock
      args:
        namespace: '{{ .Deployment.Namespace }}'
        image: thaw.dev/test/tools:1
        command: [sh, -c, 'kando output unlocked yes']
  restore:
    kind: Deployment
    inputArtifactNames: [timeLog]
    phases:
    - func: KubeTask
      name: restoreFromS3
      args:
        namespace: '{{ .Deployment.Namespace }}'
        image: thaw.dev/test/tools:1
        command: [sh, -c, 'kando output from "{{ .ArtifactsIn.timeLog.KeyValue.path }}"']
`

// gated is a blueprint whose backup waits in its pod until it is released, and
// whose deferPhase leaves a mark in the cluster.
const gated = `
apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: gated}
actions:
  backup:
    outputArtifacts:
      dump: {keyValue: {by: '{{ .Phases.dump.Output.by }}'}}
    phases:
    - func: KubeTask
      name: first
      args: {namespace: '{{ .Namespace.Name }}', image: 'thaw.dev/test/tools:1', command: [sh, -c, 'kando output n 1']}
    - func: KubeTask
      name: dump
      args: {namespace: '{{ .Namespace.Name }}', image: 'thaw.dev/test/tools:1', command: [sh, -c, 'until [ -e /tmp/go ]; do sleep 0.1; done; kando output by "$(hostname)"']}
    - func: KubeTask
      name: last
      args: {namespace: '{{ .Namespace.Name }}', image: 'thaw.dev/test/tools:1', command: ['true']}
    deferPhase:
      func: KubeOps
      name: unlock
      args:
        operation: create
        namespace: '{{ .Namespace.Name }}'
        spec: |
          apiVersion: v1
          kind: ConfigMap
          metadata: {name: '{{ .Options.mark }}'}
  broken:
    phases:
    - func: KubeTask
      name: breaks
      args: {namespace: '{{ .Namespace.Name }}', image: 'thaw.dev/test/tools:1', command: [sh, -c, 'echo no such table >&2; exit 3']}
    - func: KubeTask
      name: never
      args: {namespace: '{{ .Namespace.Name }}', image: 'thaw.dev/test/tools:1', command: ['true']}
`

func (s *scene) backup(name, mark string) {
	s.create(`{apiVersion: cr.kanister.io/v1alpha1, kind: ActionSet, metadata: {name: ` + name + `}, spec: {actions: [
      {name: backup, blueprint: gated, object: {kind: Namespace, name: ` + s.ns + `}, options: {mark: ` + mark + `}}]}}`)
}

// A user of kubectl or kanctl sees of a backup and a restore what Kanister's
// controller would show.
func TestActionSetRuns(t *testing.T) {
	s := newScene(t)
	s.create(timeLogger)
	s.create(timeLog)
	testenv.Await(t, testcluster.Wait, "the blueprint is announced", func() bool { return s.events("time-log-bp")["Added"] == 1 })
	s.kubectl("", "rollout", "status", "-n", s.ns, "deployment/time-logger", "--timeout=90s")
	s.create(`
apiVersion: cr.kanister.io/v1alpha1
kind: ActionSet
metadata: {name: s3backup}
spec:
  actions:
  - name: backup
    blueprint: time-log-bp
    object: {kind: Deployment, name: time-logger, namespace: ` + s.ns + `}
    configMaps: {location: {name: store-location, namespace: ` + s.ns + `}}
    secrets: {store: {name: store-credentials}}
    options: {by: hand}
    preferredVersion: v0.0.0
    podLabels: {team: a}
`)
	a := s.over("s3backup")
	require.Equal(t, "complete", a.Status.State, a.Status.Error.Message)
	require.Empty(t, a.Status.Error.Message)
	require.Equal(t, "100", a.Status.Progress.PercentCompleted)
	require.Empty(t, a.Status.Progress.RunningPhase)
	require.Len(t, a.Status.Actions, 1)
	one := a.Status.Actions[0]
	require.Equal(t, "backup time-log-bp Deployment time-logger", strings.Join([]string{one.Name, one.Blueprint, one.Object["kind"], one.Object["name"]}, " "))
	require.Len(t, one.Phases, 2)
	for i, name := range []string{"prepare", "backupToS3"} {
		require.Equal(t, name, one.Phases[i].Name)
		require.Equal(t, "complete", one.Phases[i].State)
		require.Equal(t, "100", one.Phases[i].Progress.ProgressPercent)
	}
	require.Contains(t, one.Phases[0].Output["pod"], "time-logger-")
	require.Equal(t, "s3://time-log-test-bucket/tutorial/time-log", one.Phases[1].Output["path"])
	require.Equal(t, "unlock", one.DeferPhase.Name)
	require.Equal(t, "complete", one.DeferPhase.State)
	require.Equal(t, "yes", one.DeferPhase.Output["unlocked"])
	require.Equal(t, map[string]string{"path": "s3://time-log-test-bucket/tutorial/time-log", "by": "hand"}, one.Artifacts["timeLog"].KeyValue)
	text, err := json.Marshal(s.object("s3backup"))
	require.NoError(t, err)
	require.NotContains(t, string(text), "pw-4711-secret", "no secret leaves the worker")
	testenv.Await(t, testcluster.Wait, "the events", func() bool {
		e := s.events("s3backup")
		return e["Started Action"] == 1 && e["Started Phase"] == 2 && e["Ended Phase"] == 2 && e["Started deferPhase"] == 1 && e["Ended deferPhase"] == 1 && e["Update Complete"] == 1
	})

	// The child, as `kanctl create actionset --action restore --from s3backup`
	// makes it: what the parent has, and the artifacts of its status.
	child := s.object("s3backup").DeepCopy()
	actions := child.Object["spec"].(map[string]any)["actions"].([]any)
	restore := actions[0].(map[string]any)
	restore["name"] = "restore"
	restore["artifacts"] = child.Object["status"].(map[string]any)["actions"].([]any)[0].(map[string]any)["artifacts"]
	delete(child.Object, "status")
	child.Object["metadata"] = map[string]any{"name": "restore-s3backup", "namespace": s.ns}
	_, err = s.Dynamic.Resource(resource).Namespace(s.ns).Create(t.Context(), child, metav1.CreateOptions{})
	require.NoError(t, err)
	a = s.over("restore-s3backup")
	require.Equal(t, "complete", a.Status.State, a.Status.Error.Message)
	require.Equal(t, "s3://time-log-test-bucket/tutorial/time-log", a.Status.Actions[0].Phases[0].Output["from"])
	require.Nil(t, a.Status.Actions[0].DeferPhase)
}

// Kanister's controller leaves such an ActionSet in running for ever.
func TestActionSetOutlivesItsWorker(t *testing.T) {
	s := newScene(t)
	s.create(gated)
	s.backup("dump", "unlocked")
	pod := s.pod()
	before := s.until("dump", "its second phase runs", func(a actionSet) bool { return a.Status.Progress.RunningPhase == "dump" })
	require.Equal(t, "running", before.Status.State)
	require.Equal(t, "33", before.Status.Progress.PercentCompleted)
	one := before.Status.Actions[0]
	require.Equal(t, []string{"complete", "running", "pending", "pending"}, []string{one.Phases[0].State, one.Phases[1].State, one.Phases[2].State, one.DeferPhase.State})
	require.Equal(t, "1", one.Phases[0].Output["n"], "an output is there once its phase is")

	s.worker.Kill()
	s.startWorker()
	s.release(pod)
	a := s.over("dump")
	require.Equal(t, "complete", a.Status.State, a.Status.Error.Message)
	require.Equal(t, pod, a.Status.Actions[0].Artifacts["dump"].KeyValue["by"], "the same pod went on")
	require.Equal(t, "complete", a.Status.Actions[0].DeferPhase.State)
	require.True(t, s.has("unlocked"))
	testenv.Await(t, testcluster.Wait, "each event, once", func() bool {
		e := s.events("dump")
		return e["Started Action"] == 1 && e["Started Phase"] == 3 && e["Ended Phase"] == 3 && e["Update Complete"] == 1
	})
}

// Deleting an ActionSet stops it: what it holds is let go first.
func TestActionSetDeleted(t *testing.T) {
	s := newScene(t)
	s.create(gated)
	check := func(a actionSet, mark string) {
		t.Helper()
		id := s.workflow(a, 0)
		testenv.Await(t, testcluster.Wait, "the run is cancelled", func() bool { return s.status(id) == enums.WORKFLOW_EXECUTION_STATUS_CANCELED })
		require.True(t, s.has(mark), "the deferPhase ran")
	}
	s.backup("stopped", "one")
	s.pod()
	a := s.get("stopped")
	s.kubectl("", "delete", "-n", s.ns, "actionset/stopped")
	check(a, "one")
	testenv.Await(t, testcluster.Wait, "its pod is gone", func() bool {
		pods, err := s.Kube.CoreV1().Pods(s.ns).List(context.Background(), metav1.ListOptions{})
		return err == nil && len(pods.Items) == 0
	})

	// And where nobody watches when it is deleted. (The pod of a worker that is
	// lost is the engine's to sweep.)
	s.backup("stopped", "two")
	s.pod()
	a = s.get("stopped")
	s.worker.Kill()
	s.kubectl("", "delete", "-n", s.ns, "actionset/stopped")
	s.startWorker()
	check(a, "two")
}

// One action that fails does not stop the others, and fails the ActionSet.
func TestActionSetOfTwoActions(t *testing.T) {
	s := newScene(t)
	s.create(gated)
	s.create(`{apiVersion: cr.kanister.io/v1alpha1, kind: ActionSet, metadata: {name: two}, spec: {actions: [
      {name: backup, blueprint: gated, object: {kind: Namespace, name: ` + s.ns + `}, options: {mark: unlocked}},
      {name: broken, blueprint: gated, object: {kind: Namespace, name: ` + s.ns + `}}]}}`)
	failed := s.until("two", "its failure is told", func(a actionSet) bool { return strings.Contains(a.Status.Error.Message, "no such table") })
	assert.Equal(t, "running", failed.Status.State, "the other action still runs")
	s.release(s.pod())
	a := s.over("two")
	require.Equal(t, "failed", a.Status.State)
	require.Contains(t, a.Status.Error.Message, "action 1, broken: ")
	require.Contains(t, a.Status.Error.Message, "no such table")
	require.NotEmpty(t, a.Status.Actions[0].Artifacts["dump"].KeyValue["by"], "the other is complete")
	require.Equal(t, "complete", a.Status.Actions[0].Phases[2].State)
	require.Equal(t, "complete", a.Status.Actions[0].DeferPhase.State)
	require.Equal(t, "failed", a.Status.Actions[1].Phases[0].State)
	require.Equal(t, "pending", a.Status.Actions[1].Phases[1].State)
	require.Equal(t, "60", a.Status.Progress.PercentCompleted)
	testenv.Await(t, testcluster.Wait, "the failure is an event, of the blueprint too", func() bool {
		return s.events("two")["ActionSetFailed Action: broken"] > 0 && s.events("gated")["ActionSetFailed Action: broken"] > 0
	})
}

// What is wrong is said at once, in the status, and nothing is started.
func TestActionSetRefused(t *testing.T) {
	s := newScene(t)
	s.create(timeLogger)
	s.create(timeLog)
	s.create(`
apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: faulty}
actions:
  backup:
    phases:
    - {func: KubeTassk, name: dump, args: {namespace: a, image: b, command: [c], colour: blue}}
`)
	deployment := `{kind: Deployment, name: time-logger, namespace: ` + s.ns + `}`
	for name, c := range map[string]struct{ spec, says string }{
		"unknown-kind":      {`{actions: [{name: backup, blueprint: time-log-bp, object: {kind: Postgres, name: a}}]}`, `kind "Postgres" is none of statefulset`},
		"no-object":         {`{actions: [{name: backup, blueprint: time-log-bp, object: {kind: Deployment}}]}`, "object: name is missing"},
		"no-blueprint":      {`{actions: [{name: backup, object: ` + deployment + `}]}`, "blueprint is missing"},
		"missing-blueprint": {`{actions: [{name: backup, blueprint: time-log, object: ` + deployment + `}]}`, "blueprint time-log: not found in namespace " + s.ns},
		"missing-action":    {`{actions: [{name: bakcup, blueprint: time-log-bp, object: ` + deployment + `}]}`, `has no action "bakcup"`},
		"missing-secret":    {`{actions: [{name: backup, blueprint: time-log-bp, object: ` + deployment + `, configMaps: {location: {name: store-location}}}]}`, `secret "store" is missing`},
		"faulty-blueprint":  {`{actions: [{name: backup, blueprint: faulty, object: ` + deployment + `}]}`, "KubeTassk"},
		"bad-version":       {`{actions: [{name: backup, blueprint: time-log-bp, preferredVersion: newest, object: ` + deployment + `}]}`, `preferredVersion "newest"`},
		"one-of-two": {`{actions: [{name: restore, blueprint: time-log-bp, object: ` + deployment + `, artifacts: {timeLog: {keyValue: {path: a}}}},
          {name: nothing, blueprint: time-log-bp, object: ` + deployment + `}]}`, `has no action "nothing"`},
	} {
		s.create(`{apiVersion: cr.kanister.io/v1alpha1, kind: ActionSet, metadata: {name: ` + name + `}, spec: ` + c.spec + `}`)
		a := s.over(name)
		assert.Equal(t, "failed", a.Status.State, name)
		assert.Contains(t, a.Status.Error.Message, c.says, name)
		assert.NotEmpty(t, a.Status.Actions, name)
		for i := range a.Status.Actions {
			_, err := s.client.DescribeWorkflowExecution(t.Context(), s.workflow(a, i), "")
			assert.Error(t, err, "%s: nothing was started", name)
		}
		testenv.Await(t, testcluster.Wait, name+": an event", func() bool {
			for reason := range s.events(name) {
				if strings.HasPrefix(reason, "ActionSetFailed") {
					return true
				}
			}
			return false
		})
	}
	testenv.Await(t, testcluster.Wait, "the blueprint's fault is told before", func() bool { return s.events("faulty")["Invalid"] == 1 })

	// What only the run finds out: nothing is stuck either.
	s.create(`{apiVersion: cr.kanister.io/v1alpha1, kind: ActionSet, metadata: {name: no-deployment}, spec: {actions: [{name: restore, blueprint: time-log-bp,
      object: {kind: Deployment, name: nobody, namespace: ` + s.ns + `}, artifacts: {timeLog: {keyValue: {path: a}}}}]}}`)
	a := s.over("no-deployment")
	require.Equal(t, "failed", a.Status.State)
	require.Contains(t, a.Status.Error.Message, `"nobody" not found`)
	require.Equal(t, "failed", a.Status.Actions[0].Phases[0].State)

	// Kanister's own that it never came back to; and one with nothing to do.
	s.create(`{apiVersion: cr.kanister.io/v1alpha1, kind: ActionSet, metadata: {name: stuck}, spec: {actions: [{name: restore, blueprint: time-log-bp, object: ` + deployment + `}]},
      status: {state: running, actions: [{name: restore, blueprint: time-log-bp, object: ` + deployment + `, phases: [{name: restoreFromS3, state: running}]}]}}`)
	a = s.over("stuck")
	require.Equal(t, "failed", a.Status.State)
	require.Contains(t, a.Status.Error.Message, "Thaw did not start it")
	s.create(`{apiVersion: cr.kanister.io/v1alpha1, kind: ActionSet, metadata: {name: empty}, spec: {actions: []}}`)
	require.Equal(t, "complete", s.over("empty").Status.State)
}
