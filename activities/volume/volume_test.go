package volume

import (
	"context"
	"strings"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster/movers"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

func TestEachFunctionSaysThatTheWorkerHasNoCluster(t *testing.T) {
	args := map[string]map[string]any{
		"CreateCSISnapshot":        {"pvc": "p", "namespace": "n", "snapshotClass": "c"},
		"CreateCSISnapshotStatic":  {"name": "s", "namespace": "n", "driver": "d", "handle": "h", "snapshotClass": "c"},
		"RestoreCSISnapshot":       {"name": "s", "pvc": "p", "namespace": "n", "storageClass": "c", "restoreSize": "1Gi"},
		"DeleteCSISnapshot":        {"name": "s", "namespace": "n"},
		"DeleteCSISnapshotContent": {"name": "s"},
		"RestoreVolumes":           {"volumes": "[]"},
		"ExportVolumes":            {"volumes": "[]"},
		"DropReplacedVolumes":      {"replaced": "[]"},
		"DeleteSnapshots":          {"volumes": "[]"},
	}
	for _, f := range Functions(nil, &movers.Movers{}) {
		if f.Name == "DeleteExports" {
			continue // it touches the location alone
		}
		t.Run(f.Name, func(t *testing.T) {
			_, err := call(t.Context(), nil, newEnv("n"), f.Name, args[f.Name])
			require.ErrorContains(t, err, "this worker has no Kubernetes cluster")
			assert.Equal(t, fault.User, fault.Of(err))
			assert.NotEmpty(t, f.Rules)
			assert.Equal(t, "volume", f.Family)
		})
	}
}

func TestNamesAreOfTheCallAndFitKubernetes(t *testing.T) {
	k := key()
	assert.Equal(t, "data-0-"+k, named("data-0", k))
	long := named(strings.Repeat("a", 260), k)
	assert.Len(t, long, 253)
	assert.True(t, strings.HasSuffix(long, k))
	assert.NotEqual(t, long, named(strings.Repeat("a", 259)+"b", k), "cut names stay apart")
	assert.NotContains(t, named(strings.Repeat("a", 217)+"-.-"+strings.Repeat("b", 40), k), "--")
}

func TestDecodeTakesDataAndTheTextOfIt(t *testing.T) {
	want := []Volume{{PVC: "data-0", Namespace: "shop", Snapshot: "s"}}
	for name, raw := range map[string]any{
		"data": data(want), "text": `[{"pvc":"data-0","namespace":"shop","snapshot":"s"}]`,
		"one object":                   `{"pvc":"data-0","namespace":"shop","snapshot":"s"}`,
		"more than this release knows": `[{"pvc":"data-0","namespace":"shop","snapshot":"s","later":1}]`,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decode[Volume]("volumes", raw)
			require.NoError(t, err)
			assert.Equal(t, want, got)
		})
	}
	for _, none := range []any{nil, "", "null", " ", "[]"} {
		got, err := decode[Volume]("volumes", none)
		require.NoError(t, err)
		assert.Empty(t, got)
	}
	_, err := decode[Volume]("volumes", "[map[pvc:data-0]]")
	require.ErrorContains(t, err, "give it as '{{ toJson .Phases.NAME.Output.volumes }}'")
	assert.Equal(t, fault.User, fault.Of(err))
}

func TestChooseAClass(t *testing.T) {
	a, b, c := class{name: "a", driver: "x"}, class{name: "b", driver: "x", isDefault: true}, class{name: "c", driver: "y"}
	d := class{name: "d", driver: "x", isDefault: true}
	for name, tc := range map[string]struct {
		classes []class
		named   string
		want    string
		says    string
	}{
		"the default":                    {classes: []class{a, b, c}, want: "b"},
		"the only one":                   {classes: []class{a, c}, want: "a"},
		"the named one":                  {classes: []class{a, b, c}, named: "a", want: "a"},
		"a name that is not there":       {classes: []class{a}, named: "z", says: `Class "z": not found`},
		"a name of another driver":       {classes: []class{a, c}, named: "c", says: `Class "c" is of driver y, the volume is of x`},
		"none of that driver":            {classes: []class{c}, says: "driver x has no Class; create one"},
		"several defaults":               {classes: []class{b, d}, says: "driver x has more than one default Class; set arg (b, d)"},
		"several, and none is a default": {classes: []class{a, {name: "e", driver: "x"}}, says: "none is its default; set arg (a, e), or annotate one as default"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := choose(tc.classes, tc.named, "x", "Class", "arg")
			if tc.says != "" {
				require.ErrorContains(t, err, tc.says)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tc.want, got.name)
		})
	}
}

