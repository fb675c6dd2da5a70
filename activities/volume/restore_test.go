package volume

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"thaw/activities/cluster"
	"thaw/blueprints/fault"
	"thaw/internal/testcluster"
)

// cutOf writes a text to a claim, cuts it, and waits until that is ready.
func cutOf(t *testing.T, c *cluster.Cluster, namespace, text string, pvcs ...string) any {
	t.Helper()
	for _, pvc := range pvcs {
		write(t, c, namespace, pvc, text+"-"+pvc)
	}
	out := mustCall(t, c, newEnv(namespace), "CutVolumes", map[string]any{"pvcs": pvcs, "groupSnapshotClass": "none"})
	return mustCall(t, c, newEnv(namespace), "WaitSnapshotsReady", map[string]any{"volumes": out["volumes"]})["volumes"]
}

func getPVC(t *testing.T, c *cluster.Cluster, namespace, name string) *corev1.PersistentVolumeClaim {
	t.Helper()
	pvc, err := c.Kube.CoreV1().PersistentVolumeClaims(namespace).Get(t.Context(), name, metav1.GetOptions{})
	require.NoError(t, err)
	return pvc
}

func TestRestoreToNewNamesInTheSameNamespace(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	claim(t, c, ns, "data-1")
	volumes := cutOf(t, c, ns, "first", "data-0", "data-1")
	_, err := call(t.Context(), c, newEnv(ns), "RestoreVolumes", map[string]any{"volumes": volumes})
	require.ErrorContains(t, err, "claim "+ns+"/data-0 exists; set replace: true")
	require.ErrorContains(t, err, "claim "+ns+"/data-1 exists")
	assert.Equal(t, fault.User, fault.Of(err))

	env := newEnv(ns)
	args := map[string]any{"volumes": volumes, "names": map[string]any{"data-0": "copy-0", "data-1": "copy-1"}, "labels": map[string]any{"copy": "yes"}, "storageClass": map[string]any{testcluster.StorageClass: "thaw-btrfs-2"}}
	out := mustCall(t, c, env, "RestoreVolumes", args)
	assert.Equal(t, true, out["bound"])
	assert.Empty(t, out["replaced"])
	assert.Empty(t, out["temporary"])
	assert.Equal(t, out, mustCall(t, c, env, "RestoreVolumes", args), "another attempt finds its claims")
	assert.Equal(t, "first-data-0", run(t, c, ns, "copy-0", "cat /copy-0/file"))
	assert.Equal(t, "first-data-1", run(t, c, ns, "copy-1", "cat /copy-1/file"))
	pvc := getPVC(t, c, ns, "copy-0")
	assert.Equal(t, "shop", pvc.Labels["app"])
	assert.Equal(t, "Helm", pvc.Labels["app.kubernetes.io/managed-by"], "its owner's")
	assert.Equal(t, "yes", pvc.Labels["copy"])
	assert.Equal(t, "thaw-btrfs-2", *pvc.Spec.StorageClassName)

	// The compensation, that knows nothing but the run.
	back := mustCall(t, c, newEnv(ns), "ReturnVolumes", nil)
	assert.Equal(t, []any{ns + "/copy-0", ns + "/copy-1"}, back["deleted"])
	mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": volumes})
	nothingLeft(t, c, ns)
}

