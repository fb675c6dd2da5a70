package clustertest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"thaw/activities/cluster"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/catalogue/rbac"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
	"thaw/internal/testenv"
)

// newLeastScene is a scene whose worker is a service account with the roles
// that `thaw rbac` prints, in the scene's namespace only. It returns the
// cluster as that worker sees it.
func newLeastScene(t *testing.T, o rbac.Options) (*scene, *cluster.Cluster) {
	t.Helper()
	c := testcluster.Open(t)
	s := &scene{Cluster: c, t: t, dir: t.TempDir(), ns: testcluster.Namespace(t, c)}
	const account = "thaw-worker"
	_, err := c.Kube.CoreV1().ServiceAccounts(s.ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	require.NoError(t, err)
	o.Name, o.Namespaces, o.Account = "thaw-"+s.ns, []string{s.ns}, s.ns+"/"+account
	objects, err := rbac.Generate(catalogue.Default(), o)
	require.NoError(t, err)
	text, err := rbac.YAML(objects)
	require.NoError(t, err)
	testcluster.Apply(t, c, s.ns, string(text))
	t.Cleanup(func() {
		for i := range objects {
			switch o := &objects[i]; o.Kind {
			case "ClusterRole":
				_ = c.Kube.RbacV1().ClusterRoles().Delete(context.Background(), o.Metadata.Name, metav1.DeleteOptions{})
			case "ClusterRoleBinding":
				_ = c.Kube.RbacV1().ClusterRoleBindings().Delete(context.Background(), o.Metadata.Name, metav1.DeleteOptions{})
			}
		}
	})

	token, err := c.Kube.CoreV1().ServiceAccounts(s.ns).CreateToken(t.Context(), account, &authv1.TokenRequest{}, metav1.CreateOptions{})
	require.NoError(t, err)
	rc := rest.CopyConfig(c.Rest)
	require.NoError(t, rest.LoadTLSFiles(rc))
	file := filepath.Join(s.dir, "kubeconfig")
	require.NoError(t, clientcmd.WriteToFile(api.Config{
		Clusters:       map[string]*api.Cluster{"c": {Server: rc.Host, CertificateAuthorityData: rc.CAData, TLSServerName: rc.ServerName}},
		AuthInfos:      map[string]*api.AuthInfo{"a": {Token: token.Status.Token}},
		Contexts:       map[string]*api.Context{"x": {Cluster: "c", AuthInfo: "a"}},
		CurrentContext: "x",
	}, file))
	own, err := cluster.Open(cluster.Config{Kubeconfig: file})
	require.NoError(t, err)

	s.cfg = testenv.Config(s.dir)
	s.cfg.Kubernetes = cluster.Config{Kubeconfig: file, Namespace: s.ns}
	s.server = testenv.StartServer(t, filepath.Join(s.dir, "server"))
	s.client = s.server.Client()
	s.startWorker()
	t.Cleanup(func() {
		if t.Failed() {
			testenv.Log(os.Stderr, filepath.Join(s.cfg.StateDir, "worker.log"))
		}
	})
	return s, own
}

const leastApp = `
apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {password: correct-horse}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 1
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: 'thaw.dev/test/tools:1', command: [sleep, '3600'], volumeMounts: [{name: data, mountPath: /data}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: thaw-btrfs, resources: {requests: {storage: 64Mi}}}
`

// leastBlueprint calls every function of the family kube, Kanister's waits, and
// its snapshots.
const leastBlueprint = `
apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: least}
actions:
  backup:
    kind: StatefulSet
    outputArtifacts:
      snapshot: {keyValue: {name: '{{ .Phases.snapshot.Output.name }}', size: '{{ .Phases.snapshot.Output.restoreSize }}'}}
    phases:
    - func: KubeExec
      name: mark
      objects: {login: {kind: Secret, name: login, namespace: '{{ .StatefulSet.Namespace }}'}}
      args:
        namespace: '{{ .StatefulSet.Namespace }}'
        pod: '{{ index .StatefulSet.Pods 0 }}'
        command: [sh, -c, 'echo before > /data/mark; sync; kando output length {{ len (index .Phases.mark.Secrets.login.Data "password" | toString) }}']
    - func: KubeExecAll
      name: all
      args: {namespace: '{{ .StatefulSet.Namespace }}', pods: '{{ join " " .StatefulSet.Pods }}', containers: c, command: [sync]}
    - func: KubeTask
      name: task
      args: {namespace: '{{ .StatefulSet.Namespace }}', image: 'thaw.dev/test/tools:1', command: [kando, output, a, b]}
    - func: MultiContainerRun
      name: multi
      args: {namespace: '{{ .StatefulSet.Namespace }}', backgroundImage: 'thaw.dev/test/tools:1', backgroundCommand: ['true'], outputImage: 'thaw.dev/test/tools:1', outputCommand: [kando, output, a, b]}
    - func: KubeOps
      name: make
      args: {operation: create, namespace: '{{ .StatefulSet.Namespace }}', spec: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made}\ndata: {phase: done}\n"}
    - func: Wait
      name: wait
      args:
        timeout: 60s
        conditions: {allOf: [{condition: '{{ if eq "{ $.data.phase }" "done" }}true{{ end }}', objectReference: {apiVersion: v1, resource: configmaps, name: made, namespace: '{{ .StatefulSet.Namespace }}'}}]}
    - func: WaitV2
      name: waitV2
      args:
        timeout: 60s
        conditions: {allOf: [{condition: '{{ if eq .data.phase "done" }}true{{ end }}', objectReference: {apiVersion: v1, resource: configmaps, name: made, namespace: '{{ .StatefulSet.Namespace }}'}}]}
    - func: KubeOps
      name: unmake
      args: {operation: delete, namespace: '{{ .StatefulSet.Namespace }}', objectReference: {apiVersion: v1, resource: configmaps, name: made}}
    - func: CreateCSISnapshot
      name: snapshot
      args: {pvc: data-db-0, namespace: '{{ .StatefulSet.Namespace }}', snapshotClass: thaw-btrfs}
  restore:
    kind: StatefulSet
    inputArtifactNames: [snapshot]
    phases:
    - func: ScaleWorkload
      name: down
      args: {replicas: 0}
    - func: KubeOps
      name: claim
      args: {operation: delete, namespace: '{{ .StatefulSet.Namespace }}', objectReference: {apiVersion: v1, resource: persistentvolumeclaims, name: data-db-0}}
    - func: RestoreCSISnapshot
      name: volume
      args: {name: '{{ .ArtifactsIn.snapshot.KeyValue.name }}', pvc: data-db-0, namespace: '{{ .StatefulSet.Namespace }}', storageClass: thaw-btrfs, restoreSize: '{{ .ArtifactsIn.snapshot.KeyValue.size }}'}
    - func: PrepareData
      name: look
      args: {namespace: '{{ .StatefulSet.Namespace }}', image: 'thaw.dev/test/tools:1', volumes: {data-db-0: /data}, failOnError: true, command: [sh, -c, 'kando output mark "$(cat /data/mark)"']}
    - func: ScaleWorkload
      name: up
      args: {replicas: '{{ .Phases.down.Output.originalReplicaCount }}'}
  delete:
    inputArtifactNames: [snapshot]
    phases:
    - func: DeleteCSISnapshot
      name: snapshot
      args: {name: '{{ .ArtifactsIn.snapshot.KeyValue.name }}', namespace: '{{ .StatefulSet.Namespace }}'}
  spy:
    kind: StatefulSet
    phases:
    - func: KubeTask
      name: spy
      objects: {login: {kind: Secret, name: login, namespace: '{{ .Options.namespace }}'}}
      args: {namespace: '{{ .StatefulSet.Namespace }}', image: 'thaw.dev/test/tools:1', command: [echo, '{{ index .Phases.spy.Secrets.login.Data "password" | toString }}']}
`

// A worker with what `thaw rbac` prints for one namespace backs it up and
// restores it, by a blueprint and as an application, and knows nothing of
// another.
func TestWorkerWithTheRolesOfOneNamespace(t *testing.T) {
	s, own := newLeastScene(t, rbac.Options{Objects: []string{
		"configmaps=get,create,delete,list,watch", "persistentvolumeclaims=get,delete,list,watch", // KubeOps, Wait and WaitV2 of the blueprint
	}})
	other := testcluster.Namespace(t, s.Cluster)
	s.apply(s.ns, leastApp)
	s.apply(other, leastApp)
	mark := func() string {
		return testcluster.Exec(t, s.Cluster, s.ns, s.ready(s.ns, "app=db", 1), "c", "cat /data/mark")
	}
	pod := s.ready(s.ns, "app=db", 1)
	target := plan.Target{Kind: "StatefulSet", Name: "db", Namespace: s.ns}

	backup := s.run(plan.Request{BlueprintText: leastBlueprint, Action: "backup", Target: target})
	testcluster.Exec(t, s.Cluster, s.ns, pod, "c", "echo after > /data/mark; sync")
	restore := s.run(plan.Request{From: backup.RestorePoint.ID, Action: "restore"})
	require.Equal(t, "before", restore.Results["look"]["mark"])
	require.Equal(t, "before\n", mark())
	s.run(plan.Request{From: backup.RestorePoint.ID, Action: "delete"})
	require.Eventually(t, func() bool { return len(s.orphans()) == 0 }, testcluster.Wait, testcluster.Tick)

	rp := s.backupApplication(plan.ApplicationRequest{Namespace: s.ns})
	require.Len(t, rp.Application.Volumes, 1)
	testcluster.Exec(t, s.Cluster, s.ns, s.ready(s.ns, "app=db", 1), "c", "echo after > /data/mark; sync")
	s.restoreApplication(plan.RestoreRequest{From: rp.ID, NoApproval: true})
	require.Equal(t, "before\n", mark())

	// Another namespace is not the worker's.
	_, err := s.await(s.start(plan.Request{BlueprintText: leastBlueprint, Action: "spy", Target: target, Options: plan.Values{"namespace": other}}))
	require.ErrorContains(t, err, "forbidden")
	_, err = s.await(s.start(plan.Request{BlueprintText: leastBlueprint, Action: "backup", Target: plan.Target{Kind: "StatefulSet", Name: "db", Namespace: other}}))
	require.ErrorContains(t, err, "forbidden")
	_, err = s.await(s.workflow("BackupApplication", plan.ApplicationRequest{Namespace: other}))
	require.ErrorContains(t, err, "forbidden")
	_, err = s.await(s.workflow("RestoreApplication", plan.RestoreRequest{From: rp.ID, Namespace: other, NoApproval: true}))
	require.ErrorContains(t, err, "forbidden")
	ctx := context.Background()
	refused := func(_ any, err error) {
		t.Helper()
		require.True(t, apierrors.IsForbidden(err), "%v", err)
	}
	refused(own.Kube.CoreV1().Secrets(other).Get(ctx, "login", metav1.GetOptions{}))
	refused(own.Kube.CoreV1().Pods(other).List(ctx, metav1.ListOptions{}))
	refused(own.Kube.CoreV1().Namespaces().Get(ctx, other, metav1.GetOptions{}))
	refused(own.Kube.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}))
	refused(own.Kube.CoreV1().Secrets("").List(ctx, metav1.ListOptions{}))
	refused(own.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{}))
}