func TestClaimsOfAStatefulSet(t *testing.T) {
	set := func(replicas int32) *appsv1.StatefulSet {
		return &appsv1.StatefulSet{
			ObjectMeta: metav1.ObjectMeta{Name: "db"},
			Spec: appsv1.StatefulSetSpec{
				Replicas: &replicas,
				VolumeClaimTemplates: []corev1.PersistentVolumeClaim{
					{ObjectMeta: metav1.ObjectMeta{Name: "data"}}, {ObjectMeta: metav1.ObjectMeta{Name: "wal"}},
				},
				Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Volumes: []corev1.Volume{
					{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "shared"}}},
					{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				}}},
			},
		}
	}
	assert.Equal(t, []string{"data-db-0", "data-db-1", "shared", "wal-db-0", "wal-db-1"}, unique(ofStatefulSet(set(2), nil)))
	ordinals := set(1)
	ordinals.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5}
	assert.Equal(t, []string{"data-db-5", "shared", "wal-db-5"}, unique(ofStatefulSet(ordinals, nil)))
	var has []corev1.PersistentVolumeClaim
	for _, n := range []string{"data-db-0", "data-db-12", "data-db-x", "data-db2-0", "wal-db-0", "other"} {
		has = append(has, corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: n}})
	}
	assert.Equal(t, []string{"data-db-0", "data-db-12", "shared", "wal-db-0"}, unique(ofStatefulSet(set(0), has)), "scaled to nothing")
}

func TestWhatASnapshotsStatusSays(t *testing.T) {
	for message, final := range map[string]bool{
		`failed to take snapshot of the volume v: "rpc error: code = Internal desc = told to fail"`:            true,
		`failed to take snapshot of the volume v: "rpc error: code = ResourceExhausted desc = no space left"`:  true,
		`failed to take snapshot of the volume v: "rpc error: code = DeadlineExceeded desc = context deadline`: false,
		`rpc error: code = Unavailable desc = connection refused`:                                              false,
		`snapshot controller failed to update snapcontent-1 on API server: conflict`:                           false,
		`Operation cannot be fulfilled on x: the object has been modified; please apply your changes`:          false,
		`VolumeSnapshotContent is missing`:                   false,
		`Failed to get snapshot class with error: not found`: true,
	} {
		got, isFinal := said(&snapshotv1.VolumeSnapshotError{Message: &message})
		assert.Equal(t, message, got)
		assert.Equal(t, final, isFinal, message)
	}
	_, final := said(nil)
	assert.False(t, final)
}

