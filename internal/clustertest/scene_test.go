// Package clustertest runs whole actions on a real Kubernetes cluster, with a
// real Temporal server and a real worker: public blueprints as they are, the
// backup of an application, and what may go wrong meanwhile.
package clustertest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
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
		s.kubectl(m, "apply", "-n", namespace, "-f", "-")
	}
}

// kubectl runs it as a person does.
func (s *scene) kubectl(stdin string, args ...string) string {
	s.t.Helper()
	path := os.Getenv("THAW_KUBECTL")
	if path == "" {
		path = "kubectl"
	}
	cmd := exec.CommandContext(context.Background(), path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(s.t, cmd.Run(), "kubectl %s: %s", strings.Join(args, " "), errs.String())
	return out.String()
}

// ready waits until a workload's pods are ready, and returns the first.
func (s *scene) ready(namespace, labels string, count int) string {
	s.t.Helper()
	name := ""
	require.Eventually(s.t, func() bool {
		pods, err := s.Kube.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: labels})
		if err != nil {
			return false
		}
		n := 0
		for i := range pods.Items {
			for _, c := range pods.Items[i].Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && pods.Items[i].DeletionTimestamp == nil {
					n, name = n+1, pods.Items[i].Name
				}
			}
		}
		return n == count
	}, testcluster.Wait, testcluster.Tick)
	return name
}

// orphans lists what a run may have left: pods that Thaw made, snapshots and
// volumes of the namespace.
func (s *scene) orphans() (left []string) {
	s.t.Helper()
	ctx := context.Background()
	marked := metav1.ListOptions{LabelSelector: cluster.LabelManaged + "=" + cluster.Managed}
	pods, err := s.Kube.CoreV1().Pods(s.ns).List(ctx, marked)
	require.NoError(s.t, err)
	for _, o := range pods.Items {
		left = append(left, "pod "+o.Name)
	}
	snaps, err := s.Snapshots.SnapshotV1().VolumeSnapshots(s.ns).List(ctx, metav1.ListOptions{})
	require.NoError(s.t, err)
	for _, o := range snaps.Items {
		left = append(left, "snapshot "+o.Name)
	}
	contents, err := s.Snapshots.SnapshotV1().VolumeSnapshotContents().List(ctx, metav1.ListOptions{})
	require.NoError(s.t, err)
	for _, o := range contents.Items {
		if o.Spec.VolumeSnapshotRef.Namespace == s.ns {
			left = append(left, "snapshot content "+o.Name)
		}
	}
	return left
}

// corpus reads a public blueprint that nobody here wrote.
func corpus(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("THAW_CORPUS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "corpus")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no corpus of public blueprints at %s; set THAW_CORPUS to its directory", dir)
	}
	text, err := os.ReadFile(filepath.Join(dir, "kanister", name))
	require.NoError(t, err)
	return string(text)
}

// drive tells the local cluster's own driver, or one of its components, what to
// do: `thaw-cluster` with these arguments.
func drive(t testing.TB, args ...string) string {
	t.Helper()
	bin := filepath.Join("..", "..", "bin", "thaw-cluster")
	if _, err := os.Stat(bin); err != nil {
		t.Skipf("no local cluster: %s is not built; run: make e2e", bin)
	}
	out, err := exec.CommandContext(context.Background(), bin, args...).CombinedOutput()
	require.NoError(t, err, "thaw-cluster %s: %s", strings.Join(args, " "), out)
	return string(out)
}

// fault makes the driver fail for claims of the scene's namespace, until the
// test ends.
func (s *scene) fault(args ...string) {
	s.t.Helper()
	id := strings.TrimSpace(drive(s.t, append([]string{"fault", "--namespace", s.ns}, args...)...))
	s.t.Cleanup(func() { drive(s.t, "fault", "clear", id) })
}
