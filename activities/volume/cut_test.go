package volume

import (
	"context"
	"errors"
	"sort"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"

	"thaw/activities/cluster"
	"thaw/blueprints/fault"
	"thaw/internal/testcluster"
)

func snapshotsOf(t *testing.T, c *cluster.Cluster, namespace string) []snapshotv1.VolumeSnapshot {
	t.Helper()
	l, err := c.Snapshots.SnapshotV1().VolumeSnapshots(namespace).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	sort.Slice(l.Items, func(i, j int) bool { return l.Items[i].Name < l.Items[j].Name })
	return l.Items
}

// The cut is what ends a freeze: storage that takes its time to make snapshots
// ready must not prolong it.
func TestCutReturnsBeforeSnapshotsAreReady(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	claim(t, c, ns, "data-1")
	slow := faulty(t, ns, "-never-ready")
	env := frozen(ns)
	before := time.Now()
	out := mustCall(t, c, env, "CutVolumes", map[string]any{"groupSnapshotClass": "none", "labels": map[string]any{"tier": "gold"}})
	volumes := volumesOf(t, out)
	require.Len(t, volumes, 2)
	for i, s := range snapshotsOf(t, c, ns) {
		assert.False(t, s.Status != nil && deref(s.Status.ReadyToUse), "it waited until %s was ready", s.Name)
		assert.Equal(t, volumes[i].Snapshot, s.Name)
		assert.Equal(t, "gold", s.Labels["tier"])
		assert.True(t, cluster.MadeBy(&s, env.Key))
		assert.Equal(t, env.Run.ID, s.Annotations[cluster.AnnotationRun])
	}
	v := volumes[0]
	assert.Equal(t, "data-0", v.PVC)
	assert.Equal(t, testcluster.StorageClass, v.StorageClass)
	assert.Equal(t, testcluster.SnapshotClass, v.SnapshotClass)
	assert.Equal(t, []string{"ReadWriteOnce"}, v.AccessModes)
	assert.Equal(t, "Filesystem", v.VolumeMode)
	assert.Equal(t, "64Mi", v.Size)
	assert.Equal(t, "shop", v.Labels["app"])
	assert.NotEmpty(t, v.Handle)
	assert.NotEmpty(t, v.Content)
	from, err := time.Parse(time.RFC3339Nano, out["cutFrom"].(string))
	require.NoError(t, err)
	to, err := time.Parse(time.RFC3339Nano, out["cutTo"].(string))
	require.NoError(t, err)
	assert.True(t, !from.Before(before) && !to.Before(from) && time.Now().After(to), "%s to %s", from, to)
	assert.Equal(t, to.Sub(from).String(), out["spread"])

	_, err = call(t.Context(), c, newEnv(ns), "WaitSnapshotsReady", map[string]any{"volumes": out["volumes"], "timeout": "1s"})
	require.ErrorContains(t, err, "is not ready to use")
	require.ErrorContains(t, err, "not ready after 1s")
	assert.Equal(t, fault.Command, fault.Of(err))

	slow()
	ready := volumesOf(t, mustCall(t, c, newEnv(ns), "WaitSnapshotsReady", map[string]any{"volumes": out["volumes"]}))
	require.Len(t, ready, 2)
	assert.NotEmpty(t, ready[0].RestoreSize)

	mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": out["volumes"]})
	nothingLeft(t, c, ns)
	mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": out["volumes"]})
}