func TestPlanOfARestore(t *testing.T) {
	volumes := []Volume{
		{PVC: "data-0", Namespace: "shop", Snapshot: "s0", StorageClass: "fast", Size: "1Gi", RestoreSize: "2Gi", AccessModes: []string{"ReadWriteOnce"}, Labels: map[string]string{"app": "shop", labelGroup: "x", "app.kubernetes.io/managed-by": "thaw"}},
		{PVC: "data-1", Namespace: "shop", Snapshot: "s1", StorageClass: "slow", Size: "4Gi", RestoreSize: "2Gi"},
	}
	classOf, err := storageClassOf(map[string]any{"slow": "archive"})
	require.NoError(t, err)
	claims, faults := planRestore(volumes, restoreArgs{Namespace: "drill", Names: map[string]string{"data-1": "copy"}, Labels: map[string]string{"a": "b"}}, classOf)
	require.Empty(t, faults)
	assert.Equal(t, types.NamespacedName{Namespace: "drill", Name: "data-0"}, claims[0].spec.at)
	assert.Equal(t, types.NamespacedName{Namespace: "drill", Name: "copy"}, claims[1].spec.at)
	assert.Equal(t, "fast", claims[0].spec.storageClass)
	assert.Equal(t, "archive", claims[1].spec.storageClass)
	assert.Equal(t, "2Gi", claims[0].spec.size.String(), "what the data needs")
	assert.Equal(t, "4Gi", claims[1].spec.size.String(), "what it had")
	assert.Equal(t, map[string]string{"app": "shop", "a": "b"}, claims[0].spec.labels, "not ours")
	assert.Equal(t, []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"}, claims[1].spec.claim().Spec.AccessModes)

	_, faults = planRestore(append(volumes,
		Volume{PVC: "x", Namespace: "shop", Snapshot: "s"},
		Volume{PVC: "y", Namespace: "shop", Snapshot: "s", Size: "much"},
		Volume{PVC: "z", Namespace: "shop", Snapshot: "s", Size: "1Gi", AccessModes: []string{"Some"}},
		Volume{Snapshot: "s"},
	), restoreArgs{Names: map[string]string{"data-1": "data-0", "nobody": "n"}}, classOf)
	assert.Equal(t, []string{
		"pvc shop/data-0 and shop/data-1 would both become claim shop/data-0; set names",
		"pvc shop/x: size 0: a volume needs one",
		`pvc shop/y: size "much": write it as 10Gi`,
		`pvc shop/z: access mode "Some": want one of [ReadWriteOnce ReadOnlyMany ReadWriteMany ReadWriteOncePod]`,
		"/: it has no pvc and namespace",
		`names: there is no pvc "nobody" among the volumes`,
	}, faults)
}

func TestStorageClassIsANameOrAMap(t *testing.T) {
	for _, raw := range []any{nil, ""} {
		f, err := storageClassOf(raw)
		require.NoError(t, err)
		assert.Equal(t, "was", f("was"))
	}
	f, err := storageClassOf("new")
	require.NoError(t, err)
	assert.Equal(t, "new", f("was"))
	for _, raw := range []any{3, map[string]any{"a": 1}, map[string]any{"a": ""}} {
		_, err := storageClassOf(raw)
		assert.Equal(t, fault.User, fault.Of(err))
	}
}

func TestAClaimMustHoldItsSnapshot(t *testing.T) {
	s := claimSpec{snapshot: "s", size: resource.MustParse("1Gi")}
	require.NoError(t, s.fits("1024Mi"))
	require.NoError(t, s.fits(""))
	require.ErrorContains(t, s.fits("2Gi"), "size 1Gi is less than the 2Gi of snapshot s")
}

func TestAnnotationsThatBindAClaimAreNotKept(t *testing.T) {
	assert.Equal(t, map[string]string{"team": "shop", "helm.sh/x": "y"}, keptAnnotations(map[string]string{
		"team": "shop", "helm.sh/x": "y", "pv.kubernetes.io/bind-completed": "yes", "volume.kubernetes.io/storage-provisioner": "d",
		"volume.beta.kubernetes.io/storage-provisioner": "d", "kubectl.kubernetes.io/last-applied-configuration": "{}", "thaw.dev/call": "k",
	}))
}

func TestFsGroupWarning(t *testing.T) {
	group := int64(70)
	always, root := corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch
	warn := func(sc *corev1.PodSecurityContext, uses ...string) int {
		return len(fsGroupWarning("statefulset shop/db", &corev1.PodSpec{SecurityContext: sc}, uses, []string{"data-db-0"}))
	}
	assert.Equal(t, 1, warn(&corev1.PodSecurityContext{FSGroup: &group}, "data-db-0"))
	assert.Equal(t, 1, warn(&corev1.PodSecurityContext{FSGroup: &group, FSGroupChangePolicy: &always}, "data-db-0"))
	assert.Equal(t, 0, warn(&corev1.PodSecurityContext{FSGroup: &group, FSGroupChangePolicy: &root}, "data-db-0"))
	assert.Equal(t, 0, warn(&corev1.PodSecurityContext{FSGroup: &group}, "other"))
	assert.Equal(t, 0, warn(&corev1.PodSecurityContext{}, "data-db-0"))
	assert.Equal(t, 0, warn(nil, "data-db-0"))
}

func TestArgumentsOfWait(t *testing.T) {
	env := newEnv("shop")
	for name, tc := range map[string]struct {
		args readyArgs
		want []Volume
		says string
	}{
		"volumes":                          {args: readyArgs{Volumes: `[{"pvc":"p","namespace":"n","snapshot":"s"}]`, Timeout: 1}, want: []Volume{{PVC: "p", Namespace: "n", Snapshot: "s"}}},
		"a group's":                        {args: readyArgs{Volumes: `[{"pvc":"p","namespace":"n","group":"g"}]`, Timeout: 1}, want: []Volume{{PVC: "p", Namespace: "n", Group: "g"}}},
		"names, in the target's namespace": {args: readyArgs{Snapshots: []string{"b", "a", "b"}, Timeout: 1}, want: []Volume{{Namespace: "shop", Snapshot: "a"}, {Namespace: "shop", Snapshot: "b"}}},
		"neither":                          {args: readyArgs{Timeout: 1}, says: "give either volumes or snapshots"},
		"both":                             {args: readyArgs{Volumes: `[{"pvc":"p"}]`, Snapshots: []string{"a"}, Timeout: 1}, says: "give either volumes or snapshots"},
		"no snapshot":                      {args: readyArgs{Volumes: `[{"pvc":"p","namespace":"n"}]`, Timeout: 1}, says: "n/p has no snapshot and namespace"},
		"no time":                          {args: readyArgs{Snapshots: []string{"a"}}, says: "timeout 0s"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readyVolumes(env, tc.args)
			if tc.says != "" {
				require.ErrorContains(t, err, tc.says)
				assert.Equal(t, fault.User, fault.Of(err))
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tc.want, got)
		})
	}
}

