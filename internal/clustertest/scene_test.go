// Package clustertest runs whole actions on a real Kubernetes cluster, with a
// real Temporal server and a real worker: public blueprints as they are, the
// backup of an application, and what may go wrong meanwhile.
package clustertest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"thaw/activities/cluster"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
	"thaw/internal/testcorpus"
	"thaw/internal/testenv"
	"thaw/worker/wiring"
)

func TestMain(m *testing.M) {
	testenv.Main()
	os.Exit(m.Run())
}

// scene is a namespace, a Temporal server, and a worker for the cluster.
type scene struct {
	*cluster.Cluster
	t      testing.TB
	dir    string
	ns     string
	server *testenv.Server
	client client.Client
	cfg    *wiring.Config
	worker *testenv.Process
}

func newScene(t testing.TB) *scene {
	t.Helper()
	c := testcluster.Open(t)
	s := &scene{Cluster: c, t: t, dir: t.TempDir(), ns: testcluster.Namespace(t, c)}
	s.cfg = testenv.Config(s.dir)
	s.cfg.Kubernetes = cluster.Config{Kubeconfig: os.Getenv("KUBECONFIG"), Namespace: s.ns}
	s.cfg.Data.Image = testcluster.Tools
	s.server = testenv.StartServer(t, filepath.Join(s.dir, "server"))
	s.client = s.server.Client()
	s.startWorker()
	t.Cleanup(func() {
		if t.Failed() {
			testenv.Log(os.Stderr, filepath.Join(s.cfg.StateDir, "worker.log"))
		}
	})
	return s
}

func (s *scene) startWorker() { s.worker = testenv.StartWorker(s.t, s.server, s.cfg, nil) }

// start starts an action; its workflow id is the action's name.
func (s *scene) start(req plan.Request) client.WorkflowRun {
	s.t.Helper()
	run, err := s.client.ExecuteWorkflow(s.t.Context(), client.StartWorkflowOptions{ID: fmt.Sprintf("%s/%s/%d", req.Action, s.ns, time.Now().UnixNano()), TaskQueue: s.cfg.TaskQueue}, "RunAction", req)
	require.NoError(s.t, err)
	return run
}

// workflow starts a workflow of that type.
func (s *scene) workflow(name string, in any) client.WorkflowRun {
	s.t.Helper()
	run, err := s.client.ExecuteWorkflow(s.t.Context(), client.StartWorkflowOptions{ID: fmt.Sprintf("%s/%s/%d", name, s.ns, time.Now().UnixNano()), TaskQueue: s.cfg.TaskQueue}, name, in)
	require.NoError(s.t, err)
	return run
}

// run runs an action to its end, which must be a good one.
func (s *scene) run(req plan.Request) *plan.Outcome {
	s.t.Helper()
	out, err := s.await(s.start(req))
	require.NoError(s.t, err)
	for _, p := range out.Phases {
		s.t.Logf("%s: %s %s took %s", req.Action, p.Name, p.Func, p.Ended.Sub(p.Started).Round(time.Millisecond))
	}
	return out
}

func (s *scene) await(run client.WorkflowRun) (*plan.Outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var out plan.Outcome
	err := run.Get(ctx, &out)
	return &out, err
}

// apply applies manifests to the scene's namespace.
func (s *scene) apply(namespace string, manifests ...string) {
	s.t.Helper()
	for _, m := range manifests {
		testcluster.Apply(s.t, s.Cluster, namespace, m)
	}
}

// ready waits until a workload's pods are ready, and returns the first.
func (s *scene) ready(namespace, labels string, count int) string {
	s.t.Helper()
	return testcluster.Ready(s.t, s.Cluster, namespace, labels, count)
}

// orphans lists what a run may have left in the namespace, but for the claims
// that a restore made.
func (s *scene) orphans() []string {
	s.t.Helper()
	return slices.DeleteFunc(testcluster.Orphans(s.t, s.Cluster, s.ns), func(o string) bool { return strings.HasPrefix(o, "claim ") })
}

// corpus reads a public blueprint that nobody here wrote.
func corpus(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testcorpus.Need(t), "kanister", name))
	require.NoError(t, err)
	return string(text)
}

// fault makes the driver fail for claims of the scene's namespace, until the
// test ends.
func (s *scene) fault(args ...string) {
	s.t.Helper()
	id := strings.TrimSpace(testcluster.Drive(s.t, append([]string{"fault", "--namespace", s.ns}, args...)...))
	s.t.Cleanup(func() { testcluster.Drive(s.t, "fault", "clear", id) })
}
