package clustertest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
)

// The classes that the blueprint csi-snapshot names, for the local driver.
const dropletClasses = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: do-block-storage}
provisioner: btrfs.csi.thaw.dev
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotClass
metadata: {name: do-block-storage}
driver: btrfs.csi.thaw.dev
deletionPolicy: Delete
`

const timeLogger = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: time-log-pvc}
spec: {accessModes: [ReadWriteOnce], storageClassName: do-block-storage, resources: {requests: {storage: 64Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: time-logger, labels: {app: time-logger}}
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
        command: [sh, -c, 'while true; do date +%s.%N >> /var/log/time.log; sleep 0.2; done']
        volumeMounts: [{name: data, mountPath: /var/log}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: time-log-pvc}}]
`

// Kanister's own blueprint runs unmodified: backup, restore, delete.
func TestCSISnapshotOfTheCorpus(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	text := corpus(t, "csi-snapshot/csi-snapshot-blueprint.yaml")
	s.apply(s.ns, dropletClasses, timeLogger)
	t.Cleanup(func() {
		_ = s.Kube.StorageV1().StorageClasses().Delete(context.Background(), "do-block-storage", metav1.DeleteOptions{})
		_ = s.Snapshots.SnapshotV1().VolumeSnapshotClasses().Delete(context.Background(), "do-block-storage", metav1.DeleteOptions{})
	})
	lines := func() string {
		return testcluster.Exec(t, s.Cluster, s.ns, s.ready(s.ns, "app=time-logger", 1), "test-container", "head -1 /var/log/time.log; cat /var/log/mark 2>/dev/null || true")
	}
	pod := s.ready(s.ns, "app=time-logger", 1)
	testcluster.Exec(t, s.Cluster, s.ns, pod, "test-container", "echo before > /var/log/mark; sync")
	before := lines()
	target := plan.Target{Kind: "Deployment", Name: "time-logger", Namespace: s.ns}

	backup := s.run(plan.Request{BlueprintText: text, Action: "backup", Target: target})
	require.Equal(t, "time-log-pvc", backup.Artifacts["snapshotInfo"].KeyValue["pvc"])
	require.Equal(t, s.ns, backup.Artifacts["snapshotInfo"].KeyValue["namespace"])
	require.Len(t, s.orphans(), 2, "the snapshot and its content")

	testcluster.Exec(t, s.Cluster, s.ns, pod, "test-container", "echo after > /var/log/mark; rm /var/log/time.log")
	require.NotEqual(t, before, lines())
	s.run(plan.Request{From: backup.RestorePoint.ID, Action: "restore"})
	require.Equal(t, before, lines(), "what was there at the snapshot")

	s.run(plan.Request{From: backup.RestorePoint.ID, Action: "delete"})
	require.Empty(t, s.orphans())
}
