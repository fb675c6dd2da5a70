package actionset_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"thaw/activities/cluster"
	"thaw/internal/testcluster"
	"thaw/internal/testenv"
	"thaw/worker/actionset"
	"thaw/worker/wiring"
)

func TestMain(m *testing.M) {
	testenv.Main()
	os.Exit(m.Run())
}

// scene is a namespace, a Temporal server, and a worker that serves the
// namespace's ActionSets.
type scene struct {
	*cluster.Cluster
	t      *testing.T
	ns     string
	server *testenv.Server
	client client.Client
	cfg    *wiring.Config
	worker *testenv.Process
}

func newScene(t *testing.T) *scene {
	t.Helper()
	c := testcluster.Open(t)
	dir := t.TempDir()
	s := &scene{Cluster: c, t: t, ns: testcluster.Namespace(t, c), cfg: testenv.Config(dir)}
	crds, err := os.ReadFile(filepath.Join("..", "..", "deploy", "crds", "kanister.yaml"))
	require.NoError(t, err)
	s.kubectl(string(crds), "apply", "-f", "-")
	s.kubectl("", "wait", "--for=condition=Established", "--timeout=60s", "crd/actionsets.cr.kanister.io", "crd/blueprints.cr.kanister.io")
	s.cfg.Kubernetes = cluster.Config{Kubeconfig: os.Getenv("KUBECONFIG"), Namespace: s.ns}
	s.cfg.ActionSets = actionset.Config{Enabled: true, Namespaces: []string{s.ns}}
	s.server = testenv.StartServer(t, filepath.Join(dir, "server"))
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

// create creates objects in the scene's namespace, of YAML in either style.
func (s *scene) create(manifest string) {
	s.t.Helper()
	s.kubectl("---\n"+manifest, "create", "-n", s.ns, "-f", "-")
}

// actionSet is what a user of kubectl, kanctl or K10 sees of one.
type actionSet struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Status   struct {
		State   string `json:"state"`
		Actions []struct {
			Name      string            `json:"name"`
			Blueprint string            `json:"blueprint"`
			Object    map[string]string `json:"object"`
			Phases    []phase           `json:"phases"`
			Artifacts map[string]struct {
				KeyValue map[string]string `json:"keyValue"`
			} `json:"artifacts"`
			DeferPhase *phase `json:"deferPhase"`
		} `json:"actions"`
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
		Progress struct {
			RunningPhase     string `json:"runningPhase"`
			PercentCompleted string `json:"percentCompleted"`
		} `json:"progress"`
	} `json:"status"`
}

type phase struct {
	Name     string         `json:"name"`
	State    string         `json:"state"`
	Output   map[string]any `json:"output"`
	Progress struct {
		ProgressPercent string `json:"progressPercent"`
	} `json:"progress"`
}

var resource = schema.GroupVersionResource{Group: "cr.kanister.io", Version: "v1alpha1", Resource: "actionsets"}

func (s *scene) object(name string) *unstructured.Unstructured {
	s.t.Helper()
	o, err := s.Dynamic.Resource(resource).Namespace(s.ns).Get(context.Background(), name, metav1.GetOptions{})
	require.NoError(s.t, err)
	return o
}

func (s *scene) get(name string) actionSet {
	s.t.Helper()
	b, err := json.Marshal(s.object(name))
	require.NoError(s.t, err)
	var a actionSet
	require.NoError(s.t, json.Unmarshal(b, &a))
	return a
}

// until waits for an ActionSet to be as wanted.
func (s *scene) until(name, what string, ok func(actionSet) bool) actionSet {
	s.t.Helper()
	var a actionSet
	defer func() {
		if s.t.Failed() {
			s.t.Logf("ActionSet %s: %+v", name, a.Status)
		}
	}()
	testenv.Await(s.t, testcluster.Wait, fmt.Sprintf("ActionSet %s: %s", name, what), func() bool {
		a = s.get(name)
		return ok(a)
	})
	return a
}

// over waits for the end, whichever it is.
func (s *scene) over(name string) actionSet {
	s.t.Helper()
	return s.until(name, "over", func(a actionSet) bool { return a.Status.State == "complete" || a.Status.State == "failed" })
}

// pod waits for the one running pod of the phase that waits to be released.
func (s *scene) pod() string {
	s.t.Helper()
	var names []string
	testenv.Await(s.t, testcluster.Wait, "one pod runs", func() bool {
		pods, err := s.Kube.CoreV1().Pods(s.ns).List(context.Background(), metav1.ListOptions{LabelSelector: cluster.LabelManaged + "=" + cluster.Managed})
		if err != nil {
			return false
		}
		names = nil
		for _, p := range pods.Items {
			if p.Status.Phase == "Running" && p.DeletionTimestamp == nil && strings.Contains(fmt.Sprint(p.Spec.Containers[0].Command), "/tmp/go") {
				names = append(names, p.Name)
			}
		}
		return len(names) == 1
	})
	return names[0]
}

// release lets a phase go on that waits in that pod.
func (s *scene) release(pod string) {
	testcluster.Exec(s.t, s.Cluster, s.ns, pod, "container", "touch /tmp/go")
}

// workflow is the id of an action's run.
func (s *scene) workflow(a actionSet, index int) string {
	return fmt.Sprintf("actionset/%s/%s/%s/%d", s.ns, a.Metadata.Name, a.Metadata.UID, index)
}

func (s *scene) status(id string) enums.WorkflowExecutionStatus {
	d, err := s.client.DescribeWorkflowExecution(context.Background(), id, "")
	require.NoError(s.t, err)
	return d.GetWorkflowExecutionInfo().GetStatus()
}

func (s *scene) has(configMap string) bool {
	_, err := s.Kube.CoreV1().ConfigMaps(s.ns).Get(context.Background(), configMap, metav1.GetOptions{})
	return err == nil
}

// events are the reasons of an object's events.
func (s *scene) events(name string) map[string]int {
	list, err := s.Kube.CoreV1().Events(s.ns).List(context.Background(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	require.NoError(s.t, err)
	reasons := map[string]int{}
	for _, e := range list.Items {
		reasons[e.Reason]++
	}
	return reasons
}
