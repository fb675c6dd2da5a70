package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// binary builds thaw-server once; THAW_SERVER names a built one.
var binary = ""

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "thaw-server-test-")
	if err != nil {
		panic(err)
	}
	if binary = os.Getenv("THAW_SERVER"); binary == "" {
		binary = filepath.Join(dir, "thaw-server")
		if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			panic(fmt.Sprintf("build: %v\n%s", err, out))
		}
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

type running struct {
	Address string `json:"address"`
	UI      string `json:"ui"`
	PID     int    `json:"pid"`
	cmd     *exec.Cmd
}

func startServer(t *testing.T, data string, args ...string) *running {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready.json")
	cmd := exec.Command(binary, append([]string{"--data", data, "--port", "0", "--ui-port", "-1", "--ready-file", ready}, args...)...)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-exited })
	r := &running{cmd: cmd}
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(b, r) == nil
	}, 30*time.Second, 10*time.Millisecond)
	return r
}

func dial(t *testing.T, r *running) client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{HostPort: r.Address, Logger: log.NewStructuredLogger(discard())})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// holding runs an activity, waits for a signal, runs another: the shape of a
// freeze.
func holding(ctx workflow.Context, wait bool) (int64, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
	if err := workflow.UpsertTypedSearchAttributes(ctx,
		temporal.NewSearchAttributeKeyKeyword("ThawState").ValueSet("frozen"),
		temporal.NewSearchAttributeKeyBool("ThawConsistent").ValueSet(true),
		temporal.NewSearchAttributeKeyTime("ThawFrozenSince").ValueSet(workflow.Now(ctx)),
	); err != nil {
		return 0, err
	}
	var a, b int64
	if err := workflow.ExecuteActivity(ctx, "now").Get(ctx, &a); err != nil {
		return 0, err
	}
	if wait {
		workflow.GetSignalChannel(ctx, "go").Receive(ctx, nil)
	}
	if err := workflow.ExecuteActivity(ctx, "now").Get(ctx, &b); err != nil {
		return 0, err
	}
	return b - a, nil
}

func napping(ctx workflow.Context, d time.Duration) error { return workflow.Sleep(ctx, d) }

func startWorker(t *testing.T, c client.Client) worker.Worker {
	t.Helper()
	w := worker.New(c, "test", worker.Options{StickyScheduleToStartTimeout: time.Second})
	w.RegisterWorkflow(holding)
	w.RegisterWorkflow(napping)
	w.RegisterActivityWithOptions(func(context.Context) (int64, error) { return time.Now().UnixNano(), nil },
		activity.RegisterOptions{Name: "now"})
	require.NoError(t, w.Start())
	return w
}

func TestARunSurvivesAKilledServer(t *testing.T) {
	data := t.TempDir()
	first := startServer(t, data, "--retention", "240h")
	c := dial(t, first)
	w := startWorker(t, c)
	_, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "held", TaskQueue: "test"}, holding, true)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return countEvents(t, c, "held", enums.EVENT_TYPE_ACTIVITY_TASK_COMPLETED) == 1 }, 10*time.Second, 20*time.Millisecond)
	w.Stop()
	require.NoError(t, first.cmd.Process.Signal(syscall.SIGKILL))
	require.Eventually(t, func() bool { return syscall.Kill(first.PID, 0) != nil }, 5*time.Second, 10*time.Millisecond)

	second := startServer(t, data, "--retention", "480h")
	c = dial(t, second)
	w = startWorker(t, c)
	defer w.Stop()
	require.Equal(t, 1, countEvents(t, c, "held", enums.EVENT_TYPE_ACTIVITY_TASK_COMPLETED), "history is what it was")
	require.NoError(t, c.SignalWorkflow(t.Context(), "held", "", "go", nil))
	var gap int64
	require.NoError(t, c.GetWorkflow(t.Context(), "held", "").Get(t.Context(), &gap))

	d, err := c.WorkflowService().DescribeNamespace(t.Context(), &workflowservice.DescribeNamespaceRequest{Namespace: "default"})
	require.NoError(t, err)
	require.Equal(t, 480*time.Hour, d.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration(), "the retention flag is applied to an existing namespace")
	require.Eventually(t, func() bool {
		l, err := c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Namespace: "default", Query: `ThawState = "frozen" AND ThawConsistent = true`})
		return err == nil && len(l.GetExecutions()) == 1
	}, 10*time.Second, 50*time.Millisecond, "search attributes are searchable")
}

func countEvents(t *testing.T, c client.Client, id string, typ enums.EventType) int {
	t.Helper()
	n := 0
	for it := c.GetWorkflowHistory(t.Context(), id, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); it.HasNext(); {
		e, err := it.Next()
		require.NoError(t, err)
		if e.GetEventType() == typ {
			n++
		}
	}
	return n
}

func TestASecondServerIsKeptOffTheSameData(t *testing.T) {
	data := t.TempDir()
	startServer(t, data)
	out, err := exec.Command(binary, "--data", data, "--port", "0").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "another server uses it")
}

func TestItEndsWithItsParent(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready.json")
	// A shell is the parent, and is killed once the server serves.
	sh := exec.Command("sh", "-c", `"$@" & wait`, "sh", binary, "--data", t.TempDir(), "--port", "0", "--ui-port", "0", "--ready-file", ready, "--die-with-parent")
	require.NoError(t, sh.Start())
	var r running
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(b, &r) == nil
	}, 30*time.Second, 10*time.Millisecond)
	require.Empty(t, r.UI)
	require.NoError(t, sh.Process.Kill())
	_ = sh.Wait()
	require.Eventually(t, func() bool { return syscall.Kill(r.PID, 0) != nil }, 20*time.Second, 20*time.Millisecond)
}

func TestItStopsOnSIGTERMAndItsUIServes(t *testing.T) {
	r := startServer(t, t.TempDir())
	resp, err := http.Get(r.UI + "/api/v1/namespaces")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.NoError(t, r.cmd.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool { return syscall.Kill(r.PID, 0) != nil }, 20*time.Second, 20*time.Millisecond)
}

// The bounds are loose, for a busy machine: on the server's defaults an
// activity hop takes 50 ms and more, and a timer is up to 1 s late.
func TestAHopIsShort(t *testing.T) {
	c := dial(t, startServer(t, t.TempDir()))
	w := startWorker(t, c)
	defer w.Stop()
	var gaps, late []time.Duration
	for i := range 30 {
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: fmt.Sprint("hop-", i), TaskQueue: "test"}, holding, false)
		require.NoError(t, err)
		var gap int64
		require.NoError(t, run.Get(t.Context(), &gap))
		gaps = append(gaps, time.Duration(gap))
	}
	for i := range 5 {
		start := time.Now()
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: fmt.Sprint("nap-", i), TaskQueue: "test"}, napping, 200*time.Millisecond)
		require.NoError(t, err)
		require.NoError(t, run.Get(t.Context(), nil))
		late = append(late, time.Since(start)-200*time.Millisecond)
	}
	sort.Slice(gaps, func(i, j int) bool { return gaps[i] < gaps[j] })
	sort.Slice(late, func(i, j int) bool { return late[i] < late[j] })
	t.Logf("activity to activity: p50 %s, p90 %s, max %s; a timer of 200 ms is late by %s (median, start of the run included)", gaps[15], gaps[27], gaps[29], late[2])
	require.Less(t, gaps[15], 250*time.Millisecond)
	require.Less(t, late[2], 700*time.Millisecond)
}
