package clustertest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster/manifests"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
	"thaw/internal/testdb"
	"thaw/internal/testenv"
)

// backupApplication runs one to its end.
func (s *scene) backupApplication(req plan.ApplicationRequest) *plan.RestorePoint {
	s.t.Helper()
	run := s.workflow("BackupApplication", req)
	out, err := s.await(run)
	require.NoError(s.t, err)
	testenv.Keep(s.t, s.client, "backup", run.GetID())
	for _, m := range out.RestorePoint.Application.Members {
		testenv.Keep(s.t, s.client, "backup-"+m.Name, run.GetID()+"/"+m.Name)
		testenv.Keep(s.t, s.client, "backup-"+m.Name+"-session", plan.FreezeID(m.Target))
	}
	require.NotNil(s.t, out.RestorePoint)
	for _, p := range out.Phases {
		s.t.Logf("backup: %s %s took %s", p.Name, p.Func, p.Ended.Sub(p.Started).Round(time.Millisecond))
	}
	return out.RestorePoint
}

func (s *scene) restoreApplication(req plan.RestoreRequest) *plan.Outcome {
	s.t.Helper()
	run := s.workflow("RestoreApplication", req)
	out, err := s.await(run)
	require.NoError(s.t, err)
	testenv.Keep(s.t, s.client, "restore", run.GetID())
	for _, p := range out.Phases {
		s.t.Logf("restore: %s %s took %s", p.Name, p.Func, p.Ended.Sub(p.Started).Round(time.Millisecond))
	}
	return out
}

// annotate binds the apps' blueprints to their StatefulSets.
func (s *scene) annotate(a *app) {
	text := fmt.Appendf(nil, `{"metadata":{"annotations":{"thaw.dev/blueprint":%q}}}`, a.blueprint)
	_, err := s.Kube.AppsV1().StatefulSets(s.ns).Patch(s.t.Context(), a.set, types.MergePatchType, text, metav1.PatchOptions{})
	require.NoError(s.t, err)
}

