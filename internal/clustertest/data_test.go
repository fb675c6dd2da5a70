package clustertest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/blueprints/plan"
	"thaw/internal/location"
	"thaw/internal/testcluster"
	"thaw/internal/teststore"
)

// profile is a location of the scene's namespace, as Kanister keeps one.
const profile = `
apiVersion: v1
kind: Secret
metadata: {name: store-key}
stringData: {access: %KEY%, secret: %SECRET%}
---
apiVersion: cr.kanister.io/v1alpha1
kind: Profile
metadata: {name: store}
location: {type: s3Compliant, bucket: %BUCKET%, endpoint: '%ENDPOINT%', prefix: of/the/test, region: us-east-1}
credential:
  type: keyPair
  keyPair: {idField: access, secretField: secret, secret: {apiVersion: v1, kind: Secret, name: store-key, namespace: %NAMESPACE%}}
skipSSLVerify: false
`

// store is an S3 store that pods reach, and its Profile.
func (s *scene) store() (*teststore.Server, *plan.Reference) {
	t := s.t
	t.Helper()
	store := teststore.StartS3(t, teststore.S3Options{Host: testcluster.Here(t, s.Cluster)})
	s.kanister()
	s.apply(s.ns, strings.NewReplacer(
		"%KEY%", teststore.Key, "%SECRET%", teststore.Secret, "%BUCKET%", teststore.Bucket, "%ENDPOINT%", store.Profile.Location.Endpoint, "%NAMESPACE%", s.ns,
	).Replace(profile))
	return store, &plan.Reference{Name: "store", Namespace: s.ns}
}

// kanister makes Kanister's resources known to the cluster.
func (s *scene) kanister() {
	crds, err := os.ReadFile(filepath.Join("..", "..", "deploy", "crds", "kanister.yaml"))
	require.NoError(s.t, err)
	testcluster.Apply(s.t, s.Cluster, "", string(crds))
	// Each is known in its own time.
	for _, kind := range []string{"ActionSet", "Blueprint", "Profile"} {
		require.Eventually(s.t, func() bool {
			_, err := s.Resource(plan.Reference{Kind: kind, Group: "cr.kanister.io", APIVersion: "v1alpha1", Name: "any"})
			return err == nil
		}, testcluster.Wait, testcluster.Tick)
	}
}

// kept lists the objects below a path of the bucket.
func (s *scene) kept(store *teststore.Server, at string) (names []string) {
	s.t.Helper()
	l, err := location.Open(s.t.Context(), store.Profile)
	require.NoError(s.t, err)
	defer l.Close()
	require.NoError(s.t, l.List(s.t.Context(), at, func(o location.Object) error { names = append(names, o.Name); return nil }))
	return names
}

// clean waits until nothing that runs made is left: a pod takes a moment to go.
func (s *scene) clean() {
	s.t.Helper()
	require.EventuallyWithT(s.t, func(t *assert.CollectT) { assert.Empty(t, s.orphans()) }, testcluster.Wait, testcluster.Tick)
}

// Kanister's first example, as it is: files of a running pod to an object store
// and back.
func TestTimeLogOfTheCorpus(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	text := corpus(t, "time-log/time-log-blueprint.yaml")
	store, profile := s.store()
	s.apply(s.ns, testcluster.App(t, "timelog"))
	do := func(script string) string {
		return testcluster.Exec(t, s.Cluster, s.ns, s.ready(s.ns, "app=time-logger", 1), "test-container", script)
	}
	do("mkdir /var/log/deep && echo before > /var/log/deep/mark && ln -s deep/mark /var/log/link && chown 7:8 /var/log/deep/mark && chmod 640 /var/log/deep/mark")
	state := func() string {
		return do("head -1 /var/log/time.log; cat /var/log/link; stat -c '%u %g %a %Y' /var/log/deep/mark")
	}
	before := state()

	backup := s.run(plan.Request{BlueprintText: text, Action: "backup", Profile: profile, Target: plan.Target{Kind: "Deployment", Name: "time-logger", Namespace: s.ns}})
	require.NotEmpty(t, backup.Artifacts["backupIdentifier"].KeyValue["id"])
	require.Equal(t, teststore.Bucket+"/time-log", backup.Artifacts["timeLog"].KeyValue["path"])
	require.NotEmpty(t, s.kept(store, "of/the/test/time-log"))

	do("rm /var/log/time.log /var/log/link; echo after > /var/log/deep/mark")
	s.run(plan.Request{From: backup.RestorePoint.ID, Action: "restore"})
	require.Equal(t, before, state())
	s.run(plan.Request{From: backup.RestorePoint.ID, Action: "delete"})
	require.Empty(t, s.kept(store, ""))
	s.clean()
}

