package data

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/cluster/movers"
	"thaw/activities/function"
	"thaw/activities/function/functiontest"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
	"thaw/internal/teststore"
)

func TestMain(m *testing.M) { os.Exit(m.Run()) }

const twoPods = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: tools, image: 'thaw.dev/test/tools:1', command: [sleep, '3600'], volumeMounts: [{name: data, mountPath: /data}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
`

// scene is a workload of two pods on a real cluster, and a store that pods
// reach. Each function runs as a service account with its own rules.
type scene struct {
	*cluster.Cluster
	t     *testing.T
	ns    string
	store *teststore.Server
	as    map[string]*least
}

type least struct {
	*cluster.Cluster
	rules []catalogue.Rule
	asked *testcluster.Asked
}

func newScene(t *testing.T) *scene {
	c := testcluster.Open(t)
	s := &scene{c, t, testcluster.Namespace(t, c), teststore.StartS3(t, teststore.S3Options{Host: testcluster.Here(t, c)}), map[string]*least{}}
	testcluster.Apply(t, c, s.ns, twoPods)
	testcluster.Ready(t, c, s.ns, "app=db", 2)
	return s
}

func passphrase() (string, error) { return "of the worker", nil }

func (s *scene) env(key string) *functiontest.Env {
	e := functiontest.NewEnv(s.t, key)
	e.Profile = &s.store.Profile
	e.Workload = &plan.Workload{Pods: []string{"db-0", "db-1"}, Claims: map[string]map[string]string{"db-0": {"data-db-0": "/data"}, "db-1": {"data-db-1": "/data"}}}
	return e
}

// call calls a function with the permissions that it declares.
func (s *scene) call(e *functiontest.Env, name string, args values) (function.Outputs, error) {
	s.t.Helper()
	as := s.as[name]
	if as == nil {
		for _, f := range Functions(&movers.Movers{}) {
			if f.Name == name {
				own, asked := testcluster.Least(s.t, s.Cluster, f.Rules, s.ns)
				own.Namespace = s.ns
				as = &least{own, f.Rules, asked}
				s.as[name] = as
			}
		}
	}
	given := values{}
	for _, a := range catalogue.Default().Functions {
		if a.Name == name {
			if _, ok := a.Arg("namespace"); ok {
				given["namespace"] = s.ns
			}
		}
	}
	for k, v := range args {
		given[k] = v
	}
	return functiontest.Call(s.t.Context(), s.t, Functions(&movers.Movers{Cluster: as.Cluster, Config: movers.Config{Image: testcluster.Tools}, Key: passphrase}), e, name, given)
}

func (s *scene) must(e *functiontest.Env, name string, args values) function.Outputs {
	s.t.Helper()
	out, err := s.call(e, name, args)
	require.NoError(s.t, err)
	e.Clean(context.WithoutCancel(s.t.Context()))
	return out
}

func (s *scene) in(pod, script string) string {
	s.t.Helper()
	return testcluster.Exec(s.t, s.Cluster, s.ns, pod, "tools", script)
}

// Every function of the family does its work with the permissions that it
// declares, and asks for every one of them.
func TestFunctionsMoveDataWithTheirRulesAlone(t *testing.T) {
	s := newScene(t)
	for _, pod := range []string{"db-0", "db-1"} {
		s.in(pod, "echo "+pod+" > /data/name; mkdir /data/deep; head -c 3000000 /dev/urandom > /data/deep/blob; chown 7:8 /data/deep/blob; sync")
	}
	state := func(pod string) string {
		return s.in(pod, "cat /data/name; sha256sum /data/deep/blob; stat -c '%u %g %a %Y' /data/deep/blob")
	}
	break0 := func() {
		for _, pod := range []string{"db-0", "db-1"} {
			s.in(pod, "echo other > /data/name; rm /data/deep/blob")
		}
	}
	zero := state("db-0")

	out := s.must(s.env("thaw-check-1"), "CheckRepository", values{"backupArtifactPrefix": "one"})
	require.Equal(t, function.Outputs{"repoUnavailable": "true", "passwordIncorrect": "false", "version": movers.OutputsVersion}, out)

	// A container that is there; the attempt after a worker's death finds what
	// the first one saved.
	e := s.env("thaw-backup")
	saved := values{"pod": "db-0", "container": "tools", "includePath": "/data", "backupArtifactPrefix": teststore.Bucket + "/one"}
	backup := s.must(e, "BackupData", saved)
	require.Equal(t, "2", backup["fileCount"])
	again := s.must(e.Again(t, false), "BackupData", saved)
	require.Equal(t, backup["backupID"], again["backupID"])

	out = s.must(s.env("thaw-check-2"), "CheckRepository", values{"backupArtifactPrefix": "one"})
	require.Equal(t, "false", out["repoUnavailable"])
	out = s.must(s.env("thaw-check-3"), "CheckRepository", values{"backupArtifactPrefix": "one", "encryptionKey": "another"})
	require.Equal(t, "true", out["passwordIncorrect"])

	out = s.must(s.env("thaw-stats"), "BackupDataStats", values{"backupArtifactPrefix": "one", "backupID": backup["backupID"]})
	require.Equal(t, "2", out["fileCount"])
	require.Equal(t, "restore-size", out["mode"])

	break0()
	s.must(s.env("thaw-restore-1"), "RestoreData", values{"image": "not.there/it:1", "backupArtifactPrefix": "one", "backupIdentifier": backup["backupID"], "pod": "db-0"})
	require.Equal(t, zero, state("db-0"))
	require.Equal(t, "other\n", s.in("db-1", "cat /data/name"))
	s.must(s.env("thaw-restore-2"), "RestoreData", values{
		"image": "not.there/it:1", "backupArtifactPrefix": "one", "backupTag": backup["backupTag"], "volumes": values{"data-db-1": "/mnt/there"}, "restorePath": "/mnt/there", "backupPath": "/data",
	})
	require.Equal(t, zero, state("db-1"), "another pod's volume, at another path")
	s.in("db-1", "echo db-1 > /data/name")
	one := state("db-1")

	// All pods at once.
	all := s.must(s.env("thaw-all"), "BackupDataAll", values{"container": "tools", "includePath": "/data", "backupArtifactPrefix": "all"})
	break0()
	s.must(s.env("thaw-restore-all"), "RestoreDataAll", values{"image": testcluster.Tools, "backupArtifactPrefix": "all", "backupInfo": all["BackupAllInfo"]})
	require.Equal(t, zero, state("db-0"))
	require.Equal(t, one, state("db-1"))
	s.must(s.env("thaw-delete-all"), "DeleteDataAll", values{"backupArtifactPrefix": "all", "backupInfo": all["BackupAllInfo"]})

	// A volume, by a pod of its own, which another attempt finds.
	e = s.env("thaw-copy")
	copying := values{"volume": "data-db-0", "dataArtifactPrefix": "copy"}
	first, err := s.call(e, "CopyVolumeData", copying)
	require.NoError(t, err)
	second := s.must(e.Again(t, false), "CopyVolumeData", copying)
	require.Equal(t, first, second)
	require.Equal(t, "/mnt/vol_data/data-db-0", second["backupRoot"])
	deleting := values{"backupArtifactPrefix": "copy", "backupID": second["backupID"], "reclaimSpace": true}
	s.must(s.env("thaw-delete"), "DeleteData", deleting)
	s.must(s.env("thaw-delete-again"), "DeleteData", deleting)
	_, err = s.call(s.env("thaw-restore-3"), "RestoreData", values{"image": testcluster.Tools, "backupArtifactPrefix": "copy", "backupIdentifier": second["backupID"], "pod": "db-0"})
	require.ErrorContains(t, err, "there is no such snapshot")
	require.Equal(t, fault.User, fault.Of(err))

	s.must(s.env("thaw-location"), "LocationDelete", values{"artifact": teststore.Bucket + "/one"})
	out = s.must(s.env("thaw-check-4"), "CheckRepository", values{"backupArtifactPrefix": "one"})
	require.Equal(t, "true", out["repoUnavailable"])

	for name, as := range s.as {
		// An API server asks for "create" of pods/exec since Kubernetes 1.35,
		// besides "get"; those before take either.
		exceptions := map[string]string{"create /pods/exec": "the request is a GET; the API server asks for create besides"}
		if name != "CopyVolumeData" { // which has another attempt here
			exceptions["get /pods"] = "to find the pod of an earlier attempt"
		}
		testcluster.Everything(t, name, as.rules, exceptions, as.asked)
	}
}

func TestWhatCannotBeMovedIsSaid(t *testing.T) {
	s := newScene(t)
	for says, c := range map[string]struct {
		name string
		args values
	}{
		"give either pod or volumes":                 {"RestoreData", values{"image": "i", "backupArtifactPrefix": "p", "backupTag": "t"}},
		"give either backupTag or backupIdentifier":  {"RestoreData", values{"image": "i", "backupArtifactPrefix": "p", "pod": "db-0", "backupTag": "t", "backupIdentifier": "i"}},
		"pod db-7 is not one of the target's":        {"RestoreData", values{"image": "i", "backupArtifactPrefix": "p", "pod": "db-7", "backupTag": "t"}},
		"there is no repository":                     {"RestoreData", values{"image": "i", "backupArtifactPrefix": "none", "pod": "db-0", "backupTag": "t"}},
		"give either backupID or backupTag":          {"DeleteData", values{"backupArtifactPrefix": "p"}},
		"backupInfo: ":                               {"DeleteDataAll", values{"backupArtifactPrefix": "p", "backupInfo": "{"}},
		"backupInfo has no pod db-0":                 {"RestoreDataAll", values{"image": "i", "backupArtifactPrefix": "p", "backupInfo": "{}"}},
		`persistentvolumeclaims "nothing" not found`: {"CopyVolumeData", values{"volume": "nothing", "dataArtifactPrefix": "p"}},
		"/nowhere": {"BackupData", values{"pod": "db-0", "container": "tools", "includePath": "/nowhere", "backupArtifactPrefix": "p"}},
		`artifact "` + teststore.Bucket + `" is all of the location`:   {"LocationDelete", values{"artifact": teststore.Bucket}},
		`artifact "/` + teststore.Bucket + `/" is all of the location`: {"LocationDelete", values{"artifact": "/" + teststore.Bucket + "/"}},
	} {
		t.Run(says, func(t *testing.T) {
			key := "thaw-" + strings.ToLower(c.name)
			e := s.env(key)
			_, err := s.call(e, c.name, c.args)
			require.ErrorContains(t, err, says)
			require.Contains(t, []fault.Kind{fault.User, fault.Permanent, fault.Command}, fault.Of(err), err.Error())
			e.Clean(t.Context())
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				pods, err := s.Kube.CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{LabelSelector: cluster.LabelManaged})
				require.NoError(c, err)
				assert.Empty(c, pods.Items)
			}, testcluster.Wait, testcluster.Tick)
		})
	}
}

// A backup is deleted when the namespace that it is of is gone.
func TestABackupIsDeletedWithoutItsNamespace(t *testing.T) {
	s := newScene(t)
	s.in("db-0", "echo 1 > /data/one; sync")
	kept := s.must(s.env("thaw-kept"), "CopyVolumeData", values{"volume": "data-db-0", "dataArtifactPrefix": "copy"})
	all := s.must(s.env("thaw-all"), "BackupDataAll", values{"container": "tools", "includePath": "/data", "backupArtifactPrefix": "all"})
	gone := "gone-" + s.ns
	for name, args := range map[string]values{
		"DeleteData":    {"namespace": gone, "backupArtifactPrefix": "copy", "backupID": kept["backupID"]},
		"DeleteDataAll": {"namespace": gone, "backupArtifactPrefix": "all", "backupInfo": all["BackupAllInfo"]},
	} {
		s.must(s.env("thaw-gone"), name, args)
	}
	_, err := s.call(s.env("thaw-back"), "RestoreData", values{
		"image": testcluster.Tools, "backupArtifactPrefix": "copy", "backupIdentifier": kept["backupID"], "volumes": values{"data-db-0": "/mnt"},
	})
	require.ErrorContains(t, err, "snapshot")
}

func TestAMoverKilledInTheMiddleIsFollowedByAnother(t *testing.T) {
	s := newScene(t)
	s.in("db-0", "head -c 50000000 /dev/urandom > /data/big; sync; sha256sum /data/big > /data/sum")
	e := s.env("thaw-killed")
	copying := values{"volume": "data-db-0", "dataArtifactPrefix": "copy"}
	s.store.Line.CutAfter(1 << 20)
	killed := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), testcluster.Wait)
		defer cancel()
		for s.store.Line.Cuts() == 0 && ctx.Err() == nil {
			time.Sleep(testcluster.Tick)
		}
		killed <- s.Kube.CoreV1().Pods(s.ns).Delete(ctx, e.Key, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		s.store.Line.Mend()
	}()
	_, err := s.call(e, "CopyVolumeData", copying)
	require.Error(t, err)
	require.NoError(t, <-killed)
	next := e.Again(t, true)
	out := s.must(next, "CopyVolumeData", copying)
	s.in("db-0", "rm /data/big")
	s.must(s.env("thaw-back"), "RestoreData", values{
		"image": testcluster.Tools, "backupArtifactPrefix": "copy", "backupIdentifier": out["backupID"], "volumes": values{"data-db-0": "/mnt/vol_data/data-db-0"},
	})
	s.in("db-0", "cd /data && sha256sum -c sum")
	require.Eventually(t, func() bool { return len(testcluster.Orphans(t, s.Cluster, s.ns)) == 0 }, testcluster.Wait, testcluster.Tick)
}