func (s *scene) destroy(namespace string) {
	s.t.Helper()
	require.NoError(s.t, s.Kube.CoreV1().Namespaces().Delete(context.Background(), namespace, metav1.DeleteOptions{}))
	require.Eventually(s.t, func() bool {
		_, err := s.Kube.CoreV1().Namespaces().Get(context.Background(), namespace, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, 3*time.Minute, testcluster.Tick)
}

// An application of three databases and a volume without a blueprint: backed up
// under load, its namespace destroyed, and restored into the same and into
// another one.
func TestApplication(t *testing.T) {
	s := newScene(t)
	books, clocks := map[string]books{}, map[string]*clock{}
	for i := range apps {
		a := &apps[i]
		s.apply(s.ns, a.manifests(t))
		s.ready(s.ns, a.labels, 1)
		s.annotate(a)
		b := a.connect(t, s.host(s.ns, a))
		reachable(t, b)
		books[a.name], clocks[a.name] = b, b.start(t)
	}
	s.apply(s.ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {color: blue}\n", `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: files}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
`)
	for _, c := range clocks {
		require.Eventually(t, func() bool { return c.until(time.Now()) > 100 }, testcluster.Wait, testcluster.Tick)
	}

	rp := s.backupApplication(plan.ApplicationRequest{Namespace: s.ns})
	require.True(t, rp.Consistent, rp.Consistency)
	require.Len(t, rp.Freezes, 3)
	require.Len(t, rp.Application.Volumes, 4, "three of the databases, and the one without a blueprint")
	t.Logf("cuts are %s apart", rp.Application.Spread)
	sp := spanOf(t, rp.Application.Volumes, rp.Freezes)
	first, err := time.Parse(time.RFC3339Nano, rp.Application.CutFrom)
	require.NoError(t, err)
	require.False(t, first.Before(sp.frozen), "every freeze is in effect before the first cut")
	for _, f := range rp.Freezes {
		require.False(t, f.ThawAt.Before(sp.cut), "every cut is made before the first thaw")
		t.Logf("frozen for %s", f.ThawedAt.Sub(f.DoStart).Round(time.Millisecond))
	}
	for _, c := range clocks {
		end := c.until(time.Now())
		require.Eventually(t, func() bool { return c.until(time.Now()) > end+50 }, testcluster.Wait, testcluster.Tick)
		c.stop()
	}
	s.withoutSecrets(rp)

	s.destroy(s.ns)
	s.restoreApplication(plan.RestoreRequest{From: rp.ID, NoApproval: true})
	s.check(s.ns, books, clocks, sp)
	settings, err := s.Kube.CoreV1().ConfigMaps(s.ns).Get(t.Context(), "settings", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "blue", settings.Data["color"])

	other := s.ns + "-2"
	t.Cleanup(func() { s.destroy(other) })
	s.restoreApplication(plan.RestoreRequest{From: rp.ID, Namespace: other, NoApproval: true, StorageClasses: map[string]string{"thaw-btrfs": "thaw-btrfs-2"}})
	s.check(other, books, clocks, sp)

	s.run(plan.Request{From: rp.ID, Action: "delete"})
	require.Empty(t, s.orphans())
	_, err = os.Stat(rp.Directory)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// check looks into the databases of a restored namespace.
func (s *scene) check(namespace string, _ map[string]books, clocks map[string]*clock, sp span) {
	s.t.Helper()
	for i := range apps {
		a := &apps[i]
		s.ready(namespace, a.labels, 1)
		b := a.connect(s.t, s.host(namespace, a))
		reachable(s.t, b)
		s.holds(b, clocks[a.name], sp)
	}
}

// withoutSecrets checks that nothing of the restore point that anybody may read
// has a password of the application in it.
func (s *scene) withoutSecrets(rp *plan.RestorePoint) {
	s.t.Helper()
	record, err := json.Marshal(rp)
	require.NoError(s.t, err)
	text, err := os.ReadFile(filepath.Join(rp.Directory, manifests.File))
	require.NoError(s.t, err)
	sealed, err := os.ReadFile(filepath.Join(rp.Directory, manifests.SecretsFile))
	require.NoError(s.t, err)
	require.NotEmpty(s.t, sealed)
	for _, password := range []string{"thaw-postgres", "thaw-mariadb", "thaw-redis", "dGhhdy1wb3N0Z3Jlcw"} {
		for _, of := range [][]byte{record, text, sealed} {
			require.NotContains(s.t, string(of), password)
		}
	}
}

// A restore that fails puts back what was there: volumes, manifests, replicas.
func TestARestoreThatFailsGoesBack(t *testing.T) {
	s := newScene(t)
	a := &apps[2]
	s.apply(s.ns, a.manifests(t))
	s.ready(s.ns, a.labels, 1)
	s.annotate(a)
	b := a.connect(t, s.host(s.ns, a))
	reachable(t, b)
	c := b.start(t)
	require.Eventually(t, func() bool { return c.until(time.Now()) > 100 }, testcluster.Wait, testcluster.Tick)
	rp := s.backupApplication(plan.ApplicationRequest{Namespace: s.ns})
	end := c.until(time.Now())
	require.Eventually(t, func() bool { return c.until(time.Now()) > end+100 }, testcluster.Wait, testcluster.Tick)
	c.stop()
	last, err := b.check(t.Context())
	require.NoError(t, err)

	run := s.workflow("RestoreApplication", plan.RestoreRequest{
		From: rp.ID, NoApproval: true, ReadyTimeout: plan.Duration(10 * time.Second),
		Images: map[string]string{"thaw.dev/test/redis:*": "thaw.dev/test/nothing:*"},
	})
	_, err = s.await(run)
	testenv.Keep(s.t, s.client, "restore", run.GetID())
	require.ErrorContains(t, err, "0 of 1 pods are ready")
	require.ErrorContains(t, err, "compensated: manifests, volumes, scaleDown-statefulset-redis-master")
	s.ready(s.ns, a.labels, 1)
	require.Eventually(t, func() bool {
		now, err := b.check(t.Context())
		return err == nil && now == last
	}, testcluster.Wait, testcluster.Tick, "the data is what it was before the restore")
	s.run(plan.Request{From: rp.ID, Action: "delete"})
	require.Empty(t, s.orphans())
}

const hooked = `
apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: hooked}
actions:
  backupPrehook:
    phases:
    - func: KubeExec
      name: quiesce
      args:
        namespace: '{{ .Deployment.Namespace }}'
        pod: '{{ index .Deployment.Pods 0 }}'
        container: test-container
        command: [sh, -c, 'touch /var/log/frozen; sync']
  backupPosthook:
    phases:
    - func: KubeExec
      name: unquiesce
      args:
        namespace: '{{ .Deployment.Namespace }}'
        pod: '{{ index .Deployment.Pods 0 }}'
        container: test-container
        command: [sh, -c, 'rm -f /var/log/frozen']
`

// K10's pair of hooks, bound by K10's annotation, is a freeze: the volume is cut
// between the two.
func TestK10HooksFreezeAnApplication(t *testing.T) {
	s := newScene(t)
	s.kanister()
	s.apply(s.ns, hooked, strings.ReplaceAll(timeLogger, "storageClassName: do-block-storage, ", ""))
	pod := s.ready(s.ns, "app=time-logger", 1)
	text := []byte(`{"metadata":{"annotations":{"kanister.kasten.io/blueprint":"hooked"}}}`)
	_, err := s.Kube.AppsV1().Deployments(s.ns).Patch(t.Context(), "time-logger", types.MergePatchType, text, metav1.PatchOptions{})
	require.NoError(t, err)

	rp := s.backupApplication(plan.ApplicationRequest{Namespace: s.ns})
	require.False(t, rp.Consistent, "hooks prove nothing")
	require.Contains(t, rp.Consistency, "declares no proof")
	require.Len(t, rp.Freezes, 1)
	seen := func(namespace, pod string) string {
		return strings.TrimSpace(testcluster.Exec(t, s.Cluster, namespace, pod, "test-container", "ls /var/log/frozen 2>/dev/null || echo thawed"))
	}
	require.Equal(t, "thawed", seen(s.ns, pod))
	other := s.ns + "-2"
	t.Cleanup(func() { s.destroy(other) })
	s.restoreApplication(plan.RestoreRequest{From: rp.ID, Namespace: other, NoApproval: true})
	require.Equal(t, "/var/log/frozen", seen(other, s.ready(other, "app=time-logger", 1)))
	s.run(plan.Request{From: rp.ID, Action: "delete"})
}

// A database on a host belongs to the application: its freeze is held together
// with that of the one in pods, and the restore runs its blueprint's.
func TestApplicationWithADatabaseOnAHost(t *testing.T) {
	s := newScene(t)
	a := &apps[2]
	s.apply(s.ns, a.manifests(t))
	s.ready(s.ns, a.labels, 1)
	s.annotate(a)
	b := a.connect(t, s.host(s.ns, a))
	reachable(t, b)
	c := b.start(t)
	orders := testdb.NewSQLite(t)
	orders.StartLoad()
	require.Eventually(t, func() bool { return c.until(time.Now()) > 100 && orders.Commits() > 100 }, testcluster.Wait, testcluster.Tick)

	rp := s.backupApplication(plan.ApplicationRequest{Namespace: s.ns, With: []plan.Request{
		{Blueprint: "sqlite", Target: plan.Target{Kind: "sqlite", Name: orders.Path, TaskQueue: s.cfg.TaskQueue}},
	}})
	require.True(t, rp.Consistent, rp.Consistency)
	require.Len(t, rp.Application.Members, 2)
	require.Len(t, rp.Freezes, 2)
	for i, f := range rp.Freezes {
		require.False(t, f.ThawAt.Before(rp.Freezes[1-i].FrozenAt), "both were frozen at the same time")
		for _, cut := range f.Proof.Cuts {
			require.False(t, cut.Start.Before(rp.Freezes[1-i].FrozenAt), "nothing is cut before both are frozen")
			require.False(t, cut.End.After(rp.Freezes[1-i].ThawAt), "nothing thaws before all is cut")
		}
	}
	c.stop()
	orders.Stop()
	after, err := orders.Check(orders.Path)
	require.NoError(t, err)

	s.restoreApplication(plan.RestoreRequest{From: rp.ID, NoApproval: true})
	restored, err := orders.Check(orders.Path)
	require.NoError(t, err)
	require.Less(t, restored, after, "as it was at the backup")
	s.run(plan.Request{From: rp.ID, Action: "delete"})
	require.Empty(t, s.orphans())
}