// The session between the start and the stop of a backup is in a pod that the
// blueprint makes, and its deferPhase, which has no name, takes away.
func TestPostgresStartStopOfTheCorpus(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	text := corpus(t, "postgres/postgres-start-stop-blueprint.yaml")
	store, profile := s.store()
	a := &apps[0]
	s.apply(s.ns, a.manifests(t))
	s.ready(s.ns, a.labels, 1)
	b := a.connect(t, s.host(s.ns, a))
	n := s.fill(b)

	backup := s.run(plan.Request{BlueprintText: text, Action: "backup", Profile: profile, Target: plan.Target{Kind: "StatefulSet", Name: a.set, Namespace: s.ns}})
	require.Equal(t, "data-pg-postgresql-0", backup.Artifacts["cloudObject"].KeyValue["pvc"])
	require.NotEmpty(t, backup.Artifacts["cloudObject"].KeyValue["backupID"])
	pods, err := s.Kube.CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, pods.Items, 1, "the database's alone")

	require.NoError(t, b.destroy(t.Context()))
	s.run(plan.Request{From: backup.RestorePoint.ID, Action: "restore"})
	s.ready(s.ns, a.labels, 1)
	s.same(b, n)
	kept := len(s.kept(store, ""))
	s.run(plan.Request{From: backup.RestorePoint.ID, Action: "delete"})
	require.NotZero(t, kept)
	s.clean()
}

// same checks that a database holds what fill counted. What a writer had sent
// when it was stopped may be written after that, and after the count.
func (s *scene) same(b books, filled int64) {
	s.t.Helper()
	n := s.count(b)
	require.GreaterOrEqual(s.t, n, filled)
	require.LessOrEqual(s.t, n, filled+writers)
}

// fill writes to a database, and returns how often.
func (s *scene) fill(b books) int64 {
	s.t.Helper()
	reachable(s.t, b)
	c := b.start(s.t)
	require.Eventually(s.t, func() bool { return c.until(time.Now()) > 200 }, testcluster.Wait, testcluster.Tick)
	c.stop()
	n, err := b.check(s.t.Context())
	require.NoError(s.t, err)
	return n
}

// Dumps go from a pod to the store by kando, and back.
func TestDumpsOfTheCorpus(t *testing.T) {
	mariadb, redis := &apps[1], &apps[2]
	for _, c := range []struct {
		name, blueprint string
		app             *app
		edit            *strings.Replacer // of the manifests, or of a placeholder in the blueprint
		live            bool              // it dumps one moment of a database that is written to
	}{
		{"postgres", "postgres/postgres-blueprint.yaml", &apps[0], nil, true},
		{"mysql", "mysql/mysql-blueprint.yaml", mariadb, strings.NewReplacer("  mariadb-root-password:", "  mysql-root-password: thaw-mariadb\n  mariadb-root-password:"), true},
		{"maria", "maria/maria-blueprint.yaml", mariadb, nil, true},
		// It hands on what the push puts out: Kopia's snapshot, in Kanister.
		{"maria v2", "maria/blueprint-v2/maria-blueprint.yaml", mariadb, nil, true},
		{"redis", "redis/redis-blueprint.yaml", redis, strings.NewReplacer("<registry>/<account_name>/redis-tools:<tag_name>", "thaw.dev/test/redis-tools:1"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			text, manifests := corpus(t, c.blueprint), c.app.manifests(t)
			if c.edit != nil {
				text, manifests = c.edit.Replace(text), c.edit.Replace(manifests)
			}
			store, profile := s.store()
			s.apply(s.ns, manifests)
			s.ready(s.ns, c.app.labels, 1)
			b := c.app.connect(t, s.host(s.ns, c.app))
			least := s.fill(b)
			most := least + writers // see same
			var load *clock
			if c.live {
				load = b.start(t)
			}
			backup := s.run(plan.Request{BlueprintText: text, Action: "backup", Profile: profile, Target: plan.Target{Kind: "StatefulSet", Name: c.app.set, Namespace: s.ns}})
			if c.live {
				load.stop()
				var err error
				most, err = b.check(t.Context())
				require.NoError(t, err)
				most += writers
			}
			require.Len(t, s.kept(store, "of/the/test/"), 4, "the dump, the restore point's record, its seal, and its entry")
			require.NoError(t, b.destroy(t.Context()))

			s.run(plan.Request{From: backup.RestorePoint.ID, Action: "restore"})
			n := s.count(b)
			require.GreaterOrEqual(t, n, least)
			require.LessOrEqual(t, n, most)
			s.run(plan.Request{From: backup.RestorePoint.ID, Action: "delete"})
			require.Empty(t, s.kept(store, ""))
			s.clean()
		})
	}
}