func TestTheNamespaceOfATarget(t *testing.T) {
	for want, tc := range map[string]struct {
		given  string
		target plan.Target
	}{
		"given": {"given", plan.Target{Namespace: "n"}},
		"n":     {"", plan.Target{Kind: "StatefulSet", Name: "db", Namespace: "n"}},
		"shop":  {"", plan.Target{Kind: "Namespace", Name: "shop"}},
	} {
		got, err := namespaceOf(tc.given, tc.target)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	_, err := namespaceOf("", plan.Target{Kind: "host", Name: "db"})
	require.ErrorContains(t, err, "give namespace")
}

// An error that must not be retried for one volume must not be for all.
func TestTogetherIsTheStrictestOfAll(t *testing.T) {
	require.NoError(t, together(nil))
	transient, final := fault.New(fault.Transient, "b"), fault.New(fault.Permanent, "a")
	assert.Equal(t, fault.Transient, fault.Of(together([]error{transient, transient})))
	assert.Equal(t, fault.Permanent, fault.Of(together([]error{transient, final})))
	assert.Equal(t, fault.Permanent, fault.Of(together([]error{final, transient})))
	require.EqualError(t, together([]error{transient, final}), "a; b")
}

func TestArgumentsOfKanistersRestore(t *testing.T) {
	for name, tc := range map[string]struct {
		args map[string]any
		says string
	}{
		"a size that is none":        {map[string]any{"restoreSize": "much"}, `restoreSize "much": write it as 10Gi`},
		"nothing":                    {map[string]any{"restoreSize": "0"}, "size 0: a volume needs one"},
		"a mode that nobody knows":   {map[string]any{"accessModes": []any{"Some"}}, `access mode "Some"`},
		"a volume mode nobody knows": {map[string]any{"volumeMode": "Some"}, `argument "volumeMode" is "Some"; want one of Filesystem, Block`},
		"a name that is missing":     {map[string]any{"name": nil}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			args := map[string]any{"name": "s", "pvc": "p", "namespace": "n", "storageClass": "c", "restoreSize": "1Gi"}
			for k, v := range tc.args {
				args[k] = v
				if v == nil {
					delete(args, k)
				}
			}
			_, err := call(context.Background(), offline, newEnv("n"), "RestoreCSISnapshot", args)
			require.ErrorContains(t, err, tc.says)
			assert.Equal(t, fault.User, fault.Of(err))
		})
	}
}
