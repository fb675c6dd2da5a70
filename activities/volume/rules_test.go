package volume

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/cluster/movers"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
	"thaw/internal/teststore"
)

// watcher gives each call of a function the permissions that it declares, and
// keeps what was asked.
type watcher struct {
	c     *cluster.Cluster
	asked map[string][]*testcluster.Asked
}

func rulesOf(name string) []catalogue.Rule {
	for _, f := range Functions(nil, &movers.Movers{}) {
		if f.Name == name {
			return f.Rules
		}
	}
	panic(name)
}

func (w *watcher) least(t *testing.T, name string, namespaces ...string) *cluster.Cluster {
	t.Helper()
	own, asked := testcluster.Least(t, w.c, rulesOf(name), namespaces...)
	w.asked[name] = append(w.asked[name], asked)
	return own
}

// unasked are permissions that the cases here need not make a function ask
// for, and why it has them all the same.
var unasked = map[string]map[string]string{
	"CreateCSISnapshot": {
		"patch snapshot.storage.k8s.io/volumesnapshotcontents":  outlives,
		"delete snapshot.storage.k8s.io/volumesnapshotcontents": outlives,
	},
	"CreateCSISnapshotStatic": {
		"list snapshot.storage.k8s.io/volumesnapshotcontents":  outlives,
		"watch snapshot.storage.k8s.io/volumesnapshotcontents": outlives,
	},
	"RestoreCSISnapshot": {"watch snapshot.storage.k8s.io/volumesnapshots": early},
	"CutVolumes": {
		"patch snapshot.storage.k8s.io/volumesnapshotcontents":            outlives,
		"delete snapshot.storage.k8s.io/volumesnapshotcontents":           outlives,
		"delete groupsnapshot.storage.k8s.io/volumegroupsnapshotcontents": outlives,
	},
	"WaitSnapshotsReady": {"watch snapshot.storage.k8s.io/volumesnapshots": early},
	"RestoreVolumes": {
		"watch /persistentvolumes": early,
		"list /events":             failed,
	},
	"ReturnVolumes": {
		"list /events": failed,
		"get snapshot.storage.k8s.io/volumesnapshots":           died,
		"watch snapshot.storage.k8s.io/volumesnapshots":         died,
		"delete snapshot.storage.k8s.io/volumesnapshots":        died,
		"get snapshot.storage.k8s.io/volumesnapshotcontents":    died,
		"list snapshot.storage.k8s.io/volumesnapshotcontents":   died,
		"watch snapshot.storage.k8s.io/volumesnapshotcontents":  died,
		"patch snapshot.storage.k8s.io/volumesnapshotcontents":  died,
		"delete snapshot.storage.k8s.io/volumesnapshotcontents": died,
		"watch /persistentvolumes":                              early,
		"watch /persistentvolumeclaims":                         early,
	},
	"DropReplacedVolumes": {
		"delete /persistentvolumes":   "a provisioner deletes what was released; this is for a policy of Retain, and for volumes without a provisioner",
		"get /persistentvolumeclaims": "only where the volume is not known to be released yet",
		"watch /persistentvolumes":    early,
	},
	"DeleteSnapshots": {
		"watch snapshot.storage.k8s.io/volumesnapshotcontents":            early,
		"list groupsnapshot.storage.k8s.io/volumegroupsnapshotcontents":   outlives,
		"watch groupsnapshot.storage.k8s.io/volumegroupsnapshotcontents":  outlives,
		"delete groupsnapshot.storage.k8s.io/volumegroupsnapshotcontents": outlives,
	},
	"DeleteCSISnapshot": {"watch snapshot.storage.k8s.io/volumesnapshots": early},
}

// Reasons.
const (
	outlives = "only where a content outlives its snapshot: the controllers race for that"
	early    = "only where it is not so yet when it is looked at"
	failed   = "only for the provisioner's words, where a claim is never bound"
	died     = "only where a worker died in a restore into another namespace"
)

// targets makes a Pod, and a Deployment and a StatefulSet without one, that
// have a claim.
func targets(t *testing.T, c *cluster.Cluster, namespace, name string) {
	t.Helper()
	pod(t, c, namespace, "web", "true", name)
	claim(t, c, namespace, "d-web-0")
	labels, none := map[string]string{"app": "web"}, int32(0)
	spec := corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: testcluster.Tools, VolumeMounts: []corev1.VolumeMount{{Name: "d", MountPath: "/d"}}}},
		Volumes:    []corev1.Volume{{Name: "d", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}},
	}
	meta, selector := metav1.ObjectMeta{Name: "web"}, &metav1.LabelSelector{MatchLabels: labels}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}
	_, err := c.Kube.AppsV1().Deployments(namespace).Create(t.Context(), &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &none, Selector: selector, Template: template}}, metav1.CreateOptions{})
	require.NoError(t, err)
	template.Spec.Volumes = nil
	_, err = c.Kube.AppsV1().StatefulSets(namespace).Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{
		Replicas: &none, ServiceName: "web", Selector: selector, Template: template,
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("64Mi")}},
		}}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// goneSoon waits until a snapshot is gone.