func TestRestoreToAnotherNamespace(t *testing.T) {
	t.Parallel()
	for name, group := range map[string]string{"one snapshot a volume": "none", "a group": ""} {
		t.Run(name, func(t *testing.T) {
			c := testcluster.Open(t)
			ns, other := testcluster.Namespace(t, c), testcluster.Namespace(t, c)
			claim(t, c, ns, "data-0")
			claim(t, c, ns, "data-1")
			write(t, c, ns, "data-0", "zero")
			write(t, c, ns, "data-1", "one")
			volumes := mustCall(t, c, newEnv(ns), "CutVolumes", map[string]any{"groupSnapshotClass": group})["volumes"]
			env := newEnv(ns)
			out := mustCall(t, c, env, "RestoreVolumes", map[string]any{"volumes": volumes, "namespace": other})
			assert.Empty(t, out["temporary"])
			nothingLeft(t, c, other)
			assert.Equal(t, "zero", read(t, c, other, "data-0"))
			assert.Equal(t, "one", read(t, c, other, "data-1"))
			// The snapshots in the first namespace are as they were.
			ready := volumesOf(t, mustCall(t, c, newEnv(ns), "WaitSnapshotsReady", map[string]any{"volumes": volumes}))
			require.Len(t, snapshotsOf(t, c, ns), 2)
			back := mustCall(t, c, newEnv(ns), "ReturnVolumes", map[string]any{"claims": out["claims"]})
			assert.Len(t, back["deleted"], 2)
			mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": data(ready)})
			nothingLeft(t, c, ns)
			nothingLeft(t, c, other)
		})
	}
}

func TestReplaceAndReturn(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	was := getPVC(t, c, ns, "data-0")
	volumes := cutOf(t, c, ns, "first", "data-0")
	write(t, c, ns, "data-0", "second")

	// A pod uses it: nothing is touched.
	pod(t, c, ns, "db", "sleep 3600", "data-0")
	args := map[string]any{"volumes": volumes, "replace": true}
	_, err := call(t.Context(), c, newEnv(ns), "RestoreVolumes", args)
	require.ErrorContains(t, err, "nothing was touched: claim "+ns+"/data-0 is used by pod db; scale down first")
	assert.Equal(t, was.UID, getPVC(t, c, ns, "data-0").UID)
	unpod(t, c, ns, "db")

	env := newEnv(ns)
	out := mustCall(t, c, env, "RestoreVolumes", args)
	assert.Equal(t, "first-data-0", read(t, c, ns, "data-0"))
	replaced, err := decode[Replaced]("replaced", out["replaced"])
	require.NoError(t, err)
	require.Len(t, replaced, 1)
	assert.Equal(t, was.Spec.VolumeName, replaced[0].Volume)
	pv, err := c.Kube.CoreV1().PersistentVolumes().Get(t.Context(), was.Spec.VolumeName, metav1.GetOptions{})
	require.NoError(t, err)
	assert.Equal(t, corev1.PersistentVolumeReclaimRetain, pv.Spec.PersistentVolumeReclaimPolicy)
	assert.Equal(t, env.Key, pv.Labels[labelKept])
	again := mustCall(t, c, env, "RestoreVolumes", args)
	assert.Equal(t, out["replaced"], again["replaced"], "another attempt knows what was replaced")
	now := getPVC(t, c, ns, "data-0")
	assert.Equal(t, "Helm", now.Labels["app.kubernetes.io/managed-by"])
	assert.Equal(t, "shop", now.Annotations["team"], "it takes over what belongs to its owner")

	for range 2 { // it is idempotent
		back := mustCall(t, c, newEnv(ns), "ReturnVolumes", map[string]any{"replaced": out["replaced"], "claims": out["claims"]})
		assert.Equal(t, []any{ns + "/data-0"}, back["returned"])
		got := getPVC(t, c, ns, "data-0")
		assert.Equal(t, was.Spec.VolumeName, got.Spec.VolumeName)
		assert.Equal(t, was.Labels, got.Labels)
		assert.Equal(t, was.Annotations["team"], got.Annotations["team"])
	}
	assert.Equal(t, "second", read(t, c, ns, "data-0"))
	mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": volumes})
	nothingLeft(t, c, ns)
}

func TestReplaceAndDrop(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	volumes := cutOf(t, c, ns, "first", "data-0")
	out := mustCall(t, c, newEnv(ns), "RestoreVolumes", map[string]any{"volumes": volumes, "replace": true})
	for range 2 {
		dropped := mustCall(t, c, newEnv(ns), "DropReplacedVolumes", map[string]any{"replaced": out["replaced"]})
		assert.Len(t, dropped["dropped"], 1)
	}
	_, err := call(t.Context(), c, newEnv(ns), "ReturnVolumes", map[string]any{"replaced": out["replaced"]})
	require.ErrorContains(t, err, "the volume is gone")
	assert.Equal(t, "first-data-0", read(t, c, ns, "data-0"), "the restored one is as it was")
	mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": volumes})
	nothingLeft(t, c, ns)
}