// One volume that cannot be cut is no backup of the others.
func TestCutThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, group := range map[string]string{"one snapshot a volume": "none", "a group": ""} {
		for _, inFreeze := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				c := testcluster.Open(t)
				ns := testcluster.Namespace(t, c)
				claim(t, c, ns, "data-0")
				claim(t, c, ns, "wal-0")
				faulty(t, ns, "-pvc", "wal-*", "-fail-snapshots")
				env := newEnv(ns)
				if inFreeze {
					env = frozen(ns)
				}
				ctx, cancel := context.WithTimeout(t.Context(), testcluster.Wait)
				defer cancel()
				_, err := call(ctx, c, env, "CutVolumes", map[string]any{"groupSnapshotClass": group})
				require.ErrorContains(t, err, "told to fail")
				require.NotContains(t, err.Error(), "pvc "+ns+"/data-0")
				if group == "none" {
					require.ErrorContains(t, err, "pvc "+ns+"/wal-0")
				}
				assert.Equal(t, fault.Permanent, fault.Of(err))
				if !inFreeze {
					assert.NotContains(t, err.Error(), "not gone yet")
					left, err := litter(t.Context(), c, ns)
					require.NoError(t, err)
					assert.Empty(t, left, "it waits until nothing is left")
				}
				nothingLeft(t, c, ns)
			})
		}
	}
}

