package volume

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/internal/testcluster"
)

// least is the cluster as a worker sees it that may do what the rules of one
// function say, in some namespaces, and nothing else.
func least(t *testing.T, c *cluster.Cluster, name string, namespaces ...string) *cluster.Cluster {
	t.Helper()
	var f function.Function
	for _, f = range Functions(nil) {
		if f.Name == name {
			break
		}
	}
	user := "thaw-test-" + key()
	subject := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}}
	var wide, narrow []rbacv1.PolicyRule
	for _, r := range f.Rules {
		p := rbacv1.PolicyRule{APIGroups: []string{r.Group}, Resources: r.Resources, Verbs: r.Verbs}
		if r.Cluster {
			wide = append(wide, p)
		} else {
			narrow = append(narrow, p)
		}
	}
	api := c.Kube.RbacV1()
	meta := metav1.ObjectMeta{Name: user}
	_, err := api.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: wide}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = api.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subject, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = api.ClusterRoleBindings().Delete(context.Background(), user, metav1.DeleteOptions{})
		_ = api.ClusterRoles().Delete(context.Background(), user, metav1.DeleteOptions{})
	})
	for _, ns := range namespaces {
		_, err := api.Roles(ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: narrow}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = api.RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subject, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user}}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	rc := rest.CopyConfig(c.Rest)
	rc.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:authenticated"}}
	own, err := cluster.New(rc, c.Namespace)
	require.NoError(t, err)
	return own
}

// Each function does what it does with the permissions that it declares, in
// what succeeds and in what must be taken back.
func TestTheRulesOfEachFunctionSuffice(t *testing.T) {
	t.Parallel()
	c := testcluster.Open(t)
	ns, other := testcluster.Namespace(t, c), testcluster.Namespace(t, c)
	claim(t, c, ns, "data-0")
	claim(t, c, ns, "data-1")
	do := func(name string, args map[string]any) function.Outputs {
		t.Helper()
		return mustCall(t, least(t, c, name, ns, other), newEnv(ns), name, args)
	}
	fail := func(name, says string, env *function.Env, args map[string]any) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), testcluster.Wait)
		defer cancel()
		_, err := call(ctx, least(t, c, name, ns, other), env, name, args)
		require.ErrorContains(t, err, says)
		assert.NotContains(t, err.Error(), "forbidden")
	}

	one := do("CreateCSISnapshot", map[string]any{"pvc": "data-0", "namespace": ns, "snapshotClass": testcluster.SnapshotClass})
	do("RestoreCSISnapshot", map[string]any{"name": one["name"], "pvc": "copy", "namespace": ns, "storageClass": testcluster.StorageClass, "restoreSize": one["restoreSize"]})
	fail("CreateCSISnapshotStatic", "there-is-no-such", newEnv(ns), map[string]any{"name": "static", "namespace": ns, "driver": "btrfs.csi.thaw.dev", "handle": "there-is-no-such", "snapshotClass": testcluster.SnapshotClass})
	do("DeleteCSISnapshot", map[string]any{"name": one["name"], "namespace": ns})
	do("DeleteCSISnapshotContent", map[string]any{"name": one["snapshotContent"]})
	do("ReturnVolumes", nil) // deletes the copy

	for _, group := range []string{"none", ""} {
		cut := do("CutVolumes", map[string]any{"groupSnapshotClass": group})
		ready := do("WaitSnapshotsReady", map[string]any{"volumes": cut["volumes"]})
		replaced := do("RestoreVolumes", map[string]any{"volumes": ready["volumes"], "replace": true})
		do("ReturnVolumes", map[string]any{"replaced": replaced["replaced"]})
		elsewhere := do("RestoreVolumes", map[string]any{"volumes": cut["volumes"], "namespace": other})
		do("ReturnVolumes", map[string]any{"claims": elsewhere["claims"]})
		replaced = do("RestoreVolumes", map[string]any{"volumes": ready["volumes"], "replace": true})
		do("DropReplacedVolumes", map[string]any{"replaced": replaced["replaced"]})
		do("DeleteSnapshots", map[string]any{"volumes": ready["volumes"]})

		clear := faulty(t, ns, "-fail-snapshots")
		fail("CutVolumes", "told to fail", newEnv(ns), map[string]any{"groupSnapshotClass": group})
		clear()
	}
	clear := faulty(t, ns, "-fail-snapshots")
	fail("CreateCSISnapshot", "told to fail", newEnv(ns), map[string]any{"pvc": "data-0", "namespace": ns, "snapshotClass": testcluster.SnapshotClass})
	clear()
	nothingLeft(t, c, ns)
	nothingLeft(t, c, other)
}