// A volume that is in use again is not dropped.
func TestDropKeepsWhatWasReturned(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	volumes := cutOf(t, c, ns, "first", "data-0")
	out := mustCall(t, c, newEnv(ns), "RestoreVolumes", map[string]any{"volumes": volumes, "replace": true})
	mustCall(t, c, newEnv(ns), "ReturnVolumes", map[string]any{"replaced": out["replaced"]})
	_, err := call(t.Context(), c, newEnv(ns), "DropReplacedVolumes", map[string]any{"replaced": out["replaced"]})
	require.ErrorContains(t, err, "uses it")
	assert.Equal(t, "first-data-0", read(t, c, ns, "data-0"))
}

// A restore that fails half way puts back what it replaced.
func TestRestoreThatFailsGoesBack(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	claim(t, c, ns, "data-1")
	was := getPVC(t, c, ns, "data-0")
	volumes := cutOf(t, c, ns, "first", "data-0", "data-1")
	write(t, c, ns, "data-0", "second")
	clear := faulty(t, ns, "-pvc", "data-1", "-fail-create-volume")
	ctx, cancel := context.WithTimeout(t.Context(), testcluster.Wait)
	defer cancel()
	_, err := call(ctx, c, newEnv(ns), "RestoreVolumes", map[string]any{"volumes": volumes, "replace": true, "timeout": "4s"})
	require.ErrorContains(t, err, "claim "+ns+"/data-1 is not bound")
	require.ErrorContains(t, err, "told to fail", "the provisioner's own words")
	require.NotContains(t, err.Error(), "left behind")
	assert.Equal(t, was.Spec.VolumeName, getPVC(t, c, ns, "data-0").Spec.VolumeName)
	assert.Equal(t, "second", read(t, c, ns, "data-0"))
	assert.Equal(t, "first-data-1", read(t, c, ns, "data-1"))
	clear()
	unhold(t, c, ns)
	mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": volumes})
	nothingLeft(t, c, ns)
}

// unhold does at once what the provisioner does every few minutes: it lets go
// of a snapshot whose claim was deleted before it was bound.
func unhold(t *testing.T, c *cluster.Cluster, namespace string) {
	t.Helper()
	for _, s := range snapshotsOf(t, c, namespace) {
		require.NoError(t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
			now, err := c.Snapshots.SnapshotV1().VolumeSnapshots(namespace).Get(t.Context(), s.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			now.Finalizers = slices.DeleteFunc(now.Finalizers, func(f string) bool {
				return f == "provisioner.storage.kubernetes.io/volumesnapshot-as-source-protection"
			})
			_, err = c.Snapshots.SnapshotV1().VolumeSnapshots(namespace).Update(t.Context(), now, metav1.UpdateOptions{})
			return err
		}))
	}
}