func goneSoon(t *testing.T, c *cluster.Cluster, namespace, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := c.Snapshots.SnapshotV1().VolumeSnapshots(namespace).Get(t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, testcluster.Wait, testcluster.Tick)
}

// Each function does what it does with the permissions that it declares, in
// what succeeds and in what must be taken back.
func TestTheRulesOfEachFunctionSuffice(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	w := &watcher{c, map[string][]*testcluster.Asked{}}
	ns, other := testcluster.Namespace(t, c), testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	claim(t, c, ns, "data-1")
	store := teststore.StartS3(t, teststore.S3Options{Host: testcluster.Here(t, c)})
	do := func(name string, args map[string]any) function.Outputs {
		t.Helper()
		return mustCall(t, w.least(t, name, ns, other), newEnv(ns), name, args)
	}
	fail := func(name, says string, env *function.Env, args map[string]any) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), testcluster.Wait)
		defer cancel()
		_, err := call(ctx, w.least(t, name, ns, other), env, name, args)
		require.ErrorContains(t, err, says)
		assert.NotContains(t, err.Error(), "forbidden")
	}

	late := faulty(t, ns, "-snapshot-ready-after", "2s")
	one := do("CreateCSISnapshot", map[string]any{"pvc": "data-0", "namespace": ns, "snapshotClass": testcluster.SnapshotClass})
	late()
	do("RestoreCSISnapshot", map[string]any{"name": one["name"], "pvc": "copy", "namespace": ns, "storageClass": testcluster.StorageClass, "restoreSize": one["restoreSize"]})
	fail("CreateCSISnapshotStatic", "there-is-no-such", newEnv(ns), map[string]any{"name": "static", "namespace": ns, "driver": "btrfs.csi.thaw.dev", "handle": "there-is-no-such", "snapshotClass": testcluster.SnapshotClass})
	do("DeleteCSISnapshot", map[string]any{"name": one["name"], "namespace": ns})
	do("ReturnVolumes", nil) // deletes the copy

	// A content that its snapshot left behind.
	left := do("CreateCSISnapshot", map[string]any{"pvc": "data-0", "namespace": ns, "snapshotClass": testcluster.SnapshotClass})
	do("WaitSnapshotsReady", map[string]any{"snapshots": left["name"], "retain": true})
	require.NoError(t, c.Snapshots.SnapshotV1().VolumeSnapshots(ns).Delete(t.Context(), left["name"].(string), metav1.DeleteOptions{}))
	goneSoon(t, c, ns, left["name"].(string))
	_, err := c.Snapshots.SnapshotV1().VolumeSnapshotContents().Patch(t.Context(), left["snapshotContent"].(string), types.MergePatchType, []byte(`{"spec":{"deletionPolicy":"Delete"}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	do("DeleteCSISnapshotContent", map[string]any{"name": left["snapshotContent"]})

	// Targets by their claims.
	targets(t, c, ns, "data-0")
	for _, kind := range []string{"Pod", "Deployment", "StatefulSet"} {
		env := newEnv(ns)
		env.Target = plan.Target{Kind: kind, Name: "web", Namespace: ns}
		cut := mustCall(t, w.least(t, "CutVolumes", ns), env, "CutVolumes", nil)
		do("DeleteSnapshots", map[string]any{"volumes": cut["volumes"]})
	}
	unpod(t, c, ns, "web")

	for _, group := range []string{"none", ""} {
		cut := do("CutVolumes", map[string]any{"groupSnapshotClass": group})
		ready := do("WaitSnapshotsReady", map[string]any{"volumes": cut["volumes"]})
		replaced := do("RestoreVolumes", map[string]any{"volumes": ready["volumes"], "replace": true})
		do("ReturnVolumes", map[string]any{"replaced": replaced["replaced"]})
		least := w.least(t, "RestoreVolumes", ns, other)
		letGo := outliving(c, other, w.asked["RestoreVolumes"][len(w.asked["RestoreVolumes"])-1])
		t.Cleanup(letGo)
		elsewhere := mustCall(t, least, newEnv(ns), "RestoreVolumes", map[string]any{"volumes": cut["volumes"], "namespace": other})
		letGo()
		do("ReturnVolumes", map[string]any{"claims": elsewhere["claims"]})
		replaced = do("RestoreVolumes", map[string]any{"volumes": ready["volumes"], "replace": true})
		do("DropReplacedVolumes", map[string]any{"replaced": replaced["replaced"]})
		do("WaitSnapshotsReady", map[string]any{"volumes": ready["volumes"], "retain": true})
		do("DeleteSnapshots", map[string]any{"volumes": ready["volumes"]})

		// To a location, and back from nothing else.
		kept := do("CutVolumes", map[string]any{"groupSnapshotClass": group})
		kept = do("WaitSnapshotsReady", map[string]any{"volumes": kept["volumes"]})
		moving := func(name string, args map[string]any) function.Outputs {
			env := newEnv(ns)
			env.Profile, env.RestorePoint = &store.Profile, plan.RestorePointRef{ID: "point" + group}
			return mustCall(t, w.least(t, name, ns, other), env, name, args)
		}
		exported := moving("ExportVolumes", map[string]any{"volumes": kept["volumes"]})
		do("DeleteSnapshots", map[string]any{"volumes": kept["volumes"]})
		elsewhere = moving("RestoreVolumes", map[string]any{"volumes": exported["volumes"], "namespace": other})
		do("ReturnVolumes", map[string]any{"claims": elsewhere["claims"]})
		replaced = moving("RestoreVolumes", map[string]any{"volumes": exported["volumes"], "replace": true, "fromLocation": true})
		do("ReturnVolumes", map[string]any{"replaced": replaced["replaced"]})
		moving("DeleteExports", map[string]any{"volumes": exported["volumes"]})

		// Contents whose snapshots went with their namespace, say.
		lost := do("CutVolumes", map[string]any{"groupSnapshotClass": "none", "pvcs": []any{"data-0", "data-1"}})
		lost = do("WaitSnapshotsReady", map[string]any{"volumes": lost["volumes"], "retain": true})
		for _, v := range volumesOf(t, lost) {
			require.NoError(t, c.Snapshots.SnapshotV1().VolumeSnapshots(ns).Delete(t.Context(), v.Snapshot, metav1.DeleteOptions{}))
			goneSoon(t, c, ns, v.Snapshot)
		}
		do("DeleteSnapshots", map[string]any{"volumes": lost["volumes"]})

		clear := faulty(t, ns, "-fail-snapshots")
		fail("CutVolumes", "told to fail", newEnv(ns), map[string]any{"groupSnapshotClass": group})
		clear()
	}
	clear := faulty(t, ns, "-fail-snapshots")
	fail("CreateCSISnapshot", "told to fail", newEnv(ns), map[string]any{"pvc": "data-0", "namespace": ns, "snapshotClass": testcluster.SnapshotClass})
	clear()
	nothingLeft(t, c, ns)
	nothingLeft(t, c, other)
	for _, f := range Functions(nil, &movers.Movers{}) {
		testcluster.Everything(t, f.Name, f.Rules, unasked[f.Name], w.asked[f.Name]...)
	}
}

// outliving has the contents of a namespace's snapshots outlive them, until all
// is asked that this takes: else the controllers race for it.
func outliving(c *cluster.Cluster, namespace string, asked *testcluster.Asked) (stop func()) {
	const keep = "thaw.dev/test"
	api := c.Snapshots.SnapshotV1().VolumeSnapshotContents()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for ; ctx.Err() == nil; time.Sleep(testcluster.Tick / 5) {
			list, err := api.List(ctx, metav1.ListOptions{})
			if err != nil {
				continue
			}
			verbs := asked.Verbs()
			over := !slices.ContainsFunc([]string{"patch", "list", "watch"}, func(v string) bool {
				return !slices.Contains(verbs, v+" snapshot.storage.k8s.io/volumesnapshotcontents")
			})
			for i := range list.Items {
				o := &list.Items[i]
				held := slices.Contains(o.Finalizers, keep)
				switch {
				case o.Spec.VolumeSnapshotRef.Namespace != namespace:
					continue
				case held && over:
					o.Finalizers = slices.DeleteFunc(o.Finalizers, func(f string) bool { return f == keep })
				case !held && !over && o.DeletionTimestamp == nil:
					o.Finalizers = append(o.Finalizers, keep)
				default:
					continue
				}
				_, _ = api.Update(ctx, o, metav1.UpdateOptions{}) // a conflict is looked at again
			}
		}
	})
	return func() { cancel(); done.Wait() }
}