// A driver that hangs ends with the call's deadline; what hangs is named, and
// goes as soon as the driver lets it.
func TestCutThatHangsEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	claim(t, c, ns, "wal-0")
	hang := faulty(t, ns, "-pvc", "wal-*", "-hang-snapshots")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, errors.New("maxFreeze of 2s reached"))
	defer cancel()
	env := frozen(ns)
	act, release := bind(ctx, t, c, env, "CutVolumes", map[string]any{"groupSnapshotClass": "none"})
	_, err := act(ctx)
	deadline, _ := ctx.Deadline()
	over := time.Since(deadline)
	require.ErrorContains(t, err, "pvc "+ns+"/wal-0: not cut yet")
	require.ErrorContains(t, err, "maxFreeze of 2s reached")
	require.ErrorContains(t, err, "VolumeSnapshot "+ns+"/"+named("wal-0", env.Key))
	assert.NotContains(t, err.Error(), "pvc "+ns+"/data-0")
	assert.Less(t, over, 250*time.Millisecond, "the engine leaves an act behind that is later")
	assert.Equal(t, fault.Command, fault.Of(err))
	release()
	for _, s := range contentsOf(t, c, ns) {
		require.NotNil(t, s.DeletionTimestamp, "%s is not being deleted", s.Name)
	}
	hang()
	// The driver's sidecar looks at it again when its resync comes, or when the
	// object changes: do not wait for the former.
	require.Eventually(t, func() bool {
		for _, s := range contentsOf(t, c, ns) {
			_, _ = c.Snapshots.SnapshotV1().VolumeSnapshotContents().Patch(t.Context(), s.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"test":"`+time.Now().String()+`"}}}`), metav1.PatchOptions{})
		}
		left, err := litter(t.Context(), c, ns)
		return err == nil && len(left) == 0
	}, testcluster.Wait, 500*time.Millisecond)
}

func contentsOf(t *testing.T, c *cluster.Cluster, namespace string) (own []snapshotv1.VolumeSnapshotContent) {
	t.Helper()
	l, err := c.Snapshots.SnapshotV1().VolumeSnapshotContents().List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for _, s := range l.Items {
		if s.Spec.VolumeSnapshotRef.Namespace == namespace {
			own = append(own, s)
		}
	}
	return own
}

// A worker that died between the creation and the cut is replaced by another,
// which makes no second snapshot.
func TestCutFindsTheSnapshotsOfAnEarlierAttempt(t *testing.T) {
	t.Parallel()
	for name, group := range map[string]string{"one snapshot a volume": "none", "a group": ""} {
		t.Run(name, func(t *testing.T) {
			c := testcluster.Open(t)
			ns := testcluster.Namespace(t, c)
			claim(t, c, ns, "data-0")
			claim(t, c, ns, "data-1")
			env := frozen(ns)
			args := map[string]any{"groupSnapshotClass": group}
			first := volumesOf(t, mustCall(t, c, env, "CutVolumes", args))
			second := volumesOf(t, mustCall(t, c, env, "CutVolumes", args))
			assert.Equal(t, first, second)
			ready := volumesOf(t, mustCall(t, c, newEnv(ns), "WaitSnapshotsReady", map[string]any{"volumes": data(second)}))
			require.Len(t, snapshotsOf(t, c, ns), 2)
			for _, v := range ready {
				assert.NotEmpty(t, v.Snapshot)
				assert.Equal(t, group == "", v.Group != "")
			}

			third := frozen(ns) // another freeze makes its own
			other := volumesOf(t, mustCall(t, c, third, "CutVolumes", args))
			assert.NotEqual(t, first[0].Handle, other[0].Handle)
			mustCall(t, c, newEnv(ns), "WaitSnapshotsReady", map[string]any{"volumes": data(other)})
			require.Len(t, snapshotsOf(t, c, ns), 4)

			mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": data(ready)})
			mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": data(other)})
			nothingLeft(t, c, ns)
			pvc, err := c.Kube.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "data-0", metav1.GetOptions{})
			require.NoError(t, err)
			assert.NotContains(t, pvc.Labels, labelGroup)
		})
	}
}

// A snapshot of that name that is another's is not taken for ours.
func TestCutDoesNotTakeAnothersSnapshot(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	env := frozen(ns)
	pvc, class := "data-0", testcluster.SnapshotClass
	_, err := c.Snapshots.SnapshotV1().VolumeSnapshots(ns).Create(t.Context(), &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: named("data-0", env.Key)},
		Spec:       snapshotv1.VolumeSnapshotSpec{Source: snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &pvc}, VolumeSnapshotClassName: &class},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = call(t.Context(), c, env, "CutVolumes", nil)
	require.ErrorContains(t, err, "exists, and Thaw did not make it")
	require.Len(t, snapshotsOf(t, c, ns), 1, "it is not ours to delete")
}

// All that stands against a cut is said before anything is frozen.
func TestCutSaysAllThatIsWrongBeforeTheFreeze(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	for name, tc := range map[string]struct {
		args map[string]any
		kind string
		says []string
	}{
		"claims that are not there":      {args: map[string]any{"pvcs": []any{"data-0", "x", "y"}}, says: []string{"pvc " + ns + "/x: not found", "pvc " + ns + "/y: not found"}},
		"a class that is not there":      {args: map[string]any{"snapshotClass": "fast"}, says: []string{`pvc ` + ns + `/data-0: VolumeSnapshotClass "fast": not found`}},
		"a group class that is not":      {args: map[string]any{"groupSnapshotClass": "fast"}, says: []string{`VolumeGroupSnapshotClass "fast": not found`}},
		"a selector that matches nobody": {args: map[string]any{"selector": "app=none"}, says: []string{`no claim in namespace ` + ns + ` has the labels "app=none"`}},
		"a kind that nobody knows":       {kind: "MongoDB", says: []string{`what volumes a target of kind "MongoDB" has; give pvcs or selector`}},
	} {
		t.Run(name, func(t *testing.T) {
			env := frozen(ns)
			if tc.kind != "" {
				env.Target.Kind = tc.kind
			}
			_, err := call(t.Context(), c, env, "CutVolumes", tc.args)
			require.Error(t, err)
			assert.Equal(t, fault.User, fault.Of(err))
			for _, s := range tc.says {
				assert.ErrorContains(t, err, s)
			}
		})
	}
}

// A snapshot whose class retains it is deleted in the storage all the same,
// and so is one of that kind that failed.
func TestDeleteSnapshotsDeletesWhatIsRetained(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	class, err := c.Snapshots.SnapshotV1().VolumeSnapshotClasses().Create(t.Context(), &snapshotv1.VolumeSnapshotClass{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "retain-"}, Driver: "btrfs.csi.thaw.dev", DeletionPolicy: snapshotv1.VolumeSnapshotContentRetain,
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = c.Snapshots.SnapshotV1().VolumeSnapshotClasses().Delete(context.Background(), class.Name, metav1.DeleteOptions{})
	})
	claim(t, c, ns, "data-0")
	args := map[string]any{"snapshotClass": class.Name, "groupSnapshotClass": "none"}
	out := mustCall(t, c, newEnv(ns), "CutVolumes", args)
	// Somebody deletes the snapshot only: the content stays, as the class says.
	v := volumesOf(t, out)[0]
	mustCall(t, c, newEnv(ns), "DeleteCSISnapshot", map[string]any{"name": v.Snapshot, "namespace": ns})
	left, err := litter(t.Context(), c, ns)
	require.NoError(t, err)
	require.Equal(t, []string{"VolumeSnapshotContent " + v.Content}, left)
	mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": out["volumes"]})
	nothingLeft(t, c, ns)

	out = mustCall(t, c, newEnv(ns), "CutVolumes", args)
	mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": out["volumes"]})
	nothingLeft(t, c, ns)

	clear := faulty(t, ns, "-fail-snapshots")
	_, err = call(t.Context(), c, newEnv(ns), "CutVolumes", args)
	require.ErrorContains(t, err, "told to fail")
	nothingLeft(t, c, ns)
	clear()
}

// A worker that died in a cut told nobody of it: the compensation finds what
// the run made, and only that, though the workflow id was used before.
func TestDeleteSnapshotsFindsWhatTheRunMade(t *testing.T) {
	t.Parallel()
	for name, group := range map[string]string{"one snapshot a volume": "none", "a group": ""} {
		t.Run(name, func(t *testing.T) {
			c := testcluster.Open(t)
			ns := testcluster.Namespace(t, c)
			claim(t, c, ns, "data-0")
			claim(t, c, ns, "data-1")
			out := mustCall(t, c, newEnv(ns), "CutVolumes", map[string]any{"groupSnapshotClass": group})
			mustCall(t, c, newEnv(ns), "WaitSnapshotsReady", map[string]any{"volumes": out["volumes"]})
			later := newEnv(ns)
			later.Run.Original = "r2"
			mustCall(t, c, later, "DeleteSnapshots", nil)
			assert.Len(t, snapshotsOf(t, c, ns), 2, "an earlier run's of the same workflow id")
			mustCall(t, c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": ""})
			nothingLeft(t, c, ns)
		})
	}
}

// A snapshot of the same name that is not the one that was cut stays.
func TestDeleteSnapshotsKeepsWhatIsNotMeant(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	v := volumesOf(t, mustCall(t, c, newEnv(ns), "CutVolumes", nil))
	v[0].Handle = "another"
	_, err := call(t.Context(), c, newEnv(ns), "DeleteSnapshots", map[string]any{"volumes": data(v)})
	require.ErrorContains(t, err, "it is not the snapshot that was cut")
	_, err = c.Snapshots.SnapshotV1().VolumeSnapshots(ns).Get(t.Context(), v[0].Snapshot, metav1.GetOptions{})
	require.NoError(t, err)
}

func TestKanistersSnapshotFunctions(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	write(t, c, ns, "data-0", "first")
	env := newEnv(ns)
	args := map[string]any{"pvc": "data-0", "namespace": ns, "snapshotClass": testcluster.SnapshotClass, "labels": map[string]any{"a": "b"}}
	out := mustCall(t, c, env, "CreateCSISnapshot", args)
	assert.Equal(t, "data-0", out["pvc"])
	assert.Equal(t, ns, out["namespace"])
	assert.Equal(t, "64Mi", out["restoreSize"])
	assert.NotEmpty(t, out["snapshotContent"])
	assert.Contains(t, out["name"], "data-0-snapshot-")
	assert.Equal(t, out, mustCall(t, c, env, "CreateCSISnapshot", args), "another attempt takes the same")
	all := snapshotsOf(t, c, ns)
	require.Len(t, all, 1)
	assert.True(t, *all[0].Status.ReadyToUse)
	assert.Equal(t, "b", all[0].Labels["a"])

	_, err := call(t.Context(), c, newEnv(ns), "CreateCSISnapshot", map[string]any{"pvc": "data-0", "namespace": ns, "snapshotClass": testcluster.SnapshotClass, "name": out["name"]})
	require.ErrorContains(t, err, "another call made it")

	restore := map[string]any{"name": out["name"], "pvc": "copy", "namespace": ns, "storageClass": testcluster.StorageClass, "restoreSize": out["restoreSize"], "labels": map[string]any{"x": "y"}}
	renv := newEnv(ns)
	mustCall(t, c, renv, "RestoreCSISnapshot", restore)
	mustCall(t, c, renv, "RestoreCSISnapshot", restore)
	assert.Equal(t, "first", read(t, c, ns, "copy"))
	_, err = call(t.Context(), c, newEnv(ns), "RestoreCSISnapshot", restore)
	require.ErrorContains(t, err, "another call made it")
	restore["pvc"], restore["restoreSize"] = "small", "1Mi"
	_, err = call(t.Context(), c, newEnv(ns), "RestoreCSISnapshot", restore)
	require.ErrorContains(t, err, "size 1Mi is less than the 64Mi of snapshot")

	content, err := c.Snapshots.SnapshotV1().VolumeSnapshotContents().Get(t.Context(), out["snapshotContent"].(string), metav1.GetOptions{})
	require.NoError(t, err)
	for i, arg := range []string{"snapshotHandle", "handle"} {
		senv := newEnv(ns)
		name := []string{"static-a", "static-b"}[i]
		static := map[string]any{"name": name, "namespace": ns, "driver": content.Spec.Driver, arg: *content.Status.SnapshotHandle, "snapshotClass": testcluster.SnapshotClass}
		made := mustCall(t, c, senv, "CreateCSISnapshotStatic", static)
		assert.Equal(t, made, mustCall(t, c, senv, "CreateCSISnapshotStatic", static))
		assert.Equal(t, name, made["name"])
		assert.Equal(t, "64Mi", made["restoreSize"])
		// Its class would delete what the storage has: take that away first.
		_, err = c.Snapshots.SnapshotV1().VolumeSnapshotContents().Patch(t.Context(), made["snapshotContent"].(string), types.MergePatchType, []byte(`{"spec":{"deletionPolicy":"Retain"}}`), metav1.PatchOptions{})
		require.NoError(t, err)
		gone := mustCall(t, c, newEnv(ns), "DeleteCSISnapshot", map[string]any{"name": name, "namespace": ns})
		assert.Equal(t, made["snapshotContent"], gone["snapshotContent"])
		mustCall(t, c, newEnv(ns), "DeleteCSISnapshotContent", map[string]any{"name": gone["snapshotContent"]})
		mustCall(t, c, newEnv(ns), "DeleteCSISnapshotContent", map[string]any{"name": gone["snapshotContent"]})
	}
	_, err = call(t.Context(), c, newEnv(ns), "CreateCSISnapshotStatic", map[string]any{"name": "none", "namespace": ns, "driver": content.Spec.Driver, "handle": "there-is-no-such", "snapshotClass": testcluster.SnapshotClass})
	require.Error(t, err)
	t.Log(err)

	mustCall(t, c, newEnv(ns), "DeleteCSISnapshot", map[string]any{"name": out["name"], "namespace": ns})
	assert.Equal(t, "", mustCall(t, c, newEnv(ns), "DeleteCSISnapshot", map[string]any{"name": out["name"], "namespace": ns})["snapshotContent"])
	nothingLeft(t, c, ns)
}

// A snapshot that is not ready in time is no snapshot: none is left.
func TestCreateCSISnapshotThatIsNeverReadyLeavesNothing(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	faulty(t, ns, "-never-ready")
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	_, err := call(ctx, c, newEnv(ns), "CreateCSISnapshot", map[string]any{"pvc": "data-0", "namespace": ns, "snapshotClass": testcluster.SnapshotClass})
	require.ErrorContains(t, err, "is not ready to use")
	left, err := litter(t.Context(), c, ns)
	require.NoError(t, err)
	assert.Empty(t, left)
}