// A worker that dies leaves what another goes on with, or puts back without
// knowing what the first one did.
func TestRestoreGoesOnWhereAWorkerDied(t *testing.T) {
	t.Parallel()
	for name, goesOn := range map[string]bool{"another attempt goes on": true, "the compensation puts it back": false} {
		t.Run(name, func(t *testing.T) {
			c := testcluster.Open(t)
			ns := testcluster.Namespace(t, c)
			claim(t, c, ns, "data-0")
			claim(t, c, ns, "data-1")
			was := getPVC(t, c, ns, "data-0")
			volumes := cutOf(t, c, ns, "first", "data-0", "data-1")
			write(t, c, ns, "data-0", "second")
			env := newEnv(ns)
			// A worker that stops is as good as one that dies: it cleans nothing.
			clear := faulty(t, ns, "-pvc", "data-1", "-fail-create-volume")
			dying := *env
			dying.Stopping = func() bool { return true }
			_, err := call(t.Context(), c, &dying, "RestoreVolumes", map[string]any{"volumes": volumes, "replace": true, "timeout": "3s"})
			require.Error(t, err)
			clear()
			if goesOn {
				out := mustCall(t, c, env, "RestoreVolumes", map[string]any{"volumes": volumes, "replace": true})
				assert.Len(t, out["replaced"], 2)
				assert.Equal(t, "first-data-0", read(t, c, ns, "data-0"))
				mustCall(t, c, newEnv(ns), "ReturnVolumes", map[string]any{"replaced": out["replaced"]})
			} else {
				back := mustCall(t, c, newEnv(ns), "ReturnVolumes", nil)
				assert.Equal(t, []any{ns + "/data-0", ns + "/data-1"}, back["returned"])
			}
			assert.Equal(t, was.Spec.VolumeName, getPVC(t, c, ns, "data-0").Spec.VolumeName)
			assert.Equal(t, "second", read(t, c, ns, "data-0"))
			unhold(t, c, ns)
			mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": volumes})
			nothingLeft(t, c, ns)
		})
	}
}

// A class that binds a claim to its first pod is not waited for; the snapshot
// that the claim still needs stays until then.
func TestRestoreForTheFirstPod(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns, other := testcluster.Namespace(t, c), testcluster.Namespace(t, c)
	mode := storagev1.VolumeBindingWaitForFirstConsumer
	class, err := c.Kube.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "late-"}, Provisioner: "btrfs.csi.thaw.dev", VolumeBindingMode: &mode,
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = c.Kube.StorageV1().StorageClasses().Delete(context.Background(), class.Name, metav1.DeleteOptions{})
	})
	claim(t, c, ns, "data-0")
	volumes := cutOf(t, c, ns, "first", "data-0")
	out := mustCall(t, c, newEnv(ns), "RestoreVolumes", map[string]any{"volumes": volumes, "namespace": other, "storageClass": class.Name})
	assert.Equal(t, false, out["bound"])
	assert.Len(t, out["temporary"], 1)
	assert.Equal(t, "first-data-0", read(t, c, other, "data-0"))
	mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": out["temporary"]})
	nothingLeft(t, c, other)
	// What the storage has was not the temporary snapshot's to delete.
	mustCall(t, c, newEnv(ns), "RestoreVolumes", map[string]any{"volumes": volumes, "names": map[string]any{"data-0": "copy"}})
	assert.Equal(t, "first-data-0", run(t, c, ns, "copy", "cat /copy/file"))
	mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": volumes})
	nothingLeft(t, c, ns)
}

func TestRestoreWarnsOfFsGroup(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-db-0")
	group, none := int64(999), int32(0)
	labels := map[string]string{"app": "db"}
	_, err := c.Kube.AppsV1().StatefulSets(ns).Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: labels}, ServiceName: "db",
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				SecurityContext: &corev1.PodSecurityContext{FSGroup: &group}, Containers: []corev1.Container{{Name: "c", Image: testcluster.Tools}},
			}},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: getPVC(t, c, ns, "data-db-0").Spec.Resources.Requests},
			}}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	env := newEnv(ns)
	env.Target.Kind, env.Target.Name = "StatefulSet", "db"
	out := mustCall(t, c, env, "CutVolumes", nil) // of a set that is scaled to nothing
	restored := mustCall(t, c, newEnv(ns), "RestoreVolumes", map[string]any{"volumes": out["volumes"], "replace": true})
	warnings, _ := restored["warnings"].([]any)
	require.Len(t, warnings, 1)
	assert.Contains(t, warnings[0], "statefulset "+ns+"/db has fsGroup 999 without fsGroupChangePolicy: OnRootMismatch")
	mustCall(t, c, newEnv(ns), "DropReplacedVolumes", map[string]any{"replaced": restored["replaced"]})
	mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": out["volumes"]})
	nothingLeft(t, c, ns)
}
