package clustertest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
	"thaw/internal/testenv"
	"thaw/internal/teststore"
)

const filesApp = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: files}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 512Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: more}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: files}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: files}}
  template:
    metadata: {labels: {app: files}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: tools
        image: thaw.dev/test/tools:1
        command: [sleep, '3600']
        volumeMounts: [{name: files, mountPath: /data}, {name: more, mountPath: /data/more}]
      volumes:
      - {name: files, persistentVolumeClaim: {claimName: files}}
      - {name: more, persistentVolumeClaim: {claimName: more}}
`

// write fills the volumes of filesApp with what was not there before.
const write = `cd /data && mkdir -p deep/er && head -c 48000000 /dev/urandom > deep/er/big && head -c 9000000 /dev/urandom > more/small &&
	echo $(date +%N) > deep/mark && ln -sf deep/mark link && chown 7:8 deep/mark && chmod 640 deep/mark && mkdir -p empty && chmod 1777 /data/more && sync`

// state is all of it, byte for byte. Kopia keeps the times of files to the
// nanosecond, and not those of directories and links.
const state = `cd /data && find . -type f -exec sha256sum {} + | sort -k2 && find . -mindepth 1 -printf '%p %y %U:%G %m %l\n' | sort &&
	find . -type f -printf '%p %T@\n' | sort && stat -c '%a %u' . more`

// inFiles runs a script where filesApp has its volumes.
func (s *scene) inFiles(namespace, script string) string {
	s.t.Helper()
	return testcluster.Exec(s.t, s.Cluster, namespace, s.ready(namespace, "app=files", 1), "tools", script)
}

// movers are the processes of the movers in a namespace, which the node runs.
func (s *scene) movers(namespace string) (pids []int) {
	pods, err := s.Kube.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return nil
	}
	for i := range pods.Items {
		if uid := string(pods.Items[i].UID); isMover(&pods.Items[i]) {
			found, _ := filepath.Glob("/proc/[0-9]*/cgroup")
			for _, f := range found {
				b, _ := os.ReadFile(f)
				cmd, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
				var pid int
				if strings.Contains(string(b), uid) && strings.HasPrefix(string(cmd), "kando\x00data") {
					if _, err := fmt.Sscanf(f, "/proc/%d/", &pid); err == nil {
						pids = append(pids, pid)
					}
				}
			}
		}
	}
	return pids
}

func isMover(p *corev1.Pod) bool {
	return len(p.Spec.Containers) > 0 && len(p.Spec.Containers[0].Command) > 1 && p.Spec.Containers[0].Command[0] == "kando"
}

// What moves data is killed with -9 in the middle of an export and of a
// restore, be it the mover, the worker or the store: it goes on, and what comes
// back is what was there.
func TestMovingDataSurvivesKills(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	store, profile := s.store()
	s.apply(s.ns, filesApp)
	kills := []struct {
		name string
		kill func(namespace string)
	}{
		{"mover", func(namespace string) {
			require.Eventually(t, func() bool {
				pids := s.movers(namespace)
				for _, pid := range pids {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
				return len(pids) > 0
			}, testcluster.Wait, testcluster.Tick)
			store.Line.Mend()
		}},
		{"worker", func(string) {
			s.worker.Kill()
			store.Line.Mend()
			s.startWorker()
		}},
		{"store", func(string) {
			store.Kill()
			store.Line.Mend()
			store.Start()
		}},
	}
	// moving waits until data moves over the line, and kills then.
	moving := func(what, namespace string, kill func(string), start func() string) {
		store.Line.CutAfter(8 << 20)
		cuts := store.Line.Cuts()
		id := start()
		require.Eventually(t, func() bool { return store.Line.Cuts() > cuts }, testcluster.Wait, testcluster.Tick, "no data moves")
		kill(namespace)
		_, err := s.await(s.client.GetWorkflow(context.Background(), id, ""))
		require.NoError(t, err, what)
	}
	var ids []string
	for _, k := range kills {
		s.inFiles(s.ns, write)
		want := s.inFiles(s.ns, state)
		var id string
		moving("export, killed: "+k.name, s.ns, k.kill, func() string {
			id = s.workflow("BackupApplication", plan.ApplicationRequest{Namespace: s.ns, Profile: profile, DropSnapshots: true}).GetID()
			return id
		})
		out, err := s.await(s.client.GetWorkflow(t.Context(), id, ""))
		require.NoError(t, err)
		testenv.Keep(t, s.client, "export-"+k.name, id)
		rp := out.RestorePoint
		require.Len(t, rp.Application.Volumes, 2)
		for _, v := range rp.Application.Volumes {
			export, _ := v.(map[string]any)["export"].(map[string]any)
			require.NotEmpty(t, export["snapshot"])
			t.Logf("export, killed: %s: %v of %v moved", k.name, export["moved"], export["size"])
		}
		require.Empty(t, s.orphans(), "snapshots, clones and movers are gone")
		require.Empty(t, s.clones())
		ids = append(ids, rp.ID)

		other := s.ns + "-" + k.name
		moving("restore, killed: "+k.name, other, k.kill, func() string {
			return s.workflow("RestoreApplication", plan.RestoreRequest{From: rp.ID, Namespace: other, NoApproval: true, Profile: profile}).GetID()
		})
		require.Equal(t, want, s.inFiles(other, state), "restore, killed: %s", k.name)
		s.destroy(other)
	}
	for _, id := range ids {
		s.run(plan.Request{From: id, Action: "delete", Profile: profile})
	}
	require.Empty(t, s.kept(store, "of/the/test/restorepoints"))
	s.clean()
}

// A location that cannot be used fails the backup at once, and nothing of it is
// left in the cluster.
func TestABackupWhoseLocationRefusesLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	_, profile := s.store()
	s.apply(s.ns, filesApp)
	s.inFiles(s.ns, write)
	s.apply(s.ns, "apiVersion: v1\nkind: Secret\nmetadata: {name: store-key}\nstringData: {access: "+teststore.Key+", secret: of-another}\n")
	_, err := s.await(s.workflow("BackupApplication", plan.ApplicationRequest{Namespace: s.ns, Profile: profile}))
	require.ErrorContains(t, err, "pvc "+s.ns+"/files")
	require.ErrorContains(t, err, "the store refused the credential")
	require.NotContains(t, err.Error(), "of-another")
	require.Empty(t, s.clones())
	s.clean()
}

// A database by itself: with a profile its blueprint copies the volumes, and a
// restore needs no snapshot.
func TestADatabaseInALocation(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	store, profile := s.store()
	a := &apps[2]
	s.apply(s.ns, a.manifests(t))
	s.ready(s.ns, a.labels, 1)
	b := a.connect(t, s.host(s.ns, a))
	least := s.fill(b)
	target := plan.Target{Kind: "StatefulSet", Name: a.set, Namespace: s.ns}
	rp := s.run(plan.Request{Blueprint: a.blueprint, Action: "backup", Profile: profile, Target: target}).RestorePoint
	require.True(t, rp.Consistent, rp.Consistency)
	require.Contains(t, rp.Artifacts["cluster"].KeyValue["volumes"], `"export":`)
	require.NotEmpty(t, s.kept(store, "of/the/test/volumes/"+s.ns))
	s.loseSnapshots()
	require.NoError(t, b.destroy(t.Context()))

	s.run(plan.Request{From: rp.ID, Action: "restore"})
	s.ready(s.ns, a.labels, 1)
	s.same(b, least)
	s.run(plan.Request{From: rp.ID, Action: "delete"})
	require.Empty(t, s.kept(store, "of/the/test/restorepoints"))
	s.clean()
}

// loseSnapshots deletes the snapshots of the namespace, and all that the
// cluster knows of them.
func (s *scene) loseSnapshots() {
	s.t.Helper()
	ctx := s.t.Context()
	api := s.Snapshots.SnapshotV1()
	contents, err := api.VolumeSnapshotContents().List(ctx, metav1.ListOptions{})
	require.NoError(s.t, err)
	for _, c := range contents.Items {
		if c.Spec.VolumeSnapshotRef.Namespace != s.ns {
			continue
		}
		_, err := api.VolumeSnapshotContents().Patch(ctx, c.Name, types.MergePatchType, []byte(`{"spec":{"deletionPolicy":"Delete"}}`), metav1.PatchOptions{})
		require.NoError(s.t, err)
		require.NoError(s.t, api.VolumeSnapshots(s.ns).Delete(ctx, c.Spec.VolumeSnapshotRef.Name, metav1.DeleteOptions{}))
	}
	s.clean()
}

// clones are the claims that exports made.
func (s *scene) clones() (names []string) {
	l, err := s.Kube.CoreV1().PersistentVolumeClaims(s.ns).List(s.t.Context(), metav1.ListOptions{LabelSelector: "thaw.dev/temporary"})
	require.NoError(s.t, err)
	for _, c := range l.Items {
		names = append(names, c.Name)
	}
	return names
}

// loseCluster lets a test take the cluster away.
const loseCluster = "THAW_LOSE_CLUSTER"

// The cluster, Temporal, the worker and all that they had are lost. What is
// left is the location, and the passphrase: an empty cluster, with a Temporal of
// its own, has the application again.
func TestTheClusterIsLost(t *testing.T) {
	if os.Getenv(loseCluster) == "" {
		t.Skipf("%s is not set: this test takes the cluster down, and up again empty", loseCluster)
	}
	key := filepath.Join(t.TempDir(), "secrets.key")
	kept := t.TempDir()
	var id, folder string
	var sp span
	clocks := map[string]*clock{}
	t.Run("backup", func(t *testing.T) {
		s := newScene(t)
		s.worker.Kill()
		s.cfg.SecretsKey = key
		s.startWorker()
		store := teststore.StartS3(t, teststore.S3Options{Host: testcluster.Here(t, s.Cluster), Dir: kept})
		folder = s.folder(store)
		for i := range apps {
			a := &apps[i]
			s.apply(s.ns, a.manifests(t))
			s.ready(s.ns, a.labels, 1)
			s.annotate(a)
			b := a.connect(t, s.host(s.ns, a))
			reachable(t, b)
			clocks[a.name] = b.start(t)
		}
		for _, c := range clocks {
			require.Eventually(t, func() bool { return c.until(time.Now()) > 100 }, testcluster.Wait, testcluster.Tick)
		}
		rp := s.backupApplication(plan.ApplicationRequest{Namespace: s.ns, Profile: &plan.Reference{Name: "store"}})
		require.True(t, rp.Consistent, rp.Consistency)
		sp = spanOf(t, rp.Application.Volumes, rp.Freezes)
		for _, c := range clocks {
			end := c.until(time.Now())
			require.Eventually(t, func() bool { return c.until(time.Now()) > end+50 }, testcluster.Wait, testcluster.Tick)
			c.stop()
		}
		id = rp.ID
	})
	require.False(t, t.Failed())
	testcluster.Drive(t, "down")
	testcluster.Drive(t, "up")

	s := newScene(t)
	s.worker.Kill()
	s.cfg.SecretsKey = key
	s.startWorker()
	contents, err := s.Snapshots.SnapshotV1().VolumeSnapshotContents().List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Empty(t, contents.Items, "the cluster is empty")
	store := teststore.StartS3(t, teststore.S3Options{Host: testcluster.Here(t, s.Cluster), Dir: kept})
	folder = s.folder(store)
	require.Contains(t, s.thaw("restorepoint", "list", "--profile", folder), id)
	require.Contains(t, s.thaw("restorepoint", "verify", "--profile", folder, "--key", key, id), "3 volumes are whole")
	into := s.ns + "-again"
	t.Cleanup(func() { s.destroy(into) })
	s.thaw("restore", id, "--profile", "store", "--namespace", into, "--no-approval")
	s.check(into, nil, clocks, sp)
	s.run(plan.Request{From: id, Action: "delete", Profile: &plan.Reference{Name: "store"}})
	assert.Empty(t, s.kept(store, "clusters/one/restorepoints"))
}

// thaw runs the command line, which must succeed.
func (s *scene) thaw(args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := s.server.Command(ctx, "thaw", args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	require.NoError(s.t, err, "thaw %s: %s%s", strings.Join(args, " "), out, errs.String())
	return string(out)
}

// folder writes the store's profile as a secret of the worker, which is there
// with no cluster.
func (s *scene) folder(store *teststore.Server) string {
	s.t.Helper()
	return store.Folder(filepath.Join(s.cfg.SecretsDir, "store"), "clusters/one")
}
